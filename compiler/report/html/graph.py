"""The data flow as a drawing: an SVG made when the page is, so that the page only shows it.

`Identity` and tuples are edges, parts without weights are one box, and a repetition is a frame
around one copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

from modnorm.graph.dataflow import Apply, Input, Loop, Pack, Region, Value
from modnorm.report.diagnostics import clean
from modnorm.report.document import between
from modnorm.report.html.layout import Placed, layered
from modnorm.report.model import Part, Report, norm
from modnorm.report.words import call, pattern

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
        part = self.known.get(value.leaf)
        called, bound = call(value.op), norm(self.program, value.leaf)
        about = [f"{pattern(value.path)}: {called}", str(value.type), *([str(bound)] * bool(bound))]
        if group:
            return Box("group", group.name, (shape,), group.number, "\n".join(about))
        lines: tuple[str, ...] = (shape,)
        if part is not None and part.targets is not None:
            target = f"target {between(part.targets)}"
            lines = (_end(pattern(part.path.removeprefix(around))), target, shape)
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
