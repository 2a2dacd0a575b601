"""Options of `modnorm report`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from modnorm.options import FORCE, OUTPUT, ModelOptions, Options, either, option, settings

Format: TypeAlias = Literal["text", "json", "markdown", "html", "dot"]
FORMATS = get_args(Format)
LOSSES = ("mse", "cross_entropy")
"""The names of `ops.losses.LOSSES`, without importing any operation."""


class Beside(Options):
    """What is shown beside the model."""

    against: Any = option(
        None, "Show what changes from FILE.mod to this file.", metavar="OTHER.mod"
    )
    against_params: Mapping[str, Any] | None = option(
        None, "Set a param of OTHER.mod; may be repeated.",
        flags=["--against-p"], metavar="NAME=VALUE", many=True, reads=settings,
    )  # fmt: skip
    against_model: str | None = option(
        None, "Which of OTHER.mod's models; by default --model's.", metavar="NAME"
    )
    loss: str | None = option(
        None, "Say how smooth this loss of the output is.",
        choices=LOSSES, must=f"the loss is {either(LOSSES)}",
    )  # fmt: skip
    check: Any = option(None, "Show what `modnorm check` measured (html).", metavar="JSON")
    monitor: Any = option(None, "Show what a run's monitor recorded (html).", metavar="JSONL")


class ReportOptions(ModelOptions, Beside):
    """What is reported on, and how. Only the command line has `output` and `force`."""

    format: Any = option(
        "text", "By default what OUT's suffix stands for (.txt .json .md .html .dot), else text.",
        choices=FORMATS, on_line=None, must=f"the format of a report is {either(FORMATS)}",
    )  # fmt: skip
    output: Any = OUTPUT
    force: bool = FORCE

    @property
    def of_other(self) -> ReportOptions:
        """The options of the model that is compared with."""
        return self.but(params=self.against_params or {}, model=self.against_model or self.model)
