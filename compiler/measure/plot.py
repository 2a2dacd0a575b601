"""The coordinate check as a picture: log-log lines of RMS against each param."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

from modnorm.measure.coordinates import QUANTITIES
from modnorm.measure.problems import CheckError
from modnorm.report.checked import Coordinates, ScalingFinding, Training

INCHES = (6.0, 4.5)
"""Width and height of one panel."""
TITLES = {"activation": "RMS of activations", "change": "RMS of their changes"}
METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": "modnorm"},
    "svg": {"Creator": "modnorm", "Date": None},
    "pdf": {"Creator": "modnorm", "CreationDate": None},
}
COLOURS = {"grows": "tab:red", "shrinks": "tab:blue", "unclear": "tab:orange"}


def require_matplotlib() -> None:
    """Raise `CheckError` where plots cannot be made."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CheckError('plots need matplotlib: install it with `pip install "modnorm[plot]"`')


def picture(training: Training, form: str = "png") -> bytes:
    """A picture with two panels a param: activations, and how they changed.

    Flat lines are grey, and only the others are named.

    Raises:
        CheckError: if matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(training.params)
    figure = Figure(figsize=(INCHES[0] * len(QUANTITIES), INCHES[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, len(QUANTITIES), squeeze=False)
    for row, param in zip(panels, training.params, strict=True):
        for axes, quantity in zip(row, QUANTITIES, strict=True):
            lines = [found[quantity] for found in param.distinct().values()]
            _panel(axes, param, lines, TITLES[quantity])
    figure.suptitle(
        f"{training.steps} steps of {training.optimizer} at lr {training.lr:g}: {training.loss}"
    )
    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "modnorm"}):  # the same picture of the same data
        figure.savefig(stream, format=form, dpi=120, metadata=METADATA[form])
    return stream.getvalue()


def _panel(axes: Any, param: Coordinates, lines: list[ScalingFinding], title: str) -> None:
    for line in lines:
        if line.slope is None:
            continue
        colour = COLOURS.get(line.verdict, "0.6")
        label = None
        if line.verdict != "flat":
            label = f"{line.path}: {line.slope:+.2f} {line.verdict}"
        axes.plot(param.sizes, line.values, "o-", color=colour, linewidth=1, markersize=3,
                  label=label)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(param.sizes, [f"{size:g}" for size in param.sizes])
    axes.set_xlabel(param.param)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="x-small")
