"""The data flow as a drawing: an SVG made when the page is, so that the page only shows it.

`Identity` and tuples are edges, parts without weights are one box, and a repetition is a frame
around one copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

import networkx as nx

from modnorm.graph.dataflow import Apply, Input, Loop, Pack, Recurrence, Region, Value
from modnorm.graph.paths import pattern
from modnorm.ops.edges import slots
from modnorm.report.diagnostics import clean
from modnorm.report.document import shown_target
from modnorm.report.model import Part, Report, norm
from modnorm.report.words import call

LETTER = 6.7
LINE = 15.0
PAD = 9.0
HEAD = 24.0
MARGIN = 12.0
LONGEST = 30
"""Characters of a line in a box."""
MOST = 2_000
"""Operations that are drawn."""


@dataclass
class Box:
    """Something in the drawing, as large as it has to be. `node` is the part that it stands for."""

    kind: str
    title: str
    lines: tuple[str, ...] = ()
    node: int = -1
    about: str = ""
    inner: list[Drawing] = field(default_factory=list)

    @property
    def size(self) -> tuple[float, float]:
        if self.kind == "dot":
            return 10.0, 10.0
        longest = max(map(len, (self.title, *self.lines)))
        width = longest * LETTER + 2 * PAD
        if not self.inner:
            return width, LINE * (1 + len(self.lines)) + PAD
        wide = max(width, *(d.placed.width for d in self.inner)) + 2 * MARGIN
        tall = sum(HEAD + drawing.placed.height + MARGIN for drawing in self.inner)
        return wide, tall


@dataclass
class Placed:
    """The middle of the upper edge of each box, the edges' points, and the size of it all."""

    x: list[float]
    y: list[float]
    edges: dict[tuple[int, int], list[tuple[float, float]]]
    width: float
    height: float


@dataclass
class Drawing:
    """The boxes of a region with their places."""

    title: str
    boxes: list[Box]
    placed: Placed


class _Draw:
    def __init__(self, found: Report) -> None:
        self.program = found.program
        self.known = found.by_id()
        self.holds: set[Part | None] = set()
        """What has weights, or repetitions, in it."""
        for part in reversed(found.parts):
            if part.kind in ("atom", "repeat", "copies", "model") or part in self.holds:
                self.holds |= {part, part.around or part}

    def group(self, value: Value) -> Part | None:
        """The outermost part around an operation without weights that has none either."""
        part = self.known.get(value.leaf) if isinstance(value, Apply) else None
        found = None
        while part is not None:
            part = part.around
            if part in self.holds:
                break
            found = part
        return found

    def region(self, region: Region, name: str, title: str = "", around: str = "") -> Drawing:
        boxes: list[Box] = []
        edges: list[tuple[int, int]] = []
        at: dict[int, list[int]] = {}  # the boxes that a value comes from
        groups: dict[Part, int] = {}
        for n in region.numbers():
            value = region[n]
            sources = [box for operand in value.inputs for box in at[operand]]
            if _passes(value) and n != region.output:
                at[n] = sources
                continue
            group = self.group(value)
            own = groups.get(group) if group else None
            # a part goes on in a box of its own behind what others made of its values
            if own is None or any(source > own for source in sources):
                own = len(boxes)
                boxes.append(self.box(value, group, name, around))
                if group:
                    groups[group] = own
            elif isinstance(value, Apply):
                box = boxes[own]
                box.lines = (_short(str(value.type)),)
                box.about += f"\n{pattern(value.path)}: {call(value.op)}\n{value.type}"
            edges += [(source, own) for source in sources if source != own]
            at[n] = [own]
        return Drawing(title, boxes, layered([box.size for box in boxes], edges))

    def box(self, value: Value, group: Part | None, name: str, around: str) -> Box:
        shape = _short(str(value.type))
        match value:
            case Input():
                return Box("input", name, (shape,)) if name else Box("dot", "")
            case Pack():
                return Box("bond", "( , )")
            case Loop():
                return self.loop(value)
            case Recurrence(region=cell):
                title = f"for each of {slots(value.type)[0].shape[1]}"
                inner = self.region(cell, "(state, entry)", title, around)
                part = self.known.get(value.node)
                return Box("loop", title, (), part.number if part else -1, title, [inner])
        part = self.known.get(value.leaf)
        called, bound = call(value.op), norm(self.program, value.leaf)
        about = [f"{pattern(value.path)}: {called}", str(value.type), *([str(bound)] * bool(bound))]
        if group:
            return Box("group", group.name, (shape,), group.number, "\n".join(about))
        lines: tuple[str, ...] = (shape,)
        if part is not None and part.weight is not None:
            path = _end(pattern(part.path.removeprefix(around)))
            lines = (path, f"target {shown_target(part.weight)}", shape)
        kind, number = (part.kind, part.number) if part else ("bond", -1)
        return Box(kind, _short(called), lines, number, "\n".join(about))

    def loop(self, value: Loop) -> Box:
        title = pattern(value.path.rpartition(".")[2]) or "copies"
        inner = [
            self.region(run.region, "", f"{title} × {run.count:,}", f"{run.path}.")
            for run in value.runs
        ]
        part = self.known.get(value.node)
        return Box("loop", inner[0].title, (), part.number if part else -1, title, inner)


def _passes(value: Value) -> bool:
    """Whether a value is that of another, or of several, and so no box of its own."""
    if isinstance(value, Apply):
        return call(value.op) == "Identity"
    return isinstance(value, Pack)


def _short(text: str) -> str:
    text = text.replace("float[", "[").replace("batch, ", "")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _end(path: str) -> str:
    return path if len(path) <= LONGEST else "…" + path[1 - LONGEST :]


# --- where boxes stand ---------------------------------------------------------------------
#
# Sugiyama's method: longest-path layers, edges over several layers held by one point in each, a few
# sweeps that order each layer by the middle of its neighbours, then places as near to them as fit.

GAP_X = 18.0
GAP_Y = 26.0
SWEEPS = 8
POINT = 8.0
"""Width of the place that an edge takes where it passes a layer."""
HELD = 10_000
"""Layers that edges may pass, all together; where they pass more, they go straight."""


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
    held = sum(level[target] - level[source] for source, target in edges) <= HELD
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


# --- as SVG --------------------------------------------------------------------------------


ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 6 6" refX="5.5" refY="3" markerWidth="6" '
    'markerHeight="6" orient="auto"><path class="entry" d="M0 0L6 3L0 6z"/></marker></defs>'
)


def svg(found: Report) -> str:
    """The drawing of a program's data flow."""
    program = found.program
    operations = sum(1 for _ in program.flow.applies())
    if operations > MOST:
        much = f"{operations:,} operations are too many to draw here; the format dot has them all"
        return f'<p class="dim">{much}</p>'
    name = ", ".join(entry.name for entry in program.inputs)
    drawing = _Draw(found).region(program.flow, name or "input")
    width, height = (
        f"{size + 2 * MARGIN:.0f}" for size in (drawing.placed.width, drawing.placed.height)
    )
    parts = _drawn(drawing, MARGIN, MARGIN)
    return (
        f'<svg id="graph-svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="group" '
        f'aria-label="data flow of {_text(program.name)}">{ARROW}{"".join(parts)}</svg>'
    )


def _drawn(drawing: Drawing, left: float, top: float) -> Iterator[str]:
    placed = drawing.placed
    for line in placed.edges.values():
        way = _curve([(x + left, y + top) for x, y in line])
        yield f'<path class="edge" marker-end="url(#arrow)" d="{way}"/>'
    for box, middle, y in zip(drawing.boxes, placed.x, placed.y, strict=True):
        width, height = box.size
        yield from _box(box, left + middle - width / 2, top + y, width, height)


def _curve(points: list[tuple[float, float]]) -> str:
    (x, y), *rest = points
    path = f"M{x:.1f} {y:.1f}"
    for a, b in rest:
        middle = (y + b) / 2
        straight = abs(a - x) < 0.05
        bend = f"C{x:.1f} {middle:.1f} {a:.1f} {middle:.1f} {a:.1f} {b:.1f}"
        path += f"V{b:.1f}" if straight else bend
        x, y = a, b
    return path


def _box(box: Box, x: float, y: float, width: float, height: float) -> Iterator[str]:
    if box.kind == "dot":
        yield f'<circle class="entry" cx="{x + 5:.1f}" cy="{y + 5:.1f}" r="3.5"/>'
        return
    able = f' data-node="{box.node}" tabindex="-1" role="button"' if box.node >= 0 else ""
    name = ", ".join((box.title, *box.lines))
    yield f'<g class="box {box.kind}"{able} aria-label="{_text(name)}">'
    if box.about:
        yield f"<title>{_text(box.about)}</title>"
    yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6"/>'
    if box.inner:
        at = y
        for drawing in box.inner:
            place = f'x="{x + MARGIN:.1f}" y="{at + 17:.1f}"'
            yield f'<text class="head" {place}>{_text(drawing.title)}</text>'
            yield "</g>" if drawing is box.inner[0] else ""
            yield from _drawn(drawing, x + (width - drawing.placed.width) / 2, at + HEAD)
            at += HEAD + drawing.placed.height + MARGIN
        return
    middle = x + width / 2
    for i, line in enumerate((box.title, *box.lines)):
        style = "head" if i == 0 else "sub"
        at = y + PAD / 2 + LINE * (i + 0.75)
        yield f'<text class="{style}" x="{middle:.1f}" y="{at:.1f}">{_text(line)}</text>'
    yield "</g>"


def _text(text: str) -> str:
    return escape("\n".join(map(clean, text.split("\n"))))
