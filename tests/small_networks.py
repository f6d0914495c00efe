"""Networks of a few thousand weights, of the families that are told apart; and what a pass through one gives."""

import torch
from conftest import make_tokenizer
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM

from plaudit.config import ModelSettings
from plaudit.models.loading import load_causal
from plaudit.text.batches import collate
from plaudit.text.chat import Stops, TokenSequence

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZES, "num_key_value_heads": 2}
FAMILIES = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "mistral": {**GROUPED, "sliding_window": 5},
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**GROUPED, "head_dim": 8, "sliding_window": 5},
    "gpt_neox": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
}
PROMPTS = [[1, 50, 60], [1, 33, 44, 55, 66, 77], [9], [1, 2, 3, 4], [7, 7], [8, 9, 10, 11, 12, 13, 14, 15], [6]]
OPTIONS = {"stops": Stops(frozenset(range(100, 150))), "max_new_tokens": 9, "seed": 3, "samples_per_prompt": 3}


def load(family, folder, dtype="float32"):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = AutoConfig.for_model(family, **FAMILIES[family], vocab_size=len(tokenizer), initializer_range=0.2)
    config.eos_token_id, config.bos_token_id, config.pad_token_id = 2, 1, 0
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_causal(str(folder), ModelSettings(dtype=dtype)).network


def trained_log_probs(network, groups):
    sequences = [TokenSequence(p, c.token_ids) for p, group in zip(PROMPTS, groups, strict=True) for c in group]
    with torch.no_grad():
        return network.log_probs(collate(sequences))[0]


SEQUENCES = [TokenSequence([1, 30, 9], [44, 55, 66, 2]), TokenSequence([1, 50], [80, 81, 2]), TokenSequence([1], [2])]


def measure(policy, sequences=SEQUENCES):
    """(log-probs, gradients, bytes kept for the backward pass)."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        log_probs, _ = policy.log_probs(collate(sequences))
    log_probs.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in policy.trainable_parameters()]
    for parameter in policy.trainable_parameters():
        parameter.grad = None
    return log_probs.detach(), gradients, kept
