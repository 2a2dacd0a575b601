"""A layered drawing of a directed acyclic graph: where boxes stand, and which way edges go.

Sugiyama's method: longest-path layers, edges over several layers held by one point in each, a few
sweeps that order each layer by the middle of its neighbours, then places as near to them as fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

GAP_X = 18.0
GAP_Y = 26.0
SWEEPS = 8
POINT = 8.0
"""Width of the place that an edge takes where it passes a layer."""
MOST = 10_000
"""Layers that edges may pass, all together; where they pass more, they go straight."""


@dataclass
class Placed:
    """The middle of the upper edge of each box, the edges' points, and the size of it all."""

    x: list[float]
    y: list[float]
    edges: dict[tuple[int, int], list[tuple[float, float]]]
    width: float
    height: float


@dataclass
class _Layers:
    sizes: list[tuple[float, float]]
    rows: list[list[int]]
    before: dict[int, list[int]]
    after: dict[int, list[int]]
    x: dict[int, float] = field(default_factory=dict)

    def width(self, item: int) -> float:
        return self.sizes[item][0] if item < len(self.sizes) else POINT

    def walks(self) -> Iterator[tuple[list[int], list[int], dict[int, list[int]]]]:
        """Rows in turn, down and up: the row before it, the row, and neighbours in the former."""
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            rows = self.rows if down else self.rows[::-1]
            for last, row in pairwise(rows):
                yield last, row, self.before if down else self.after

    def order(self) -> None:
        for last, row, beside in self.walks():
            places = {item: float(i) for i, item in enumerate(last)}
            own = {item: float(i) for i, item in enumerate(row)}
            middles = {i: _middle([places[n] for n in beside[i]], own[i]) for i in row}
            row.sort(key=middles.__getitem__)

    def place(self) -> None:
        """Where each stands along its row: near its neighbours, without touching others."""
        for row in self.rows:
            at = 0.0
            for item in row:
                self.x[item] = at + self.width(item) / 2
                at += self.width(item) + GAP_X
            for item in row:
                self.x[item] -= (at - GAP_X) / 2
        for _, row, beside in self.walks():
            wanted = [_middle([self.x[n] for n in beside[item]], self.x[item]) for item in row]
            self.x.update(zip(row, self.fitted(row, wanted), strict=True))

    def fitted(self, row: list[int], wanted: list[float]) -> list[float]:
        """Places near those wanted, far enough from each other: the mean of two greedy walks."""
        room = [(self.width(a) + self.width(b)) / 2 + GAP_X for a, b in pairwise(row)]
        right = wanted[:]
        for i, need in enumerate(room):
            right[i + 1] = max(right[i + 1], right[i] + need)
        left = wanted[:]
        for i in range(len(room) - 1, -1, -1):
            left[i] = min(left[i], left[i + 1] - room[i])
        return [(a + b) / 2 for a, b in zip(left, right, strict=True)]


def _middle(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def layered(sizes: list[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Placed:
    """Place boxes of such sizes. Every edge leads from a box to a later one."""
    level = [0] * len(sizes)
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        assert source < target
        level[target] = max(level[target], level[source] + 1)
    rows: list[list[int]] = [[] for _ in range(max(level, default=0) + 1)]
    for item, rank in enumerate(level):
        rows[rank].append(item)
    before: dict[int, list[int]] = {item: [] for item in range(len(sizes))}
    after: dict[int, list[int]] = {item: [] for item in range(len(sizes))}
    ways: dict[tuple[int, int], list[int]] = {}
    points = len(sizes)
    held = sum(level[target] - level[source] for source, target in edges) <= MOST
    for source, target in dict.fromkeys(edges):
        way = [source]
        for rank in range(level[source] + 1, level[target] if held else 0):
            before[points], after[points] = [], []
            rows[rank].append(points)
            way.append(points)
            points += 1
        way.append(target)
        ways[source, target] = way
        for one, other in pairwise(way):
            if held or level[target] == level[source] + 1:
                after[one].append(other)
                before[other].append(one)
    layers = _Layers(sizes, rows, before, after)
    layers.order()
    layers.place()
    left = min((layers.x[i] - layers.width(i) / 2 for r in rows for i in r), default=0.0)
    x = {item: at - left for item, at in layers.x.items()}
    width = max((x[i] + layers.width(i) / 2 for r in rows for i in r), default=0.0)
    tops: list[float] = []
    bottoms: list[float] = []
    at = 0.0
    for row in rows:
        tall = max((sizes[i][1] for i in row if i < len(sizes)), default=0.0)
        tops.append(at)
        bottoms.append(at + tall)
        at += tall + GAP_Y
    y = [tops[rank] for rank in level]
    lines: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for (source, target), way in ways.items():
        line = [(x[source], y[source] + sizes[source][1])]
        if sizes[source][1] < bottoms[level[source]] - y[source]:
            line.append((x[source], bottoms[level[source]]))  # past its neighbours first
        for step, point in enumerate(way[1:-1], level[source] + 1):
            line += [(x[point], tops[step]), (x[point], bottoms[step])]
        line.append((x[target], y[target]))
        lines[source, target] = line
    return Placed([x[i] for i in range(len(sizes))], y, lines, width, at - GAP_Y)
