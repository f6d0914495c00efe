"""Machine code that another process makes beforehand is what sampling then needs, and all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plaudit import cpu
from plaudit.config import ModelSettings
from plaudit.sampling import preparing

SAMPLES = """
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from plaudit.config import LoraSettings, ModelSettings
from plaudit.models.layers import set_layers
from plaudit.models.network import Network, make_trainable, takes_packed_batches
from plaudit.sampling.in_process import sample
from plaudit.text.chat import Stops

config = Qwen3Config(vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
                     num_key_value_heads=2, head_dim=16)
model = Qwen3ForCausalLM(config).to(torch.{dtype}).eval()
set_layers(model.base_model, ModelSettings())
assert takes_packed_batches(model.base_model)
network = Network(body=model.base_model, head=model.get_output_embeddings(), packs=True)
network = make_trainable(network, LoraSettings(rank=4, targets="all"), role="policy", seed=0)
for rows in (65, 3, 1):
    sample(network, [[1, 2, 3, 4 + i % 9] for i in range(rows)], stops=Stops(frozenset()), max_new_tokens=3, seed=0,
           temperature=0.8)
"""


@pytest.fixture
def folder(tmp_path):
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    return str(tmp_path)


@pytest.fixture
def started(monkeypatch):
    """The processes, which are none; the engine is on, whatever the suite is run with."""
    monkeypatch.setenv(cpu.VARIABLE, "auto")
    processes = []

    class Process:
        def __init__(self, command, **_):
            self.command, self.ended = command, []
            processes.append(self)

        def terminate(self):
            self.ended.append("terminated")

        def wait(self):
            self.ended.append("waited for")

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return processes


def test_a_process_runs_within_where_the_disk_has_nothing(folder, started, monkeypatch):
    monkeypatch.setattr(cpu, "is_compiled_for", lambda dtype: False)
    settings = ModelSettings(name=folder, dtype="float32", device="cpu")

    def fail():
        with preparing.prepared(settings):
            assert started[0].command[2:] == ["plaudit.sampling.preparing", "3", "8", "float32"]
            assert not started[0].ended
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert started[0].ended == ["terminated", "waited for"]


@pytest.mark.parametrize("why", ["kept", "one thread", "no such folder", "other config"])
def test_none_where_it_would_be_of_no_use(why, folder, started, monkeypatch):
    monkeypatch.setattr(cpu, "is_compiled_for", lambda dtype: why == "kept")
    if why == "one thread":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    if why == "no such folder":
        folder += "/nowhere"
    if why == "other config":
        Path(folder, "config.json").write_text("{}")
    with preparing.prepared(ModelSettings(name=folder, device="cpu")):
        assert not started


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sampling_of_such_heads_compiles_nothing_more(dtype, tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def kept():
        return sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.nbc"))

    made = [sys.executable, "-m", "plaudit.sampling.preparing", "3", "16", dtype]
    subprocess.run(made, env=environment, check=True, timeout=500)
    before = kept()
    assert len(before) > 5
    subprocess.run([sys.executable, "-c", SAMPLES.replace("{dtype}", dtype)], env=environment, check=True, timeout=500)
    assert kept() == before
