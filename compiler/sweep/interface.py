"""Sweeps from Python and from the command line, and how their findings are shown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modnorm.console import tell
from modnorm.pipeline import ANALYSIS
from modnorm.report.diagnostics import clean
from modnorm.report.interface import TEXT, FilePath, analyse, is_text, named
from modnorm.sweep import default_store
from modnorm.sweep.axes import BadAxis, labels, rates, values
from modnorm.sweep.options import TransferOptions
from modnorm.sweep.plan import Plan, Variation, planned
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Size, Sweep

if TYPE_CHECKING:
    from modnorm.sweep.findings import Findings
    from modnorm.sweep.run import Place


Values = str | Sequence[Size]
"""Values of an axis: numbers, or a text as on the command line, `2^-8..2^2`."""


def transfer_file(path: FilePath, options: TransferOptions) -> Transfer:
    """Sweep the model of a file; `modnorm.transfer` says how.

    Raises:
        ModnormError: with every mistake found in the file.
        DataError: if the sweep cannot be made as asked.
        ValueError: for values that cannot be read.
    """
    vary = {name: values(_text(given)) for name, given in options.vary.items()}
    given = options.lr if isinstance(options.lr, Mapping) else {"": options.lr}
    optimizer = options.optimizer
    grid = rates(
        [f"{name}={_text(values)}" for name, values in given.items()],
        labels([optimizer] if isinstance(optimizer, str) else optimizer),
    )
    store = default_store(named(path)) if options.store is None else os.fspath(options.store)
    plan = planned(
        TEXT if is_text(path) else os.fspath(path),
        options.but(vary=vary),
        grid,
        lambda changed: analyse(path, options.varied(changed), ANALYSIS),
    )
    from modnorm.sweep.run import swept

    return _transfer(swept(plan, _place(options, store), not options.quiet), options)


def transferred(
    file: str | None,
    options: TransferOptions,
    rates: Mapping[str, tuple[float, ...]],
    *,
    variation: Variation,
    form: str,
    picture: str | None,
    show: bool,
    look: tuple[int, bool],
) -> tuple[str, bytes]:
    """The text of `modnorm transfer`, and the picture; `picture` is the format of one asked for.

    Raises:
        ModnormError: with every mistake found in the file.
        DataError: if the sweep cannot be made as asked.
    """
    if picture is not None:
        from modnorm.measure.plot import require_matplotlib

        require_matplotlib()
    if options.finished is not None:
        sweep = _read(options.finished)
    else:
        from modnorm.sweep.run import counted, finished, forecast

        assert file is not None
        plan, place = planned(file, options, rates, variation), _place(options, options.store)
        if options.dry_run:
            known = finished(plan, place.store)
            total, done = counted(plan, known)
            there = f"{total} runs, {done} of them in {clean(place.store)}\n"
            return there + forecast(plan, known, place.size), b""
        if options.partial:
            sweep = plan.result(finished(plan, place.store))
        else:
            sweep = _made(plan, place, show)
    found = _transfer(sweep, options)
    drawn = found.plot(picture) if picture is not None else b""
    return rendered(found.findings, form, look), drawn


def _place(options: TransferOptions, store: str) -> Place:
    from modnorm.sweep.run import Place

    return Place(store, options.jobs, options.threads, options.ray, force=options.force)


def _transfer(sweep: Sweep, options: TransferOptions) -> Transfer:
    from modnorm.sweep.analysis import found

    return Transfer(found(sweep, options.metric, options.tolerance), options.format)


def _made(plan: Plan, place: Place, show: bool) -> Sweep:
    """The sweep when all is run; what is there by then is said where it is stopped."""
    from modnorm.sweep.run import counted, finished, swept

    try:
        return swept(plan, place, show)
    except (KeyboardInterrupt, SystemExit):
        total, done = counted(plan, finished(plan, place.store))
        tell(f"stopped: {done} of {total} runs are in {place.store}, and the same command goes on")
        raise


def _read(path: str) -> Sweep:
    """A finished sweep.

    Raises:
        SweepError: if the file has none.
    """
    from modnorm.sweep.saved import loads

    try:
        return loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"`{path}` cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise SweepError(f"`{path}` is no finished sweep: {error}") from None


def _text(given: Values) -> str:
    """Values as on the command line."""
    if isinstance(given, str):
        return given
    try:
        return ",".join(repr(value if isinstance(value, int) else float(value)) for value in given)
    except (TypeError, ValueError):
        raise BadAxis(f"{given!r} are neither numbers nor a text like '2^-8..2^2'") from None


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
        from modnorm.sweep.saved import to_json

        return to_json(self.findings)

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
