"""The formats of a report: their names, the suffixes that stand for them, and who writes each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from modnorm.report.extras import NOTHING, Extras
from modnorm.report.options import FORMATS
from modnorm.report.unusable import Unusable

if TYPE_CHECKING:
    from modnorm.passes.program import Program
    from modnorm.pipeline import Analysis
    from modnorm.report.blocks import Document

SUFFIXES = {
    ".txt": "text",
    ".json": "json",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".dot": "dot",
    ".gv": "dot",
}
WIDTH = 80


PLAN = re.compile(rb'\s*\{\s*"format"\s*:')
"""What a plan begins with that `modnorm.adopt(…).plan.save` wrote, and no program does."""


def is_plan(path: str | PathLike[str]) -> bool:
    """Whether a file is such a plan, or was to be one."""
    try:
        if not os.path.isfile(path):  # what is read of a pipe is gone
            return False
        with open(path, "rb") as file:
            return PLAN.match(file.read(64)) is not None
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


class BadEnding(ValueError):
    """The name of a file that says another format than is asked for, or none; a sentence."""


def chosen(output: str | None, form: str | None, forms: Iterable[str] = FORMATS) -> str:
    """The format of a file, one of `forms`: what is asked for, or what its name's ending says.

    It is text for what has no name, or a name without an ending.

    Raises:
        BadEnding: if the ending says none of these, or another than is asked for.
    """
    suffix = PurePath(output or "").suffix.lower()
    said = SUFFIXES.get(suffix)
    if form is not None:
        if said not in (None, form):
            raise BadEnding(
                f"'{output}' ends in {suffix}, which stands for {said}, but --format says {form}: "
                "change one of them."
            )
        return form
    if not suffix:
        return "text"
    if said is None or said not in forms:
        names = list(forms)
        endings = " ".join(ending for ending, name in SUFFIXES.items() if name in names)
        raise BadEnding(
            f"'{output}' ends in none of {endings}: change it, or say with --format "
            f"({', '.join(names)}) what to write there."
        )
    return said


def refusal(form: str, *, against: object, check: object, monitor: object) -> str:
    """Why a format cannot show what is asked for, or nothing."""
    if against is not None and form == "dot":
        return "the format dot shows one model, not the difference of two"
    for name, given in (("check", check), ("monitor", monitor)):
        if given is not None and form != "html":
            return f"what `{name}` names is shown by the format html, not by {form}"
    return ""


def extras(
    form: str,
    *,
    against: Analysis | None = None,
    check: str | PathLike[str] | None = None,
    monitor: str | PathLike[str] | None = None,
    program: Program | None = None,
) -> Extras:
    """What is shown beside a model, read from the files that these name.

    With `program` what was measured must be of a model of its name, and a monitor's record of its
    weights.

    Raises:
        Unusable: if the format cannot show it, or a file has something else in it.
    """
    if refused := refusal(form, against=against, check=check, monitor=monitor):
        raise Unusable(refused)
    checked, run = None, None
    if check is not None:
        from modnorm.report.checked import read_check

        checked = read_check(check)
        if program is not None and checked.model != program.name:
            raise Unusable(
                f"cannot use `{fspath(check)}` as measurements: they are of the model"
                f" `{checked.model}`, and the report is on `{program.name}`"
            )
    if monitor is not None:
        from modnorm.codegen.plan import records
        from modnorm.report.monitor import read_monitor

        names = None if program is None else [record.name for record in records(program)]
        run = read_monitor(monitor, names)
    return Extras(against, checked, run)


def render(
    analysis: Analysis,
    form: str,
    extras: Extras = NOTHING,
    *,
    width: int = WIDTH,
    color: bool = False,
) -> str:
    """A report, or a comparison, in a format; it ends in a newline.

    Raises:
        ValueError: if there is no such format.
    """
    if form not in FORMATS:
        raise ValueError(f"the format of a report is one of {', '.join(FORMATS)}, not {form!r}")
    if form == "html":
        from modnorm.report.html import page

        return page(analysis, extras)
    if form == "dot":
        from modnorm.report import dot

        return dot.render(analysis.program)
    if form == "json":
        from modnorm.report import as_json
        from modnorm.report.words import encode

        if extras.against is None:
            return as_json.dumps(as_json.report(analysis))
        return encode(compared(analysis, extras.against), indent=2) + "\n"
    if form == "markdown":
        from modnorm.report import markdown

        return markdown.render(document(analysis, extras))
    from modnorm.report import terminal

    return terminal.render(document(analysis, extras), width=width, color=color)


def document(analysis: Analysis, extras: Extras = NOTHING) -> Document:
    """The report, or the comparison, as a document."""
    from modnorm.report import against
    from modnorm.report import document as whole

    if extras.against is None:
        return whole.document(analysis)
    return against.document(compared(analysis, extras.against))


def compared(one: Analysis, other: Analysis) -> dict[str, Any]:
    """The differences of two models as objects that `json` can write."""
    from modnorm.report.against import compare
    from modnorm.report.model import described

    return compare(described(one.program), described(other.program))
