"""What generated files contain a copy of, where an operation is more than one call.

Only tests import this module; the compiler reads its text.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lerp(x: Tensor, y: Tensor, weight: float) -> Tensor:
    """(1 - weight)·x + weight·y, also where x and y differ in precision, as under autocast."""
    if x.dtype == y.dtype:
        return torch.lerp(x, y, weight)
    return torch.add((1 - weight) * x, y, alpha=weight)


def widened(x: Tensor) -> Tensor:
    """x in float32 where it is narrower: squares, sums and differences need the range."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def centered(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x - mean(x) along axes."""
    y = widened(x)
    return (y - y.mean(dim, keepdim=True)).to(x.dtype)


def unit_rms(x: Tensor, dim: int | tuple[int, ...], eps: float) -> Tensor:
    """x / √(mean(x²) + eps) along axes."""
    y = widened(x)
    return (y * torch.rsqrt(y.square().mean(dim, keepdim=True) + eps)).to(x.dtype)


def layer_normed(x: Tensor, shape: tuple[int, ...], eps: float) -> Tensor:
    """Of the last axes; torch's own on CPUs gives rounding errors for equal entries of float16."""
    if x.dtype == torch.float16 and x.device.type == "cpu":
        return F.layer_norm(x.float(), shape, eps=eps).half()
    return F.layer_norm(x, shape, eps=eps)


def looked_up(x: Tensor, weight: Tensor, name: str) -> Tensor:
    """Rows x of a table; only a CPU says in words that there is no such row."""
    try:
        return F.embedding(x, weight)
    except IndexError:
        last, wrong = len(weight) - 1, int(x.min()) if x.min() < 0 else int(x.max())
        raise IndexError(f"`{name}` has rows 0 to {last}, but its input asks for {wrong}") from None


def headed(x: Tensor, weight: Tensor) -> Tensor:
    """(…, seq, in) → (…, heads, seq, d), by the matrix of each head of a weight (heads, d, in)."""
    y = F.linear(x, weight.flatten(0, 1))
    return y.reshape(*y.shape[:-1], *weight.shape[:2]).transpose(-3, -2)


def rope(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate the pairs (i, i + d/2) of the last axis by angles position·base^(-2i/d)."""
    seq, d = x.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    frequency = base ** (torch.arange(0, d, 2, device=x.device, dtype=dtype) / -d)
    angle = torch.outer(torch.arange(seq, device=x.device, dtype=dtype), frequency)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def fused_heads(x: Tensor, weight: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """Several (…, seq, in) → (…, heads, seq, d), by weights whose rows follow each other."""
    y = F.linear(x, weight)
    y = y.reshape(*y.shape[:-1], parts, heads, -1).transpose(-4, -2)
    return y.unbind(-3)


class BatchMeanSubtract(nn.Module):
    """x - mean(x), for each channel over the batch and all places; in eval(), x - running_mean."""

    running_mean: Tensor

    def __init__(
        self, size: int, momentum: float, axis: int, generator: Any = None, **factory: Any
    ) -> None:
        super().__init__()
        self.momentum, self.axis = momentum, axis
        self.register_buffer("running_mean", torch.zeros(size, **factory))

    def extra_repr(self) -> str:
        return f"{len(self.running_mean)}, momentum={self.momentum:g}"

    def forward(self, x: Tensor) -> Tensor:
        y, mean = widened(x), self.running_mean
        others = [i for i in range(x.ndim) if i != self.axis % x.ndim]
        if self.training:
            if x.numel() <= len(mean):
                raise ValueError(f"a batch's mean needs more than one value, not {[*x.shape]}")
            mean = y.mean(others)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return (y - mean.view([1 if i in others else -1 for i in range(x.ndim)])).to(x.dtype)


class BatchStandardize(nn.Module):
    """(x - mean)/√(var + eps), for each channel over the batch and all places, as by torch's
    BatchNorm; in eval() by running_mean and running_var."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, size: int, momentum: float, eps: float, axis: int, generator: Any = None,
        **factory: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.momentum, self.eps, self.axis = momentum, eps, axis
        self.register_buffer("running_mean", torch.zeros(size, **factory))
        self.register_buffer("running_var", torch.ones(size, **factory))

    def extra_repr(self) -> str:
        return f"{len(self.running_mean)}, momentum={self.momentum:g}, eps={self.eps:g}"

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() <= len(self.running_mean):
            raise ValueError(f"a batch's deviation needs more than one value, not {[*x.shape]}")
        buffers = self.running_mean, self.running_var
        y = F.batch_norm(
            x.movedim(self.axis, 1), *buffers, None, None, self.training, self.momentum, self.eps
        )
        return y.movedim(1, self.axis)
