"""The spectral norm of Linear weights: power iteration, and orthogonalisation as its dual map."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .plan import Norm, reciprocal
from .polar import polar
from .schemes import ACCURATE, Scheme


# modnorm: begin
class Spectral(Norm):
    """√(in/out)·σ_max of an (out, in) matrix (Large et al. 2024, arXiv 2405.14813).

    Of a stack (groups, out, in) every matrix is measured and scaled by itself. σ_max is bounded
    from below by power iteration from the vector x (in,), and by the longest row. A vector that is
    nearly a singular one stays where it is when another direction grows past it, since it holds
    nothing of that one: so every step starts from a long row of the new u too.
    """

    name = "spectral"
    vector = True
    kernel: str | None = "matrix"
    part = 0.5  # of a row beside x, where one matrix starts from both at once
    settled = 1.1  # by how much less than this σ grows in the last iteration for one matrix
    most = 8  # iterations, there and of a new vector
    together = 4096  # entries of matrices up to which torch's batched product is fast on a CPU

    @classmethod
    def vector_shape(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1])

    @classmethod
    def meeting(cls, shape: tuple[int, ...]) -> int:
        """How many matrices of a weight act on one value together."""
        return 1

    @classmethod
    def axes(cls, ndim: int) -> tuple[int, ...]:
        """The axes of a weight along which it is a stack, then those of out and in."""
        return tuple(range(ndim))

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert x is not None
        if u.ndim > 3:
            factor, flat = cls.measure(u.flatten(0, -3), x.flatten(0, -2))
            assert flat is not None
            return factor.view(*u.shape[:-2], 1, 1), flat.view_as(x)
        lengths = torch.linalg.vector_norm(u, dim=2)
        at = lengths.bfloat16().argmax(1)  # of rows alike but for rounding, the first
        longest = lengths.gather(1, at.unsqueeze(1)).squeeze(1)
        rows = u.gather(1, at.view(-1, 1, 1).expand(-1, 1, u.shape[2]))
        rows = rows * reciprocal(longest).view(-1, 1, 1)
        left = torch.bmm(torch.cat([x.unsqueeze(1), rows], 1), u.mT)  # this way round it is fast
        left *= reciprocal(torch.linalg.vector_norm(left, dim=2, keepdim=True))
        right = torch.bmm(left, u)
        sigma, best = torch.linalg.vector_norm(right, dim=2, keepdim=True).max(1, keepdim=True)
        right = right.gather(1, best.expand(-1, 1, u.shape[2]))
        inverse = reciprocal(sigma)
        new = torch.where(inverse > 0, right * inverse, x.unsqueeze(1)).squeeze(1)
        whole = torch.linalg.vector_norm(lengths, dim=1) / math.sqrt(min(u.shape[1:]))
        inverse = reciprocal(torch.maximum(sigma, torch.maximum(longest, whole).view(-1, 1, 1)))
        return inverse * math.sqrt(u.shape[1] / u.shape[2]), new

    @classmethod
    def scale(cls, u: Tensor, x: Tensor | None, iterations: int) -> float | Tensor:
        """`measure` for one weight on a CPU; for a matrix as often as σ still grows by a tenth.

        Of a large matrix it looks at some 16 rows or more, others in every step, which saves a pass
        over all of it; what stands in the rest has a part in `spread`.
        """
        assert x is not None
        if u.ndim > 2:
            return cls.scale_stack(u, x, iterations)
        least, turned = torch.finfo(u.dtype).tiny, u.t()
        apart = max(1, min(u.shape[0] // 16, u.numel() // 4096))
        # Which ones: by the vector's last bits, so that a resumed run looks at the same.
        bits = x[0].item() if apart > 1 else 0.0
        first = int(math.frexp(bits)[0] * 2**24) % apart if math.isfinite(bits) else 0
        rows = u[first::apart]
        lengths = torch.linalg.vector_norm(rows, dim=1)
        at = int(lengths.bfloat16().argmax())  # of rows alike but for rounding, the first
        longest: float = lengths[at].item()
        start = x + spread(x.numel(), x.dtype) if apart > 1 else x
        if longest > math.sqrt(least):
            row = rows[at]
            along = torch.dot(row, x).item()
            start = start.add(row, alpha=math.copysign(cls.part / longest, along))
        size = math.sqrt(torch.dot(start, start).item())
        sigma = 0.0
        for done in range(1, cls.most + 1):
            left = torch.mv(u, start)
            below = torch.dot(left, left).item()
            right = torch.mv(turned, left)
            squares = torch.dot(right, right).item()
            if not (below >= least and least <= squares < math.inf):
                return cls.rescued(u, x, iterations)
            torch.div(right, math.sqrt(squares), out=x)
            sigma = math.sqrt(squares / below)
            if done >= iterations and sigma * size < cls.settled * math.sqrt(below):
                break
            start, size = x, 1.0
        if apart == 1:  # all rows were seen
            whole = math.sqrt(torch.dot(lengths, lengths).item() / min(u.shape))
            sigma = max(sigma, whole)
        return math.sqrt(u.shape[0] / u.shape[1]) / max(sigma, longest)

    @classmethod
    def scale_stack(cls, u: Tensor, x: Tensor, iterations: int) -> Tensor:
        """`scale` for a stack's matrices, small ones at once; NaN where u holds NaN or infinity."""
        if math.prod(u.shape[-2:]) <= cls.together:
            return torch.as_tensor(super().scale(u, x, iterations))
        factors = []
        for part, vector in zip(u.flatten(0, -3), x.flatten(0, -2), strict=True):
            factor = Spectral.scale(part, vector, iterations)
            factors.append(factor if factor > 0 or part.isfinite().all() else math.nan)
        return u.new_tensor(factors).view(*u.shape[:-2], 1, 1)

    @classmethod
    def rescued(cls, u: Tensor, x: Tensor, iterations: int) -> float | Tensor:
        """`scale` where squares are too small or large, or x and the rows seen miss all of u."""
        top = u.abs().max().item()
        if not 0.0 < top < math.inf:
            return 0.0
        unit = math.ldexp(1.0, min(-math.frexp(top)[1], 126))
        u = u * unit
        if 0.5 <= unit <= 1.0 or not torch.mv(u, x).any():
            lengths = torch.linalg.vector_norm(u, dim=1)
            at = lengths.argmax()
            torch.div(u[at], lengths[at], out=x)
        factor: Any = unit * cls.scale(u, x, iterations)
        # Above it the update is hardly a number any more.
        return float(factor) if factor < 1e38 else 0.0

    @classmethod
    def exact(cls, u: Tensor) -> Tensor:
        sigma = largest(u.flatten(0, -3)).view(u.shape[0], -1).amax(1)
        return sigma * math.sqrt(u.shape[-1] / u.shape[-2])

    @classmethod
    def dualize(cls, u: Tensor, scheme: Scheme | None = None, work: Any = None) -> Tensor:
        factor = math.sqrt(u.shape[-2] / u.shape[-1])
        scheme = scheme or Scheme("plain", ACCURATE)
        return polar(u.flatten(0, -3), scheme, factor, work).view(u.shape)


@cache
def spread(length: int, dtype: torch.dtype) -> Tensor:
    """A fixed vector with a part in every direction, a fifth as long as a singular one."""
    seed, double = torch.Generator().manual_seed(0), torch.float64
    noise = torch.randn(length, generator=seed, dtype=double, device="cpu")
    return noise.mul_(0.2 / noise.norm()).to(dtype)


def largest(u: Tensor) -> Tensor:
    """σ_max of matrices u (k, out, in): by SVD if a side is at most 128, or else from below.

    For larger ones it is the largest σ on the span of x, UᵀUx, …, (UᵀU)⁴⁷x (Lanczos): on noise
    too low by 1e-4 of it or less, where power iteration would need thousands of steps.
    """
    if min(u.shape[1:]) > 128:
        seed = torch.Generator().manual_seed(0)
        x = torch.randn(u.shape[0], u.shape[2], 1, generator=seed, device="cpu").to(u)
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
