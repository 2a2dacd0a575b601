"""Every part of random programs keeps its bounds: sizes from both sides, and each row of gains."""

from __future__ import annotations

from typing import Any

import torch
from certified import TINY
from checks import compiled, value
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import type_of
from op_samples import leaves
from op_search import pack
from pythonic import Text
from strategies import Sample, programs
from torch.func import jvp

from modnorm.graph.modules import Leaf, Tuple
from modnorm.ops.base import Atom, Reader
from modnorm.ops.edges import ONE_HOT, Edge, Measure, slots
from modnorm.passes.frames import Frame, Frames

ROUNDING = 1e-9
EXAMPLES = settings().max_examples


class Parts:
    """Runs a model frame by frame with weights of norm 1 that are drawn on the way."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.inputs: list[torch.Tensor] = []
        """Those of the model, for their names in it."""
        self.weights: list[torch.Tensor] = []
        self.seen: list[tuple[Frame, Any, int]] = []
        """A frame, its input, and how many weights had been drawn before it."""

    def draw(self, shape: Any) -> torch.Tensor:
        """Spread out, of one entry, of signs, at one place of an axis, or the same along one."""
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        kind = self.choice(5)
        if kind == 1:
            one = torch.zeros(x.numel(), dtype=x.dtype)
            one[self.choice(x.numel())] = 1
            x = one.reshape(x.shape)
        elif kind == 2:
            x = x.sign()
        elif kind == 3 and x.ndim:
            axis = self.choice(x.ndim)
            x = x * (torch.arange(x.shape[axis]) == self.choice(x.shape[axis])).view(
                [-1 if a == axis else 1 for a in range(x.ndim)]
            )
        elif kind == 4 and x.ndim:
            axis = self.choice(x.ndim)
            x = x.narrow(axis, 0, 1).expand(x.shape).clone()
        return x

    def choice(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

    def weight(self, op: Any) -> torch.Tensor:
        if isinstance(op, Atom):
            w = self.draw(op.weight_shape)
            w = op.dualize(w) if self.choice(2) else w
            size = op.weight_norm(w)
        else:
            w = self.draw((op.count, op.dim))
            size = w.square().mean(1).sqrt().amax()
        return w / size.clamp_min(TINY)

    def first(self, frame: Frame, x: Any) -> Any:
        """The output, with weights drawn; every part's sizes are looked at."""
        self.seen.append((frame, x, len(self.weights)))
        check_sizes(frame.x, x)
        y = self.run(frame, x, None)
        check_sizes(frame.y, y)
        return y

    def run(self, frame: Frame, x: Any, at: list[int] | None) -> Any:
        """The output; `at` is the number of the next weight, None where weights are drawn."""
        again = self.first if at is None else lambda f, v: self.run(f, v, at)
        match frame.module:
            case Leaf(op=op):
                op = op.resolve(type_of(x))[0]
                if op.gives is not None:
                    return op.reference(x, self.inputs[op.gives])
                if not isinstance(op, Atom | Reader):
                    return op.reference(x)
                if at is None:
                    self.weights.append(self.weight(op))
                    return op.reference(x, self.weights[-1])
                at[0] += 1
                return op.reference(x, self.weights[at[0] - 1])
            case Tuple():
                return tuple(again(part, x) for part, _ in frame.parts)
        for part, count in frame.parts:
            for _ in range(count):
                x = again(part, x)
        return x


def check_sizes(edges: tuple[Edge, ...], x: Any) -> None:
    for edge, t in zip(edges, leaves(x), strict=True):
        if t.is_floating_point():
            for measure in edge.bounds:
                high, low = edge.high(measure), edge.low(measure)
                assert measure.of(t) <= high * (1 + ROUNDING) + TINY, measure
                if low:
                    least = t.square().mean(measure.axes).amin().sqrt()
                    assert least >= low * (1 - ROUNDING), measure


def check_gains(parts: Parts, frame: Frame, x: Any, start: int) -> None:
    """A random change of each tensor of the input: what comes out is at most what a row says."""
    tensors = leaves(x)
    for i, tensor in enumerate(tensors):
        if not tensor.is_floating_point():
            continue

        def run(v: torch.Tensor, i: int = i) -> tuple[torch.Tensor, ...]:
            changed = pack(type_of(x), [*tensors[:i], v, *tensors[i + 1 :]])
            y = leaves(parts.run(frame, changed, [start]))
            return tuple(t if t.is_floating_point() else v.new_zeros(()) for t in y)

        h = parts.draw(tensor.shape)
        change = jvp(run, (tensor,), (h,))[1]
        rows = {m: row for (j, m), row in frame.gains.items() if j == i}
        if not rows:
            assert all(not t.any() for t in change)
        for source, row in rows.items():
            for (j, target), gain in row.items():
                if ONE_HOT not in (source, target) and change[j].ndim:
                    most = gain * float(source.of(h))
                    found = float(target.of(change[j]).nan_to_num(0.0))
                    assert found <= most * (1 + ROUNDING) + TINY, (frame.module, source, target)
            reached = {j for j, _ in row}
            assert all(not t.any() for j, t in enumerate(change) if j not in reached)


def check_parts(text: Text, seed: int, *, whole: bool) -> None:
    case = compiled(text)
    if case is None:
        return
    program = case.program
    frames = Frames(program, whole)
    types = program.types[program.tree.id][0]
    frame = frames.frame(program.tree, frames.entry(types))
    generator = torch.Generator().manual_seed(seed)
    parts = Parts(generator)
    inputs = []
    for edge, declared in zip(frame.x, slots(types), strict=True):
        x = value(declared, generator).detach()
        if x.is_floating_point():
            x = parts.draw(x.shape)
            measure: Measure = frames.natural(edge)
            x = x / measure.of(x).clamp_min(TINY)
        inputs.append(x)
    parts.inputs = list(inputs)
    parts.first(frame, pack(types, inputs))
    for part, x, start in parts.seen:
        check_gains(parts, part, x, start)


@settings(max_examples=EXAMPLES)
@given(programs(), st.integers(0, 2**16), st.booleans())
def test_every_part_keeps_its_bounds(sample: Sample, seed: int, whole: bool) -> None:
    check_parts(sample.text, seed, whole=whole)
