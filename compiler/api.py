"""What `import modnorm` offers: compile, load and report on `.mod` files from Python.

Names of params may be those of the functions' own arguments; such a param can be set on the command
line only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import ModuleType
from typing import Literal

from modnorm.codegen.assemble import generate
from modnorm.codegen.imports import import_source
from modnorm.codegen.options import CompileOptions
from modnorm.data.fetch import DataError
from modnorm.kernels import tiles
from modnorm.measure.interface import Check, check
from modnorm.measure.problems import CheckError
from modnorm.options import ModelOptions, given
from modnorm.pipeline import ANALYSIS
from modnorm.report.interface import (
    Explained,
    FilePath,
    ModnormError,
    Report,
    analyse,
    analyse_text,
    explain,
    is_text,
    named,
    report,
)
from modnorm.report.monitor import MonitorError, read_monitor
from modnorm.report.output import IMPORTED, write
from modnorm.sweep import RATES, Metric
from modnorm.sweep.interface import Transfer, Values, transfer_file
from modnorm.sweep.options import TransferOptions

__all__ = [
    "Check",
    "CheckError",
    "DataError",
    "Explained",
    "ModnormError",
    "MonitorError",
    "Report",
    "Transfer",
    "analyse_text",
    "check",
    "compile",
    "explain",
    "load",
    "read_monitor",
    "report",
    "transfer",
]


def compile(
    path: FilePath,
    /,
    *,
    model: str | None = None,
    output: FilePath | None = None,
    device: str = tiles.DEFAULT,
    standalone: bool = False,
    force: bool = False,
    root: FilePath | None = None,
    **params: object,
) -> str:
    """The source of the Python file that a `.mod` file compiles to; written to `output` if given.

    path: of the file; or the program itself, as a str with a line end in it, or one with an `input`
        or a `model` that is no file's path (a Path is always a path). Mistakes in a text are shown
        in `<text>`, and its imports are found from the working directory. So it is for every
        function here.
    model: its name, where the file has several.
    params: values of the file's params: numbers, bools or strings.
    device: the class of GPUs to choose kernels' tiles for, "sm_80", "sm_90" (the default),
        "sm_100" or "gfx942", or "cpu" to leave them out.
    standalone: write all of the runtime that it needs into it; else it imports modnorm.kernels.
    force: replace a file that modnorm did not make, or that was changed since.
    root: only files in that folder are imported, wherever links lead: for those who compile others'
        files.

    Raises:
        ValueError: if there is no such class of devices.
        ModnormError: with every mistake found in the file; nothing is written then.
        OSError: if `output` cannot be written, or has something else in it; nothing has changed
            then.
    """
    analysis = analyse(path, given(CompileOptions, locals()), ANALYSIS)
    source = generate(analysis.program, device, standalone=standalone)
    if output is not None:
        read = {"": None if is_text(path) else path, IMPORTED: analysis.sources}
        write(output, source, source=read, force=force)
    return source


def load(
    path: FilePath,
    /,
    *,
    model: str | None = None,
    root: FilePath | None = None,
    **params: object,
) -> ModuleType:
    """Compile a `.mod` file in memory and import the result.

    `path`, `model`, `root` and `params` are those of `compile`. The module has the model's class,
    `PLAN` and the optimizers. It stands in `sys.modules` under a name made from its source, so that
    its objects can be pickled, and the same file with the same params gives the same module.

    Raises:
        ModnormError: with every mistake found in the file.
        ImportError: if torch is not installed.
    """
    program = analyse(path, given(ModelOptions, locals()), ANALYSIS).program
    return import_source(generate(program), PurePath(named(path)).stem)


def transfer(
    path: FilePath,
    /,
    *,
    vary: Mapping[str, Values],
    lr: Values | Mapping[str, Values] = RATES,
    optimizer: str | Sequence[str] = "normed_adam",
    data: str | None = None,
    star: bool = False,
    extend: int = 2,
    seeds: int = 1,
    steps: int = 300,
    batch: int = 8,
    context: int | None = None,
    schedule: str = "linear",
    eval_batches: int = 50,
    threads: int = 1,
    jobs: int | None = None,
    ray: str | None = None,
    store: FilePath | None = None,
    force: bool = False,
    progress: bool = False,
    metric: Metric = "train",
    tolerance: float = 0.1,
    format: Literal["text", "json", "markdown", "html"] = "text",
    model: str | None = None,
    root: FilePath | None = None,
    **params: object,
) -> Transfer:
    """Find the best learning rate of a `.mod` file's model at several sizes, and how it drifts.

    `path`, `model`, `root` and `params` are those of `compile`. Values are numbers, or a text as on
    the command line: "32,64", "2^-8..2^2". Finished runs are kept: the same call goes on where
    another one was stopped.

    vary: the values of each param that is varied, in all combinations or, with `star`, one param at
        a time; `mass` stands for the mass of what is between the first and the last part, if the
        file has no such param.
    lr: learning rates, or a dict of them by optimizer, where one that is left out has 2^-8..2^2.
        Where the best of a curve is at an end, it goes on up to `extend` times.
    optimizer: normed_adam, normed_sgd, dualized_sgd, adam (AdamW), sgd or muon, in any spelling,
        with options behind colons: "muon:ratio=0.1"; or "module:function" of your own.
    data: a data set, a file or a function as "module:function"; by default one that fits the input.
    steps: of each run, on batches of `batch` examples; of a text, `context` characters each.
    schedule: how the rate falls over the steps: "linear" (to 0), "cosine" or "constant".
    eval_batches: size of the held-out set, in batches.
    seeds: runs at each rate, with other weights and batches.
    jobs: runs at once, each in a process of its own of so many `threads`; by default one a core.
    ray: the address of a cluster to run on instead, or "" for one started here.
    store: the file of finished runs; by default FILE.transfer.db in the working directory, and
        text.transfer.db for a program as text.
    force: let a file that is no such store give its place to one, once the first steps have shown
        that the sweep can be run; never a file that it reads.
    metric: the loss that the verdicts are of, "train" or "held_out", in nats.
    tolerance: the drift per doubling, in powers of two, that still counts as transfer.
    progress: show a bar on stderr.
    format: what the result prints as.

    Raises:
        ModnormError: with every mistake found in the file.
        DataError: if the data does not fit, a run fails, or runs cannot be kept.
        CheckError: if torch is not installed.
        ValueError: for an option with a value that it cannot have.
    """
    options = given(TransferOptions, {**locals(), "quiet": not progress})
    return transfer_file(path, options)
