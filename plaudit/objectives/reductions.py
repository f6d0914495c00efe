"""Shape checks and masked statistics. Nothing here may see padding."""

from __future__ import annotations

from torch import Tensor


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
