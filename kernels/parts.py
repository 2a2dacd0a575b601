"""How norms are measured where no rank of torch.distributed has the whole weight.

Each measure is a generator: it yields what has to be summed over the ranks, or of what the largest
counts, and gets it back. So what many weights ask for at once can be sent as one. All else follows
from what came back, and so is the same on every rank. Formulas and the order of work are those of
`Norm.measure` and `Spectral.scale`, which say why.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .blocks import Block, places, raveled
from .plan import Norm, reciprocal
from .spectral import Spectral, spread


class Ask(NamedTuple):
    """What is to be added up over the ranks that share a weight."""

    parts: Tensor  # changed in place: afterwards it holds the whole
    largest: bool = False  # not the sum but the largest


Measure = Generator[Ask, None, Any]  # of one weight: returns its factor
LOW, HIGH = 1e-8, 1e4  # between these, the squares of squares of entries have a place in float32


def unit_of(top: float, dtype: torch.dtype) -> float:
    """The power of two by which to multiply an update with this largest entry."""
    most = math.frexp(torch.finfo(dtype).max)[1] - 2
    far = not (LOW < top < HIGH or top == 0)
    return math.ldexp(1.0, max(-most, min(-math.frexp(top)[1], most))) if far else 1.0


def entries(norm: type[Norm], u: Tensor, block: Block, shape: tuple[int, ...]) -> Measure:
    """The factor of a norm that is made of entries, for a block u of a weight of this shape.

    Where what is measured together is on one rank, nothing is asked for.
    """
    over, order = norm.reduced(shape), norm.order
    assert order is not None
    sizes = [1 if axis in over else n for axis, n in enumerate(u.shape)]
    lengths = torch.linalg.vector_norm(u, order, over, True) if u.numel() else u.new_zeros(sizes)
    if not block.split.intersection(over):
        return norm.factors(lengths, shape)
    whole = u.new_zeros([1 if axis in over else n for axis, n in enumerate(shape)])
    for axis in norm.alone:  # there is one at most
        whole = whole.movedim(axis, 0)
        whole[block.places[axis]] = lengths.movedim(axis, 0)
        whole = whole.movedim(0, axis)
    if not norm.alone:
        whole.copy_(lengths)
    if order == 2:
        whole.square_()
    yield Ask(whole, order != 2)
    factors = norm.factors(whole.sqrt_() if order == 2 else whole, shape)
    for axis in norm.alone:
        factors = factors.index_select(axis, block.index[axis].to(u.device))
    return factors


class Stack:
    """The block of a weight as the matrices that it has, and where they are among all of it."""

    def __init__(self, norm: type[Spectral], block: Block, shape: tuple[int, ...]) -> None:
        self.norm, self.block, self.shape = norm, block, shape
        *self.over, self.out, self.in_ = self.axes = norm.axes(len(shape))
        self.high, self.wide = shape[self.out], shape[self.in_]
        self.rows, self.columns = block.index[self.out], block.index[self.in_]
        grids = [block.index[axis] for axis in self.over]
        grids = list(torch.meshgrid(*grids, indexing="ij")) if grids else []
        self.at = raveled(grids, (shape[axis] for axis in self.over)).flatten()
        self.where = {i: j for j, i in enumerate(self.at.tolist())}  # of all matrices, those here
        self.count = math.prod(shape[axis] for axis in self.over)
        self.apart = block.split <= {*self.over}  # is each matrix on one rank as a whole?
        own: Any = block.places[self.out], block.places[self.in_]
        cut = isinstance(own[0], slice) and isinstance(own[1], slice)
        self.box = own if cut else (self.rows.unsqueeze(1), self.columns)

    def matrices(self, u: Tensor) -> Tensor:
        """A block of the weight as a stack (k, rows, columns); a view of it where it can be."""
        turned = u.permute(self.axes)
        return turned.reshape(len(self.at), *turned.shape[-2:])

    def put(self, matrices: Tensor) -> Tensor:
        """A stack as such a block."""
        shape = [self.block.shape[axis] for axis in self.axes]
        return matrices.reshape(shape).permute([self.axes.index(i) for i in range(len(shape))])

    def sides(self, i: int) -> tuple[int, int]:
        """How much of a matrix is here."""
        return (len(self.rows), len(self.columns)) if i in self.where else (0, 0)

    def one(self, i: int, matrices: Tensor) -> Tensor:
        """What is here of a matrix."""
        return matrices[self.where[i]] if i in self.where else matrices.new_zeros(0, 0)

    def cut(self, i: int, whole: Tensor) -> Tensor:
        """That, from a whole matrix."""
        return whole[self.box] if i in self.where else whole.new_zeros(0, 0)

    def _vectors(self, x: Tensor) -> Tensor:
        return x.permute([axis - (axis > self.out) for axis in (*self.over, self.in_)])

    def vectors(self, x: Tensor) -> Tensor:
        """The vectors of all matrices (count, in), from the weight's."""
        return self._vectors(x).reshape(self.count, self.wide).clone()

    def keep(self, vectors: Tensor, x: Tensor) -> None:
        """Write them back."""
        into = self._vectors(x)
        into.copy_(vectors.view(into.shape))

    def factor(self, found: list[Any], u: Tensor, unit: float) -> float | Tensor:
        """What brings the weight to size, from what measures of u·unit returned."""
        if isinstance(found[0], float):
            found = [torch.tensor(found, dtype=torch.float64)] if self.over else found
        whole = found[0] * (unit / self.norm.meeting(self.shape))
        if isinstance(whole, float):
            return whole if whole < 1e38 else 0.0
        whole = torch.where(whole < 1e38, whole, 0.0).to(u)
        back = [self.axes.index(i) for i in range(len(self.shape))]
        sizes = [self.shape[axis] for axis in self.over]
        factor: Tensor = whole.view(*sizes, 1, 1).permute(back)
        return factor

    def own(self, factor: float | Tensor) -> float | Tensor:
        """What multiplies the block, of such a factor."""
        if isinstance(factor, Tensor):
            for axis in self.block.split.intersection(self.over):
                factor = factor.index_select(axis, self.block.index[axis].to(factor.device))
        return factor


def spectral(stack: Stack, u: Tensor, vectors: Tensor, iterations: int) -> list[Measure]:
    """The measures of the matrices of a block u: one that returns all factors, or one for each.

    vectors, of all matrices, are changed in place.
    """
    found = stack.matrices(u)
    small = not u.is_cpu or bool(stack.over and stack.high * stack.wide <= Spectral.together)
    if stack.apart:
        return [whole_matrices(stack, found, vectors, iterations, small)]
    if small:
        return [small_matrices(stack, found, vectors, iterations)]
    return [
        Matrix(stack, stack.one(i, found), vectors[i]).scale(iterations) for i in range(stack.count)
    ]


def whole_matrices(
    stack: Stack, found: Tensor, vectors: Tensor, iterations: int, small: bool
) -> Measure:
    """Those that are on one rank each: the others get to know the factors and vectors."""
    at = stack.at.to(found.device)
    told, own = vectors.new_zeros(stack.count, stack.wide + 1), vectors[at]
    for _ in range(iterations if small and len(at) else 0):
        factor, new = Spectral.measure(found, own)
        own, told[at, 0] = cast(Tensor, new), factor.flatten()
    for i, u, x in zip(stack.at.tolist(), found, own, strict=True) if not small else ():
        told[i, 0] = Spectral.scale(u.contiguous(), x, iterations)
    told[at, 1:] = own
    if stack.block.split:
        yield Ask(told)
    vectors.copy_(told[:, 1:])
    return told[:, 0] if stack.over else told[0, 0].item()


def small_matrices(stack: Stack, found: Tensor, vectors: Tensor, iterations: int) -> Measure:
    """`Spectral.measure` of a stack of small matrices, of which the rank has rows and columns."""
    at, rows, columns = (i.to(found.device) for i in (stack.at, stack.rows, stack.columns))
    high, wide, own = stack.high, stack.wide, at.unsqueeze(1)
    squares = found.new_zeros(stack.count, high)
    squares[own, rows] = found.square().sum(2)
    yield Ask(squares)
    lengths = squares.sqrt_()
    first = lengths.bfloat16().argmax(1)
    longest = lengths.gather(1, first.unsqueeze(1)).squeeze(1)
    rows_of = found.new_zeros(stack.count, wide)
    mine = (rows == first[own]).to(found.dtype).unsqueeze(1)  # (k, 1, rows), with one 1 or none
    rows_of[own, columns] = torch.bmm(mine, found).squeeze(1)
    yield Ask(rows_of)
    rows_of *= reciprocal(longest).unsqueeze(1)
    whole = torch.linalg.vector_norm(lengths, dim=1) / math.sqrt(min(high, wide))
    for _ in range(iterations):
        start = torch.stack([vectors, rows_of], 1)
        left = found.new_zeros(stack.count, high, 2)
        left[own, rows] = torch.bmm(found, start[at][:, :, columns].mT)
        yield Ask(left)
        left = left.mT * reciprocal(torch.linalg.vector_norm(left.mT, dim=2, keepdim=True))
        right = found.new_zeros(stack.count, wide, 2)
        right[own, columns] = torch.bmm(found.mT, left[at][:, :, rows].mT)
        yield Ask(right)
        sigma, best = torch.linalg.vector_norm(right, dim=1, keepdim=True).max(2, keepdim=True)
        inverse = reciprocal(sigma)
        new = right.gather(2, best.expand(-1, wide, 1)) * inverse
        vectors.copy_(torch.where(inverse > 0, new, vectors.unsqueeze(2)).squeeze(2))
    sigma = torch.maximum(sigma.flatten(), torch.maximum(longest, whole))
    return reciprocal(sigma) * math.sqrt(high / wide)


class Matrix:
    """`Spectral.scale` of one matrix of which the rank has some rows and columns, u."""

    def __init__(self, stack: Stack, u: Tensor, x: Tensor) -> None:
        self.rows = stack.rows if u.numel() else stack.rows[:0]
        self.columns = stack.columns if u.numel() else stack.columns[:0]
        self.in_rows, self.in_columns = places(self.rows), places(self.columns)
        self.u = u if u.numel() else u.new_zeros(0, 0)
        self.x, self.high, self.wide = x, stack.high, stack.wide
        self.cut_columns = stack.in_ in stack.block.split

    def looked_at(self, first: int, apart: int) -> Generator[Ask, None, tuple[Tensor, int]]:
        """The lengths of every apart-th row, and which of these is the longest."""
        squares = self.u.new_zeros(len(range(first, self.high, apart)))
        seen = (self.rows - first) % apart == 0
        own = self.u if apart == 1 else self.u[seen]
        squares[self.rows[seen] // apart] = torch.linalg.vector_norm(own, dim=1).square_()
        yield Ask(squares)
        lengths = squares.sqrt_()
        return lengths, int(lengths.bfloat16().argmax())

    def row(self, at: int) -> Generator[Ask, None, Tensor]:
        """One row of the whole matrix."""
        row = self.u.new_zeros(self.wide)
        for own in (self.rows == at).nonzero():
            row[self.in_columns] = self.u[own[0]]
        yield Ask(row)
        return row

    def scale(self, iterations: int, again: bool = False) -> Measure:
        """Its factor; the vector is changed in place. again: from the longest row of all alone."""
        u, x, high, wide = self.u, self.x, self.high, self.wide
        tiny = torch.finfo(u.dtype).tiny
        if again:
            lengths, at = yield from self.looked_at(0, 1)
            row = yield from self.row(at)
            torch.div(row, lengths[at], out=x)
        apart = max(1, min(high // 16, high * wide // 4096))
        bits = x[0].item() if apart > 1 else 0.0
        first = int(math.frexp(bits)[0] * 2**24) % apart if math.isfinite(bits) else 0
        lengths, at = yield from self.looked_at(first, apart)
        longest: float = lengths[at].item()
        row = yield from self.row(first + at * apart)
        start = x + spread(wide, x.dtype) if apart > 1 else x
        if longest > math.sqrt(tiny):
            along = torch.dot(row, x).item()
            start = start.add(row, alpha=math.copysign(Spectral.part / longest, along))
        size = math.sqrt(torch.dot(start, start).item())
        sigma = 0.0
        for done in range(1, Spectral.most + 1):
            left = torch.mv(u, start[self.in_columns])
            told = u.new_zeros(wide + 1)  # Uᵀ·left, and what the square of left is
            if self.cut_columns:
                whole = u.new_zeros(high)
                whole[self.in_rows] = left
                yield Ask(whole)
                left = whole[self.in_rows]
            else:
                told[wide] = torch.dot(left, left)
            told[:wide][self.in_columns] = torch.mv(u.t(), left)
            yield Ask(told)
            below = (torch.dot(whole, whole) if self.cut_columns else told[wide]).item()
            right = told[:wide]
            squares = torch.dot(right, right).item()
            if not (below >= tiny and tiny <= squares < math.inf):
                return 0.0 if again else (yield from self.scale(iterations, again=True))
            torch.div(right, math.sqrt(squares), out=x)
            sigma = math.sqrt(squares / below)
            if done >= iterations and sigma * size < Spectral.settled * math.sqrt(below):
                break
            start, size = x, 1.0
        if apart == 1:  # all rows were seen
            shape = min(high, wide)
            sigma = max(sigma, math.sqrt(torch.dot(lengths, lengths).item() / shape))
        return math.sqrt(high / wide) / max(sigma, longest)
