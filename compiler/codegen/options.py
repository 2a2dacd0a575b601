"""Options of `modnorm compile`."""

from __future__ import annotations

from typing import Any

from modnorm.kernels.tiles import DEFAULT, DEVICES
from modnorm.options import FORCE, ModelOptions, option


class CompileOptions(ModelOptions):
    """What is compiled, and where to. Only the command line has `quiet` and `check`."""

    output: Any = option(
        None, "Where to write; - is standard output. By default FILE.py in the current folder.",
        flags=["-o", "--output"], metavar="OUT.py",
    )  # fmt: skip
    quiet: bool = option(False, "Do not say what was written.", flags=["-q", "--quiet"])
    check: bool = option(
        False, "Write nothing; exit with status 1 if OUT.py is not what would be written."
    )
    force: bool = FORCE
    device: str = option(
        DEFAULT, "The class of GPUs to choose kernels' tiles for; cpu leaves them out.",
        choices=["cpu", *DEVICES],
    )  # fmt: skip
    standalone: bool = option(False, "Write what the file needs of modnorm into it, too.")
