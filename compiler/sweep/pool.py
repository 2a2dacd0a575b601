"""Runs jobs side by side: in processes of this machine, or on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from modnorm.data.fetch import DataError
from modnorm.data.functions import told
from modnorm.sweep.problems import SweepError, TrialFailed
from modnorm.sweep.records import Outcome

Job = Mapping[str, Any]
WORK = "modnorm.sweep.trial:run_trial"
"""The function that a job is given to, as module:function: only workers import it."""
PRELOADED = ("modnorm.sweep.optimizers", "modnorm.data.tasks", "torch._dynamo")
"""What takes long to import: all of it is there once a worker has made an optimizer."""
PATIENCE = 5.0
"""Seconds that a worker has to end before it is killed."""
ANSWER = 10.0
"""Seconds that a cluster has to answer."""


class Pool(ABC):
    """Runs up to `size` jobs at once, each of which is a future."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._tags: dict[Future[Outcome], str] = {}

    @abstractmethod
    def submit(self, tag: str, job: Job) -> None:
        """Begin a job; there is room while fewer than `size` are on their way."""

    def finished(self, timeout: float | None = None) -> list[tuple[str, Outcome | Exception]]:
        """What jobs gave that are over since the last call; waits until there is one."""
        done, _ = wait(self._tags, timeout, FIRST_COMPLETED)
        return [(self._tags.pop(future), self._result(future)) for future in done]

    def _result(self, future: Future[Outcome]) -> Outcome | Exception:
        try:
            return future.result()
        except Exception as error:  # whatever ended the run: the sweep says which one it was
            return error

    @abstractmethod
    def close(self) -> None:
        """End what is on its way."""


def work_on(work: str, job: Job) -> Outcome:
    """What a function, given as module:function, makes of a job.

    Raises:
        DataError: for whatever it raises. A stranger's error may be one that cannot be sent to
            another process, or that ends the program.
    """
    module, _, name = work.partition(":")
    try:
        outcome: Outcome = getattr(import_module(module), name)(job)
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        raise TrialFailed(told(error, Path(last))) from None
    return outcome


class Processes(Pool):
    """A pool of processes, one to an executor, so that it is known which run one died of.

    All of them are gone once it is closed.
    """

    def __init__(self, size: int, threads: int = 1, work: str = WORK) -> None:
        super().__init__(size)
        self._threads, self._work = threads, work
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Outcome], ProcessPoolExecutor] = {}
        self._workers: list[Any] = []

    def submit(self, tag: str, job: Job) -> None:
        if self._idle:
            executor = self._idle.pop()
            future = executor.submit(work_on, self._work, dict(job))
        else:
            own = (self._threads, dict(os.environ))
            executor = ProcessPoolExecutor(1, _context(self._work), _begin, own)
            before = set(multiprocessing.active_children())
            with _launching():
                future = executor.submit(work_on, self._work, dict(job))
            self._workers += set(multiprocessing.active_children()) - before
        self._tags[future], self._busy[future] = tag, executor

    def _result(self, future: Future[Outcome]) -> Outcome | Exception:
        executor = self._busy.pop(future)
        result = super()._result(future)
        if isinstance(result, BrokenProcessPool):
            executor.shutdown(wait=True)
            return TrialFailed(
                "its process was ended from outside or crashed, as where memory runs out: with "
                "fewer --jobs there is more for each"
            )
        self._idle.append(executor)
        return result

    def close(self) -> None:
        executors = [*self._busy.values(), *self._idle]
        if self._busy:
            for worker in self._workers:
                worker.terminate()
            for worker in self._workers:
                worker.join(PATIENCE)
                if worker.is_alive():
                    worker.kill()
        for executor in executors:
            # its thread has to be over: later it might write to a worker that is gone
            executor.shutdown(wait=True, cancel_futures=True)


# --- Ray, which does the scheduling itself ----------------------------------------------------


class Cluster(Pool):
    """A pool of a cluster's cores. A run whose machine is lost is begun again by Ray.

    The cluster is at an address, or one of this machine's cores that is started here. Without
    `size`, there are as many runs at once as it has room for.

    Raises:
        SweepError: if Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self, address: str | None, size: int | None, threads: int = 1, work: str = WORK
    ) -> None:
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
        room = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        super().__init__(min(room, size) if size is not None else room)
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
        self._ray.shutdown()


def _expect(address: str | None) -> None:
    """Find out whether something listens there, as Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
        except (OSError, OverflowError) as error:
            raise SweepError(f"no Ray cluster at {address}: {error}") from None


# --- the life of a worker ---------------------------------------------------------------------


def _context(work: str) -> Any:
    """How workers begin: with a clean slate, on Linux as copies of a process that has torch.

    Elsewhere copies of a process are not safe. That process is started once, and ends with us.
    """
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.partition(":")[0], *PRELOADED])
    return context


def _begin(threads: int, environment: dict[str, str]) -> None:
    """Set a worker up: it leaves Ctrl-C to its parent, and does not outlive it.

    It gets the environment as it is now: that of what it is a copy of may be older.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):  # which read that when it was imported
        torch.set_num_threads(threads)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _launching() -> Iterator[None]:
    """While a process starts: it shall not run the caller's script, nor be hit by Ctrl-C early."""
    main, masked = sys.modules["__main__"], hasattr(signal, "pthread_sigmask")
    sys.modules["__main__"] = ModuleType("__main__")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masked else set()
    try:
        yield
    finally:
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sys.modules["__main__"] = main


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn a SIGTERM into an exit that ends workers and closes files on its way.

    A pipe to a worker that is gone is an error, not the end of the program.
    """

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if hasattr(signal, "SIGPIPE"):
        before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
