"""Checks from Python, and what they share with the command line."""

from __future__ import annotations

import importlib.util
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from modnorm.measure.problems import CheckError, NoTorch
from modnorm.passes.program import Program
from modnorm.pipeline import Analysis
from modnorm.report.interface import FilePath, analyse

if TYPE_CHECKING:
    from rich.console import RenderableType

    from modnorm.measure.options import Options
    from modnorm.report.checked import Findings

EFFORTS = (1, 2, 3)
PICTURES = ("png", "svg", "pdf")
"""What a coordinate check is drawn as."""


class Check:
    """What was measured of a model; it shows itself when printed.

    `findings` has it as data, and `violations` in words what breaks a certificate. In a notebook it
    is the page of the report with what was measured, in a frame of its own, unless another `format`
    than text was asked for.
    """

    def __init__(
        self,
        findings: Findings,
        format: Literal["text", "json"] = "text",
        analysis: Analysis | None = None,
    ) -> None:
        self.findings = findings
        self.format = format
        self.analysis = analysis

    @property
    def json(self) -> dict[str, Any]:
        """The findings as a dict with the keys of the JSON that `modnorm check` writes."""
        return self.findings.to_json()

    @property
    def violations(self) -> tuple[str, ...]:
        """What breaks a certificate."""
        return self.findings.violations

    def plot(self, format: str = "png") -> bytes:
        """The coordinate check as a picture: a "png", "svg" or "pdf".

        Raises:
            CheckError: if no param was varied, or matplotlib is not installed.
            ValueError: for another format.
        """
        from modnorm.measure.plot import picture

        if format not in PICTURES:
            raise ValueError(f"the format of a picture is one of {PICTURES}, not {format!r}")
        if self.findings.coordinates is None:
            raise CheckError("there is nothing to plot: give `vary` some values of a param")
        return picture(self.findings.coordinates, format)

    def __str__(self) -> str:
        if self.format == "json":
            from modnorm.report.checked import dumps

            return dumps(self.json).rstrip("\n")
        from modnorm.measure.document import document
        from modnorm.report.terminal import render

        return render(document(self.findings)).rstrip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str | None:
        """For a notebook: the report's page in a frame, with what was measured."""
        if self.format != "text" or self.analysis is None:
            return None
        from modnorm.report.checked import checked
        from modnorm.report.extras import Extras
        from modnorm.report.html import frame, page

        return frame(page(self.analysis, Extras(checked=checked(self.json))))

    def __rich__(self) -> RenderableType:
        from modnorm.measure.document import document
        from modnorm.report.terminal import view

        return view(document(self.findings))


def check_file(
    path: FilePath,
    importer: Callable[[Program], ModuleType],
    model: str | None,
    params: Mapping[str, object],
    options: Mapping[str, Any],
    format: Literal["text", "json"],
    root: FilePath | None = None,
) -> Check:
    """Measure the model of a file; `modnorm.check` says what of.

    Raises:
        ModnormError: with every mistake found in the file.
        CheckError: if the model cannot be measured as asked.
        ValueError: for an option with a value that it cannot have.
    """
    if format not in ("text", "json"):
        raise ValueError(f"the format of a check is 'text' or 'json', not {format!r}")

    def variation(changed: Mapping[str, object]) -> Analysis:
        return analyse(path, model, {**params, **changed}, root=root)

    analysis = variation({})
    with torch_at_hand():
        from modnorm.measure.check import check

        found = check(analysis, importer, variation, options_from(options))
        return Check(found, format, analysis)


def options_from(given: Mapping[str, Any]) -> Options:
    """Options with sound values.

    Raises:
        ValueError: for a value that an option cannot have.
    """
    from modnorm.measure.options import Options

    for name in ("sizes", "vary"):
        if not isinstance(given[name], Mapping):
            raise ValueError(f"{name} must be a dict by names, not {given[name]!r}")
    options = Options(**given)
    if options.effort not in EFFORTS:
        raise ValueError(f"effort must be one of {EFFORTS}, not {options.effort!r}")
    for name, least in (("seed", 0), ("steps", 1), ("seeds", 1)):
        value = getattr(options, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    if not isinstance(options.lr, int | float) or not 0 < options.lr < float("inf"):
        raise ValueError(f"lr must be positive and finite, not {options.lr!r}")
    for name, size in options.sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"the size {name} must be an integer of at least 1, not {size!r}")
    for name, values in given["vary"].items():
        several = isinstance(values, Sequence) and not isinstance(values, str)
        if several and not all(
            isinstance(v, numbers.Real) and 0 < float(v) < math.inf for v in values
        ):
            raise ValueError(f"{name} needs positive numbers, not {values!r}")
        if not several or not len(set(values)) == len(values) >= 2:
            raise ValueError(f"{name} needs two different values or more, not {values!r}")
    return options


@contextmanager
def torch_at_hand() -> Iterator[None]:
    """Say what to install where torch is missing.

    Raises:
        NoTorch: where it is.
    """
    try:
        if importlib.util.find_spec("torch") is None:
            raise NoTorch
        yield
    except NoTorch:
        raise
    except ImportError as error:
        if (error.name or "torch").partition(".")[0] == "torch":
            raise NoTorch from error
        raise
