"""Shape checks, masked statistics, and how values per token become one number. Nothing here may see padding."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["token_mean", "response_mean", "response_sum", "constant_length"]


def check_shapes(axes: str, *tensors: Tensor) -> None:
    """Raise ValueError unless all tensors have one axis per word of `axes` and equal shapes.

    Guards against silent broadcasting, for example of [B, 1] against [B].
    """
    for tensor in tensors:
        if tensor.dim() != len(axes.split()) or tensor.shape != tensors[0].shape:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
            raise ValueError(f"expected equal shapes [{', '.join(axes.split())}], got {shapes}")


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the true slots of the mask; [] . Raises ValueError when there are none: it has no value."""
    check_shapes(" ".join("x" * values.dim()), values, mask)
    count = mask.sum()
    if int(count) == 0:
        raise ValueError("the mean over an empty mask has no value")
    return values.masked_fill(~mask, 0.0).sum() / count


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Biased variance over the true slots of the mask; []."""
    return masked_mean((values - masked_mean(values, mask)).square(), mask)


def whiten(values: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """(values - mean) / sqrt(variance + epsilon) over the true slots, 0 elsewhere. Biased variance.

    Ziegler et al. 2019 (arXiv:1909.08593), released code. Give it the whole rollout batch: whitening
    piece by piece makes the result depend on the pieces. Fewer than two true slots are returned as 0.

    values  [B, T]
    mask    [B, T] bool
    """
    if int(mask.sum()) < 2:
        return values.new_zeros(values.shape)
    scale = (masked_variance(values, mask) + epsilon).rsqrt()
    return ((values - masked_mean(values, mask)) * scale).masked_fill(~mask, 0.0)


def rescale(values: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """(values - mean) / sqrt(variance + epsilon) + mean over the true slots, 0 elsewhere: the mean stays.

    Ziegler et al. 2019, released code (reward whitening). A shift of the mean would reward length. Biased variance.

    values  [B, T]
    mask    [B, T] bool
    """
    if int(mask.sum()) < 2:
        return values.masked_fill(~mask, 0.0)
    return (whiten(values, mask, epsilon=epsilon) + masked_mean(values, mask)).masked_fill(~mask, 0.0)


def last_true(mask: Tensor) -> Tensor:
    """[B] index of the last true slot of each row; 0 for a row without any.

    mask  [B, T] bool
    """
    steps = torch.arange(mask.shape[1], device=mask.device)
    return (steps * mask).amax(dim=1)


def response_weights(lengths: Tensor, reduction: Reduction, *, longest: int) -> Tensor:
    """[B] the factor of each response's tokens such that sum(weight * loss) is the reduction over all B responses.

        token_mean       sum over all tokens / number of all tokens           1 / sum_b len_b
        response_mean    mean over responses of the mean over their tokens    1 / (B len_b)
        response_sum     mean over responses of the sum over their tokens     1 / B
        constant_length  sum over all tokens / (B * longest)                  1 / (B longest)

    They differ by more than a constant: `response_mean` makes each token of a long response cheap
    (Liu et al. 2025, arXiv:2503.20783). B is the whole optimiser step, whatever the micro-batches.

    lengths  [B]  tokens that carry loss
    longest       the length limit of a response, tokens
    """
    check_shapes("B", lengths)
    lengths = lengths.double()
    count = len(lengths)
    weights = {
        "token_mean": torch.ones_like(lengths) / lengths.sum().clamp(min=1),
        "response_mean": 1 / (count * lengths.clamp(min=1)),
        "response_sum": torch.ones_like(lengths) / count,
        "constant_length": torch.ones_like(lengths) / (count * longest),
    }
    return weights[reduction]
