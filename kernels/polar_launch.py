"""Polar factors on a GPU: which kernels run, in which order, and the memory they work in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .device import INTERPRETED, tl
from .polar import POLAR_ON_GPU
from .polar_tiles import PolarTile, PolarTiles
from .polar_triton import polar_gram, polar_multiply, polar_small, polar_start
from .schemes import Scheme
from .tiles import power

# modnorm: begin
Steps = Sequence[tuple[float, float, float]]


class Pointers(NamedTuple):
    """k matrices of one shape, type and layout, each in memory of its own."""

    table: Tensor  # (k,) int64: where they begin
    shape: tuple[int, int]
    strides: tuple[int, int]
    dtype: torch.dtype
    align: int  # what divides all addresses


class Update(NamedTuple):
    """p ← (1 - lr·target·decay)·p - lr·target·factor·y for each parameter p and its polar factor y.

    Learning rate, decay and targets are read on the device, so a captured graph sees new values.
    """

    parameters: Pointers
    hyper: Tensor  # (2,) float32: learning rate, weight decay
    targets: Tensor  # (k,) float32
    factor: float
    masters: Pointers | None = None  # float32 copies, of which the parameters are roundings


class Operand(NamedTuple):
    """What a kernel is told of the matrices n×m that it reads or writes."""

    data: Tensor | None  # the stack, or a table of addresses
    stride: int
    row: int
    column: int
    type: Any  # Triton's name for what the addresses point to, or None
    align: int


NOTHING = Operand(None, 0, 0, 0, None, 1)


class Put(NamedTuple):
    """Where results go: a stack, or the parameters of an update."""

    out: Operand
    master: Operand
    hyper: Tensor | None = None
    targets: Tensor | None = None
    factor: float = 0.0

    @classmethod
    def stack(cls, out: Tensor, tall: bool = False) -> Put:
        return cls(operand(out, tall), NOTHING)

    @classmethod
    def move(cls, u: Update, tall: bool) -> Put:
        master = NOTHING if u.masters is None else operand(u.masters, tall)
        return cls(operand(u.parameters, tall), master, u.hyper, u.targets, float(u.factor))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """polar_put's, from `out` to `factor`."""
        out, master = self.out, self.master
        where = (out.data, out.stride, out.row, out.column, master.data, master.row, master.column)
        return (*where, self.hyper, self.targets, self.factor)


class Scratch:
    """Memory that the kernels work in, one block a use, type and device."""

    def __init__(self) -> None:
        self._blocks: dict[Any, Tensor] = {}
        self._outgrown: list[Tensor] = []  # kept, for a captured graph may still use it

    def take(self, use: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """`size` entries of any value: the same memory at every call that asks for no more."""
        block = self._blocks.get((use, dtype, device))
        if block is None or block.numel() < size:
            if block is not None:
                self._outgrown.append(block)
            block = torch.empty(size, dtype=dtype, device=device)
            self._blocks[use, dtype, device] = block
        return block[:size]

    def constants(self, steps: Steps, device: torch.device) -> Tensor:
        """The coefficients (steps, 3) on the device."""
        return self.numbers([tuple(step) for step in steps], torch.float32, device)

    def numbers(self, values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
        """These numbers on the device: the same memory at every call for the same ones."""
        key = (tuple(values), dtype, device)
        if key not in self._blocks:
            self._blocks[key] = torch.tensor(key[0], dtype=dtype, device=device)
        return self._blocks[key]


SCRATCH = Scratch()


def pointers(matrices: Sequence[Tensor]) -> Pointers:
    """A table of matrices, valid for as long as these tensors keep their memory.

    Raises ValueError unless they are alike in shape, strides, type and device.
    """
    first = matrices[0]
    for x in matrices:
        if (x.shape, x.stride(), x.dtype, x.device) != (
            *(first.shape, first.stride(), first.dtype, first.device),
        ):
            raise ValueError(
                "the matrices of a table differ in shape, strides, type or device: "
                f"{tuple(x.shape)} {x.dtype}, {tuple(first.shape)} {first.dtype}"
            )
    addresses = [x.data_ptr() for x in matrices]
    aligned = all(address % 16 == 0 for address in addresses)
    table = torch.tensor(addresses, dtype=torch.int64).to(first.device)
    rows, columns = first.shape
    strides = (first.stride(0), first.stride(1))
    return Pointers(table, (rows, columns), strides, first.dtype, 16 if aligned else 1)


def operand(x: Tensor | Pointers, tall: bool = False) -> Operand:
    """x, or what its matrices are when transposed."""
    if isinstance(x, Pointers):
        row, column = x.strides
        data, stride, align = x.table, 0, x.align
        kind = getattr(tl, str(x.dtype).removeprefix("torch."))
    else:
        (stride, row, column), data, kind, align = x.stride(), x, None, 16
    return Operand(data, stride, *((column, row) if tall else (row, column)), kind, align)


class Products(NamedTuple):
    """The kernels' long argument lists, for k matrices n×m."""

    k: int
    n: int
    m: int
    tiling: PolarTiles
    precision: str

    @property
    def parts(self) -> int:
        """How many tiles of a symmetric n×n matrix are computed."""
        side = -(-self.n // self.tiling.gram.rows)
        return side * (side + 1) // 2

    def gram(
        self, x: Operand, out: Tensor, y: Operand | None = None, d: Tensor | None = None,
        *, alpha: float = 1.0, beta: float = 0.0, diagonal: float = 0.0, depth: int | None = None,
        traces: Tensor | None = None, squares: Tensor | None = None,
    ) -> None:  # fmt: skip
        """out (k, n, n) ← alpha·x·yᵀ + beta·d + diagonal·1; y is x by default, depth m."""
        y, t, scaled = y or x, self.tiling.gram, squares is not None
        factors = float(alpha), float(beta), float(diagonal)
        polar_gram[(self.k * self.parts,)](
            x.data, y.data, d, out, traces, squares, self.n, self.m if depth is None else depth,
            x.stride, x.row, x.column, y.stride, y.row, y.column, *factors,
            TYPE=x.type, ALIGN=x.align, FIRST=traces is not None and not scaled, SCALED=scaled,
            LENGTH=power(self.parts) if scaled else 1, PRECISION=self.precision,
            BLOCK=t.rows, BLOCK_K=t.depth, num_warps=t.warps, num_stages=t.stages,
        )  # fmt: skip

    def start(
        self, gram: Tensor, square: Tensor, traces: Tensor, squares: Tensor, scales: Tensor,
        step: tuple[float, float, float], both: bool,
    ) -> None:  # fmt: skip
        """See polar_start."""
        polar_start[(self.k * -(-(self.n**2) // 1024),)](
            gram, square, traces, squares, scales, self.n, self.parts, *map(float, step),
            GRAM=both, LENGTH=power(self.parts), BLOCK=1024,
        )  # fmt: skip

    def multiply(
        self, q: Tensor, x: Operand, scales: Tensor, a: float, scaled: bool, put: Put
    ) -> None:
        """q·x + a·x, times scales if scaled, to where `put` says."""
        t = self.tiling.multiply if put.out.type is None else self.tiling.update
        polar_multiply[(self.k * -(-self.n // t.rows) * -(-self.m // t.columns),)](
            q, x.data, scales, float(a), self.n, self.m, x.stride, x.row, x.column, *put.arguments,
            X_TYPE=x.type, X_ALIGN=x.align, TYPE=put.out.type, ALIGN=put.out.align,
            SCALED=scaled, PRECISION=self.precision,
            BLOCK_N=t.rows, BLOCK_M=t.columns, BLOCK_K=t.depth,
            num_warps=t.warps, num_stages=t.stages,
        )  # fmt: skip

    def small(
        self, x: Operand, steps: Tensor, scratch: Tensor, scales: Tensor, put: Put, tile: PolarTile
    ) -> None:
        """See polar_small."""
        polar_small[(self.k,)](
            x.data, steps, steps.shape[0], scratch, scales, self.n, self.m, x.stride, x.row,
            x.column, *put.arguments,
            X_TYPE=x.type, X_ALIGN=x.align, TYPE=put.out.type, ALIGN=put.out.align,
            PRECISION=self.precision, BLOCK=tile.rows, BLOCK_K=tile.depth,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip


def orthogonalize_triton(
    x: Tensor | Pointers, steps: Steps, tiling: PolarTiles, form: str = "plain", *,
    restarts: Sequence[int] = (), out: Tensor | None = None, update: Update | None = None,
    dtype: torch.dtype | None = None, precision: str = "ieee", scratch: Scratch = SCRATCH,
) -> Tensor | None:  # fmt: skip
    """U·Vᵀ for each matrix U·S·Vᵀ of x, by odd polynomials a·x + b·x³ + c·x⁵, one a step.

    x is first divided by its Schatten 8-norm, so its singular values are at most 1. Where a matrix
    is 0 the result is 0; where it has NaN, infinity or a square sum above the largest float32 the
    result is NaN and an update leaves the parameter as it is. (Newton–Schulz: Bernstein & Newhouse
    2024, arXiv 2410.21265; Polar Express: Amsel et al. 2025, arXiv 2505.16932.)

    x: a stack (k, rows, columns), any strides, float32 or bfloat16; or Pointers to k matrices.
    tiling: what polar_tiles says for x's shape. One program a matrix always uses the plain form.
    form: "plain" (three products a step) or "gram" (iterates on the matrices x·xᵀ; the steps whose
        indices `restarts` holds begin with x·xᵀ of what has become of x, against rounding).
    out: where to write the result, of x's shape but not x; by default new memory at every call.
    update: move parameters of x's shape instead; then nothing is returned.
    dtype: what the products multiply and what lies between them, by default x's. float16 has too
        small a range for x·xᵀ before it is scaled, so only the kernel for small matrices takes it.
    precision: of products of float32 entries, as Triton names it: "ieee", "tf32x3" or "tf32".

    Once called, it can be captured in a CUDA graph, if given out or update, and then allocates
    nothing. Raises ValueError for shapes that do not fit or a form that does not exist.
    """
    data = x.table if isinstance(x, Pointers) else x
    k, shape = data.shape[0], x.shape[-2:]
    places = [] if update is None else [update.parameters, update.masters]
    if out is not None and out.shape != (k, *shape):
        raise ValueError(f"out is {tuple(out.shape)} but has to be {(k, *shape)}")
    for place in places:
        if place and (place.shape != tuple(shape) or place.table.shape != (k,)):
            raise ValueError(
                f"{len(place.table)} parameters {place.shape} for {k} updates {tuple(shape)}"
            )
    if form not in ("plain", "gram") or not steps:
        raise ValueError(f"form must be 'plain' or 'gram' with steps, not {form!r} with {steps!r}")
    dtype = dtype or x.dtype
    if dtype == torch.float16 and not tiling.small:
        raise ValueError("float16 is for tiles with one program a matrix; bfloat16 is for all")
    tall = shape[0] > shape[1]
    n, m = sorted(shape)
    if update is None:
        if out is None:
            out = torch.empty((k, *shape), dtype=dtype, device=data.device)
        put = Put.stack(out, tall)
    else:
        out, put = None, Put.move(update, tall)
    if not k * n:
        return out
    job = Products(k, n, m, tiling, precision)
    scales = scratch.take("scales", k, torch.float32, data.device)
    with torch.cuda.device_of(data):  # type: ignore[no-untyped-call]
        if tiling.small:
            room = scratch.take("small", 2 * k * n * (n + m), dtype, data.device)
            constants = scratch.constants(steps, data.device)
            job.small(operand(x, tall), constants, room, scales, put, tiling.small)
        elif form == "plain":
            plain_form(job, operand(x, tall), steps, scales, put, dtype, scratch)
        else:
            gram_form(job, operand(x, tall), steps, restarts, scales, put, dtype, scratch)
    return out


def first_step(
    job: Products, x: Operand, step: tuple[float, float, float], both: bool,
    gram: Tensor, square: Tensor, scales: Tensor, scratch: Scratch,
) -> None:  # fmt: skip
    """x·xᵀ, its square, their norms, and what polar_start makes of them."""
    size, device = job.k * job.parts, gram.device
    traces = scratch.take("traces", size, torch.float32, device)
    squares = scratch.take("squares", size, torch.float32, device)
    job.gram(x, gram, traces=traces)
    job.gram(operand(gram), square, traces=traces, squares=squares, depth=job.n)
    job.start(gram, square, traces, squares, scales, step, both)


def plain_form(
    job: Products, x: Operand, steps: Steps, scales: Tensor, put: Put, dtype: torch.dtype,
    scratch: Scratch,
) -> None:  # fmt: skip
    """x ← (b·x·xᵀ + c·(x·xᵀ)²)·x + a·x for each step."""
    k, n, m, device = job.k, job.n, job.m, scales.device
    gram, poly = scratch.take("square", 2 * k * n * n, dtype, device).view(2, k, n, n)
    pair = scratch.take("oblong", 2 * k * n * m, dtype, device).view(2, k, n, m)
    for i, (a, b, c) in enumerate(steps):
        if i == 0:
            first_step(job, x, steps[0], False, gram, poly, scales, scratch)
        else:
            job.gram(x, gram)
            job.gram(operand(gram), poly, d=gram, alpha=c, beta=b, depth=n)
        last = i == len(steps) - 1
        job.multiply(poly, x, scales, a, i == 0, put if last else Put.stack(pair[i % 2]))
        x = operand(pair[i % 2])


def gram_form(
    job: Products, x: Operand, steps: Steps, restarts: Sequence[int], scales: Tensor, put: Put,
    dtype: torch.dtype, scratch: Scratch,
) -> None:  # fmt: skip
    """q ← z·q, g ← z·g·z for each step's z = a + b·g + c·g², from g = x·xᵀ; then x ← q·x."""
    k, n, m, device = job.k, job.n, job.m, scales.device
    g, *free = scratch.take("square", 4 * k * n * n, dtype, device).view(4, k, n, n)
    pair = scratch.take("oblong", 2 * k * n * m, dtype, device).view(2, k, n, m)
    bounds = [0, *sorted({i for i in restarts if 0 < i < len(steps)}), len(steps)]
    for segment, (begin, end) in enumerate(pairwise(bounds)):
        q = None
        for i in range(begin, end):
            a, b, c = steps[i]
            z = free.pop()
            if i == 0:
                first_step(job, x, steps[0], True, g, z, scales, scratch)
            else:
                if i == begin:
                    job.gram(x, g)
                job.gram(operand(g), z, d=g, alpha=c, beta=b, diagonal=a, depth=n)
            if i < end - 1:  # g·z first, so that z's memory is free for more
                half = free.pop()
                job.gram(operand(z), half, operand(g), depth=n)
                job.gram(operand(z), g, operand(half), depth=n)
                free.append(half)
            if q is None:
                q = z
            else:
                product = free.pop()
                job.gram(operand(z), product, operand(q), depth=n)
                free += [z, q]
                q = product
        assert q is not None
        last = end == len(steps)
        job.multiply(q, x, scales, 0.0, begin == 0, put if last else Put.stack(pair[segment % 2]))
        x = operand(pair[segment % 2])
        free.append(q)


def polar_tiling(g: Tensor, scheme: Scheme, dtype: torch.dtype) -> PolarTiles | None:
    """The tiles for a stack g of float32 matrices and products of this type, if it is on a GPU."""
    if scheme.tiles is None or g.dtype != torch.float32 or not (g.is_cuda or INTERPRETED):
        return None
    size, (small, *others) = scheme.tiles
    tiling = PolarTiles(small and PolarTile(*small), *(PolarTile(*tile) for tile in others))
    if size != dtype.itemsize:
        return PolarTiles(None, *(tile._replace(depth=16, stages=2) for tile in tiling[1:]))
    return tiling


def polar_in_place(
    g: Tensor, steps: Steps, scheme: Scheme, dtype: torch.dtype, update: Any = None
) -> bool:
    """What `polar` does with a stack (k, out, in), or with parameters; False if it is not for us.

    update: parameters, factor, learning rate, weight decay and targets, if these are to be moved.
    """
    if g.ndim != 3 or (tiling := polar_tiling(g, scheme, dtype)) is None:
        return False
    # "gram" is for the last two steps, as in `polar`: over more, rounding grows too far.
    options: Any = {"restarts": range(1, len(steps) - 1), "dtype": dtype}
    if update is None:
        out = SCRATCH.take("out", g.numel(), dtype, g.device).view(g.shape)
        orthogonalize_triton(g, steps, tiling, scheme.form, out=out, **options)
        g.copy_(out)
        return True
    parameters, factor, lr, decay, targets = update
    if any(p.stride() != g.stride()[1:] or p.data_ptr() % 16 for p in parameters):
        return False
    hyper = SCRATCH.take("hyper", 2, torch.float32, g.device)
    hyper[0].copy_(lr) if isinstance(lr, Tensor) else hyper[0].fill_(lr)
    hyper[1].fill_(decay)
    table = SCRATCH.numbers([p.data_ptr() for p in parameters], torch.int64, g.device)
    where = Pointers(table, (g.shape[1], g.shape[2]), parameters[0].stride(), g.dtype, 16)
    sizes = SCRATCH.numbers(targets, torch.float32, g.device)
    move = Update(where, hyper, sizes, factor)
    orthogonalize_triton(g, steps, tiling, scheme.form, update=move, **options)
    return True


if tl is not None:
    POLAR_ON_GPU.append(polar_in_place)


# modnorm: end
