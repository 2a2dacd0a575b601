"""Analyses and reports from Python, with mistakes shown as on the command line."""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from modnorm import diagnostics as findings
from modnorm import pipeline
from modnorm.diagnostics import Diagnostic
from modnorm.kernels.weight import Weight
from modnorm.options import ModelOptions, given
from modnorm.passes.program import Pass, Program
from modnorm.pipeline import Analysis
from modnorm.report import as_json, formats, planned
from modnorm.report import explain as explain_
from modnorm.report.diagnostics import render
from modnorm.report.extras import NOTHING, Extras
from modnorm.report.options import Format, ReportOptions
from modnorm.report.planned import Planned, PlanReport
from modnorm.report.unusable import Unusable
from modnorm.report.words import constant

if TYPE_CHECKING:
    from os import PathLike

    from rich.console import RenderableType

FilePath: TypeAlias = "str | PathLike[str]"
"""A file's path, or, as a str that `is_text`, the program itself."""
TEXT = "<text>"
"""The name of a program that is in no file."""
STATEMENT = re.compile(r"\b(?:input\s+\w+\s*:|model\s+\w+\s*=)")


def is_text(given: FilePath) -> bool:
    """Whether this is a program itself, and no path of one.

    It is if it is a str with a line end in it, or one with an `input` or a `model` that is no
    file's path. A Path is always a path.
    """
    if not isinstance(given, str):
        return False
    return "\n" in given or (STATEMENT.search(given) is not None and not os.path.exists(given))


def named(given: FilePath) -> str:
    """The path of a file; of a program that is in none, what files made of it are named after."""
    return "text.mod" if is_text(given) else os.fspath(given)


class ModnormError(findings.ModnormError):
    """A file, or a param, has mistakes. Its text shows each with its place and how to mend it.

    `diagnostics` has them as data.
    """

    def __str__(self) -> str:
        return render(self.diagnostics).rstrip("\n")


class Report:
    """Masses, sensitivities and targets of a model; it shows itself when printed.

    In a notebook it is the HTML page in a frame of its own, or what another `format` than text
    says. `extras` are what is shown beside the model.
    """

    def __init__(
        self, analysis: Analysis, format: Format = "text", extras: Extras = NOTHING
    ) -> None:
        self.analysis = analysis
        self.format = format
        self.extras = extras

    @property
    def json(self) -> dict[str, Any]:
        """The report as a dict with the keys of the JSON report, or of a comparison's."""
        if self.extras.against is not None:
            return formats.compared(self.analysis, self.extras.against)
        return as_json.report(self.analysis)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """The warnings."""
        return self.analysis.diagnostics

    def __str__(self) -> str:
        return formats.render(self.analysis, self.format, self.extras).rstrip("\n")

    def __repr__(self) -> str:
        if self.format == "html":
            return f"<the report on {self.analysis.program.name} as HTML>"
        return str(self)

    def __rich__(self) -> RenderableType:
        if self.format != "text":
            from rich.text import Text

            return Text(str(self))
        from modnorm.report.terminal import view

        return view(formats.document(self.analysis, self.extras))

    def _repr_html_(self) -> str | None:
        """For a notebook: the page in a frame, unless another format was asked for."""
        if self.format not in ("text", "html"):
            return None
        from modnorm.report.html import frame, page

        return frame(page(self.analysis, self.extras))

    def _repr_markdown_(self) -> str | None:
        """For a notebook, and for what shows one without frames."""
        if self.format not in ("text", "html", "markdown"):
            return None
        return formats.render(self.analysis, "markdown", self.extras)


class Explained:
    """How the target of a weight comes about; it shows itself when printed, and in a notebook.

    `weights` has the names of the weights that were meant: several are listed, and one, or copies
    with the same target, explained.
    """

    def __init__(self, of: Program | Planned, pattern: str) -> None:
        if isinstance(of, Planned):
            text, found = planned.explanation(of, pattern), planned.meant(of, pattern)
            self.weights = tuple(w.name for w in found)
        else:
            text = explain_.explanation(of, pattern)
            self.weights = tuple(record.name for record in explain_.find(of, pattern))
        self.text = text.rstrip("\n")

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text)}</pre>"


def of_plan(path: tuple[Weight, ...], keywords: Mapping[str, object]) -> Planned:
    """What stands in a plan that is given in the place of a file's path.

    Raises:
        ValueError: if one of these keywords, which it has no use for, was given.
    """
    for name, value in keywords.items():
        if value is not None:
            raise ValueError(f"{name} is for a `.mod` file, and this is a plan: leave it out")
    return Planned(getattr(path, "model", "model"), path)


def explain(
    path: FilePath | tuple[Weight, ...], pattern: str, /, *, model: str | None = None,
    **params: object,
) -> Explained:  # fmt: skip
    """How the target of one weight of a `.mod` file, or of a plan, comes about, factor by factor.

    `path`, `model` and `params` are those of `compile`; a plan, such as `modnorm.adopt(…).plan`,
    needs neither of the others. `pattern` is a weight's name, with or
    without `.weight`, a part of it from dot to dot, or a pattern with `*`. Where it means several
    weights, they are listed with their targets.

    Raises:
        ModnormError: with every mistake found in the file, or if there is no such weight.
    """
    with _rendered():
        if isinstance(path, tuple):
            return Explained(of_plan(path, {"model": model, **params}), pattern)
        return Explained(analyse(path, given(ModelOptions, locals())).program, pattern)


@overload
def report(path: tuple[Weight, ...], /, *, format: Format = "text") -> PlanReport: ...


@overload
def report(
    path: FilePath, /, *, model: str | None = None, format: Format = "text",
    against: FilePath | Report | None = None, against_params: Mapping[str, object] | None = None,
    against_model: str | None = None, loss: str | None = None, check: FilePath | None = None,
    monitor: FilePath | None = None, root: FilePath | None = None, **params: object,
) -> Report: ...  # fmt: skip


def report(
    path: FilePath | tuple[Weight, ...],
    /,
    *,
    model: str | None = None,
    format: Format = "text",
    against: FilePath | Report | None = None,
    against_params: Mapping[str, object] | None = None,
    against_model: str | None = None,
    loss: str | None = None,
    check: FilePath | None = None,
    monitor: FilePath | None = None,
    root: FilePath | None = None,
    **params: object,
) -> Report | PlanReport:
    """The report on a `.mod` file, or on a plan; printing it shows it in `format`.

    `path`, `model`, `root` and `params` are those of `compile`. A plan, such as
    `modnorm.adopt(…).plan`, is shown as "text", "json", "markdown" or "html", and takes none of
    the others.

    format: what the report prints as: "text", "json", "markdown", "html" or "dot".
    against: another file or text, or a report on it: what is shown then is what changes from `path`
        to that, with `against_params` its params and `against_model` its model (by default that of
        `model`).
    loss: "mse" or "cross_entropy", to be told how smooth that loss of the output is.
    check: the file that `modnorm check --format json` wrote; the format html shows it.
    monitor: the file that a run's monitor wrote; the format html shows it.

    Raises:
        ModnormError: with every mistake found in the files.
        ValueError: for another format or loss, a format that cannot show what is asked for, or a
            file named by `check` or `monitor` that has something else in it; for a plan, if it is
            given what is for a file.
    """
    options = given(ReportOptions, locals())
    if isinstance(path, tuple):
        beside_it = {"model": model, "against": against, "against_params": against_params,
                     "against_model": against_model, "loss": loss, "check": check,
                     "monitor": monitor, "root": root, **params}  # fmt: skip
        return PlanReport(of_plan(path, beside_it), format)
    if against is None and (against_params or against_model):
        raise ValueError("against_params and against_model need against")
    if isinstance(against, Report) and (against_params or against_model):
        raise ValueError("against_params and against_model are for a file, and against is a report")
    passes = pipeline.reported(loss)
    analysis, other = analyse(path, options, passes), None
    if isinstance(against, Report):
        other = against.analysis
    elif against is not None:
        other = analyse(against, options.of_other, passes)
    beside = formats.extras(
        format, against=other, check=check, monitor=monitor, program=analysis.program
    )
    return Report(analysis, format, beside)


def analyse_text(
    text: str,
    name: str = "<text>",
    params: Mapping[str, object] | None = None,
    model: str | None = None,
    root: FilePath | None = None,
) -> Analysis:
    """The analysis of a program given as text: its module tree with everything found out about it.

    Imports of files are relative to the working directory; with `root`, they are confined to it.

    Raises:
        ModnormError: with every mistake found in it.
    """
    with _rendered():
        where = None if root is None else Path(root)
        return pipeline.analyse_text(text, name, _values(params or {}), model, root=where)


def analyse(
    path: FilePath, options: ModelOptions, passes: tuple[Pass, ...] = pipeline.CERTIFIED
) -> Analysis:
    """The analysis of a file or a text, with params as Python values.

    Raises:
        ModnormError: with every mistake found in the file.
    """
    params, model = _values(options.params), options.model
    if not is_text(path) and formats.is_plan(path):
        raise Unusable(f"`{path}` is a plan and no program: give what modnorm.load_plan reads")
    with _rendered():
        root = None if options.root is None else Path(options.root)
        if is_text(path):
            return pipeline.analyse_text(str(path), TEXT, params, model, passes=passes, root=root)
        return pipeline.analyse(Path(path), params, model, passes=passes, root=root)


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
        return constant(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)  # numpy has integers of its own
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return float(value)
    return value
