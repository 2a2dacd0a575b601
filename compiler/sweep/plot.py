"""Pictures of a sweep: loss against learning rate, and optima against size."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

from modnorm.measure.plot import METADATA, require_matplotlib
from modnorm.report.diagnostics import clean
from modnorm.sweep import fits, tables
from modnorm.sweep.curves import Curve, is_mass
from modnorm.sweep.findings import Findings
from modnorm.sweep.problems import SweepError
from modnorm.sweep.slices import lines, rows, window

PANEL = (3.1, 2.7)
"""Width and height of one panel, in inches."""
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

    stream = io.BytesIO()
    with rc_context(STYLE):
        figure = DRAWN[kind](findings)
        figure.savefig(stream, format=form, dpi=150, metadata=METADATA[form])
    return stream.getvalue()


def _figure(rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = min(PANEL[0], max(MOST / columns, NARROWEST))
    size = (max(width * columns, 4.6), PANEL[1] * rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


# --- curves ---------------------------------------------------------------------------------


def curves_picture(findings: Findings) -> Any:
    """Mean loss against log2 of the learning rate; optima are marked, with error bars.

    A broken line marks the best learning rate of the smallest size.
    """
    from matplotlib import colormaps

    names = tables.optimizers(findings)
    shown = rows(findings)
    figure, panels = _figure(len(shown), len(names), sharey="row", sharex="col")
    ramp = colormaps["viridis"]
    spans: list[list[float]] = [[] for _ in names]
    for i, (axis, by_optimizer) in enumerate(shown):
        sizes = sorted({dict(c.sizes)[axis] for line in by_optimizer.values() for c in line
                        if axis in dict(c.sizes)})  # fmt: skip
        shades = {
            size: ramp(RAMP[0] + (RAMP[1] - RAMP[0]) * k / max(len(sizes) - 1, 1))
            for k, size in enumerate(sizes)
        }
        handles: dict[str, Any] = {}
        for axes, name in zip(panels[i], names, strict=True):
            for one in by_optimizer[name]:
                size = dict(one.sizes).get(axis)
                colour = shades.get(size, ramp(0.0)) if size is not None else ramp(0.0)
                drawn = _draw(axes, one, colour)
                if size is not None and drawn is not None:
                    handles.setdefault(f"{size:.6g}", drawn)
            if i == 0:
                axes.set_title(clean(name))
            if i == len(shown) - 1:
                axes.set_xlabel("log2 learning rate")
            axes.xaxis.get_major_locator().set_params(integer=True)
            start = next((one.best for one in by_optimizer[name] if one.best is not None), None)
            if start is not None:
                axes.axvline(start, color="0.55", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        panels[i][0].set_ylabel(tables.METRIC[findings.metric])
        low, high = window([one for line in by_optimizer.values() for one in line])
        panels[i][0].set_ylim(low, high)
        for k, name in enumerate(names):
            spans[k] += _inside(by_optimizer[name], high)
        if axis:
            ordered = {
                text: handles[text] for text in map("{:.6g}".format, sizes) if text in handles
            }
            panels[i][-1].legend(
                ordered.values(), ordered.keys(), title=axis, loc="upper left",
                bbox_to_anchor=(1.02, 1.0), frameon=False, borderaxespad=0.0,
                title_fontsize=9, alignment="left",
            )  # fmt: skip
    for axes, span in zip(panels[0], spans, strict=True):
        if span:
            axes.set_xlim(min(span) - MARGIN, max(span) + MARGIN)
    return figure


def _inside(curves: Sequence[Curve], high: float) -> list[float]:
    """The learning rates at which curves are in the window."""
    return [p.log2_lr for one in curves for p in one.points if p.loss <= high]


def _draw(axes: Any, one: Curve, colour: Any) -> Any:
    """One curve: its points, a line through them, the optimum with its error."""
    points = [(p.log2_lr, p.loss) for p in one.points if math.isfinite(p.loss)]
    if not points:
        return None
    first, last = points[0][0], points[-1][0]
    count = max(2, round((last - first) * FINE) + 1)
    xs = [first + (last - first) * k / (count - 1) for k in range(count)]
    ys = [fits.interpolated(points, x, one.ceiling) for x in xs]
    (line,) = axes.plot(xs, ys, color=colour, linewidth=1.5)
    sound = [p for p in one.points if math.isfinite(p.loss) and not p.diverged]
    for p in sound:
        if p.error is not None:
            axes.plot([p.log2_lr] * 2, [p.loss - p.error, p.loss + p.error], color=colour,
                      linewidth=0.8)  # fmt: skip
    axes.plot([p.log2_lr for p in sound], [p.loss for p in sound], ".", color=colour, markersize=4)
    best = one.metric.best
    if one.best is not None and best is not None:
        axes.errorbar(
            [one.best], [best], xerr=None if one.error is None else [one.error], fmt="o",
            color=colour, markeredgecolor="white", markersize=7, elinewidth=1.6, capsize=2.5,
            zorder=5,
        )  # fmt: skip
    return line


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
