"""Analyses and reports from Python, with mistakes shown as on the command line."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from modnorm import diagnostics as findings
from modnorm import pipeline
from modnorm.diagnostics import Diagnostic
from modnorm.pipeline import Analysis
from modnorm.report import as_json
from modnorm.report.diagnostics import render

if TYPE_CHECKING:
    from os import PathLike

    from rich.console import RenderableType

FilePath: TypeAlias = "str | PathLike[str]"


class ModnormError(findings.ModnormError):
    """A file, or a param, has mistakes. Its text shows each with its place and how to mend it.

    `diagnostics` has them as data.
    """

    def __str__(self) -> str:
        return render(self.diagnostics).rstrip("\n")


class Report:
    """Masses, sensitivities and targets of a model; it shows itself when printed."""

    def __init__(self, analysis: Analysis, format: Literal["text", "json"] = "text") -> None:
        self.analysis = analysis
        self.format = format

    @property
    def json(self) -> dict[str, Any]:
        """The report as a dict with the keys of the JSON report."""
        return as_json.report(self.analysis)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """The warnings."""
        return self.analysis.diagnostics

    def __str__(self) -> str:
        if self.format == "json":
            return as_json.dumps(self.json).rstrip("\n")
        from modnorm.report.text import render as as_text

        return as_text(self.analysis).rstrip("\n")

    __repr__ = __str__

    def __rich__(self) -> RenderableType:
        from modnorm.report.text import report as as_text

        return as_text(self.analysis)


def report(
    path: FilePath,
    /,
    *,
    model: str | None = None,
    format: Literal["text", "json"] = "text",
    **params: object,
) -> Report:
    """The report on a `.mod` file; printing it shows it in `format`.

    Raises:
        ModnormError: with every mistake found in the file.
        ValueError: for another format.
    """
    if format not in ("text", "json"):
        raise ValueError(f"the format of a report is 'text' or 'json', not {format!r}")
    return Report(analyse(path, model, params), format)


def analyse_text(
    text: str,
    name: str = "<text>",
    params: Mapping[str, object] | None = None,
    model: str | None = None,
) -> Analysis:
    """The analysis of a program given as text: its module tree with everything found out about it.

    Imports of files are relative to the working directory.

    Raises:
        ModnormError: with every mistake found in it.
    """
    with _rendered():
        return pipeline.analyse_text(text, name, _values(params or {}), model)


def analyse(path: FilePath, model: str | None, params: Mapping[str, object]) -> Analysis:
    """The analysis of a file, with params as Python values.

    Raises:
        ModnormError: with every mistake found in the file.
    """
    with _rendered():
        return pipeline.analyse(Path(path), _values(params), model)


@contextmanager
def _rendered() -> Iterator[None]:
    try:
        yield
    except findings.ModnormError as error:
        raise ModnormError(error.diagnostics) from None


def _values(params: Mapping[str, object]) -> dict[str, object]:
    """Params as the compiler takes them: a string is one, not an expression of the language."""
    return {name: _value(value) for name, value in params.items()}


def _value(value: object) -> object:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)  # numpy has integers of its own
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return float(value)
    return value
