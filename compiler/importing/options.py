"""The options of `modnorm import`."""

from __future__ import annotations

from typing import Any

from modnorm.adopting.options import FUNCTION
from modnorm.options import FORCE, OUTPUT, Options, option


class ImportOptions(Options):
    """What the model is called with, and where its text goes."""

    example: str | None = option(
        None, "A function that returns what the model is called with. [its dummy_inputs]",
        metavar=FUNCTION,
    )  # fmt: skip
    output: Any = OUTPUT
    force: bool = FORCE
