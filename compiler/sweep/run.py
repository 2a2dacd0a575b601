"""Makes a sweep: what is missing of it in the store is run, and all of it handed out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass

from modnorm.console import LONGEST, bar
from modnorm.data.fetch import DataError
from modnorm.measure.interface import torch_at_hand
from modnorm.measure.problems import NoTorch
from modnorm.report.diagnostics import clean
from modnorm.sweep.plan import Curve, Plan, Run
from modnorm.sweep.pool import WORK, Cluster, Job, Pool, Processes, stoppable
from modnorm.sweep.problems import TrialFailed
from modnorm.sweep.records import Outcome, Sweep, Trial
from modnorm.sweep.store import Store, expect_apart, gives_way, opened, peek
from modnorm.sweep.trial import run_trial

TICK = 1.0
"""Seconds after which a wait looks up, for Ctrl-C where the system's waits do not."""


@dataclass(frozen=True)
class Place:
    """Where runs are made and kept. jobs: runs at once, by default one a core.

    ray: the address of a cluster, or "" for one started here. force: begin a store in the place of
    a file that is none.
    """

    store: str
    jobs: int | None = None
    threads: int = 1
    ray: str | None = None
    work: str = WORK
    force: bool = False

    @property
    def size(self) -> int:
        """Runs at once; of a cluster, as far as it is known."""
        return self.jobs or (max(1, _cores() // self.threads) if self.ray is None else 1)

    @contextmanager
    def pool(self) -> Iterator[Pool]:
        with torch_at_hand(), stoppable():
            pool: Pool
            if self.ray is None:
                pool = Processes(self.size, self.threads, self.work)
            else:
                pool = Cluster(self.ray or None, self.jobs, self.threads, self.work)
            with closing(pool):
                yield pool


def _cores() -> int:
    """Of this machine, as many as this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def finished(plan: Plan, path: str) -> dict[str, Outcome]:
    """The outcomes of a sweep's runs that are in the store by now, which may be in use.

    The store is only looked at.
    """
    expect_apart(path, plan.read)
    return peek(path, plan.known) if os.path.exists(path) else {}


def counted(plan: Plan, known: Mapping[str, Outcome]) -> tuple[int, int]:
    """How many runs a sweep has by the outcomes that are known, and how many of these are over."""
    keys = plan.runs(known).keys()
    return len(keys), len(keys & known.keys())


def swept(plan: Plan, place: Place, show: bool = False) -> Sweep:
    """Make what is missing of a sweep, and hand all of it out.

    Raises:
        StoreError: if runs cannot be kept.
        TrialFailed: if one ends in an error.
    """
    expect_apart(place.store, plan.read)
    probed = gives_way(place.store, place.force)
    if probed:  # what is there is lost to a sweep that can be run, and to no other
        with place.pool() as pool:
            _probe(plan, plan.runs({}).keys(), pool)
    with opened(place.store, place.force) as store:
        known = plan.known(store)
        if missing := plan.runs(known).keys() - known.keys():
            with place.pool() as pool, bar(show) as tick:
                if not probed:
                    _probe(plan, missing, pool)
                drive(plan, store, pool, tick)
        return plan.result(plan.known(store))


def _probe(plan: Plan, missing: Set[str], pool: Pool) -> None:
    """Find out in one step of each kind whether the runs are possible."""
    waiting = iter(plan.probes(missing))
    for _ in _through(pool, lambda: next(waiting, None)):
        pass


Tick = Callable[[int, int, str], None]
"""Is told how many of how many runs are over, and what remains and was begun last."""


def drive(plan: Plan, store: Store, pool: Pool, tick: Tick) -> None:
    """Make all runs of a plan that the store does not have, those of large models first.

    Each is in the store when it is over. Where one fails, no more are begun; those on their way are
    seen through and kept.

    Raises:
        TrialFailed: if a run ends in an error.
        StoreError: if one cannot be kept.
    """
    known = plan.known(store)
    begun: dict[str, Trial] = {}

    def take() -> tuple[Trial, Job] | None:
        runs = plan.runs(known)
        waiting = [runs[key] for key in runs if key not in known and key not in begun]
        if waiting:
            curve, trial = max(waiting, key=lambda run: run[0].cost)
            begun[trial.key] = trial
        if begun:
            last = named(next(reversed(begun.values())))
            tick(len(runs.keys() & known), len(runs), _progress(runs, known, pool.size, last))
        return (trial, plan.job(curve, trial.lr, trial.seed)) if waiting else None

    for trial, outcome in _through(pool, take):
        store.add(trial.key, named(trial), outcome)
        known[trial.key] = outcome


def _through(
    pool: Pool, take: Callable[[], tuple[Trial, Job] | None]
) -> Iterator[tuple[Trial, Outcome]]:
    """Runs with what they gave, as they end; as many are on their way as the pool has room for.

    `take` gives the next one, or None where none waits by now.

    Raises:
        TrialFailed: once all are over that had begun, if one of them ended in an error.
    """
    running: dict[str, Trial] = {}
    failed: list[tuple[Trial, Exception]] = []
    while True:
        while len(running) < pool.size and not failed and (taken := take()):
            running[taken[0].key] = taken[0]
            pool.submit(taken[0].key, taken[1])
        if not running:
            break
        for key, result in pool.finished(TICK):
            trial = running.pop(key)
            if isinstance(result, Exception):
                failed.append((trial, result))
            else:
                yield trial, result
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


# --- how long it takes ------------------------------------------------------------------------

STEPS = 3
"""Of a model that is measured."""
PATIENCE = 2.0
"""Seconds after which no further optimizer is measured."""
FORWARD = 1 / 3
"""What a held-out batch costs, of a step: forward, and not backward, which is about twice that."""


def remaining(
    over: Iterable[tuple[Curve, float]], runs: Sequence[Curve], size: int
) -> float | None:
    """Seconds until some runs are over, so many at once; None where nothing is known.

    It goes by the seconds of others that are `over`: of the same curve, or else of one that costs
    about as much, by cost.
    """
    spent: dict[Curve, list[float]] = {}
    for curve, seconds in over:
        spent.setdefault(curve, []).append(seconds)

    def one(curve: Curve) -> float:
        def unlike(other: Curve) -> tuple[bool, float, bool]:
            apart = abs(math.log(other.cost / curve.cost))
            return other != curve, apart, other.optimizer != curve.optimizer

        like = min(spent, key=unlike)
        return math.fsum(spent[like]) / len(spent[like]) * curve.cost / like.cost

    if runs and not spent:
        return None
    each = {curve: one(curve) for curve in dict.fromkeys(runs)}
    return sum(each[curve] for curve in runs) / max(1, min(size, len(runs)))


def _left(runs: Mapping[str, Run], known: Mapping[str, Outcome], size: int) -> float | None:
    """Seconds until all runs are over, by those that are."""
    over = [(curve, known[key].seconds) for key, (curve, _) in runs.items() if key in known]
    missing = [curve for key, (curve, _) in runs.items() if key not in known]
    return remaining(over, missing, size)


def _progress(runs: Mapping[str, Run], known: Mapping[str, Outcome], size: int, what: str) -> str:
    """What remains, in words, and what is made now."""
    seconds = _left(runs, known, size)
    diverged = sum(known[key].status == "diverged" for key in runs.keys() & known)
    parts = [f"{spoken(seconds)} left"] if seconds is not None else []
    parts += [f"{diverged} diverged"] if diverged else []
    left = ", ".join(parts)
    return f"{left}  {clean(what)[-max(LONGEST - len(left) - 2, 1) :]}"


def spoken(seconds: float) -> str:
    """About how long that is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def forecast(plan: Plan, known: Mapping[str, Outcome], size: int) -> str:
    """A line on how long the missing runs take, so many at once; nothing where none is missing.

    It is learned from runs that are over, or else from a few steps of the smallest and the largest
    model.

    Raises:
        TrialFailed: if those steps cannot be made.
    """
    runs = plan.runs(known)
    missing = [run for key, run in runs.items() if key not in known]
    if not missing:
        return ""
    source, seconds = "runs that are over", _left(runs, known, size)
    if seconds is None:
        source = f"{STEPS} steps of the smallest and the largest model"
        try:
            with torch_at_hand():
                seconds = remaining(_measured(plan, missing), [c for c, _ in missing], size)
        except NoTorch:
            return "no estimate of their time: torch is not installed\n"
    assert seconds is not None
    return (
        f"about {spoken(seconds)} for what is missing, {size} at once: an estimate from {source}, "
        "without runs past the ends of a grid\n"
    )


def _measured(plan: Plan, missing: Sequence[Run]) -> Iterator[tuple[Curve, float]]:
    """Seconds of the smallest and the largest model, for each optimizer while patience lasts."""
    begun: float | None = None
    for optimizer in dict.fromkeys(curve.optimizer for curve, _ in missing):
        if begun is not None and time.perf_counter() - begun > PATIENCE:
            return
        own = [run for run in missing if run[0].optimizer == optimizer]
        ends = (least(own, key=lambda run: run[0].cost) for least in (min, max))
        for curve, trial in dict.fromkeys(ends):
            if begun is None:  # what is made once is no part of a run
                _timed(plan, curve, trial)
                begun = time.perf_counter()
            yield curve, _timed(plan, curve, trial)


def _timed(plan: Plan, curve: Curve, trial: Trial) -> float:
    """The seconds that a run would take, by a few steps of it."""
    try:
        made = run_trial(plan.shortened(curve, trial, STEPS))
    except Exception as error:  # as in a sweep: whatever a stranger's optimizer raises
        raise failure(trial, error) from error
    whole = plan.sweep.settings
    each = made.seconds / (made.steps + FORWARD)
    return each * (whole.steps + FORWARD * whole.eval_batches)
