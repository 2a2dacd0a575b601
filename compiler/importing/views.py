"""Values whose entries are those of another in other places, and how the language says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from modnorm.importing.graph import Graph, Step
from modnorm.importing.problems import Unsaid


@dataclass(frozen=True)
class View:
    """A value of the run: the entries `index` of value `base` of the graph, counted through."""

    base: int
    index: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.index.shape)


@dataclass(frozen=True)
class Axis:
    """Steps of equal length through the entries of a value."""

    size: int
    stride: int


def whole(graph: Graph, base: int, shape: Sequence[int] | None = None) -> View:
    """All of a value, as it is, or with its entries under other axes."""
    own = graph.shapes[base]
    index = torch.arange(math.prod(own))
    return View(base, index.view(tuple(own if shape is None else shape)))


def is_whole(graph: Graph, view: View) -> bool:
    """Whether a view is its base, entry by entry in the same order."""
    count = math.prod(graph.shapes[view.base])
    return view.index.numel() == count and bool(
        torch.equal(view.index.flatten(), torch.arange(count))
    )


def unrepeated(x: View) -> tuple[View, int]:
    """Heads, along axis 1, without copies that stand side by side, and how many of each there are.

    Raises Unsaid where they are repeated in another order.
    """
    times = x.shape[1] // torch.unique(x.index[0, :, 0, 0]).numel()
    own = x.index[:, ::times]
    if not torch.equal(own.repeat_interleave(times, 1), x.index):
        raise Unsaid("heads that are repeated in another order than groups have")
    return View(x.base, own), times


def axes_of(index: Tensor) -> list[list[Axis]]:
    """Each axis of an index as steps, the longest first. Raises Unsaid where they are irregular."""
    found = []
    for axis in range(index.ndim):
        at = tuple(slice(None) if a == axis else 0 for a in range(index.ndim))
        found.append(steps(index[at].tolist()))
    total = index[(0,) * index.ndim].clone() if index.numel() else torch.tensor(0)
    for axis, own in enumerate(found):
        line = torch.zeros(1, dtype=torch.int64)
        for step in own:
            line = (line[:, None] + torch.arange(step.size) * step.stride).flatten()
        total = total + line.view([-1 if a == axis else 1 for a in range(index.ndim)])
    if not torch.equal(total.expand(index.shape), index):
        raise Unsaid("entries are taken in an order that no operation of the language makes")
    return found


def steps(line: list[int]) -> list[Axis]:
    """A row of numbers as steps inside of steps; none for one of length 1."""
    if len(line) == 1:
        return []
    stride, count = line[1] - line[0], 2
    while count < len(line) and line[count] - line[count - 1] == stride:
        count += 1
    if len(line) % count:
        raise Unsaid("entries are taken in irregular steps")
    return [*steps(line[::count]), Axis(count, stride)]


def at_axes(step: Axis, strides: Sequence[int]) -> list[Axis]:
    """A step through several axes as one through each."""
    inside = {s for s in strides if step.stride < s < step.stride * step.size}
    points = [step.stride, *sorted(inside), step.stride * step.size]
    if any(b % a for a, b in pairwise(points)):
        raise Unsaid("entries are taken in steps that do not fit the axes")
    return [Axis(b // a, a) for a, b in reversed(list(pairwise(points)))]


def ends_of(shape: Sequence[int], fine: list[Axis], order: list[int]) -> set[int]:
    """The axes with which those of a shape begin."""
    found, at = set[int](), 0
    for n in shape:
        if n == 1:
            continue
        found.add(order[at])
        size = 1
        while size < n:
            size *= fine[order[at]].size
            at += 1
    return found


def together(
    fine: list[Axis], order: list[int], first: set[int]
) -> tuple[list[Axis], list[int]]:  # fmt: skip
    """Axes of which one follows the other, both before and after, as one.

    first: those with which an axis begins that is wanted.
    """
    joined = {b for a, b in pairwise(order) if b == a + 1 and a and b not in first}
    kept = [i for i in range(len(fine)) if i not in joined]
    groups = [list(range(i, j)) for i, j in pairwise([*kept, len(fine)])]
    axes = [Axis(math.prod(fine[i].size for i in g), fine[g[-1]].stride) for g in groups]
    return axes, [kept.index(i) for i in order if i not in joined]


def made(graph: Graph, view: View, free: Sequence[int], module: str, place: str) -> int:
    """The number of a value that is a view, by operations that move entries.

    free: sizes that are known only when the model runs.
    Raises Unsaid where there are none.
    """
    base = graph.shapes[view.base]
    if is_whole(graph, view) and view.shape == base:
        return view.base
    writer = _Writer(graph, view.base, free, module, place)
    return writer.write(view)


class _Writer:
    def __init__(
        self, graph: Graph, number: int, free: Sequence[int], module: str, place: str
    ) -> None:
        self.graph, self.number, self.free = graph, number, free
        self.module, self.place = module, place

    @property
    def shape(self) -> tuple[int, ...]:
        return self.graph.shapes[self.number]

    def add(self, text: str, shape: Sequence[int]) -> None:
        step = Step(text, (self.number,), module=self.module, place=self.place, free=True)
        self.number = self.graph.new(step, tuple(shape))

    def size(self, n: int) -> str:
        return "-1" if n in self.free else str(n)

    def reshape(self, shape: Sequence[int]) -> None:
        """To other axes; the first is kept."""
        shape = tuple(shape)
        own = self.shape
        if shape == own:
            return
        if not shape or shape[0] != own[0]:
            raise Unsaid("the first axis, of examples, is cut or joined with others")
        if len(shape) < len(own) and own[: len(shape) - 1] == shape[:-1]:
            self.add(f"Flatten({len(shape) - 1})" if len(shape) > 2 else "Flatten", shape)
            return
        if (
            len(shape) == len(own) - 1
            and own[-2:] != shape[-1:]
            and own[:-2] == shape[:-1]
            and own[-2] * own[-1] == shape[-1]
        ):
            self.add(f"Flatten({len(shape) - 1})", shape)
            return
        for axis in range(1, len(shape)):
            if own == shape[:axis] + shape[axis + 1 :] and shape[axis] == 1:
                self.add(f"Unsqueeze({axis})", shape)
                return
        for axis in range(1, len(own)):
            if shape == own[:axis] + own[axis + 1 :] and own[axis] == 1:
                self.add(f"Squeeze({axis})", shape)
                return
        sizes = [self.size(n) for n in shape[1:]]
        if sizes.count("-1") > 1:
            sizes = [str(n) for n in shape[1:]]
        self.add(f"Reshape({', '.join(sizes)})", shape)

    def write(self, view: View) -> int:
        base, index = self.shape, view.index
        for axis, own in enumerate(axes_of(index)):  # what broadcasts needs no copies
            if any(step.stride == 0 for step in own):
                if len(own) > 1:
                    raise Unsaid("a value is repeated along a part of an axis")
                index = index.narrow(axis, 0, 1)
        if not index.numel() or not base:
            raise Unsaid("a value without entries or axes is moved")
        shape, pieces = tuple(index.shape), axes_of(index)
        first = int(index[(0,) * index.ndim])
        strides = [math.prod(base[i + 1 :]) for i in range(len(base))]
        wanted = [cut for own in pieces for step in own for cut in at_axes(step, strides)]
        fine: list[Axis] = []  # of the base, cut so that each wanted step is one
        for size, stride in zip(base, strides, strict=True):
            inside = {w.stride for w in wanted if stride <= w.stride < stride * size}
            points = sorted({stride, stride * size} | inside)
            if any(b % a for a, b in pairwise(points)):
                raise Unsaid("entries are taken in steps that do not fit the axes")
            fine += [Axis(b // a, a) for a, b in reversed(list(pairwise(points)))] or [
                Axis(1, stride)
            ]
        by_stride = {f.stride: i for i, f in enumerate(fine) if f.size > 1}
        takes: dict[int, tuple[int, int]] = {}
        order = []
        for step in wanted:
            at = by_stride.get(step.stride)
            start = -1 if at is None else first // step.stride % fine[at].size
            if at is None or at in takes or start + step.size > fine[at].size:
                raise Unsaid("entries are taken in steps that do not fit the axes")
            takes[at] = (start, start + step.size)
            order.append(at)
        if all(takes[at] == (0, fine[at].size) for at in order):
            fine, order = together(fine, order, ends_of(shape, fine, order))
            takes = {at: (0, fine[at].size) for at in order}
        self.take(fine, takes, first, order, shape)
        if self.shape != shape:
            self.reshape(shape)
        return self.number

    def take(
        self, fine: list[Axis], takes: dict[int, tuple[int, int]], first: int, order: list[int],
        shape: tuple[int, ...],
    ) -> None:  # fmt: skip
        """Reshape, slice, and put the axes in order."""
        if fine[0].size != self.shape[0] or (order and fine[0].size > 1 and order[0] != 0):
            raise Unsaid("the first axis, of examples, is moved, cut or joined with others")
        whole_ = all(takes.get(i, (0, 1)) == (0, f.size) for i, f in enumerate(fine))
        if whole_ and self.heads(fine, order, shape):
            return
        one = [i for i in order if fine[i].size > 1]
        if whole_ and one == sorted(one):
            return
        self.reshape([f.size for f in fine])
        for i, f in enumerate(fine):
            start, end = takes.get(i, (first // f.stride % f.size,) * 2)
            end = end if i in takes else start + 1
            if (start, end) != (0, f.size):
                limit = "" if end == f.size else f"{end}"
                rows = list(self.shape)
                rows[i] = end - start
                last = i == len(fine) - 1
                text = f"{start}, {limit}" if limit else f"{start}"
                self.add(f"Slice({text})" if last else f"Slice({text}, dim = {i})", rows)
        kept = [i for i in range(len(fine)) if i not in takes and i]  # of size 1 now
        for i in reversed(kept):
            own = self.shape
            self.add(f"Squeeze({i})", own[:i] + own[i + 1 :])
        axes = [i for i in range(len(fine)) if i not in kept]
        goal = [0, *(i for i in order if i)] if 0 not in order else list(order)
        for place, i in enumerate(goal):
            at = axes.index(i)
            if at == place:
                continue
            axes[place], axes[at] = axes[at], axes[place]
            sizes = list(self.shape)
            sizes[place], sizes[at] = sizes[at], sizes[place]
            plain = {place, at} == {len(sizes) - 2, len(sizes) - 1}
            self.add("Transpose" if plain else f"Transpose({place}, {at})", sizes)

    def heads(self, fine: list[Axis], order: list[int], shape: tuple[int, ...]) -> bool:
        """SplitHeads and MergeHeads, where they are that."""
        own, n = self.shape, len(fine)
        sizes = [f.size for f in fine]
        if n != 4 or any(s == 1 for s in sizes[1:]):
            return False
        swapped = [i for i in (0, 2, 1, 3) if i or sizes[0] > 1]
        if order != swapped:
            return False
        cut = (sizes[0], sizes[2], sizes[1], sizes[3])
        if own == (sizes[0], sizes[1], sizes[2] * sizes[3]) and shape == cut:
            self.add(f"SplitHeads({sizes[2]})", shape)
            return True
        if own == tuple(sizes) and shape == (sizes[0], sizes[2], sizes[1] * sizes[3]):
            self.add("MergeHeads", shape)
            return True
        return False
