"""The models of the benchmarks: SmolLM2-135M, and Llamas of random weights with its vocabulary."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from plaudit.config import ModelSettings
from plaudit.models.loading import BUILT_IN, _resolve, load_causal, reward_from_causal
from plaudit.models.saving import save_reward
from plaudit.models.score_facts import ScoreFacts


class Shape(NamedTuple):
    """Of a Llama."""

    width: int
    within: int
    layers: int
    heads: int
    heads_of_keys: int


SHAPES = {
    "10M": Shape(160, 448, 8, 5, 5),
    "34M": Shape(384, 1024, 9, 6, 2),
    "135M": Shape(576, 1536, 30, 9, 3),
    "360M": Shape(960, 2560, 32, 15, 5),
    "1.5B": Shape(2048, 8192, 23, 32, 8),
}


class Models(NamedTuple):
    """Folders of a model and a reward model; weights of the body and of the head."""

    causal: str
    reward: str
    body: float
    head: float


def make_causal(size: str, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> str:
    """A folder with a model of that size, its weights drawn at random."""
    source, target, shape = _resolve(BUILT_IN), folder / f"{size}-{seed}", SHAPES[size]
    config = AutoConfig.from_pretrained(source)
    config.update({
        "hidden_size": shape.width, "intermediate_size": shape.within, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads_of_keys,
        "head_dim": shape.width // shape.heads,
    })  # fmt: skip
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return str(target)


@cache
def make_models(size: str, folder: Path, *, seed: int = 0) -> Models:
    """Of a size, or with "" SmolLM2-135M itself. The embedding is the head, and costs nothing."""
    dtype = torch.bfloat16 if size == "1.5B" else torch.float32
    source = make_causal(size, folder, seed=seed, dtype=dtype) if size else _resolve(BUILT_IN)
    causal = load_causal(source, ModelSettings(name=source, device="cpu"))
    reward, target = reward_from_causal(causal, seed=0), folder / f"{size}-{seed}-reward"
    save_reward(reward.network, reward, target, ScoreFacts())
    head = causal.network.head.weight.numel()
    body = sum(p.numel() for p in causal.network.body.parameters()) - head
    return Models(source, str(target), float(body), float(head))
