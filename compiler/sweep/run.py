"""Makes a sweep: what is missing of it in the store is run, and all of it handed out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from modnorm.measure.interface import torch_at_hand
from modnorm.sweep.drive import drive, failure, known
from modnorm.sweep.pool import WORK, Pool, processes, stoppable
from modnorm.sweep.progress import watching
from modnorm.sweep.records import Outcome, Sweep
from modnorm.sweep.request import Prepared
from modnorm.sweep.store import expect_apart, gives_way, opened, peek


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
        return self.jobs or (max(1, cores() // self.threads) if self.ray is None else 1)

    def pool(self) -> AbstractContextManager[Pool]:
        if self.ray is None:
            return processes(self.size, self.threads, self.work)
        from modnorm.sweep.ray_pool import cluster

        return cluster(self.ray or None, self.jobs, self.threads, self.work)


def cores() -> int:
    """Of this machine, as many as this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def there(ready: Prepared, path: str) -> Sweep:
    """The sweep with those of its runs that are in the store by now."""
    return ready.result(finished(ready, path))


def finished(ready: Prepared, path: str) -> dict[str, Outcome]:
    """The outcomes of a sweep's runs that are in the store by now, which may be in use.

    The store is only looked at.
    """
    expect_apart(path, ready.read)
    return peek(path, lambda s: known(ready.plan, s)) if os.path.exists(path) else {}


def counted(ready: Prepared, found: Mapping[str, Outcome]) -> tuple[int, int]:
    """How many runs a sweep has by the outcomes that are known, and how many of these are over."""
    keys = _keys(ready, found)
    return len(keys), len(keys & found.keys())


def _keys(ready: Prepared, found: Mapping[str, Outcome]) -> set[str]:
    """Of all runs that are known to be needed."""
    return {t.key for curve in ready.plan.curves for t in ready.plan.trials(curve, found)}


def swept(ready: Prepared, place: Place, show: bool = False) -> Sweep:
    """Make what is missing of a sweep, and hand all of it out.

    Raises:
        StoreError: if runs cannot be kept.
        TrialFailed: if one ends in an error.
    """
    expect_apart(place.store, ready.read)
    probed = gives_way(place.store, place.force)
    if probed:  # what is there is lost to a sweep that can be run, and to no other
        with torch_at_hand(), stoppable(), place.pool() as pool:
            _probe(ready, _keys(ready, {}), pool)
    with opened(place.store, place.force) as store:
        found = known(ready.plan, store)
        missing = _keys(ready, found) - found.keys()
        if missing:
            with torch_at_hand(), stoppable(), place.pool() as pool, watching(show) as watch:
                if not probed:
                    _probe(ready, missing, pool)
                drive(ready.plan, ready.job, store, pool, watch)
        return ready.result(known(ready.plan, store))


def _probe(ready: Prepared, missing: set[str], pool: Pool) -> None:
    """Find out in one step of each kind whether the runs are possible."""
    waiting = {str(number): probe for number, probe in enumerate(ready.probes(missing))}
    begun: list[str] = []
    running = 0
    while len(begun) < len(waiting) or running:
        while running < pool.size and len(begun) < len(waiting):
            tag = str(len(begun))
            pool.submit(tag, waiting[tag][1])
            begun.append(tag)
            running += 1
        for tag, result in pool.finished(1.0):
            running -= 1
            if isinstance(result, Exception):
                raise failure(waiting[tag][0], result) from result
