"""Sweeps from Python, and what they share with the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modnorm.console import tell
from modnorm.pipeline import ANALYSIS
from modnorm.report.interface import TEXT, FilePath, analyse, is_text, named
from modnorm.sweep import FORMATS, METRICS, SCHEDULES, default_store
from modnorm.sweep.axes import BadAxis, labels, rates, values
from modnorm.sweep.records import Metric, Size
from modnorm.sweep.request import Request, prepared

if TYPE_CHECKING:
    from modnorm.sweep.findings import Findings


Values = str | Sequence[Size]
"""Values of an axis: numbers, or a text as on the command line, `2^-8..2^2`."""


def transfer_file(
    path: FilePath,
    model: str | None,
    params: Mapping[str, object],
    *,
    vary: Mapping[str, Values],
    lr: Values | Mapping[str, Values],
    optimizer: str | Sequence[str],
    place: Mapping[str, Any],
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    metric: Metric,
    tolerance: float,
    format: str,
    root: str | os.PathLike[str] | None = None,
) -> Transfer:
    """Sweep the model of a file; `modnorm.transfer` says how.

    Raises:
        ModnormError: with every mistake found in the file.
        DataError: if the sweep cannot be made as asked.
        ValueError: for an option with a value that it cannot have.
    """
    if format not in FORMATS:
        raise ValueError(f"the format of a sweep is one of {FORMATS}, not {format!r}")
    if metric not in METRICS:
        raise ValueError(f"the metric is one of {METRICS}, not {metric!r}")
    if not isinstance(tolerance, int | float) or not 0 < tolerance < float("inf"):
        raise ValueError(f"the tolerance must be positive, not {tolerance!r}")
    if not isinstance(vary, Mapping):
        raise ValueError(f"vary must be a dict by names, not {vary!r}")
    by_optimizer = lr if isinstance(lr, Mapping) else {"": lr}
    request = Request(
        file=TEXT if is_text(path) else os.fspath(path),
        vary={name: values(_text(given)) for name, given in vary.items()},
        rates=rates(
            [f"{name}={_text(given)}" for name, given in by_optimizer.items()],
            labels([optimizer] if isinstance(optimizer, str) else optimizer),
        ),
        settings=_sound(settings),
        metric=metric,
        **options,
    )
    counts = [("seeds", request.seeds, 1), ("extend", request.extend, 0)]
    counts += [("jobs", place["jobs"], 1)] if place["jobs"] is not None else []
    for name, value, least in counts:
        if not _counts(value, least):
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    from modnorm.sweep.run import Place, swept

    ready = prepared(
        request,
        lambda changed: analyse(path, model, {**params, **changed}, ANALYSIS, root),
        tell,
    )
    store = default_store(named(path)) if place["store"] is None else os.fspath(place["store"])
    where = Place(
        store,
        place["jobs"],
        ready.sweep.settings.threads,
        place["ray"],
        force=place.get("force", False),
    )
    sweep = swept(ready, where, place["progress"])
    from modnorm.sweep.analysis import found

    return Transfer(found(sweep, metric, tolerance), format)


def _text(given: Values) -> str:
    """Values as on the command line."""
    if isinstance(given, str):
        return given
    try:
        return ",".join(repr(value if isinstance(value, int) else float(value)) for value in given)
    except (TypeError, ValueError):
        raise BadAxis(f"{given!r} are neither numbers nor a text like '2^-8..2^2'") from None


def _counts(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _sound(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that are given, looked through."""
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.items():
        if name == "schedule":
            if value not in SCHEDULES:
                raise ValueError(f"the schedule is one of {SCHEDULES}, not {value!r}")
        elif not _counts(value):
            raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")
    return found


class Transfer:
    """What a sweep found; it shows itself when printed. `findings` has it as data.

    In a notebook it is the HTML page in a frame of its own, or what another `format` than text
    says.
    """

    def __init__(self, findings: Findings, format: str = "text") -> None:
        self.findings = findings
        self.format = format

    @property
    def json(self) -> dict[str, Any]:
        """The findings as a dict with the keys of the JSON that `modnorm transfer` writes."""
        import json

        from modnorm.sweep.saved import dumps

        found: dict[str, Any] = json.loads(dumps(self.findings))
        return found

    def plot(self, format: str = "png") -> bytes:
        """The curves as a picture: a "png", "svg" or "pdf".

        Raises:
            CheckError: if matplotlib is not installed.
        """
        from modnorm.sweep.plot import picture

        return picture(self.findings, format)

    def __str__(self) -> str:
        return rendered(self.findings, self.format, (80, False)).rstrip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str | None:
        """For a notebook: the page in a frame, unless another format was asked for."""
        if self.format not in ("text", "html"):
            return None
        from modnorm.report.html import frame

        return frame(rendered(self.findings, "html", (80, False)))

    def _repr_markdown_(self) -> str | None:
        """For a notebook, and for what shows one without frames."""
        if self.format not in ("text", "html", "markdown"):
            return None
        return rendered(self.findings, "markdown", (80, False))


def rendered(findings: Findings, form: str, look: tuple[int, bool]) -> str:
    """The findings in one of FORMATS."""
    if form == "json":
        from modnorm.sweep.saved import dumps

        return dumps(findings)
    if form == "html":
        from modnorm.sweep.page import render as page

        return page(findings)
    from modnorm.sweep.tables import document

    if form == "markdown":
        from modnorm.report.markdown import render as markdown

        return markdown(document(findings))
    from modnorm.report.terminal import render

    width, color = look
    return render(document(findings, verdicts_first=False), width=width, color=color)
