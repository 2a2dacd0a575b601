"""Which entries of a weight a rank of torch.distributed holds: a block of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .weight import Layout, Weight

Places = slice | Tensor  # along one axis: a slice where they follow each other


def held(p: Any, coordinate: Sequence[int]) -> list[Tensor]:
    """Along each axis of a DTensor, the places that the rank at a coordinate of its mesh holds."""
    found, sizes = [torch.arange(size) for size in p.shape], range(p.ndim)
    for at, count, placement in zip(coordinate, p.device_mesh.shape, p.placements, strict=True):
        if hasattr(placement, "dim"):  # Shard, or _StridedShard of an axis that is cut twice
            axis = found[placement.dim].view([-1 if i == placement.dim else 1 for i in sizes])
            pieces, _ = placement._split_tensor(axis, count, with_padding=False, contiguous=True)
            found[placement.dim] = pieces[at].flatten()
    return found


def places(index: Tensor) -> Places:
    """An index as a slice, if it is one."""
    start = int(index[0]) if len(index) else 0
    run = torch.equal(index, torch.arange(start, start + len(index)))
    return slice(start, start + len(index)) if run else index


def raveled(digits: Iterable[Tensor], sizes: Iterable[int]) -> Tensor:
    """Numbers from their digits, the first of which counts most."""
    pairs = zip(digits, sizes, strict=True)
    return reduce(lambda number, pair: number * pair[1] + pair[0], pairs, torch.tensor(0))


class Factor(NamedTuple):
    """A part of an axis of a weight, and of an axis into which a layout splits a parameter."""

    axis: int  # that of the split parameter
    step: int  # of its places, how many make one of this part's
    size: int


def factors_of(w: Weight, layout: Layout) -> tuple[list[Factor], list[list[int]]]:
    """The common factors of both kinds of axes, and for each axis of the weight, which are its."""
    taken = [layout.take[axis][1] - layout.take[axis][0] for axis in layout.order]
    ends = [list(accumulate(sizes, mul, initial=1)) for sizes in (taken, w.shape)]
    marks = sorted({*ends[0], *ends[1]})
    sizes = [after // before for before, after in pairwise(marks)]
    if any(after % before for before, after in pairwise(marks)):
        raise ValueError(f"{w.name} can't be sharded: no axis of {layout} is a product of others")
    parts, own = (
        [list(range(marks.index(low), marks.index(high))) for low, high in pairwise(end)]
        for end in ends
    )
    found = [
        Factor(axis, math.prod(sizes[j] for j in part if j > i), sizes[i])
        for axis, part in zip(layout.order, parts, strict=True)
        for i in part
    ]
    return found, own


class Along(NamedTuple):
    """How the places that a rank holds of one axis of a parameter come into a block."""

    taken: Places | None  # those that are of the weight; None: all
    into: Tensor | None  # where these are among the block's; None: all of them, in order
    sizes: list[int]  # the block's, by factors


class Block:
    """What a rank holds of a weight: a part of each axis, with 0 where others hold an entry.

    A layout may lay an axis of a parameter along several of a weight. Then a piece of that axis may
    begin within a head, say, and is no block: this is the smallest one around it.
    """

    def __init__(self, w: Weight, stored: list[Tensor], split: set[int]) -> None:
        """Take what `held` gives for a parameter, and the axes along which it is split at all."""
        shape, everything = tuple(w.shape), [*range(len(w.shape))]
        layout = w.layout or Layout("", shape, shape, tuple((0, n) for n in shape), (*everything,))
        if w.layout is None:
            factors, runs = (
                [Factor(i, 1, n) for i, n in enumerate(shape)],
                [[i] for i in everything],
            )
        else:
            factors, runs = factors_of(w, layout)
        digits = dict[int, Tensor]()  # of each factor, those that the block has
        on_split, in_order, axes = set[int](), list[int](), iter(range(len(layout.split)))
        self.along, self.split = list[Along](), set[int]()
        for stored_axis, (size, index) in enumerate(zip(layout.shape, stored, strict=True)):
            own, count = ([stored_axis] if w.layout is None else []), 1
            while count < size and w.layout is not None:
                own.append(next(axes))
                count *= layout.split[own[-1]]
            rest, inside, at = index, torch.ones(len(index), dtype=torch.bool), dict[int, Tensor]()
            for axis in reversed(own):
                (start, end), at[axis] = layout.take[axis], rest % layout.split[axis]
                rest = rest // layout.split[axis]
                inside &= (at[axis] >= start) & (at[axis] < end)
                at[axis] = at[axis] - start
            numbers = [i for axis in own for i, factor in enumerate(factors) if factor.axis == axis]
            ranks = list[Tensor]()
            for i in numbers:
                axis, step, n = factors[i]
                digit = at[axis][inside] // step % n
                digits[i], rank = torch.unique(digit, return_inverse=True)
                ranks.append(rank)
            sizes = [len(digits[i]) for i in numbers]
            into = raveled(ranks, sizes).expand(int(inside.sum()))
            whole = torch.equal(into, torch.arange(math.prod(sizes)))
            taken = None if inside.all() else places(inside.nonzero().flatten())
            self.along.append(Along(taken, None if whole else into, sizes))
            in_order += numbers
            if stored_axis in split:
                on_split |= set(numbers)
                if not numbers:  # of size 1, which no factor tells of
                    self.split = set(everything)
        self.turn = [in_order.index(i) for i in range(len(factors))]
        self.back = [self.turn.index(i) for i in range(len(factors))]
        self.index = list[Tensor]()  # of each of the weight's axes, the places that the block has
        for run in runs:
            grids = torch.meshgrid(*(digits[i] for i in run), indexing="ij") if run else ()
            self.index.append(raveled(grids, (factors[i].size for i in run)).flatten())
        # Along which of its axes a rank may hold less than all of the weight.
        self.split |= {axis for axis, run in enumerate(runs) if on_split.intersection(run)}
        self.shape = tuple(map(len, self.index))
        self.places = [places(index) for index in self.index]

    def cut(self, x: Tensor) -> Tensor:
        """The block of what a rank holds of a parameter: a view of it where it can be."""
        for axis, (taken, into, sizes) in enumerate(self.along):
            if isinstance(taken, slice):
                x = x.narrow(axis, taken.start, taken.stop - taken.start)
            elif taken is not None:
                x = x.index_select(axis, taken.to(x.device))
            if into is not None:
                room = x.new_zeros([*x.shape[:axis], math.prod(sizes), *x.shape[axis + 1 :]])
                x = room.index_copy_(axis, into.to(x.device), x)
        x = x.reshape([n for along in self.along for n in along.sizes])
        return x.permute(self.turn).reshape(self.shape)

    def put(self, block: Tensor, x: Tensor) -> None:
        """Write a block's entries to their places in what a rank holds of a parameter."""
        sizes = [n for along in self.along for n in along.sizes]
        block = block.reshape([sizes[i] for i in self.turn]).permute(self.back)
        block = block.reshape([math.prod(along.sizes) for along in self.along])
        for axis, (_, into, _) in enumerate(self.along):
            if into is not None:
                block = block.index_select(axis, into.to(x.device))
        for axis, (taken, _, _) in enumerate(self.along):
            if isinstance(taken, slice):
                x = x.narrow(axis, taken.start, taken.stop - taken.start)
        index = [along.taken for along in self.along]
        if any(isinstance(taken, Tensor) for taken in index):
            # One axis at a time, since places of several axes at once would be pairs of them.
            grid = [
                torch.arange(n) if not isinstance(taken, Tensor) else taken
                for n, taken in zip(x.shape, index, strict=True)
            ]
            x[torch.meshgrid(*(g.to(x.device) for g in grid), indexing="ij")] = block
        else:
            x.copy_(block)
