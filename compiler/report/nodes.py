"""The named parts and operations of a model as one flat list, made from the JSON report.

What has no name (compositions, tuples, `tare`) is left out: its parts stand in the part around it.
A repetition is there once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modnorm.codegen.plan import later
from modnorm.graph.modules import Leaf, walk
from modnorm.passes.program import Program, Weight
from modnorm.report.words import as_float, call

UNNAMED = ("compose", "tuple", "tare", "hole")


@dataclass(frozen=True)
class Node:
    """A part or an operation.

    `count` is the number of copies where this is a repetition, `copies` how often the part is in
    the whole model. `mass` and `share` are of all copies, `sensitivity` and `certified` of the
    whole repetition where it is one. `parent` is a number in the list, -1 for the model itself.
    `weight` is the weight's template, `targets` those of its first and last copy. `norm` is the
    certificate's: kind, low, high.
    """

    number: int
    parent: int
    depth: int
    name: str
    kind: str
    path: str
    line: int
    op: str = ""
    call: str = ""
    file: str = ""
    count: int = 1
    copies: int = 1
    mass: float = 0.0
    share: float = 0.0
    sensitivity: float | None = None
    certified: float | None = None
    norm: Mapping[str, Any] | None = None
    weight: str = ""
    shape: tuple[int, ...] = ()
    targets: tuple[float, float] | None = None
    leaf: int = -1

    @property
    def title(self) -> str:
        return f"{self.name} × {self.count:,}" if self.count > 1 else self.name


@dataclass
class _Place:
    """A node of the JSON tree that is still to be looked at."""

    node: dict[str, Any]
    parent: int
    times: int


def collect(found: dict[str, Any], program: Program) -> list[Node]:
    """The nodes of a JSON report on a program, parents first, in execution order."""
    return list(_Collector(found, program).nodes())


@dataclass
class _Collector:
    found: dict[str, Any]
    program: Program
    depths: dict[int, int] = field(default_factory=lambda: {-1: -1})
    number: int = 0

    def nodes(self) -> Iterator[Node]:
        self.weights = {weight.path: weight for weight in self.program.weights}
        self.leaves: dict[str, list[Leaf]] = {}
        for module in walk(self.program.tree):
            if isinstance(module, Leaf):
                self.leaves.setdefault(module.path, []).append(module)
        root = self.found["tree"]
        top = {**root, "name": self.found["model"], "kind": "model", "path": "", "op": ""}
        yield self.node(top, -1, 1)
        outer = root["children"] if root["kind"] in UNNAMED else [root]
        stack = [_Place(child, 0, 1) for child in reversed(outer)]
        while stack:
            place = stack.pop()
            node, times = place.node, place.times
            inner: list[dict[str, Any]] = node["children"]
            kind = node["kind"]
            if kind == "shared":
                times = 1  # counted once, however often the repetitions around it use it
            if kind in UNNAMED:
                stack += [_Place(child, place.parent, times) for child in reversed(inner)]
            elif kind == "repeat":
                made, places = self.repetition(place)
                yield made
                stack += reversed(places)
            elif (only := _repeats(node)) is not None:
                stack.append(_Place(only, place.parent, times))
            else:
                made = self.node(node, place.parent, times)
                yield made
                stack += [_Place(child, made.number, times) for child in reversed(inner)]

    def repetition(self, place: _Place) -> tuple[Node, list[_Place]]:
        """The row of a repetition, and what is to be looked at inside."""
        node, times = place.node, place.times
        path, count = node["path"], node["count"]
        name = path.rpartition(".")[2] or f"0…{count - 1}"
        whole = self.node({**node, "name": name}, place.parent, times, count=count)
        places: list[_Place] = []
        runs: list[dict[str, Any]] = node["children"]
        start = 0
        for run in runs:
            copies = run.get("count", count) if len(runs) > 1 else count
            path_of_run = f"{path}.{{{start}}}" if path else f"{{{start}}}"
            named = run["kind"] in ("def", "where") and run["path"] == path_of_run
            inner = run["children"] if named else [run]
            if len(runs) > 1:
                end = start + copies - 1
                row = {
                    **run,
                    "name": f"{start}…{end}" if copies > 1 else str(start),
                    "kind": "copies",
                    "path": path_of_run,
                    "op": "",
                    "children": inner,
                }
                inner = [row]
            places += [_Place(child, whole.number, times * copies) for child in inner]
            start += copies
        return whole, places

    def node(self, node: dict[str, Any], parent: int, times: int, count: int = 1) -> Node:
        number, self.number = self.number, self.number + 1
        depth = self.depths[number] = self.depths[parent] + 1
        whole = self.found["mass"] or 0.0
        mass = (node["mass"] or 0.0) * times
        path: str = node["path"] or ""
        op: str = node.get("op", "")
        leaf = self.leaf(path) if op else None
        weight = self.weights.get(path) if node["kind"] == "atom" else None
        return Node(
            number,
            parent,
            depth,
            node.get("name") or path.rpartition(".")[2],
            node["kind"],
            path,
            node["line"],
            op,
            call(leaf.op) if leaf else "",
            node.get("file", ""),
            count,
            times * count,
            mass,
            mass / whole if whole else 0.0,
            node["sensitivity"],
            node["certified_sensitivity"],
            node.get("norm"),
            weight.path if weight else "",
            tuple(weight.op.weight_shape) if weight else (),
            targets(weight) if weight else None,
            leaf.id if leaf else -1,
        )

    def leaf(self, path: str) -> Leaf | None:
        """The operations at a path, one after the other; a path may belong to several."""
        known = self.leaves.get(path)
        if not known:
            return None
        return known.pop(0) if len(known) > 1 else known[0]


def pattern(path: str) -> str:
    """The path of a part with a `*` for the index of a copy; `explain` takes such ones.

    In a repetition of several runs the index of a run's first copy stands for those in it.
    """
    return path.replace("{0}", "*").replace("{", "").replace("}", "")


def _repeats(node: dict[str, Any]) -> dict[str, Any] | None:
    """The repetition that a part consists of, if it has the part's own name."""
    path = node["path"]
    while len(node["children"]) == 1:
        (node,) = node["children"]
        if node["kind"] == "repeat":
            return node if node["path"] == path else None
        if node["kind"] not in UNNAMED:
            return None
    return None


def targets(weight: Weight) -> tuple[float, float]:
    """The targets of the first and of the last copy of a weight."""
    last = as_float(weight.target)
    factor = later(weight, (0,) * len(weight.levels))
    return (last / factor if factor else 0.0), last
