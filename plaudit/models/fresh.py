"""Models that nobody has trained yet."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit.config import ModelSettings, PretrainSettings
from plaudit.errors import ModelError
from plaudit.models.loading import LoadedModel, as_causal, device_and_dtype
from plaudit.text.chat import ensure_pad_token

ROUND_TO = 32
"""The width within is a multiple of this, as matrix products like it."""


def fresh_causal(tokenizer: Any, sizes: PretrainSettings, settings: ModelSettings, *, seed: int) -> LoadedModel:
    """A Llama (Touvron et al. 2023, arXiv:2302.13971) with random weights, N(0, 0.02^2) as in GPT-2.

    Raises ModelError for sizes that do not fit together.
    """
    width, heads = sizes.hidden_size, sizes.heads
    keys = sizes.key_value_heads or heads
    if width % heads or heads % keys or (width // heads) % 2:
        raise ModelError(
            f"`pretrain`: a width of {width} does not divide into {heads} heads of an even size that share {keys} key "
            "heads evenly. Choose hidden_size as a multiple of 2 * heads, and heads as one of key_value_heads."
        )
    ensure_pad_token(tokenizer)
    within = sizes.intermediate_size or -(-8 * width // 3 // ROUND_TO) * ROUND_TO
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=within,
        num_hidden_layers=sizes.layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=sizes.context_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    _, dtype = device_and_dtype(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return as_causal(model.to(dtype), tokenizer, settings, "pretrain")
