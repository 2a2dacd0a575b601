"""The data flow as a drawing: an SVG made when the page is, so that the page only shows it.

`Identity` and tuples are edges, parts without weights are one box, and a repetition is a frame
around one copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from modnorm.graph.dataflow import Apply, Input, Loop, Pack, Region, Value
from modnorm.passes.program import Program
from modnorm.report.diagnostics import clean
from modnorm.report.dot import bounds
from modnorm.report.facts import number
from modnorm.report.html.layout import Placed, layered
from modnorm.report.nodes import Node, pattern

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
        wide = max(width, *(d.width for d in self.inner)) + 2 * MARGIN
        tall = sum(HEAD + drawing.height + MARGIN for drawing in self.inner)
        return wide, tall


@dataclass
class Drawing:
    """The boxes of a region with their places."""

    title: str
    boxes: list[Box]
    placed: Placed

    @property
    def width(self) -> float:
        return self.placed.width

    @property
    def height(self) -> float:
        return self.placed.height


@dataclass
class _Draw:
    nodes: list[Node]
    by_leaf: Mapping[int, Node] = field(default_factory=dict)
    by_path: Mapping[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_leaf = {node.leaf: node for node in self.nodes if node.leaf >= 0}
        self.by_path = {node.path: node for node in reversed(self.nodes)}
        holds = {n.number for n in self.nodes if n.kind in ("atom", "repeat", "copies", "model")}
        for node in reversed(self.nodes):
            if node.number in holds and node.parent >= 0:
                holds.add(node.parent)
        self.holds = holds

    def group(self, value: Apply) -> Node | None:
        """The outermost part around an operation without weights that has none either."""
        node = self.by_leaf.get(value.leaf)
        found = None
        while node is not None and node.parent >= 0:
            node = self.nodes[node.parent]
            if node.number in self.holds:
                break
            found = node
        return found

    def region(self, region: Region, name: str, title: str = "", around: str = "") -> Drawing:
        boxes: list[Box] = []
        edges: list[tuple[int, int]] = []
        at: dict[int, list[int]] = {}  # the boxes that a value comes from
        groups: dict[int, int] = {}
        for n in region.numbers():
            value = region[n]
            sources = [box for operand in value.inputs for box in at[operand]]
            if self.passes(value) and n != region.output:
                at[n] = sources
                continue
            group = self.group(value) if isinstance(value, Apply) else None
            own = groups.get(group.number) if group else None
            # a part goes on in a box of its own behind what others made of its values
            if own is None or any(source > own for source in sources):
                own = len(boxes)
                boxes.append(self.box(value, group, name, around))
                if group:
                    groups[group.number] = own
            else:
                self.extend(boxes[own], value)
            edges += [(source, own) for source in sources if source != own]
            at[n] = [own]
        return Drawing(title, boxes, layered([box.size for box in boxes], edges))

    def passes(self, value: Value) -> bool:
        if isinstance(value, Apply):
            node = self.by_leaf.get(value.leaf)
            return node is not None and node.call == "Identity"
        return isinstance(value, Pack)

    def box(self, value: Value, group: Node | None, name: str, around: str) -> Box:
        shape = _short(str(value.type))
        match value:
            case Input():
                return Box("input", name, (shape,)) if name else Box("dot", "")
            case Pack():
                return Box("bond", "( , )")
            case Loop():
                return self.loop(value)
        node = self.by_leaf.get(value.leaf) or self.by_path.get(value.path)
        shown = group or node
        own = pattern(value.path)
        about = [f"{own}: {node.call}" if node else own, str(value.type)]
        about += [bounds(node.norm)] if node and node.norm else []
        if group:
            return Box("group", group.name, (shape,), group.number, "\n".join(about))
        title = _short(node.call if node else value.op.label)
        lines: tuple[str, ...] = (shape,)
        if node is not None and node.kind == "atom":
            first, last = map(number, node.targets or (0.0, 0.0))
            target = first if first == last else f"{first} … {last}"
            lines = (_end(pattern(node.path.removeprefix(around))), f"target {target}", shape)
        kind = node.kind if node is not None else "bond"
        return Box(kind, title, lines, shown.number if shown else -1, "\n".join(about))

    def extend(self, box: Box, value: Value) -> None:
        """Take a further operation into the box of a part."""
        if isinstance(value, Apply):
            node = self.by_leaf.get(value.leaf)
            box.lines = (_short(str(value.type)),)
            called = node.call if node else value.op.label
            box.about += f"\n{pattern(value.path)}: {called}\n{value.type}"

    def loop(self, value: Loop) -> Box:
        title = pattern(value.path.rpartition(".")[2]) or "copies"
        inner = [
            self.region(run.region, "", f"{title} × {run.count:,}", f"{run.path}.")
            for run in value.runs
        ]
        node = self.by_path.get(value.path) if value.path else self.unnamed(value)
        return Box("loop", inner[0].title, (), node.number if node else -1, title, inner)

    def unnamed(self, value: Loop) -> Node | None:
        """The row of a repetition without a name: the one around its first operation."""
        for apply in value.runs[0].region.applies():
            node = self.by_leaf.get(apply.leaf)
            while node is not None and node.parent >= 0:
                if node.kind == "repeat" and not node.path:
                    return node
                node = self.nodes[node.parent]
            return None
        return None


def _short(text: str) -> str:
    text = text.replace("float[", "[").replace("batch, ", "")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _end(path: str) -> str:
    return path if len(path) <= LONGEST else "…" + path[1 - LONGEST :]


# --- as SVG --------------------------------------------------------------------------------


ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 6 6" refX="5.5" refY="3" markerWidth="6" '
    'markerHeight="6" orient="auto"><path class="entry" d="M0 0L6 3L0 6z"/></marker></defs>'
)


def svg(program: Program, nodes: list[Node]) -> str:
    """The drawing of a program's data flow."""
    operations = sum(1 for _ in program.flow.applies())
    if operations > MOST:
        much = f"{operations:,} operations are too many to draw here; the format dot has them all"
        return f'<p class="dim">{much}</p>'
    draw = _Draw(nodes)
    name = ", ".join(entry.name for entry in program.inputs)
    drawing = draw.region(program.flow, name or "input")
    width, height = drawing.width + 2 * MARGIN, drawing.height + 2 * MARGIN
    parts = _drawn(drawing, MARGIN, MARGIN)
    return (
        f'<svg id="graph-svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="group" '
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
            yield from _drawn(drawing, x + (width - drawing.width) / 2, at + HEAD)
            at += HEAD + drawing.height + MARGIN
        return
    middle = x + width / 2
    for i, line in enumerate((box.title, *box.lines)):
        style = "head" if i == 0 else "sub"
        at = y + PAD / 2 + LINE * (i + 0.75)
        yield f'<text class="{style}" x="{middle:.1f}" y="{at:.1f}">{_text(line)}</text>'
    yield "</g>"


def _text(text: str) -> str:
    return escape("\n".join(map(clean, text.split("\n"))))
