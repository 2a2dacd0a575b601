"""Cuts parameters into logical weights, by what reads the features that their rows make."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from modnorm.adopting.labels import Labels
from modnorm.adopting.trace import Read, Trace
from modnorm.adopting.uses import Use, along, turned
from modnorm.kernels.weight import Layout


class Uncut(Exception):
    """Raised where operations use a parameter in ways that no layout describes."""


@dataclass(frozen=True)
class Piece:
    """A logical weight of a parameter.

    name: of the part, "" where it has none. shape: copies first, then features, then what is
        contracted. layout: how the parameter holds it. uses: those in which it takes part. rows:
        labels of its rows, in the first copy that was used. stack: how many axes count copies.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    uses: tuple[Use, ...]
    rows: Tensor
    stack: int = 0


class Signs:
    """For labels of rows, numbers that say which operations read the features that they make."""

    def __init__(self, reads: Iterable[Read], links: Iterable[tuple[Tensor, Tensor]] = ()) -> None:
        """links: pairs of rows whose features were added up; they are read as the first are."""
        reads, links = [read for read in reads if len(read.rows)], list(links)
        every = [*(read.rows for read in reads), *(rows for link in links for rows in link)]
        self.labels = torch.unique(torch.cat(every)) if every else torch.empty(0, dtype=torch.int64)
        self.marks = torch.zeros(len(self.labels), dtype=torch.int64)
        for read in reads:
            self.mark(read.rows, torch.tensor(read.node * 64 + read.slot + 1))
        for kept, other in reversed(links):
            self.mark(other, self.marks[torch.searchsorted(self.labels, kept.contiguous())])

    def mark(self, rows: Tensor, marks: Tensor) -> None:
        at = torch.searchsorted(self.labels, rows.contiguous())
        self.marks[at] = (self.marks[at] * 1000003 + marks) % (2**31 - 1)

    def of(self, labels: Tensor) -> list[int]:
        """The same number for rows that the same operations read; 0 for those that none does."""
        if not len(self.labels):
            return [0] * len(labels)
        at = torch.searchsorted(self.labels, labels.contiguous()).clamp_(max=len(self.labels) - 1)
        found: list[int] = torch.where(self.labels[at] == labels, self.marks[at], 0).tolist()
        return found


@dataclass(frozen=True)
class View:
    """What an operation uses of a parameter.

    labels: from the parameter's start on. axes: those of copies, of features, and the others, which
    an operation sums over. rows: labels of its rows in the first copy. features: the use's, for
    these. period, parts: of its rows, as `periodic` finds them.
    """

    use: Use
    labels: Labels
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    rows: Tensor
    features: Tensor | None
    period: int = 0
    parts: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def out(self) -> int | None:
        """The axis of features, if it is one."""
        return self.axes[1][0] if len(self.axes[1]) == 1 else None


def runs(signs: Sequence[int]) -> list[tuple[int, int]]:
    """From where to where the same sign stands."""
    cuts = [0, *(i for i in range(1, len(signs)) if signs[i] != signs[i - 1]), len(signs)]
    return list(pairwise(cuts))


def periodic(signs: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """The shortest period of a row of signs, and the runs in it: one, if all are the same."""
    n, whole = len(signs), runs(signs)
    if len(whole) < 2:
        return n, [(0, n)]
    divisors = {d for i in range(1, math.isqrt(n) + 1) if n % i == 0 for d in (i, n // i)}
    for period in sorted(divisors - {1}):
        if all(signs[i] == signs[i - period] for i in range(period, n)):
            return period, runs(signs[:period])
    return n, whole


def views(uses: Sequence[Use], trace: Trace, name: str) -> list[View]:
    """What operations use of one parameter. Raises Uncut where that is in no order."""
    start, shape = trace.starts[name], trace.shapes[name]
    step, found = math.prod(shape[1:]), []
    for use in uses:
        whole = trace.values[use.number].weight
        assert whole is not None
        for part, at in regular(whole, use, start, math.prod(shape)):
            once = tuple(n if s else 1 for n, s in zip(part.shape, part.stride, strict=True))
            labels = replace(part, offset=part.offset - start, shape=once)  # what is repeated
            stack = tuple(a for a in use.stack if once[a] > 1)
            named = (*stack, *use.out, *use.contracted)
            rest = tuple(a for a in range(len(labels.shape)) if a not in named)
            axes = (stack, use.out, (*use.contracted, *rest))
            if use.kind == "table":  # a row is what is looked up
                axes = ((), use.contracted, (*rest, *use.out))
            rows = torch.empty(0, dtype=torch.int64)
            if len(axes[1]) == 1:
                rows = along(labels, axes[1][0]).tensor() + start + turned(use, trace)
            reach = sum((n - 1) * s for n, s in zip(labels.shape, labels.stride, strict=True))
            if (
                use.kind == "matrix"
                and len(shape) > 2
                and not stack
                and len(labels.shape) == 2
                and labels.offset % step + reach < step
            ):  # one of copies side by side: those that this run did not use are like it
                labels = Labels(
                    labels.offset % step, (shape[0], *labels.shape), (step, *labels.stride)
                )
                moved = (tuple(a + 1 for a in group) for group in axes)
                axes = (0, *next(moved)), next(moved), next(moved)
            features = None if use.features is None else use.features.tensor()[at]
            found.append(View(use, labels, axes, rows, features))
    return found


def regular(labels: Labels, use: Use, start: int, count: int) -> list[tuple[Labels, slice]]:
    """The parts of a weight that lie in a parameter, each in regular steps, and their rows."""
    first, last = labels.offset, labels.offset
    for size, step in zip(labels.shape, labels.stride, strict=labels.is_affine):
        first, last = first + min((size - 1) * step, 0), last + max((size - 1) * step, 0)
    if labels.is_affine and start <= first and last < start + count:
        return [(labels, slice(None))]
    if len(use.out) != 1:
        raise Uncut
    given, own = labels.tensor(), along(labels, use.out[0]).tensor()
    inside = ((own >= start) & (own < start + count)).tolist()
    found = []
    for low, high in runs(inside):
        if inside[low]:
            part = Labels.of(given.narrow(use.out[0], low, high - low))
            if not part.is_affine:
                raise Uncut
            found.append((part, slice(low, high)))
    return found


def cut(name: str, uses: Sequence[Use], trace: Trace, signs: Signs) -> list[Piece]:
    """The logical weights in a parameter, from its uses.

    Raises:
        Uncut: if operations use it in ways that no layout describes.
    """
    found = []
    for view in views(uses, trace, name):
        size = 0 if view.out is None else view.labels.shape[view.out]
        if view.out is None or not size:
            found.append(view)
            continue
        use, own = view.use, [0] * size
        if use.parts:
            own = [i * len(use.parts) // size for i in range(size)]
        elif view.features is not None:
            own = signs.of(view.features)
        elif use.kind in ("matrix", "kernel"):
            own = signs.of(view.rows)
        period, parts = periodic(own)
        found.append(replace(view, period=period, parts=tuple(parts)))
    split = finer(trace.shapes[name], found)
    pieces: dict[object, Piece] = {}
    for view in found:
        order = [a for group in view.axes for a in group]
        for number, rows in enumerate(view.parts):
            layout = placed(name, trace.shapes[name], split, view, rows)
            sizes, chosen = list(view.labels.shape), view.rows
            if view.out is not None:
                groups = sizes[view.out] // max(view.period, 1)
                sizes[view.out] = groups * (rows[1] - rows[0])
                if len(view.parts) > 1:
                    chosen = view.rows.view(groups, -1)[:, slice(*rows)].flatten()
            part = view.use.parts[number] if len(view.use.parts) == len(view.parts) else ""
            shape = tuple(sizes[a] for a in order)
            piece = Piece(part, shape, layout, (view.use,), chosen, len(view.axes[0]))
            if (known := pieces.get(layout.take)) is not None:
                # the same entries, maybe turned over: then as they are stored counts
                stored = list(known.layout.order) == sorted(known.layout.order)
                first = known if stored or known.layout.order == layout.order else piece
                piece = replace(first, uses=(*known.uses, view.use))
            pieces[layout.take] = piece
    return list(pieces.values())


def finer(shape: tuple[int, ...], found: Iterable[View]) -> tuple[int, ...]:
    """The axes of a parameter, cut so that every view's axes, and periods of rows, are some.

    Raises Uncut where there are none such.
    """
    whole = math.prod(shape)
    points = {whole, *(math.prod(shape[i + 1 :]) for i in range(len(shape)))}
    for view in found:
        pairs = zip(view.labels.shape, view.labels.stride, strict=True)
        points |= {stride for size, stride in pairs if size > 1}
        if view.out is not None and 0 < view.period < view.labels.shape[view.out]:
            points.add(view.labels.stride[view.out] * view.period)
    ordered = sorted(points)
    if ordered[0] < 1 or any(b % a for a, b in pairwise(ordered)):
        raise Uncut
    found_axes = [b // a for a, b in pairwise(ordered)]
    return tuple(reversed(found_axes)) or (1,)


def placed(
    name: str, shape: tuple[int, ...], split: tuple[int, ...], view: View, rows: tuple[int, int]
) -> Layout:
    """Where a parameter has the entries of a view, with these rows of each period.

    Raises Uncut where they are no box in it.
    """
    labels = view.labels
    strides = [math.prod(split[i + 1 :]) for i in range(len(split))]
    starts = [labels.offset // strides[i] % split[i] for i in range(len(split))]
    take: dict[int, tuple[int, int]] = {}
    order: list[int] = []
    for axis in (a for group in view.axes for a in group):
        size, stride = labels.shape[axis], labels.stride[axis]
        if size == 1:
            continue
        own = [i for i, s in enumerate(strides) if stride <= s < stride * size and split[i] > 1]
        if not own or strides[own[-1]] != stride:
            raise Uncut
        left = size
        for i in reversed(own):
            count = left if i == own[0] else split[i]
            if left % count or starts[i] + count > split[i] or i in take:
                raise Uncut
            left //= count
            take[i] = (starts[i], starts[i] + count)
        if left != 1:
            raise Uncut
        order += own
        finest = own[-1]
        if axis == view.out and len(view.parts) > 1:
            if take[finest][1] - take[finest][0] != view.period:
                raise Uncut
            take[finest] = (starts[finest] + rows[0], starts[finest] + rows[1])
    rest = [i for i in range(len(split)) if i not in take]
    take |= {i: (starts[i], starts[i] + 1) for i in rest}
    return Layout(name, shape, split, tuple(take[i] for i in range(len(split))), (*rest, *order))
