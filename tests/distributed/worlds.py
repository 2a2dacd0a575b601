"""Processes of torch.distributed that stay for many tests, on this machine, over gloo."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import tempfile
import traceback
from importlib import import_module
from typing import Any

import torch
from torch import distributed

CONTEXT = multiprocessing.get_context("forkserver")
# Ranks are forks of a process that has imported everything, and has the models.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])]
)
CONTEXT.set_forkserver_preload(["sharded_models"])
PATIENCE = 20  # seconds that a rank waits for another


def serve(pipe: Any, rank: int, count: int, store: str) -> None:
    """One rank: run what comes through the pipe, and send back what it returns or raises."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count,
        timeout=datetime.timedelta(seconds=PATIENCE),
    )  # fmt: skip
    while (job := pipe.recv()) is not None:
        name, arguments, options = job
        module, _, function = name.partition(".")
        try:
            pipe.send((getattr(import_module(module), function)(*arguments, **options), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))
    distributed.destroy_process_group()


class World:
    """Some ranks."""

    def __init__(self, count: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        ends = [CONTEXT.Pipe() for _ in range(count)]
        self.pipes = [own for own, _ in ends]
        self.ranks = [
            CONTEXT.Process(target=serve, args=(end, rank, count, f"{self.folder.name}/store"))
            for rank, (_, end) in enumerate(ends)
        ]
        for process, (_, end) in zip(self.ranks, ends, strict=True):
            process.start()
            end.close()

    def call(self, name: str, *arguments: Any, **options: Any) -> list[Any]:
        """What a "module.function" returns on each rank. RuntimeError with the traces of errors."""
        found = self.attempt(name, *arguments, **options)
        if wrong := [trace for _, trace in found if trace]:
            raise RuntimeError("\n".join(wrong))
        return [value for value, _ in found]

    def attempt(self, name: str, *arguments: Any, **options: Any) -> list[Any]:
        """Of each rank what it returns and the trace of its error, one of which is None."""
        for pipe in self.pipes:
            pipe.send((name, arguments, options))
        found = list[Any]()
        for pipe in self.pipes:
            try:
                found.append(pipe.recv())
            except EOFError:
                found.append((None, "the process ended"))
        return found

    def close(self) -> None:
        for pipe in self.pipes:
            try:
                pipe.send(None)
            except OSError:  # it has ended
                continue
        for process in self.ranks:
            process.join(5)
            if process.is_alive():
                process.kill()
        self.folder.cleanup()
