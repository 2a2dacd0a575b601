"""Which runs a sweep consists of: fixed by what was asked for and by the runs' own outcomes.

A curve's learning rates are known from the first. Where its best one turns out to be at an end of
them, it goes on past that end; this depends on the outcomes of the curve alone, so that the runs of
a sweep are the same in whatever order, and with whatever breaks, they are made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modnorm.sweep import Metric
from modnorm.sweep.axes import beyond
from modnorm.sweep.records import Outcome, Size, Sizes, Trial

LOWEST, HIGHEST = 2.0**-100, 2.0**100
"""Learning rates that no curve goes past."""
CEILING = 1e30
"""The loss of a run that has none, not even before its first step."""


@dataclass(frozen=True)
class Curve:
    """The runs of one optimizer at one combination of sizes. rates: asked for, rising.

    cost: how much work a run is, against others'.
    """

    optimizer: str
    sizes: Sizes
    rates: tuple[float, ...]
    cost: float = 1.0


@dataclass(frozen=True)
class Plan:
    """All curves. `key` gives a run its checksum; `extend` is how often a curve passes an end.

    metric: the loss that says which learning rate is best.
    """

    curves: tuple[Curve, ...]
    seeds: tuple[int, ...]
    extend: int
    key: Callable[[Curve, float, int], str]
    metric: Metric = "train"

    def trials(self, curve: Curve, known: Mapping[str, Outcome]) -> list[Trial]:
        """The runs of a curve that are known to be needed, given the outcomes of some of them."""
        rates = list(curve.rates)
        room = {True: self.extend, False: self.extend}
        while True:
            found = [
                Trial(curve.optimizer, curve.sizes, lr, seed, self.key(curve, lr, seed))
                for lr in rates
                for seed in self.seeds
            ]
            if len(rates) < 2 or not all(trial.key in known for trial in found):
                return found
            count = len(self.seeds)
            losses = [
                mean_loss([known[trial.key] for trial in found[i : i + count]], self.metric)
                for i in range(0, len(found), count)
            ]
            best = losses.index(min(losses))
            low = best == 0
            if not low and best != len(rates) - 1:
                return found
            lr = beyond(rates, low)
            if not room[low] or not LOWEST < lr < HIGHEST:
                return found
            room[low] -= 1
            rates = [lr, *rates] if low else [*rates, lr]


def mean_loss(outcomes: Sequence[Outcome], metric: Metric) -> float:
    """The mean loss of a learning rate's runs, each at most that before the first step."""
    return math.fsum(outcome.loss(metric, CEILING) for outcome in outcomes) / len(outcomes)


def combinations(
    vary: Mapping[str, Sequence[Size]], base: Mapping[str, Size] | None = None
) -> list[Sizes]:
    """The combinations of sizes, each once: all of them, or a star of one axis at a time.

    With `base`, which has a value for each param, only one param at a time differs from it.
    """
    if base is None:
        return [
            tuple(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())
        ]
    found: dict[Sizes, None] = {}
    for name, values in vary.items():
        for value in values:
            found[tuple((n, value if n == name else base[n]) for n in vary)] = None
    return list(found) or [()]
