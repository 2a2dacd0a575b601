"""The spectral norm of Linear weights: power iteration, and orthogonalisation as its dual map."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .plan import Norm, reciprocal
from .polar import polar
from .schemes import ACCURATE, Scheme


# modnorm: begin
class Spectral(Norm):
    """√(in/out)·σ_max of an (out, in) matrix (Large et al. 2024, arXiv 2405.14813).

    `measure` estimates σ_max from below, by one step of power iteration from the vector x (in,).
    Of a stack (groups, out, in) every matrix is measured and scaled by itself.
    """

    vector = True
    kernel = 0

    @classmethod
    def vector_shape(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1])

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert x is not None
        if u.ndim > 3:
            factor, flat = cls.measure(u.flatten(0, -3), x.flatten(0, -2))
            assert flat is not None
            return factor.view(*u.shape[:-2], 1, 1), flat.view_as(x)
        left = times(u, x)
        left *= reciprocal(torch.linalg.vector_norm(left, dim=1, keepdim=True))
        right = torch.bmm(left.unsqueeze(1), u)
        inverse = reciprocal(torch.linalg.vector_norm(right, dim=2, keepdim=True))
        new = torch.where(inverse > 0, right * inverse, x.unsqueeze(1)).squeeze(1)
        return inverse * math.sqrt(u.shape[1] / u.shape[2]), new

    @classmethod
    def scale(cls, u: Tensor, x: Tensor | None, iterations: int) -> float | Tensor:
        assert x is not None
        if u.ndim > 2:
            return super().scale(u, x, iterations)
        turned, sigma, floor = u.t(), 0.0, math.sqrt(torch.finfo(u.dtype).tiny)
        for _ in range(iterations):
            left = torch.mv(u, x)
            length = torch.linalg.vector_norm(left)
            if not floor <= length.item() < math.inf:
                return 0.0
            right = torch.mv(turned, left.div_(length))
            length = torch.linalg.vector_norm(right)
            if not floor <= (sigma := length.item()) < math.inf:
                return 0.0
            torch.div(right, length, out=x)
        return math.sqrt(u.shape[0] / u.shape[1]) / sigma

    @classmethod
    def exact(cls, u: Tensor) -> Tensor:
        sigma = largest(u.flatten(0, -3)).view(u.shape[0], -1).amax(1)
        return sigma * math.sqrt(u.shape[-1] / u.shape[-2])

    @classmethod
    def dualize(cls, u: Tensor, scheme: Scheme | None = None, work: Any = None) -> Tensor:
        factor = math.sqrt(u.shape[-2] / u.shape[-1])
        scheme = scheme or Scheme("plain", ACCURATE)
        return polar(u.flatten(0, -3), scheme, factor, work).view(u.shape)


def times(u: Tensor, x: Tensor) -> Tensor:
    """u[i] @ x[i] for matrices u (k, out, in) and vectors x (k, in)."""
    # On a CPU, torch's batched product with columns is slow for matrices above 4096 entries or so.
    if u.device.type != "cpu" or u.shape[0] == 1 or u[0].numel() <= 4096:
        return torch.bmm(u, x.unsqueeze(2)).squeeze(2)
    y = u.new_empty(u.shape[:2])
    for matrix, vector, out in zip(u.unbind(), x.unbind(), y.unbind(), strict=True):
        torch.mv(matrix, vector, out=out)
    return y


def largest(u: Tensor) -> Tensor:
    """σ_max of matrices u (k, out, in): by SVD if a side is at most 128, or else from below.

    For larger ones it is the largest σ on the span of x, UᵀUx, …, (UᵀU)⁴⁷x (Lanczos): on noise
    too low by 1e-4 of it or less, where power iteration would need thousands of steps.
    """
    if min(u.shape[1:]) > 128:
        seed = torch.Generator().manual_seed(0)
        x = torch.randn(u.shape[0], u.shape[2], 1, generator=seed).to(u)
        span = x[:, :, :0]
        for _ in range(48):
            span = torch.cat(
                [span, x * reciprocal(torch.linalg.vector_norm(x, dim=1, keepdim=True))], 2
            )
            x = torch.bmm(u.mT, torch.bmm(u, span[:, :, -1:]))
            for _ in range(2):  # once more for what rounding has left
                x = x - torch.bmm(span, torch.bmm(span.mT, x))
        u = torch.bmm(u, torch.linalg.qr(span).Q)
    sigma: Tensor = torch.linalg.matrix_norm(u, 2)
    return sigma


# modnorm: end
