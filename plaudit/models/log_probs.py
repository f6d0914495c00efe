"""Log-probs of tokens without ever holding the logits of a whole batch.

N tokens, D hidden width, V vocabulary. For V = 49,152 the float32 logits of 256 tokens take 50 MB; those of
a batch of 4,096 tokens would take 800 MB, several times over in a backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TOKENS_PER_CHUNK = 256


def chunked_log_probs(
    hidden: Tensor,
    token_ids: Tensor,
    head: nn.Module,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    with_entropy: bool = False,
    chunk: int = TOKENS_PER_CHUNK,
) -> tuple[Tensor, Tensor | None]:
    """Log-softmax(head(hidden) / temperature) at the given tokens, chunk by chunk.

    hidden     [N, D]  states that predict the tokens
    token_ids  [N]
    softcap            logits are cap * tanh(logits / cap) first, for the families that do so

    Returns ([N] log-probs, [N] entropies without gradient, or None), nats, float32. A chunk's logits are
    computed again in the backward pass instead of being kept.
    """
    log_probs, entropies = [], []
    for states, ids in zip(hidden.split(chunk), token_ids.split(chunk), strict=True):
        if torch.is_grad_enabled() and (states.requires_grad or any(p.requires_grad for p in head.parameters())):
            values = checkpoint(_chunk, states, ids, head, temperature, softcap, with_entropy, use_reentrant=False)
        else:
            values = _chunk(states, ids, head, temperature, softcap, with_entropy)
        log_probs.append(values[0])
        entropies.append(values[1])
    return torch.cat(log_probs), torch.cat(entropies) if with_entropy else None


def scaled_logits(states: Tensor, head: nn.Module, temperature: float, softcap: float | None) -> Tensor:
    """[N, V] float32 logits as the model defines them, divided by the temperature."""
    logits = head(states.to(next(head.parameters()).dtype)).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits if temperature == 1.0 else logits / temperature


def _chunk(
    states: Tensor, ids: Tensor, head: nn.Module, temperature: float, softcap: float | None, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    logits = scaled_logits(states, head, temperature, softcap)
    normaliser = logits.logsumexp(dim=-1)
    chosen = logits.gather(-1, ids[:, None]).squeeze(-1) - normaliser
    if not with_entropy:
        return chosen, None
    with torch.no_grad():
        all_log_probs = logits - normaliser[:, None]
        entropy = -(all_log_probs.exp() * all_log_probs).sum(dim=-1)
    return chosen, entropy
