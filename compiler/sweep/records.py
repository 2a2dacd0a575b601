"""What a sweep is asked for, and what its runs gave: plain data, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modnorm.sweep import Metric

Size = int | float
Sizes = tuple[tuple[str, Size], ...]
"""Varied params and their values, in the order of the sweep's axes."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all runs of a sweep have in common.

    data: name or path of the data, or module:function; `data_sha256` its checksum.
    steps, batch, context: of a run; context is None where the data has none.
    schedule: how the learning rate falls over the steps: "linear" (to 0), "cosine" or "constant".
    tail: the training loss of a run is its mean over so many last steps.
    eval_batches: size of the held-out set, in batches.
    threads: of torch, in a run.
    """

    data: str
    data_sha256: str
    steps: int
    batch: int
    context: int | None
    schedule: str
    tail: int = 50
    eval_batches: int
    threads: int


@dataclass(frozen=True)
class Trial:
    """One run. `key` is a checksum over everything that its outcome depends on."""

    optimizer: str
    sizes: Sizes
    lr: float
    seed: int
    key: str

    @property
    def log2_lr(self) -> float:
        return math.log2(self.lr)


@dataclass(frozen=True)
class Outcome:
    """What a run gave; losses are in nats. A run whose loss or weights stop being finite diverged.

    first_loss: before the first step. steps: made. accuracy: of held-out data, a part of 1.
    """

    status: Literal["done", "diverged"]
    first_loss: float
    train_loss: float | None
    held_out_loss: float | None
    accuracy: float | None
    steps: int
    seconds: float

    def first(self, ceiling: float) -> float:
        """The loss before the first step; the ceiling where that was not finite."""
        return self.first_loss if math.isfinite(self.first_loss) else ceiling

    def loss(self, metric: Metric, ceiling: float) -> float:
        """The loss, or that before the first step where it diverged or learned nothing."""
        found = self.train_loss if metric == "train" else self.held_out_loss
        if self.status == "diverged" or found is None or not math.isfinite(found):
            return self.first(ceiling)
        return min(found, self.first(ceiling))


@dataclass(frozen=True)
class Sweep:
    """A finished sweep, or one on its way: what it was asked for, and the runs that are over.

    vary: the axes, in order: param to values. `mass` is the mass of all that is between the first
    and the last part with weights (these have 1 each); every other axis is a param of the file.
    rates: the learning rates asked for, by optimizer; runs may have others, where the sweep went on
    past the end of these (`extend`).
    """

    model: str
    source: str
    params: Mapping[str, Any]
    vary: Mapping[str, tuple[Size, ...]]
    optimizers: tuple[str, ...]
    rates: Mapping[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    settings: Settings
    runs: tuple[tuple[Trial, Outcome], ...]
    missing: int = 0
    """Runs that were asked for and are not there."""
    versions: Mapping[str, str] | None = None
    """Of modnorm, torch and Python."""
