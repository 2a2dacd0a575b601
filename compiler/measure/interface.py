"""`modnorm check` and `modnorm.check`, up to what is printed."""

from __future__ import annotations

import importlib.util
import math
import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from modnorm.console import bar
from modnorm.measure.options import CheckOptions
from modnorm.measure.problems import CheckError, NoTorch
from modnorm.options import given, is_count
from modnorm.pipeline import Analysis
from modnorm.report.interface import FilePath, analyse

if TYPE_CHECKING:
    from rich.console import RenderableType

    from modnorm.report.checked import Findings

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
        return rendered(self.findings, self.format).rstrip("\n")

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


def rendered(findings: Findings, form: str, width: int = 80, color: bool = False) -> str:
    """The findings in a format, "text" or "json"; ends in a newline."""
    if form == "json":
        from modnorm.report.checked import dumps

        return dumps(findings.to_json())
    from modnorm.measure.document import document
    from modnorm.report.terminal import render

    return render(document(findings), width=width, color=color)


def check(
    path: FilePath,
    /,
    *,
    model: str | None = None,
    data: FilePath | None = None,
    checkpoint: FilePath | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    effort: int = 1,
    every: bool = False,
    vary: Mapping[str, Sequence[int | float]] | None = None,
    steps: int = 5,
    lr: float = 0.125,
    seeds: int = 2,
    format: Literal["text", "json"] = "text",
    root: FilePath | None = None,
    **params: object,
) -> Check:
    """Build the model of a `.mod` file and measure it against what is declared and certified.

    `path`, `model`, `root` and `params` are those of `compile`.

    data: a file to run it on: a text in UTF-8, of which the model gets characters as numbers, or an
        .npz with an array an input, by its name or in order; by default a random batch.
    checkpoint: a file with weights, a state dict of the compiled model; by default fresh ones.
    sizes: numbers for free sizes of the inputs, by name; else batch = 4, seq = 16, others 8.
    seed: of weights, batches and searches.
    effort: from 1 to 3, how long to search for what is stretched most.
    every: measure all copies of repetitions.
    vary: two values or more of each param of a coordinate check, which trains the model at each of
        them for `steps` steps at the learning rate `lr` (without unit: the modular norm of a step),
        with so many `seeds`.
    format: what the result prints as.

    Raises:
        ModnormError: with every mistake found in the file.
        CheckError: if the data, the checkpoint or a size does not fit, or torch is not installed.
        ValueError: for an option with a value that it cannot have.
    """
    options = given(CheckOptions, locals())
    _expect_sound(options)
    files = {"data": data and os.fspath(data), "checkpoint": checkpoint and os.fspath(checkpoint)}
    options = options.but(**files)
    return measured(lambda changed: analyse(path, options.varied(changed)), options)


def measured(
    variation: Callable[[Mapping[str, Any]], Analysis],
    options: CheckOptions,
    progress: bool = False,
) -> Check:
    """Measure a model. `variation` analyses it with some params changed, `progress` shows a bar.

    Raises:
        ModnormError: with every mistake found in the file.
        CheckError: if the model cannot be measured as asked.
    """
    analysis = variation({})
    with torch_at_hand():
        from modnorm.measure import check
        from modnorm.measure.plot import require_matplotlib

        if options.plot is not None:
            require_matplotlib()
        with bar(progress) as tick:
            findings = check.check(analysis, variation, options, tick)
        return Check(findings, options.format, analysis)


def _expect_sound(options: CheckOptions) -> None:
    for name, size in options.sizes.items():
        if not is_count(size):
            raise ValueError(f"the size {name} must be an integer of at least 1, not {size!r}")
    for name, values in options.vary.items():
        several = isinstance(values, Sequence) and not isinstance(values, str)
        if several and not all(
            isinstance(v, numbers.Real) and 0 < float(v) < math.inf for v in values
        ):
            raise ValueError(f"{name} needs positive numbers, not {values!r}")
        if not several or not len(set(values)) == len(values) >= 2:
            raise ValueError(f"{name} needs two different values or more, not {values!r}")


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
