"""Runs jobs on the machines of a Ray cluster, which does the scheduling."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from modnorm.sweep.pool import WORK, Futures, Job, Pool, work_on
from modnorm.sweep.problems import SweepError, TrialFailed
from modnorm.sweep.records import Outcome

ANSWER = 10.0
"""Seconds that a cluster has to answer."""


class Cluster(Futures):
    """A pool of a cluster's cores. A run whose machine is lost is begun again by Ray."""

    def __init__(self, ray: Any, size: int, threads: int, work: str) -> None:
        super().__init__()
        self.size = size
        self._ray, self._work = ray, work
        self._remote = ray.remote(num_cpus=threads, max_retries=2)(work_on)
        self._begun: dict[Future[Outcome], Any] = {}

    def submit(self, tag: str, job: Job) -> None:
        reference = self._remote.remote(self._work, dict(job))
        future: Future[Outcome] = reference.future()
        self._tags[future], self._begun[future] = tag, reference

    def _result(self, future: Future[Outcome]) -> Outcome | Exception:
        del self._begun[future]
        result = super()._result(future)
        if isinstance(result, self._ray.exceptions.RayTaskError):
            cause = getattr(result, "cause", None)
            return cause if isinstance(cause, Exception) else result
        if isinstance(result, self._ray.exceptions.RayError):
            return TrialFailed(f"Ray lost its worker: {str(result).strip().splitlines()[0]}")
        return result

    def close(self) -> None:
        for reference in self._begun.values():
            self._ray.cancel(reference, force=True)


@contextmanager
def cluster(
    address: str | None, size: int | None, threads: int = 1, work: str = WORK
) -> Iterator[Pool]:
    """A pool on the cluster at an address, or one of this machine's cores that is started here.

    Without `size`, there are as many runs at once as the cluster has room for.

    Raises:
        SweepError: if Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise SweepError('--ray needs Ray: `pip install "modnorm[ray]"`') from None
    _expect(address)
    try:
        ray.init(
            address=address or "local",
            num_cpus=size * threads if address is None and size is not None else None,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "Ray cannot be started" if address is None else f"no Ray cluster at {address}"
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SweepError(f"{where}: {first}") from error
    try:
        room = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        pool = Cluster(ray, min(room, size) if size is not None else room, threads, work)
        try:
            yield pool
        finally:
            pool.close()
    finally:
        ray.shutdown()


def _expect(address: str | None) -> None:
    """Find out whether something listens there, as Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
        except (OSError, OverflowError) as error:
            raise SweepError(f"no Ray cluster at {address}: {error}") from None
