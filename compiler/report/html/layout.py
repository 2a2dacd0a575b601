"""A layered drawing of a directed acyclic graph: where boxes stand, and which way edges go.

Sugiyama's method: longest-path layers, edges over several layers held by one point in each, a few
sweeps that order each layer by the middle of its neighbours, then places as near to them as fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import networkx as nx

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
    """Boxes, and behind them the points of edges, in rows."""

    sizes: list[tuple[float, float]]
    rows: list[list[int]]
    graph: nx.DiGraph[int]
    x: dict[int, float] = field(default_factory=dict)

    def width(self, item: int) -> float:
        return self.sizes[item][0] if item < len(self.sizes) else POINT

    def walks(self) -> Iterator[tuple[list[int], list[int], Mapping[int, Iterable[int]]]]:
        """Rows in turn, down and up: the row before it, the row, and neighbours in the former."""
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            rows = self.rows if down else self.rows[::-1]
            for last, row in pairwise(rows):
                yield last, row, self.graph.pred if down else self.graph.succ

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
    uses: nx.DiGraph[int] = nx.DiGraph()
    uses.add_nodes_from(range(len(sizes)))
    uses.add_edges_from(edges)
    rows = [sorted(row) for row in nx.topological_generations(uses)] or [[]]
    level = {item: rank for rank, row in enumerate(rows) for item in row}
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(uses)
    ways: dict[tuple[int, int], list[int]] = {}
    held = sum(level[target] - level[source] for source, target in edges) <= MOST
    for source, target in dict.fromkeys(edges):
        passed = range(level[source] + 1, level[target])
        points = [len(graph) + i for i, _ in enumerate(passed)] if held else []
        for rank, point in zip(passed, points, strict=False):
            rows[rank].append(point)
        ways[source, target] = [source, *points, target]
        if held or not passed:
            nx.add_path(graph, ways[source, target])
    layers = _Layers(sizes, rows, graph)
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
    y = [tops[level[i]] for i in range(len(sizes))]
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
