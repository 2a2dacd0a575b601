"""What `import modnorm` offers: compile, load and report on `.mod` files from Python.

Names of params may be those of the functions' own arguments; such a param can be set on the command
line only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import fspath
from pathlib import Path
from types import ModuleType
from typing import Literal

from modnorm.codegen.assemble import generate
from modnorm.codegen.imports import import_source
from modnorm.data.fetch import DataError
from modnorm.kernels import tiles
from modnorm.measure.interface import Check, check_file
from modnorm.measure.problems import CheckError
from modnorm.passes.program import Program
from modnorm.pipeline import ANALYSIS
from modnorm.report.interface import (
    FilePath,
    ModnormError,
    Report,
    analyse,
    analyse_text,
    report,
)
from modnorm.report.monitor import MonitorError, read_monitor
from modnorm.report.output import write
from modnorm.sweep import RATES
from modnorm.sweep.interface import Transfer, Values, transfer_file
from modnorm.sweep.records import Metric

__all__ = [
    "Check",
    "CheckError",
    "DataError",
    "ModnormError",
    "MonitorError",
    "Report",
    "Transfer",
    "analyse_text",
    "check",
    "compile",
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
    force: bool = False,
    **params: object,
) -> str:
    """The source of the Python file that a `.mod` file compiles to; written to `output` if given.

    `params` are values of the file's params: numbers, bools or strings. `device` is the class of
    GPUs to choose kernels' tiles for, or "cpu" to leave the kernels out. A file that modnorm did
    not make, or that was changed since, is only replaced with `force`.

    Raises:
        ValueError: if there is no such class of devices.
        ModnormError: with every mistake found in the file; nothing is written then.
        OSError: if `output` cannot be written, or has something else in it; nothing has changed
            then.
    """
    if device not in ("cpu", *tiles.DEVICES):
        raise ValueError(f"device must be one of {['cpu', *tiles.DEVICES]}, not {device!r}")
    source = generate(analyse(path, model, params, ANALYSIS).program, device)
    if output is not None:
        write(output, source, source=path, force=force)
    return source


def load(path: FilePath, /, *, model: str | None = None, **params: object) -> ModuleType:
    """Compile a `.mod` file in memory and import the result.

    The module has the model's class, `PLAN` and the optimizers. It stands in `sys.modules` under a
    name made from its source, so that its objects can be pickled, and the same file with the same
    params gives the same module.

    Raises:
        ModnormError: with every mistake found in the file.
        ImportError: if torch is not installed.
    """
    return import_source(generate(analyse(path, model, params, ANALYSIS).program), Path(path).stem)


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
    **params: object,
) -> Check:
    """Build the model of a `.mod` file and measure it against what is declared and certified.

    It is run on a random batch, whose free sizes `sizes` may set, or on `data`: a text, or an .npz
    with an array an input; with fresh weights, or those of the `checkpoint`, a state dict.
    `effort` from 1 to 3 says how long to search, `every` to look at all copies of repetitions.
    `vary` asks for the coordinate check: for each of its params, the model is trained at each of
    the values for `steps` steps at the learning rate `lr`, with so many `seeds`.

    Raises:
        ModnormError: with every mistake found in the file.
        CheckError: if the data, the checkpoint or a size does not fit, or torch is not installed.
        ValueError: for an option with a value that it cannot have.
    """
    options = {
        "sizes": {} if sizes is None else sizes,
        "data": None if data is None else fspath(data),
        "checkpoint": None if checkpoint is None else fspath(checkpoint),
        "seed": seed,
        "effort": effort,
        "every": every,
        "vary": {} if vary is None else vary,
        "steps": steps,
        "lr": lr,
        "seeds": seeds,
    }
    stem = Path(path).stem
    return check_file(path, lambda p: imported(p, stem), model, params, options, format)


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
    **params: object,
) -> Transfer:
    """Find the best learning rate of a `.mod` file's model at several sizes, and how it drifts.

    `vary` has the values of each param that is varied, in all combinations or, with `star`, one
    param at a time; `mass` stands for the mass of what is between the first and the last part, if
    the file has no such param. `lr` are learning rates, or those by optimizer, where one that is
    left out has 2^-8..2^2; where the best of a curve is at an end, it goes on up to `extend` times.
    Values are numbers, or a text as on the command line. `data` names a data set, a file, or a
    function as "module:function".

    Each run makes `steps` steps on batches of `batch` examples, in a process of its own, of which
    there are `jobs` at once; with `ray`, on the cluster at that address, or with "" on one started
    here. Finished runs are kept in the file `store`, by default FILE.transfer.db in the working
    directory: the same call goes on where another one was stopped. A file that is no such store
    gives its place to one with `force` only. `metric` and `tolerance` say
    which loss the verdicts are of, and what drift per doubling still counts as transfer.

    Raises:
        ModnormError: with every mistake found in the file.
        DataError: if the data does not fit, a run fails, or runs cannot be kept.
        CheckError: if torch is not installed.
        ValueError: for an option with a value that it cannot have.
    """
    return transfer_file(
        path,
        model,
        params,
        vary=vary,
        lr=lr,
        optimizer=optimizer,
        place={"store": store, "jobs": jobs, "ray": ray, "progress": progress, "force": force},
        options={"data": data, "star": star, "extend": extend, "seeds": seeds},
        settings={
            "steps": steps,
            "batch": batch,
            "context": context,
            "schedule": schedule,
            "eval_batches": eval_batches,
            "threads": threads,
        },
        metric=metric,
        tolerance=tolerance,
        format=format,
    )


def imported(program: Program, stem: str) -> ModuleType:
    """The module that a program compiles to, for running on a CPU; its name has `stem` in it.

    Raises:
        ImportError: if torch is not installed.
    """
    return import_source(generate(program, "cpu"), stem)
