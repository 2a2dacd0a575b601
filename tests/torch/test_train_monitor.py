"""examples/train.py --monitor: the file of a run, and of one that was stopped and resumed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from small_modules import TEXT

import modnorm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import train
import trainer

torch.set_num_threads(1)

MODEL = """
input tokens: int[batch, seq] < 5
model Tiny = Linear(5) @ Embed(5, 8)
"""
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    Path("tiny.mod").write_text(MODEL)
    Path("own.txt").write_text("abcd\n" * 400)

    def run(*arguments: object, module: str = "tiny.mod") -> Result:
        words = [module, "--data", "own.txt", "--context", "8", "--batch", "4", "--threads", "1"]
        result = CliRunner().invoke(train.main, [*words, *map(str, arguments)])
        if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_a_run_is_recorded(invoke: Invoke) -> None:
    options = ["--monitor", "run.jsonl", "--monitor-every", 10]
    assert invoke("--steps", 30, *options, "--checkpoint", "a.pt").exit_code == 0
    assert invoke("--steps", 30, "--checkpoint", "b.pt").exit_code == 0
    found = modnorm.read_monitor("run.jsonl", ["embed.weight", "linear.weight"])
    assert (found.model, found.optimizer) == ("Tiny", "NormedAdam")
    assert [row.step for row in found.rows] == [10, 20, 30]
    assert [row.lr for row in found.rows] == pytest.approx([0.28, 11 / 75, 1 / 75], rel=1e-6)
    assert all(row.loss is not None for row in found.rows)
    a, b = (torch.load(name, weights_only=True)["model"] for name in ("a.pt", "b.pt"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_stopped_run_goes_on_in_its_file(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--steps", 12, "--monitor-every", 2, "--checkpoint-every", 4]
    assert invoke(*options, "--monitor", "whole.jsonl", "--checkpoint", "a.pt").exit_code == 0
    real = trainer.Run.train_step

    def interrupted(self: trainer.Run) -> torch.Tensor:
        loss = real(self)
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(trainer.Run, "train_step", interrupted)
    options += ["--monitor", "run.jsonl", "--checkpoint", "b.pt", "--resume"]
    assert invoke(*options).exit_code == 128 + signal.SIGINT
    monkeypatch.setattr(trainer.Run, "train_step", real)
    with open("run.jsonl", "ab") as file:
        file.write(b'{"step": 8, "lr"')  # as a killed process leaves it
    assert invoke(*options).exit_code == 0
    assert Path("run.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_file_that_is_there_is_not_written_over(invoke: Invoke) -> None:
    Path("run.jsonl").write_text("mine")
    result = invoke("--steps", 3, "--monitor", "run.jsonl")
    assert result.exit_code == 1
    assert "run.jsonl is there already: add --resume to go on with it" in result.output
    result = invoke("--steps", 3, "--monitor", "run.jsonl", "--checkpoint", "a.pt", "--resume")
    assert result.exit_code == 1
    assert "for something else than this" in " ".join(result.output.split())
    assert Path("run.jsonl").read_text() == "mine"


def test_where_it_cannot_be_written(invoke: Invoke) -> None:
    result = invoke("--steps", 3, "--monitor", "missing/run.jsonl")
    assert result.exit_code == 1
    assert "the monitor cannot write" in result.output


def test_a_module_without_one(invoke: Invoke) -> None:
    Path("text.py").write_text(TEXT)
    result = invoke("--steps", 3, "--monitor", "run.jsonl", module="text.py")
    assert result.exit_code == 1
    assert "the module has no Monitor: compile it anew" in result.output
