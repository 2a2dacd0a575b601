"""Pictures of a sweep: loss against learning rate, and optima against size."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from modnorm.measure.plot import METADATA, require_matplotlib
from modnorm.report.diagnostics import clean
from modnorm.report.html import pieces
from modnorm.sweep import Metric, fits, tables
from modnorm.sweep.findings import Curve, Findings, is_mass, labels, scales_of
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Size, Sizes

HEADROOM = 0.55
"""How much of the range from the best loss to the one before the first step is shown, at most."""

PANEL = (3.1, 2.7)
"""Width and height of one panel, in inches."""
IN_PAGE = (5.8, 3.1)
"""That of one in a page."""
MOST, NARROWEST = 10.5, 1.9
"""Width of a picture, above which panels get narrower, and that of the narrowest."""
RAMP = (0.0, 0.82)
"""The part of the colour map viridis that sizes have; the rest is too light on white."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of optimizers: Okabe & Ito's, which the colour-blind can tell apart."""
MARKERS = "osD^vPX"
MARGIN = 0.8
"""Doublings of the learning rate that are shown past the points in the window."""
FINE = 24
"""Points of a drawn curve per doubling of the learning rate."""
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "svg.hashsalt": "modnorm",  # the same picture of the same data
    "svg.fonttype": "path",
}

Kind = Literal["curves", "drift"]
Row = tuple[str, dict[str, list[Curve]]]
"""A varied param, and by optimizer the curves in which it alone varies."""


def picture(findings: Findings, form: str = "png", kind: Kind = "curves") -> bytes:
    """A picture: the curves, a panel for every optimizer, or the drift, a panel for every param.

    form: "png", "svg" or "pdf". The same findings give the same bytes.

    Raises:
        CheckError: if matplotlib is not installed.
        SweepError: if there is no such form or kind, or nothing to draw.
    """
    require_matplotlib()
    if form not in METADATA:
        raise SweepError(f"a picture is one of {', '.join(METADATA)}, not {form!r}")
    if kind not in DRAWN:
        raise SweepError(f"a picture is one of {', '.join(DRAWN)}, not {kind!r}")
    if not any(one.points for one in findings.curves):
        raise SweepError("there is nothing to draw: no run of the sweep is over")
    from matplotlib import rc_context

    with rc_context(STYLE):
        return _saved(DRAWN[kind](findings), form)


def _saved(figure: Any, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=form, metadata=METADATA[form], **{"dpi": 150, **options})
    return stream.getvalue()


def _figure(
    rows: int, columns: int, size: tuple[float, float] | None = None, **options: Any
) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    width = min(PANEL[0], max(MOST / columns, NARROWEST))
    size = size or (max(width * columns, 4.6), PANEL[1] * rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


# --- what is shown ---------------------------------------------------------------------------


def rows(findings: Findings) -> list[Row]:
    """For each varied param, a row: its name, and by optimizer the curves in which it alone varies.

    The others have the values of the smallest model, or those at which most curves are, where the
    smallest was not varied along all params.
    """
    found: list[Row] = []
    names = tables.optimizers(findings)
    for axis in tables.axes(findings.curves):
        by_optimizer = {}
        for name in names:
            own = findings.of(name)
            along = lines(own, axis, findings.advised(name))
            by_optimizer[name] = along[0] if along else list(own[:1])
        if any(len(own) > 1 for own in by_optimizer.values()):
            found.append((axis, by_optimizer))
    return found or [("", {name: list(findings.of(name)) for name in names})]


def lines(curves: Sequence[Curve], axis: str, masses: Sizes = ()) -> list[list[Curve]]:
    """The curves along an axis, a list for each setting of the others; the one to show first.

    That is the setting with most curves, and of several the one with these masses at the smallest
    sizes.
    """
    groups: dict[Sizes, list[Curve]] = {}
    for one in curves:
        if axis in dict(one.sizes):
            rest = tuple(pair for pair in one.sizes if pair[0] != axis)
            groups.setdefault(rest, []).append(one)

    def place(rest: Sizes) -> tuple[int, int, float]:
        other = sum(pair not in masses for pair in rest if is_mass(pair[0]))
        return -len(groups[rest]), other, math.prod(value for _, value in scales_of(rest))

    return [
        sorted(groups[rest], key=lambda one: dict(one.sizes)[axis])
        for rest in sorted(groups, key=place)
    ]


def window(curves: Sequence[Curve]) -> tuple[float, float]:
    """The losses to show: from the lowest on, past the optima's surroundings, not the diverged.

    A curve's surroundings are its losses up to two doublings of the learning rate from its best.
    """
    bests: list[float] = []
    near: list[float] = []
    top = -math.inf
    for one in curves:
        points = [p for p in one.points if math.isfinite(p.loss)]
        if points:
            best = min(points, key=lambda p: p.loss)
            bests.append(best.loss)
            around = (p.loss for p in points if abs(p.log2_lr - best.log2_lr) <= 2.01)
            near += [best.loss, max(around)]
            top = max(top, *(p.loss for p in points))
    if not bests:
        return 0.0, 1.0
    low, worst = min(bests), max(bests)
    typical = sorted(near)[int(0.75 * (len(near) - 1))]
    high = max(min(max(typical, worst), low + HEADROOM * (top - low)), worst)
    room = max(high - low, 1e-3 * max(abs(low), 1e-9))
    return low - 0.08 * room, high + 0.12 * room


# --- curves ---------------------------------------------------------------------------------


def curves_picture(findings: Findings) -> Any:
    """Mean loss against log2 of the learning rate; optima are marked, with error bars.

    A broken line marks the best learning rate of the smallest size.
    """
    figure, _ = _curves(rows(findings), findings.metric)
    return figure


def _curves(
    shown: Sequence[Row], metric: Metric, size: tuple[float, float] | None = None
) -> tuple[Any, list[tuple[Curve, list[Any]]]]:
    """A figure with a row for each varied param and a column for each optimizer.

    With it come its curves, and what each of them is drawn with.
    """
    names = list(shown[0][1])
    figure, panels = _figure(len(shown), len(names), size, sharey="row", sharex="col")
    made: list[tuple[Curve, list[Any]]] = []
    spans: dict[str, list[float]] = {name: [] for name in names}
    for (axis, by_optimizer), row in zip(shown, panels, strict=True):
        own = [one for line in by_optimizer.values() for one in line]
        colours = _colours([dict(one.sizes).get(axis) for one in own])
        low, high = window(own)
        handles: dict[str, Any] = {}
        for name, axes in zip(names, row, strict=True):
            for one in by_optimizer[name]:
                value = dict(one.sizes).get(axis)
                if drawn := _draw(axes, one, colours[value]):
                    made.append((one, drawn))
                    if value is not None:
                        handles.setdefault(f"{value:.6g}", drawn[0])
            axes.xaxis.get_major_locator().set_params(integer=True)
            start = next((one.best for one in by_optimizer[name] if one.best is not None), None)
            if start is not None:
                axes.axvline(start, color="0.55", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            inside = (p for one in by_optimizer[name] for p in one.points if p.loss <= high)
            spans[name] += [point.log2_lr for point in inside]
        row[0].set_ylabel(tables.METRIC[metric])
        row[0].set_ylim(low, high)
        if axis:
            texts = [f"{value:.6g}" for value in colours if value is not None]
            ordered = {text: handles[text] for text in texts if text in handles}
            row[-1].legend(
                ordered.values(), ordered.keys(), title=axis, loc="upper left",
                bbox_to_anchor=(1.02, 1.0), frameon=False, borderaxespad=0.0,
                title_fontsize=9, alignment="left",
            )  # fmt: skip
    for name, first, last in zip(names, panels[0], panels[-1], strict=True):
        first.set_title(clean(name))
        last.set_xlabel("log2 learning rate")
        if spans[name]:
            first.set_xlim(min(spans[name]) - MARGIN, max(spans[name]) + MARGIN)
    return figure, made


def _colours(values: Sequence[Size | None]) -> dict[Size | None, Any]:
    """A colour for each value, by rising ones."""
    from matplotlib import colormaps

    ramp = colormaps["viridis"]
    rising = sorted({value for value in values if value is not None})
    steps = max(len(rising) - 1, 1)
    found: dict[Size | None, Any] = {
        value: ramp(RAMP[0] + (RAMP[1] - RAMP[0]) * k / steps) for k, value in enumerate(rising)
    }
    return {**found, None: ramp(0.0)}


def _draw(axes: Any, one: Curve, colour: Any) -> list[Any]:
    """One curve: its points, a line through them, the optimum with its error."""
    points = [(p.log2_lr, p.loss) for p in one.points if math.isfinite(p.loss)]
    if not points:
        return []
    first, last = points[0][0], points[-1][0]
    count = max(2, round((last - first) * FINE) + 1)
    xs = [first + (last - first) * k / (count - 1) for k in range(count)]
    ys = [fits.interpolated(points, x, one.ceiling) for x in xs]
    drawn = axes.plot(xs, ys, color=colour, linewidth=1.5)
    sound = [p for p in one.points if math.isfinite(p.loss) and not p.diverged]
    for p in sound:
        if p.error is not None:
            axes.plot([p.log2_lr] * 2, [p.loss - p.error, p.loss + p.error], color=colour,
                      linewidth=0.8)  # fmt: skip
    axes.plot([p.log2_lr for p in sound], [p.loss for p in sound], ".", color=colour, markersize=4)
    best = one.metric.best
    if one.best is not None and best is not None:
        marked = axes.errorbar(
            [one.best], [best], xerr=None if one.error is None else [one.error], fmt="o",
            color=colour, markeredgecolor="white", markersize=7, elinewidth=1.6, capsize=2.5,
            zorder=5,
        )  # fmt: skip
        drawn.append(marked.lines[0])
    return list(drawn)


# --- in a page --------------------------------------------------------------------------------

SCHEME = {
    "#000000": "var(--text)",
    "#666666": "var(--dim)",
    "#8c8c8c": "var(--dim)",
    "#ebebeb": "var(--line)",
    "#ffffff": "var(--panel)",
}
"""What stands in a page for a picture's colours; those of curves are lighter in the dark."""


def svg(findings: Findings, optimizer: str) -> str:
    """An optimizer's curves as SVG inside a page: a panel for each param that is varied.

    Colours are those of the page's scheme, and each curve says what it is.

    Raises:
        CheckError: if matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import rc_context

    panels = []
    with rc_context({**STYLE, "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}):
        for axis, by_optimizer in rows(findings):
            own = {optimizer: by_optimizer[optimizer]}
            figure, made = _curves([(axis, own)], findings.metric, IN_PAGE)
            if not made:
                continue
            figure.axes[0].set_title("")
            told = {}
            for number, (one, drawn) in enumerate(made):
                for part, artist in enumerate(drawn):
                    artist.set_gid(f"curve-{number}-{part}")
                    told[f"curve-{number}-{part}"] = _told(one)
            loss = tables.METRIC[findings.metric]
            about = f"{optimizer}: {loss} against log2 of the learning rate, by {axis}"
            name = f"{tables.identifier(optimizer)}-{tables.identifier(axis)}"
            picture = _saved(figure, "svg", transparent=True).decode()
            panels.append(_inside(picture, name, about if axis else f"{optimizer}: {loss}", told))
    return f'<div class="curves">{"".join(panels)}</div>'


def _inside(picture: str, name: str, about: str, told: Mapping[str, str]) -> str:
    """A picture for the inside of a page: with ids of its own, and nothing that others see."""
    picture = picture[picture.index("<svg") :]
    picture = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", picture, flags=re.DOTALL)
    for gid, text in told.items():
        at = f'<g id="{gid}">'
        picture = picture.replace(at, f"{at}<title>{pieces.text(text)}</title>")
    picture = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", picture)
    picture = re.sub(r"(?<=: )#[0-9a-f]{6}", _themed, picture)
    return picture.replace("<svg", f'<svg role="img" aria-label="{pieces.text(about)}"', 1)


def _themed(found: re.Match[str]) -> str:
    colour = found[0]
    lighter = f"light-dark({colour}, color-mix(in oklab, {colour} 50%, white))"
    return SCHEME.get(colour, lighter)


def _told(one: Curve) -> str:
    if one.best is None:
        return f"{labels(one.sizes)}: {one.problem}"
    return f"{labels(one.sizes)}: best log2 lr {tables.number(one.best, one.error)}"


# --- drift ----------------------------------------------------------------------------------


def drift_picture(findings: Findings) -> Any:
    """Best log2 learning rate against each varied param, for every optimizer, with error bars.

    The lines in full colour are those at the smallest of the other params, the pale ones the rest.
    """
    names = tables.optimizers(findings)
    axes_names = [axis for axis, _ in rows(findings) if axis and not is_mass(axis)]
    axes_names = axes_names or [axis for axis, _ in rows(findings)][:1]
    figure, panels = _figure(1, len(axes_names), sharey=True)
    for axes, axis in zip(panels[0], axes_names, strict=True):
        values: set[float] = set()
        for k, name in enumerate(names):
            own = [one for one in findings.of(name) if one.best is not None]
            colour = COLOURS[k % len(COLOURS)]
            line, *others = lines(own, axis, findings.advised(name)) or [[]]
            for other in others:
                if len(other) > 1:
                    axes.plot(*_places(other, axis), color=colour, alpha=0.22, linewidth=1)
            xs, ys = _places(line, axis)
            values.update(xs)
            errors = [one.error or 0.0 for one in line]
            label = f"{clean(name)}{_slope(findings, name, axis)}"
            axes.errorbar(
                xs, ys, yerr=errors, fmt=f"-{MARKERS[k % len(MARKERS)]}", color=colour,
                linewidth=1.5, markersize=5, elinewidth=1.2, capsize=2.5, label=label,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(values), [f"{value:.6g}" for value in sorted(values)])
        axes.minorticks_off()
        axes.set_xlabel(axis)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.24), frameon=False,
            title="drift a doubling" if findings.drifts else None, title_fontsize=8,
        )  # fmt: skip
    panels[0][0].set_ylabel("best log2 learning rate")
    return figure


def _places(line: Sequence[Curve], axis: str) -> tuple[list[float], list[float]]:
    xs = [float(dict(one.sizes)[axis]) for one in line]
    return xs, [one.best for one in line if one.best is not None]


def _slope(findings: Findings, optimizer: str, axis: str) -> str:
    for drift in findings.drifts:
        if (drift.optimizer, drift.axis) == (optimizer, axis) and drift.value is not None:
            return f": {tables.number(drift.value, drift.error, True)}"
    return ""


DRAWN = {"curves": curves_picture, "drift": drift_picture}
