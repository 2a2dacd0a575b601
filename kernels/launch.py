"""A normalising optimizer's step on a GPU: the tables that the kernels read, and the launches."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .device import INTERPRETED, tl
from .normed import apply_kernel, moments_kernel, reduce_kernel
from .optimizer import GRADIENTS, TINY, WRITTEN, NormedOptimizer
from .plan import NORMS, Plan
from .rule import Rule
from .state import known_rate
from .tiles import Tile, power, view
from .weight import PARTS, Weight

# modnorm: begin
KINDS = ("matrix", "rows", "rows_max", "whole", "whole_max")  # `Norm.kernel`, as kernels number it


class KernelShape(NamedTuple):
    """What kernels know of weights of a shape when they are compiled, in their order."""

    kind: int  # of KINDS
    taps: int
    columns: int
    block: int  # rows at once
    tap_lanes: int  # a power of two, at least taps
    column_lanes: int  # columns at once, a power of two
    chunks: int  # of so many columns
    gain: int  # how many times the RMS or the largest entry the norm is


class Launches:
    """The step of all weights of one device and type, in three launches whatever their number.

    A part is a weight, or one matrix of a stack (groups, out, in). Tables on the device tell the
    kernels what to do; `step` writes those that have changed.

        where    addresses of weight, float32 copy, gradient (0: none), moments 1 and 2, vector, lr
                 and weight_decay, for each part
        options  lr, weight_decay, 1 - β₁, 1 - β₂ and eps of each parameter group
        weights  for each part: shape, rows, offset of its first sum, sums, offset of its factors
        tiles    for each program: part, shape, first row, end, offset of its sum

    One comes back: `lost`, for each part in how many steps its gradients, and its moments or what
    would have been written, were not finite, and in how many nothing of its gradients was left in
    an update; then 1 if the last step would have made a matrix's entries not finite.

    Kernels are compiled for the `KernelShape`s that there are.
    """

    @staticmethod
    def take(optimizer: NormedOptimizer, group: dict[str, Any], p: Tensor, w: Weight) -> bool:
        """Is this weight one for the kernels?"""
        there = tl is not None and (p.is_cuda or INTERPRETED) and p.itemsize <= 4
        known = optimizer.rule.kernel is not None and not optimizer.dual
        plain = known and group.get("iterations", 1) == 1
        plain = plain and "smoothness" not in group  # a step of "auto" has two halves
        return there and plain and w.norm != PARTS and NORMS[w.norm].kernel is not None

    def __init__(self, items: list[Any], rule: type[Rule], plan: Plan) -> None:
        self.warps = plan.warps
        self.items, self.adam, self.device = items, rule.kernel == "adam", items[0][1].device
        self.moments = (*rule.moments, "")[:2]
        width, self.aligned = items[0][1].itemsize, 16
        shapes: dict[Any, int] = {}
        weights, sums, factors = list[Any](), 0, 0
        matrices, others = list[Any](), list[Any]()
        self.parts: list[tuple[int, int, int]] = []  # the item, and where in weight and vector
        self.factor_at: dict[str, tuple[int, tuple[int, ...]]] = {}
        for number, (_, _, w) in enumerate(items):
            kind, stack = NORMS[w.norm].kernel or KINDS[0], len(w.shape) == 3
            rows, columns, taps = view(w.shape)
            tile = Tile(*plan.tiles.get(tuple(w.shape), (64, 1, min(power(columns), 4096))))
            chunks, block = -(-columns // tile.columns), max(1, tile.block // (4 // width))
            gain = NORMS[w.norm].gain(w.shape)
            key = KernelShape(
                KINDS.index(kind), taps, columns, block, power(taps), tile.columns, chunks, gain
            )
            shape = shapes.setdefault(key, len(shapes))
            if stack and (columns * width) % 16:
                self.aligned = width
            vectors = 2 * (chunks * tile.columns + 1) * power(taps) + 1
            alone = kind.startswith("rows")  # then each row is moved as soon as it is measured
            size = 1 if alone else vectors if kind == "matrix" else 2
            if not alone:
                self.factor_at[w.name] = factors, (w.shape[0], 1, 1) if stack else w.shape[2:]
            for index in range(w.shape[0] if stack else 1):
                starts = range(0, rows, tile.rows)
                weights.append((shape, rows, sums, len(starts), factors))
                for start in starts:
                    end = min(start + tile.rows, rows)
                    record = (len(self.parts), shape, start, end, sums)
                    (others if alone else matrices).append(record)
                    sums += size
                factors += 0 if alone else taps
                self.parts.append((number, index * rows * columns, index * columns))
        self.shapes, self.matrices = tuple(shapes), len(matrices)
        on: Any = {"device": self.device}
        self.tiles = torch.tensor(matrices + others, dtype=torch.int32, **on)
        self.weights = torch.tensor(weights, dtype=torch.int32, **on)
        self.targets = torch.tensor([items[i][2].target for i, *_ in self.parts], **on)
        self.sums, self.factors = torch.empty(sums, **on), torch.zeros(max(1, factors), **on)
        self.groups = list({id(group): group for group, _, _ in items}.values())
        self.options = torch.empty(len(self.groups), 5, **on)
        self.where = torch.empty(len(self.parts), 8, dtype=torch.int64, **on)
        self.lost = torch.zeros(len(self.parts), 4, dtype=torch.int32, **on)
        self.told = (
            self.lost.cpu().pin_memory() if self.device.type == "cuda" else self.lost.clone()
        )
        self.known = [(0, 0, 0)] * len(self.parts)
        self.done: Any = None
        self.sent: dict[str, Any] = {}
        self.captured: list[Tensor] = []

    def factors_by_name(self) -> Iterator[tuple[str, Tensor]]:
        """What gives each matrix's update norm 1: views of what the last step found."""
        for name, (start, shape) in self.factor_at.items():
            yield name, self.factors[start : start + prod(shape)].view(shape)

    def lost_since(self, wait: bool = False) -> list[tuple[Any, str]]:
        """The items that steps left alone since the last call, and why: once for each step.

        The last step's tables come back while the next gradients are made; `wait` also finds
        steps that a CUDA graph has replayed.
        """
        if wait:
            self.told.copy_(self.lost)
        elif self.done is not None:
            self.done.synchronize()
        times: dict[tuple[int, str], int] = {}
        now = [(lost, spoiled + last, tiny) for lost, spoiled, tiny, last in self.told.tolist()]
        for (number, _, _), before, counts in zip(self.parts, self.known, now, strict=True):
            for why, old, count in zip((GRADIENTS, WRITTEN, TINY), before, counts, strict=True):
                times[number, why] = max(times.get((number, why), 0), count - old)
        self.known = now
        return [(self.items[i], why) for (i, why), count in times.items() for _ in range(count)]

    def send(self, name: str, rows: list[Any]) -> None:
        """Write a table on the device, unless it stands there already."""
        if self.captured or self.sent.get(name) != rows:
            table, self.sent[name] = getattr(self, name), rows
            source = torch.tensor(rows, dtype=table.dtype, device="cpu")
            if capturing := self.capturing():
                source = source.pin_memory()  # every replay of the graph reads it again
                self.captured.append(source)
            table.copy_(source, non_blocking=capturing)

    def capturing(self) -> bool:
        """Is this step being recorded into a CUDA graph?"""
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    @torch.no_grad()
    def step(self, optimizer: NormedOptimizer) -> None:
        """Move the weights that have a gradient."""
        rows, rates, options = {}, {}, []
        for i, group in enumerate(self.groups):
            lr, row = group["lr"], self.options.data_ptr() + 20 * i
            own = isinstance(lr, Tensor) and lr.device == self.device and lr.dtype == torch.float32
            rows[id(group)], rates[id(group)] = row + 4, lr.data_ptr() if own else row
            betas = group.get("betas") or (group["momentum"], 0.0)
            rest = (1 - betas[0], 1 - betas[1], group.get("eps", 0.0))
            options.append([0.0 if own else float(lr), group["weight_decay"], *rest])
        self.send("options", options)
        found, kept, back = list[Any](), list[Tensor](), list[Any]()
        for group, p, w in self.items:
            weight, grad = p.detach(), p.grad
            if grad is None or not p.requires_grad:
                found.append(None)
                continue
            size, most = known_rate(group) * w.target, sqrt(torch.finfo(torch.float32).max)
            if not (size < most and size * group["weight_decay"] < most):
                optimizer._spoiled.append((group, p, w))
                found.append(None)
                continue
            state = optimizer.complete(p, w)
            if not (weight.is_contiguous() and weight.data_ptr() % 16 == 0):
                weight = weight.clone(memory_format=torch.contiguous_format)
                back.append((p, weight))
            if not (grad.dtype == p.dtype and grad.is_contiguous() and grad.data_ptr() % 16 == 0):
                grad = grad.to(p.dtype, memory_format=torch.contiguous_format, copy=True)
            optimizer.warm(group, p, w)
            kept += [weight, grad]  # until the launches stand in the stream
            tensors = [state.get(name) for name in ("master", *self.moments, "vector")]
            master, first, second, vector = (0 if x is None else x.data_ptr() for x in tensors)
            addresses = [weight.data_ptr(), master, grad.data_ptr(), first, second, vector]
            found.append([*addresses, rates[id(group)], rows[id(group)]])
        self.send("where", [self.offset(found[i], a, b) for i, a, b in self.parts])
        self.launch()
        for p, weight in back:
            p.copy_(weight)
        if not self.capturing():
            self.told.copy_(self.lost, non_blocking=True)
            if self.device.type == "cuda":
                self.done = self.done or torch.cuda.Event()  # type: ignore[no-untyped-call]
                self.done.record()

    def offset(self, row: list[int] | None, entries: int, vector: int) -> list[int]:
        """A part's addresses, so many entries after its weight's, and so many of the vector."""
        if row is None:
            return [0] * 8
        size = self.items[0][1].itemsize
        steps = (size, 4, size, 4, 4)
        moved = [x and x + n * entries for x, n in zip(row, steps, strict=False)]
        return [*moved, row[5] and row[5] + 4 * vector, *row[6:]]

    def launch(self) -> None:
        """The three launches."""
        types = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
        kind = types[self.items[0][1].dtype]
        shape = {"SHAPES": self.shapes, "ALIGNED": self.aligned, "num_warps": self.warps}
        mode = {"ADAM": self.adam, "MASTER": kind != tl.float32, "P": kind, **shape}
        with torch.cuda.device_of(self.options):  # type: ignore[no-untyped-call]
            moments_kernel[len(self.tiles),](
                self.tiles, self.where, self.targets, self.sums, **mode
            )
            reduce_kernel[len(self.parts),](
                self.weights, self.where, self.sums, self.factors, self.lost, **shape
            )
            if self.matrices:
                tables = self.tiles, self.where, self.targets, self.weights, self.factors
                apply_kernel[self.matrices,](*tables, self.lost, **mode)


if tl is not None:
    NormedOptimizer.launches = Launches


# modnorm: end
