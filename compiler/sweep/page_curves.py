"""The curves of one optimizer as SVG inside a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from modnorm.report.blocks import NONE
from modnorm.report.diagnostics import clean
from modnorm.sweep import fits, tables
from modnorm.sweep.curves import Curve, labels
from modnorm.sweep.findings import Findings
from modnorm.sweep.slices import rows, window

SIZE = (560, 300)
"""Of one panel."""
LEFT, RIGHT, TOP, BOTTOM = 58, 120, 14, 40
"""Margins; the legend is in the one at the right."""
LINES = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c9a90a")
DARK = ("#b48be0", "#7f9cf0", "#35c0b8", "#86e07c", "#f0d850")
"""Colours of sizes, from the smallest on, in the light and in the dark scheme."""
STYLE = """
.curves { display: flex; flex-wrap: wrap; gap: 8px 16px; }
.curves svg { font-size: 12px; }
.curves text { fill: var(--text); }
.curves .grid { stroke: var(--line); stroke-width: 1; }
.curves .start { stroke: var(--dim); stroke-width: 1; stroke-dasharray: 4 3; }
.curves .line { fill: none; stroke-width: 2; }
.curves .error { stroke-width: 2; }
.curves .best { stroke: var(--panel); stroke-width: 1.5; }
"""
STYLE += "".join(
    f".curves .c{i} {{ --c: light-dark({light}, {dark}); }}\n"
    for i, (light, dark) in enumerate(zip(LINES, DARK, strict=True))
)
FINE = 8


def svg(findings: Findings, optimizer: str) -> str:
    """Loss against learning rate: a panel for each param that is varied, a line for each size."""
    panels = (
        _panel(by_optimizer[optimizer], axis, tables.METRIC[findings.metric], optimizer)
        for axis, by_optimizer in rows(findings)
    )
    return f'<div class="curves">{"".join(panels)}</div>'


def shade(index: int, count: int) -> int:
    """The colour of a size of so many."""
    return round(index * (len(LINES) - 1) / max(count - 1, 1))


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two, about so many."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame:
    """Where losses and learning rates are in a panel."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.low, self.high = window(curves)
        points = [p for one in curves for p in one.points]
        inside = [p.log2_lr for p in points if p.loss <= self.high] or [p.log2_lr for p in points]
        self.first, self.last = min(inside) - 0.5, max(inside) + 0.5

    def x(self, value: float) -> float:
        part = (value - self.first) / (self.last - self.first)
        return LEFT + part * (SIZE[0] - LEFT - RIGHT)

    def y(self, value: float) -> float:
        part = (self.high - value) / (self.high - self.low)
        return TOP + part * (SIZE[1] - TOP - BOTTOM)


def _panel(curves: Sequence[Curve], axis: str, loss: str, optimizer: str) -> str:
    shown = [one for one in curves if any(math.isfinite(p.loss) for p in one.points)]
    if not shown:
        return ""
    frame = _Frame(shown)
    width, height = SIZE
    name = f"{tables.identifier(optimizer)}-{tables.identifier(axis)}"
    about = f"{loss} against log2 of the learning rate, by {axis}" if axis else loss
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="{_text(f"{optimizer}: {about}")}">',
        f'<clipPath id="clip-{name}"><rect x="{LEFT}" y="{TOP}" width="{width - LEFT - RIGHT}"'
        f' height="{height - TOP - BOTTOM}"/></clipPath>',
        *_axes(frame, loss),
        f'<g clip-path="url(#clip-{name})">',
    ]
    start = shown[0].best
    if start is not None:
        x = f"{frame.x(start):.1f}"
        parts.append(f'<line class="start" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    for i, one in enumerate(shown):
        parts += _curve(one, frame, shade(i, len(shown)))
    parts.append("</g>")
    if axis:
        parts += _legend(shown, axis)
    return "".join((*parts, "</svg>"))


def _axes(frame: _Frame, loss: str) -> Iterator[str]:
    width, height = SIZE
    for value in ticks(frame.low, frame.high, 7):
        y = frame.y(value)
        yield (
            f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    for value in ticks(frame.first, frame.last, 8):
        x = frame.x(value)
        yield (
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )
    middle = (LEFT + width - RIGHT) / 2
    yield f'<text x="{middle}" y="{height - 6}" text-anchor="middle">log2 learning rate</text>'
    centre = (TOP + height - BOTTOM) / 2
    yield (
        f'<text transform="translate(12 {centre}) rotate(-90)" text-anchor="middle">{loss}</text>'
    )


def _curve(one: Curve, frame: _Frame, colour: int) -> Iterator[str]:
    points = [(p.log2_lr, p.loss) for p in one.points if math.isfinite(p.loss)]
    first, last = points[0][0], points[-1][0]
    count = max(2, round((last - first) * FINE) + 1)
    xs = [first + (last - first) * k / (count - 1) for k in range(count)]
    places = []
    for x in xs:
        y = fits.interpolated(points, x, one.ceiling)
        if y is not None:
            # far outside of the window, coordinates need not be true
            places.append(f"{frame.x(x):.1f},{min(max(frame.y(y), -2000), 2000):.1f}")
    yield f'<g class="c{colour}"><title>{_text(_told(one))}</title>'
    yield f'<polyline class="line" style="stroke:var(--c)" points="{" ".join(places)}"/>'
    best = one.metric.best
    if one.best is not None and best is not None:
        x, y, error = frame.x(one.best), frame.y(best), one.error or 0.0
        yield (
            f'<line class="error" style="stroke:var(--c)" x1="{frame.x(one.best - error):.1f}"'
            f' x2="{frame.x(one.best + error):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="best" style="fill:var(--c)" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        )
    yield "</g>"


def _told(one: Curve) -> str:
    if one.best is None:
        return f"{labels(one.sizes)}: {one.problem}"
    return f"{labels(one.sizes)}: best log2 lr {tables.number(one.best, one.error)}"


def _legend(curves: Sequence[Curve], axis: str) -> Iterator[str]:
    x = SIZE[0] - RIGHT + 14
    yield f'<text x="{x}" y="{TOP + 10}">{_text(axis)}</text>'
    for i, one in enumerate(curves):
        y = TOP + 28 + 18 * i
        value = dict(one.sizes).get(axis)
        shown = NONE if value is None else f"{value:.6g}"
        yield (
            f'<g class="c{shade(i, len(curves))}"><line class="line" style="stroke:var(--c)"'
            f' x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}"/>'
            f'<text x="{x + 30}" y="{y + 4}">{shown}</text></g>'
        )


def _text(value: str) -> str:
    return escape(clean(value))
