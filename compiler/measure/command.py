"""What `modnorm check` does between its options and its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from modnorm.measure.interface import Check, torch_at_hand
from modnorm.measure.options import CheckOptions
from modnorm.measure.progress import bar
from modnorm.passes.program import Program
from modnorm.pipeline import Analysis


def measured(
    variation: Callable[[Mapping[str, Any]], Analysis],
    options: CheckOptions,
    *,
    importer: Callable[[Program], ModuleType],
    form: str,
    plot: str | None,
    progress: bool,
    look: tuple[int, bool],
) -> tuple[str, bytes, tuple[str, ...]]:
    """The text to write, the picture if one was asked for, and what violates a certificate.

    `plot` is the picture's format; `look` the width of the text, and whether it may have colours.

    Raises:
        ModnormError: with every mistake found in the file.
        CheckError: if the model cannot be measured as asked.
    """
    analysis = variation({})
    with torch_at_hand():
        from modnorm.measure.check import check
        from modnorm.measure.document import document
        from modnorm.measure.plot import require_matplotlib
        from modnorm.report.checked import dumps
        from modnorm.report.terminal import render

        if plot is not None:
            require_matplotlib()
        with bar(progress) as tick:
            findings = check(analysis, importer, variation, options, tick)
        if form == "json":
            text = dumps(findings.to_json())
        else:
            text = render(document(findings), width=look[0], color=look[1])
        picture = Check(findings).plot(plot) if plot is not None else b""
        return text, picture, findings.violations
