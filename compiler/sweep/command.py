"""What `modnorm transfer` does between its options and its output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modnorm.console import tell
from modnorm.report.diagnostics import clean
from modnorm.sweep.interface import Transfer, rendered
from modnorm.sweep.options import TransferOptions
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Sweep
from modnorm.sweep.request import Prepared, Variation, prepared
from modnorm.sweep.run import Place, counted, finished, swept, there

if TYPE_CHECKING:
    from modnorm.sweep.findings import Findings


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
    """The text to write, and the picture if one was asked for; `picture` is its format.

    Raises:
        ModnormError: with every mistake found in the file.
        DataError: if the sweep cannot be made as asked.
    """
    if picture is not None:
        from modnorm.measure.plot import require_matplotlib

        require_matplotlib()
    if options.finished is not None:
        return _shown(_read(options.finished, options), form, picture, look)
    assert file is not None
    ready = prepared(file, options, rates, variation)
    place = Place(options.store, options.jobs, options.threads, options.ray, force=options.force)
    if options.dry_run:
        from modnorm.sweep.forecast import forecast

        known = finished(ready, place.store)
        total, done = counted(ready, known)
        there_by_now = f"{total} runs, {done} of them in {clean(place.store)}\n"
        return there_by_now + forecast(ready, known, place.size), b""
    from modnorm.sweep.analysis import found

    sweep = there(ready, place.store) if options.partial else _made(ready, place, show)
    return _shown(found(sweep, options.metric, options.tolerance), form, picture, look)


def _made(ready: Prepared, place: Place, show: bool) -> Sweep:
    """The sweep when all is run; what is there by then is said where it is stopped."""
    try:
        return swept(ready, place, show)
    except (KeyboardInterrupt, SystemExit):
        total, done = counted(ready, finished(ready, place.store))
        tell(f"stopped: {done} of {total} runs are in {place.store}, and the same command goes on")
        raise


def _read(path: str, options: TransferOptions) -> Findings:
    """The findings of a finished sweep.

    Raises:
        SweepError: if the file has none.
    """
    from modnorm.sweep.analysis import found
    from modnorm.sweep.saved import loads

    try:
        sweep = loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"`{path}` cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise SweepError(f"`{path}` is no finished sweep: {error}") from None
    return found(sweep, options.metric, options.tolerance)


def _shown(
    findings: Findings, form: str, picture: str | None, look: tuple[int, bool]
) -> tuple[str, bytes]:
    drawn = Transfer(findings).plot(picture) if picture is not None else b""
    return rendered(findings, form, look), drawn
