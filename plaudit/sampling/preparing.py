"""Sampling's machine code, made by another process while this one trains: compiling takes one core, of several.

    python -m plaudit.sampling.preparing MEMBERS WIDTH DTYPE

makes it for heads of that width, of which so many share their keys.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit import cpu
from plaudit.config import ModelSettings
from plaudit.errors import ModelError
from plaudit.models.layers import set_layers
from plaudit.models.loading import device_and_dtype, heads_of
from plaudit.models.network import Network, takes_packed_batches
from plaudit.sampling.in_process import sample
from plaudit.text.chat import Stops

ROWS = 65, 3, 1
"""Side by side, for which other kernels are used; those that training is soonest followed by come first."""


@contextmanager
def prepared(settings: ModelSettings) -> Iterator[None]:
    """Within, a process of low priority makes what sampling from this model will need and the disk does not have.

    It ends with the block, whatever it has come to; what is needed and not there is made where it is needed.
    """
    heads = _what_to_make(settings)
    if heads is None:
        yield
        return
    command = [sys.executable, "-m", "plaudit.sampling.preparing", *map(str, heads)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _what_to_make(settings: ModelSettings) -> tuple[int, int, str] | None:
    """(members, width, dtype); None where there is nothing to make, or it is not known for what."""
    cpu.use(settings.cpu_kernels)
    if not cpu.is_on():
        return None
    try:
        device, dtype = device_and_dtype(settings)
        heads = heads_of(settings.name)
    except ModelError:  # what loads the model says it
        return None
    if device.type != "cpu" or heads is None or torch.get_num_threads() < 2 or cpu.is_compiled_for(dtype):
        return None
    return *heads, str(dtype).removeprefix("torch.")


def make(members: int, width: int, dtype: torch.dtype) -> None:
    """Sample from a network of such heads that is small in all else."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=64 * members, intermediate_size=64, num_hidden_layers=1, num_attention_heads=members,
        num_key_value_heads=1, head_dim=width,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    set_layers(model.base_model, ModelSettings())
    packs = takes_packed_batches(model.base_model)
    network = Network(body=model.base_model, head=model.get_output_embeddings(), packs=packs)
    for rows in ROWS:
        sample(network, [[1, 2, 3]] * rows, stops=Stops(frozenset()), max_new_tokens=2, seed=0)


if __name__ == "__main__":
    os.nice(10)
    make(int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3]))
