"""A sweep that is killed at any moment goes on where it was: nothing is lost, nothing run twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")

LONG = bool(os.environ.get("MODNORM_LONG"))
MODEL = """\
param d = 4
input ids: int[batch, seq] < 9
model LM = Linear(9) @ Tanh @ Linear(d) @ Embed(9, d)
"""
RATES = "2^-6..2^0"
SWEEP = [
    "lm.mod", "--vary", "d=4,6,8", "--optimizer", "normed_adam,adam",
    "--data", "text.txt", "--steps", "3", "--batch", "2", "--context", "4", "--eval-batches", "2",
    "--jobs", "2", "-q", "-o", "sweep.json",
]  # fmt: skip
COMMAND = """
import modnorm.sweep.pool
modnorm.sweep.pool.WORK = {work!r}
if {work!r} == "fakework:fake":  # which does not train
    modnorm.sweep.pool.PRELOADED = ()
from modnorm.cli import main
main()
"""
FAKE = """
import math, os, time
from hashlib import sha256
from modnorm.sweep.records import Outcome
from modnorm.sweep.plan import versions
from modnorm.sweep.trial import key_of

def log(word, job):
    line = f"{word} {key_of(job, versions())} {os.getpid()}\\n"
    place = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(place, line.encode())
    os.close(place)

def fake(job):
    log("begin", job)
    time.sleep(PAUSE)
    best = 1.0 if job["optimizer"] == "adam" else -2.2
    best += sha256(job["source"].encode()).digest()[0] / 1000
    loss = 1 + abs(math.log2(job["lr"]) - best) / 8
    return Outcome("done", 3.0, loss, loss + 0.1, 0.5, job["settings"]["steps"], PAUSE)

def logged(job):
    from modnorm.sweep.trial import run_trial
    log("begin", job)
    return run_trial(job)
"""


def begin(folder: Path, work: str, rates: str = RATES) -> subprocess.Popen[str]:
    """Start the sweep in a process group of its own."""
    code = COMMAND.format(work=work)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, "transfer", *SWEEP, "--lr", rates],
        cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def folder_of(path: Path, pause: float) -> Path:
    path.mkdir()
    (path / "lm.mod").write_text(MODEL, encoding="utf-8")
    (path / "text.txt").write_text("abcdefghi" * 200, encoding="utf-8")
    (path / "fakework.py").write_text(FAKE.replace("PAUSE", str(pause)), encoding="utf-8")
    return path


def finish(process: subprocess.Popen[str]) -> None:
    said = process.communicate(timeout=240)
    assert process.returncode == 0, said


def begun(folder: Path) -> list[str]:
    log = folder / "log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [line.split()[1] for line in lines]


def stored(folder: Path) -> set[str]:
    """Keys of the runs that the store has, as it was left."""
    path = folder / "lm.transfer.db"
    if not path.exists():
        return set()
    connection = sqlite3.connect(path)
    try:
        return {key for (key,) in connection.execute("SELECT key FROM runs")}
    except sqlite3.OperationalError:  # killed before there was a table
        return set()
    finally:
        connection.close()


def timeless(found: Any) -> Any:
    """A result without what differs from one time to the next."""
    if isinstance(found, dict):
        return {name: timeless(value) for name, value in found.items() if name != "seconds"}
    return [timeless(value) for value in found] if isinstance(found, list) else found


def result(folder: Path) -> Any:
    found = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert found.pop("signature").startswith("made by modnorm, sha256 ")  # over the seconds too
    return timeless(found)


def kill_and_resume(
    tmp_path: Path, work: str, kills: int, pause: float, span: float, rates: str = RATES
) -> None:
    whole = folder_of(tmp_path / "whole", pause)
    finish(begin(whole, work, rates))
    wanted = stored(whole)
    asked = 6 * (7 if rates == RATES else 3)
    assert len(wanted) > asked, "the rates asked for, and some past their end"
    probes = set(begun(whole)) - wanted
    assert sorted(key for key in begun(whole) if key not in probes) == sorted(wanted)

    broken = folder_of(tmp_path / "broken", pause)
    chance = random.Random(0)
    interrupted = 0
    for _ in range(kills):
        there, before = stored(broken), len(begun(broken))
        process = begin(broken, work, rates)
        # at any moment of its start, or else once the first runs have begun
        while chance.random() > 0.02 and process.poll() is None and len(begun(broken)) == before:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, span))
        if process.poll() is None:
            interrupted += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        again = set(begun(broken)[before:]) & there
        assert not again, "begun though it was over"
        assert stored(broken) >= there, "a run that was over is lost"
    assert interrupted == kills
    finish(begin(broken, work, rates))
    assert result(broken) == result(whole)
    assert stored(broken) == wanted
    in_flight = 2 * kills
    assert len([key for key in begun(broken) if key not in probes]) <= len(wanted) + in_flight


def test_killed_again_and_again(tmp_path: Path) -> None:
    """Of quick runs, so that each time some are over, some on their way and some wait."""
    kill_and_resume(tmp_path, "fakework:fake", kills=20 if LONG else 10, pause=0.05, span=0.2)


def test_killed_while_training(tmp_path: Path) -> None:
    kills, rates = (20, RATES) if LONG else (1, "2^-4..2^-2")
    kill_and_resume(tmp_path, "fakework:logged", kills, pause=0, span=0.3, rates=rates)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_go_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "sweep", pause=600)
    process = begin(folder, "fakework:fake")
    try:
        while len(begun(folder)) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        workers = {int(line.split()[2]) for line in (folder / "log").read_text().splitlines()}
        os.kill(process.pid, number)
        assert len(workers) == 2
        # ends when all are gone that hold stderr, as workers do
        _, said = process.communicate(timeout=60)
        wanted = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
        assert process.returncode == wanted[number]
        assert "Traceback" not in said
        if number != signal.SIGKILL:
            assert said.startswith("stopped: 0 of 42 runs are in lm.transfer.db")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
