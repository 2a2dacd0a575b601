"""The norm of Conv2D weights: every tap of the kernel is a matrix of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .plan import reciprocal
from .schemes import Scheme
from .spectral import Spectral


# modnorm: begin
class SpectralTaps(Spectral):
    """k²·√(in/out)·(the largest σ_max of a tap) of a convolution's (out, in, k, k) weight.

    Each tap is scaled by itself, as the norm allows (Large et al. 2024, arXiv 2405.14813).
    """

    name = "spectral_taps"

    @classmethod
    def meeting(cls, shape: tuple[int, ...]) -> int:
        return shape[-2] * shape[-1]

    @classmethod
    def axes(cls, ndim: int) -> tuple[int, ...]:
        return (2, 3, 0, 1)

    @classmethod
    def vector_shape(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[1:])

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert x is not None
        count, _, width, high, wide = u.shape
        rows = x.flatten(2).mT.reshape(-1, width)
        factor, new = super().measure(cls.taps(u), rows)
        assert new is not None
        new = new.view(count, high * wide, width).mT.reshape(x.shape)
        return factor.div_(cls.meeting(u.shape)).view(count, 1, 1, high, wide), new

    @classmethod
    def scale_stack(cls, u: Tensor, x: Tensor, iterations: int) -> Tensor:
        if u[:, :, 0, 0].numel() <= cls.together:
            return super().scale_stack(u, x, iterations)
        rows = x.flatten(1).t().contiguous()
        factor = super().scale_stack(cls.taps(u.unsqueeze(0)).contiguous(), rows, iterations)
        x.copy_(rows.t().view_as(x))
        return factor.div_(cls.meeting(u.shape)).view(1, 1, *u.shape[2:])

    @classmethod
    def exact(cls, u: Tensor) -> Tensor:
        taps = super().exact(cls.taps(u)).view(u.shape[0], -1)
        return taps.amax(1) * cls.meeting(u.shape)

    @classmethod
    def dualize(cls, u: Tensor, scheme: Scheme | None = None, work: Any = None) -> Tensor:
        count, out, width, high, wide = u.shape
        if min(out, width) == 1:  # a vector's image needs no iteration
            length = torch.linalg.vector_norm(u, dim=(1, 2), keepdim=True)
            return u * reciprocal(length).mul_(math.sqrt(out / width) / cls.meeting(u.shape))
        sign = super().dualize(cls.taps(u), scheme, work).div_(cls.meeting(u.shape))
        return sign.reshape(count, high, wide, out, width).permute(0, 3, 4, 1, 2)

    @staticmethod
    def taps(u: Tensor) -> Tensor:
        """(k, out, in, high, wide) as a stack of (out, in) matrices, tap by tap."""
        return u.flatten(3).permute(0, 3, 1, 2).reshape(-1, *u.shape[1:3])


# modnorm: end
