"""Takes a plan's runs through a pool, and keeps each in the store when it is over."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from modnorm.data.fetch import DataError
from modnorm.sweep.plan import Curve, Plan
from modnorm.sweep.pool import Job, Pool
from modnorm.sweep.problems import TrialFailed
from modnorm.sweep.progress import Estimate, Watch
from modnorm.sweep.records import Outcome, Trial
from modnorm.sweep.store import Store

JobOf = Callable[[Trial], Job]
TICK = 1.0
"""Seconds after which a wait looks up, for Ctrl-C where the system's waits do not."""


def drive(plan: Plan, job_of: JobOf, store: Store, pool: Pool, watch: Watch) -> None:
    """Make all runs of a plan that the store does not have, those of large models first.

    Where one fails, no more are begun; those on their way are seen through and kept.

    Raises:
        TrialFailed: if a run ends in an error.
        StoreError: if one cannot be kept.
    """
    state = _State(plan, store)
    running: dict[str, Trial] = {}
    failed: list[tuple[Trial, Exception]] = []
    begun = ""
    while running or (state.queue and not failed):
        while state.queue and len(running) < pool.size and not failed:
            trial = state.next()
            running[trial.key] = trial
            begun = named(trial)
            pool.submit(trial.key, job_of(trial))
        watch.state(*state.counts(), state.remaining(pool.size), begun)
        for key, result in pool.finished(TICK):
            trial = running.pop(key)
            if isinstance(result, Exception):
                failed.append((trial, result))
            else:
                store.add(key, named(trial), result)
                state.over(trial, result)
    if failed:
        raise failure(*failed[0]) from failed[0][1]


def named(trial: Trial) -> str:
    """A run in words."""
    sizes = "".join(f" {name}={value}" for name, value in trial.sizes)
    return f"{trial.optimizer}{sizes} lr={trial.lr:g} seed={trial.seed}"


def failure(trial: Trial, error: Exception) -> Exception:
    """The error of a run, with its name."""
    what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
    return TrialFailed(f"the run {named(trial)} failed: {what}")


class _State:
    """What is over, what waits, and what comes of it."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.known: dict[str, Outcome] = known(plan, store)
        self.estimate = Estimate()
        self.curves: dict[str, list[int]] = {}
        self.queue: list[tuple[float, int, int, Trial]] = []
        self.waiting: dict[str, Curve] = {}
        for index in range(len(plan.curves)):
            self._add(index)

    def _add(self, index: int) -> None:
        """Queue what a curve needs by what is known now."""
        curve = self.plan.curves[index]
        for trial in self.plan.trials(curve, self.known):
            sharing = self.curves.setdefault(trial.key, [])
            if index in sharing:
                continue
            sharing.append(index)
            if trial.key in self.known:
                self.estimate.learn(curve, self.known[trial.key])
            elif trial.key not in self.waiting:
                self.waiting[trial.key] = curve
                heapq.heappush(self.queue, (-curve.cost, index, len(self.curves), trial))

    def next(self) -> Trial:
        return heapq.heappop(self.queue)[-1]

    def over(self, trial: Trial, outcome: Outcome) -> None:
        self.known[trial.key] = outcome
        self.estimate.learn(self.waiting.pop(trial.key), outcome)
        for index in list(self.curves[trial.key]):
            self._add(index)

    def counts(self) -> tuple[int, int, int]:
        """Runs that are over, all runs, and how many diverged."""
        done = [self.known[key] for key in self.curves if key in self.known]
        diverged = sum(outcome.status == "diverged" for outcome in done)
        return len(done), len(self.curves), diverged

    def remaining(self, size: int) -> float | None:
        return self.estimate.remaining(list(self.waiting.values()), size)


def known(plan: Plan, store: Store) -> dict[str, Outcome]:
    """The outcomes of a plan's runs that the store has, those past the ends with them."""
    found: dict[str, Outcome] = {}
    asked: set[str] = set()
    while True:
        keys = {t.key for curve in plan.curves for t in plan.trials(curve, found)} - asked
        if not keys:
            return found
        asked |= keys
        found |= store.outcomes(keys)
