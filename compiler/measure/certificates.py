"""What is proved about each copy of each part, as the searches need it: norms and balls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from modnorm.graph.modules import Leaf, Module, Repeat, Shared
from modnorm.measure.interpreter import Indices, buffers, chosen
from modnorm.measure.values import Ball
from modnorm.ops.edges import Edge, Measure
from modnorm.passes.frames import Frame, Frames
from modnorm.passes.program import Program


@dataclass(frozen=True)
class Proved:
    """What is proved about one copy of a part.

    `into` and `out` are the norms of its tensors, `balls` the bounds on the input's, and `reached`
    those on the output's.
    """

    into: tuple[Measure, ...]
    out: tuple[Measure, ...]
    balls: tuple[Ball, ...]
    reached: tuple[Ball, ...]


class Certificates:
    """A program's certificate, looked up by copy. `every`: of all copies, not only of some."""

    def __init__(self, program: Program, every: bool) -> None:
        assert program.certificate is not None, "the certificate has not been made yet"
        tree = program.tree
        self.tree, self.certificate = tree, program.certificate
        self.frames = Frames(program, self.certificate.by_image)
        self.root = self.frames.frame(tree, self.frames.entry(program.types[tree.id][0]))
        self._copies: dict[tuple[int, Indices], Frame] = {}
        for frame, indices in _copies(self.root, every):
            self._copies.setdefault((frame.module.id, indices), frame)

    def at(self, module: Module, indices: Indices) -> Proved:
        """What is proved about a copy."""
        frame = self._copies[module.id, indices]
        into, out = (tuple(map(self.frames.natural, edges)) for edges in (frame.x, frame.y))
        if module.id == self.tree.id:
            out = self.certificate.outputs
        return Proved(into, out, _balls(frame.x), _balls(frame.y))

    def strange(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """The buffers that, at some use, no inputs within their bounds can have left."""
        found: dict[str, None] = {}
        for frame, indices in _copies(self.root, True):
            leaf = frame.module
            if isinstance(leaf, Leaf) and leaf.op.buffers:
                own = buffers(leaf, indices)
                if not leaf.op.kept_by(frame.x, {name: state[own[name]] for name in own}):
                    found |= dict.fromkeys(own.values())
        return list(found)

    @property
    def reason(self) -> str:
        """Why there is no κ."""
        if not self.certificate.reasons:
            return ""
        first, *rest = self.certificate.reasons
        more = f", and {len(rest)} more" if rest else ""
        return f"{first.op} at line {first.span.line}: {first.text}{more}"

    def part_of_kappa(self, path: str) -> float | None:
        """What the copies of a weight have of κ together, by the template of its path; or None."""
        found = self.certificate.weights.get(path)
        return None if found is None or not math.isfinite(found.kappa) else found.kappa


def _balls(edges: Iterable[Edge]) -> tuple[Ball, ...]:
    return tuple(
        Ball({m: (b.low, b.high) for m, b in e.bounds.items() if e.type.dtype == "float"})
        for e in edges
    )


def _copies(frame: Frame, every: bool, indices: Indices = ()) -> Iterator[tuple[Frame, Indices]]:
    """The frame that covers each copy that is looked at, in execution order."""
    yield frame, indices
    module = frame.module
    if isinstance(module, Repeat):
        covering = [part for part, count in frame.parts for _ in range(count)]
        start = 0
        for run in module.runs:
            for index in chosen(run, every):
                yield from _copies(covering[start + index], every, (*indices, index))
            start += run.count
        return
    inner = () if isinstance(module, Shared) else indices  # its paths begin at the root again
    for part, _ in frame.parts:
        yield from _copies(part, every, inner)
