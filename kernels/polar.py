"""Orthogonalisation of stacks of matrices, by polynomials of their singular values."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from .schemes import ACCURATE, Scheme

# modnorm: begin
# x ← a·x + b·x³ + c·x⁵, triple by triple. A triple is the odd polynomial with the least deviation
# from 1 on what the triple before makes of [l, 1], widened since beyond it a quintic explodes: for
# 3 to 5 steps by 5 %, because bfloat16 is up to 3 % off, for 6 steps by 0.5 % (after Amsel et al.
# 2025, arXiv 2505.16932). The first one is of 0.985·x, of 0.999·x for 6 steps, since rounding is
# multiplied by 20 and more where x is 1. Singular values in [l, 1] end in the band (`BANDS`), and
# none in [0, 1] ends above it. With l = 3.1e-4, matrices of condition number 1000 end in it up to a
# short side of 11,000: their largest singular value enters as (short side)^(-1/8) or more.
POLAR = {
    # l = 0.0122, band [0.592, 1.406]; without a fifth power in the last, which saves a product
    3: ((7.8938, -22.2749, 15.9457), (3.4047, -2.3235, 0.4207), (1.8807, -0.4988, 0.0)),
    # l = 0.0031, band [0.748, 1.242]
    4: (
        *((8.2579, -23.6688, 17.0211), (3.8623, -2.6119, 0.4482)),
        *((3.3992, -2.3200, 0.4203), (2.4912, -1.7004, 0.3639)),
    ),
    # l = 0.00102, band [0.807, 1.160]
    5: (
        *((8.3432, -23.9958, 17.2735), (3.9878, -2.6891, 0.4556), (3.8004, -2.5734, 0.4445)),
        *((3.2320, -2.2115, 0.4101), (2.3022, -1.5579, 0.3520)),
    ),
    # l = 0.00031, band [0.907, 1.041]
    6: (
        *((8.4921, -25.1521, 18.6311), (4.2128, -3.0975, 0.5703), (4.1401, -3.0476, 0.5647)),
        *((3.8643, -2.8564, 0.5432), (3.0924, -2.2971, 0.4809), (2.0916, -1.4875, 0.3934)),
    ),
}
POLAR_ON_GPU: list[Any] = []  # what does the same with Triton, and is asked first


def polar(g: Tensor, scheme: Scheme, factor: float = 1.0, work: Any = None) -> Tensor:
    """About factor·U·Vᵀ in place of each U·S·Vᵀ of a stack g (k, out, in); zeros stay zeros.

    float64 is always accurate. work: a dict in which memory is kept for the next call.
    """
    (*table, last), kind = polar_table(g, scheme)
    table.append((factor * last[0], factor * last[1], factor * last[2]))
    if any(run(g, table, scheme, kind) for run in POLAR_ON_GPU):
        return g
    x, y, gram, z, *free = space(g, kind, scheme, {} if work is None else work)
    tall = g.shape[1] > g.shape[2]
    size = squared(x.copy_(g), gram, z)
    numbers = size.flatten().tolist() if g.is_cpu else [0.0]  # a GPU would have to be waited for
    if far := [i for i, number in enumerate(numbers) if not 1e-24 < number < 1e24]:
        for part in (g[i : i + 1] for i in far) if g.is_cpu else [g]:
            top = part.abs().amax((1, 2), keepdim=True)  # its square may be 0
            power, some = torch.frexp(top).exponent.neg(), (top > 0).to(part.dtype)
            half = power // 2  # twice, since the whole may be no number; it rounds nothing
            part.mul_(torch.ldexp(some, half)).mul_(torch.ldexp(some, power - half))
        size = squared(x.copy_(g), gram, z)
    for step, (a, b, c) in enumerate(table, 1):
        if step > 1:
            torch.bmm(*((x.mT, x) if tall else (x, x.mT)), out=gram)
        if step == 1:
            begin(a, b, c, gram, z, size)
        elif c:
            torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=z)
            z.diagonal(dim1=1, dim2=2).add_(a)
        else:
            torch.baddbmm(x, *((x, gram) if tall else (gram, x)), beta=a, alpha=b, out=y)
            return g.copy_(y)
        q = z
        if free and step == len(table) - 1:
            # The last two steps act on X at once. A third would let rounding grow too far.
            half, q = free
            torch.bmm(torch.bmm(z, gram, out=half), z, out=gram)
            a, b, c = table[step]
            if c:
                torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=half)
                half.diagonal(dim1=1, dim2=2).add_(a)
                torch.bmm(half, z, out=q)
            else:
                torch.baddbmm(z, gram, z, beta=a, alpha=b, out=q)
        torch.bmm(*((x, q) if tall else (q, x)), out=y)
        x, y = y, x
        if q is not z:
            break
    return g.copy_(x)


def polar_update(
    g: Tensor, scheme: Scheme, factor: float, weights: list[Tensor], lr: Any, decay: float,
    targets: list[float],
) -> bool:  # fmt: skip
    """Move weights by their updates' images under `polar`, if a GPU's kernels can do it at once."""
    table, kind = polar_table(g, scheme)
    update = (weights, factor, lr, decay, targets)
    return any(run(g, table, scheme, kind, update) for run in POLAR_ON_GPU)


def polar_table(g: Tensor, scheme: Scheme) -> tuple[Any, torch.dtype]:
    """The polynomials for a scheme, and the type in which to compute them."""
    if scheme.steps == ACCURATE or g.dtype == torch.float64:
        return POLAR[ACCURATE], g.dtype
    return POLAR[scheme.steps], fast_type(g.device)


def squared(x: Tensor, gram: Tensor, z: Tensor) -> Tensor:
    """XXᵀ, or XᵀX for a tall X, into gram, its square into z, and the norms of the squares."""
    torch.bmm(*((x.mT, x) if x.shape[1] > x.shape[2] else (x, x.mT)), out=gram)
    torch.bmm(gram, gram, out=z)
    norm: Tensor = torch.linalg.vector_norm(z, dim=(1, 2), keepdim=True)
    if norm.is_cpu and norm.min() < 1e-14:  # float32 has no squares of numbers below 1e-23
        norm = torch.linalg.vector_norm(z, dim=(1, 2), keepdim=True, dtype=torch.float64)
    return norm


def begin(a: float, b: float, c: float, gram: Tensor, z: Tensor, size: Tensor) -> None:
    """Step 1's polynomial of s²·gram, times s, into z, the square: s makes X's norm at most 1.

    ‖(XXᵀ)²‖_F^(1/4) bounds σ_max far better than ‖X‖_F does, and the square is needed anyway.
    """
    if z.device.type == "cpu" and z.shape[1] >= 256:  # a few numbers are faster than small tensors
        for one, own, norm in zip(gram.unbind(), z.unbind(), size.flatten().tolist(), strict=True):
            number = max(norm, 1e-24) ** -0.5
            torch.add(one, own, alpha=c / b * number, out=own)
            own.diagonal().add_(a / b / number)
            own.mul_(b * number**1.5)
        return
    wide = torch.promote_types(z.dtype, torch.float32)
    # s² is such that c·s²/b is exact in z's type: terms of about 25 cancel here.
    ratio = size.to(wide).clamp_min_(1e-24).rsqrt_().mul_(c / b).to(z.dtype)
    squares = ratio.to(wide) * (b / c)
    torch.addcmul(gram, z, ratio, out=z)
    z.diagonal(dim1=1, dim2=2).add_(a / b / squares.squeeze(2))
    z.mul_(squares.pow_(1.5).mul_(b).to(z.dtype))


def space(g: Tensor, dtype: torch.dtype, scheme: Scheme, work: dict[Any, Any]) -> list[Tensor]:
    """Two stacks of g's shape and two or four of n × n matrices, in memory that work keeps."""
    key = g.shape, dtype, g.device, scheme.form
    if key not in work:
        count, n = len(g), min(g.shape[1:])
        shapes = [g.shape] * 2 + [torch.Size((count, n, n))] * (4 if scheme.form == "gram" else 2)
        sizes = [shape.numel() for shape in shapes]
        memory = work.get((dtype, g.device))
        if memory is None or memory.numel() < sum(sizes):
            work.clear()  # what was made of less memory
            memory = work[dtype, g.device] = torch.empty(sum(sizes), dtype=dtype, device=g.device)
        parts = memory[: sum(sizes)].split(sizes)
        work[key] = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    found: list[Tensor] = work[key]
    return found


@cache
def fast_type(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU or CPU that multiplies matrices of it in hardware, else float32."""
    fast = False
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        kinds = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        fast = any(getattr(torch.cpu, kind, bool)() for kind in kinds)
    return torch.bfloat16 if fast else torch.float32


# modnorm: end
