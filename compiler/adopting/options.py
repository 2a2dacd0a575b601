"""Options of `modnorm audit`."""

from __future__ import annotations

from typing import Any

from modnorm.options import FORCE, OUTPUT, Options, either, option

FORMATS = ("text", "json", "html")
WAYS = ("torch", "optax", "mup")
FUNCTION = "MODULE:FUNCTION"


class AuditOptions(Options):
    """What is looked at, and how it is shown."""

    optimizer: str | None = option(
        None, "A function that gets the model, and returns its optimizer or a list of them.",
        metavar=FUNCTION,
    )  # fmt: skip
    example: str | None = option(
        None, "A function that returns what the model is called with. [its dummy_inputs]",
        metavar=FUNCTION,
    )  # fmt: skip
    other: str | None = option(
        None, "A model of another width, with which updates are compared.", metavar=FUNCTION
    )
    fix: str | None = option(
        None, "Print what would be right: groups for torch's Muon and AdamW, dimension numbers for "
        "optax's Muon, or base shapes for mup.", choices=WAYS,
    )  # fmt: skip
    format: Any = option(
        "text", "By default what OUT's suffix stands for, else text.",
        choices=FORMATS, on_line=None, must=f"the format of an audit is {either(FORMATS)}",
    )  # fmt: skip
    output: Any = OUTPUT
    force: bool = FORCE
