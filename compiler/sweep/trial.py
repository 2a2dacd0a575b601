"""One run of a sweep: a model made, trained and measured; the same job gives the same outcome.

A job is a plain dict, so that it can be sent to another process or machine: the generated file's
text with the name of its model, the optimizer's label, the mass of the body or None, the learning
rate, the seed, and the sweep's settings.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict

from modnorm.data.functions import see_folder
from modnorm.sweep.axes import read_label
from modnorm.sweep.records import Outcome, Settings

if TYPE_CHECKING:
    from modnorm.data.tasks import Task


class Job(TypedDict):
    """What a run depends on. `settings` are those of records.Settings, as a dict."""

    stem: str
    source: str
    optimizer: str
    mass: float | None
    lr: float
    seed: int
    settings: dict[str, Any]


RUNS = 1
"""Goes up when equal jobs give other outcomes than before: then old ones are not taken for them."""


def key_of(job: Job, versions: Mapping[str, str]) -> str:
    """The checksum of a job: equal for equal jobs, under equal versions of what runs them.

    The data counts by its checksum, whatever its name or place, and an optimizer of the user's own
    by that of its module's file.
    """
    function = read_label(job["optimizer"]).function
    settings = {name: value for name, value in job["settings"].items() if name != "data"}
    parts = {
        **job,
        "settings": settings,
        "stem": None,
        "source": sha256(job["source"].encode("utf-8", "backslashreplace")).hexdigest(),
        "lr": float(job["lr"]).hex(),
        "torch": versions.get("torch"),
        "runs": RUNS,
        "function": function and _checksum(function.partition(":")[0]),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=16)
def _checksum(module: str) -> str:
    """Of a module's file, which is not imported for it; "" where there is none."""
    see_folder()
    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        spec = None
    file = Path(spec.origin) if spec is not None and spec.origin else None
    return sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""


def run_trial(job: Job) -> Outcome:
    """Train a model as a job says.

    Raises:
        DataError: if the data cannot be had, or does not fit the model, or the optimizer cannot be
            made for it.
    """
    import torch

    from modnorm.sweep.optimizers import build
    from modnorm.train import falling, train

    settings = Settings(**job["settings"])
    torch.set_num_threads(settings.threads)
    module = _module(job["source"], job["stem"])
    model = getattr(module, module.MODEL)(generator=torch.Generator().manual_seed(job["seed"]))
    task = _task(job["source"], job["stem"], settings)
    torch.manual_seed(job["seed"])  # for what is one's own; after the task, which is made only once
    optimizers = build(module, model, read_label(job["optimizer"]), job["lr"], job["mass"])
    batches = torch.Generator().manual_seed(job["seed"])
    losses: list[float] = []
    begun = time.perf_counter()

    def objective() -> torch.Tensor:
        return task.loss_in_training(model, *task.draw(batches))

    def seen(loss: torch.Tensor) -> None:
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError

    falls = falling(settings.schedule, settings.steps)
    held_out, accuracy = math.nan, None
    try:
        for _ in train(objective, optimizers, range(settings.steps), factor=falls, seen=seen):
            pass
        held_out, accuracy = task.measure(model.eval())
    except FloatingPointError:  # of a loss, or of gradients
        pass
    done, last = math.isfinite(held_out), losses[-settings.tail :]
    return Outcome(
        status="done" if done else "diverged",
        first_loss=losses[0] if math.isfinite(losses[0]) else math.inf,
        train_loss=math.fsum(last) / len(last) if done else None,
        held_out_loss=held_out if done else None,
        accuracy=accuracy if done else None,
        steps=len(losses),
        seconds=round(time.perf_counter() - begun, 3),
    )


@lru_cache(maxsize=16)
def _module(source: str, stem: str) -> ModuleType:
    from modnorm.codegen.imports import import_source

    return import_source(source, stem)


@lru_cache(maxsize=2)  # each has its own copy of the data
def _task(source: str, stem: str, settings: Settings) -> Task:
    """The task, made once for all runs of a process.

    Raises:
        DataError: if the data cannot be had, is other data than the sweep began with, or does not
            fit the model.
    """
    import torch

    from modnorm.data.fetch import DataError
    from modnorm.data.tasks import make_task, only_input, probe

    found = _data(settings.data)
    if found.sha256 != settings.data_sha256:
        raise DataError(f"{settings.data} has changed since the sweep began: start it again")
    module = _module(source, stem)
    task = make_task(
        only_input(module), found, settings.batch, settings.context, settings.eval_batches
    )
    task.to(torch.device("cpu"), torch.float32)
    model = getattr(module, module.MODEL)(generator=torch.Generator().manual_seed(0))
    probe(module, model, task)
    return task


@lru_cache(maxsize=2)
def _data(name: str) -> Any:
    from modnorm.data.texts import load

    return load(name)
