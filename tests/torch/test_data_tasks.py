"""Tasks on data from a function: losses, the held-out set, and every batch that does not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import modnorm
from modnorm.data import tasks, texts
from modnorm.data.fetch import DataError
from modnorm.data.functions import Function

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import train

torch.set_num_threads(1)

CLASSES = "input x: float[batch, 6]\nmodel Net = Linear(3) @ Linear(8)\n"
WORDS = "input tokens: int[batch, seq] < 5\nmodel Tiny = Linear(5) @ Embed(5, 8)\n"
FIXED = "input tokens: int[4, 7] < 5\nmodel Tiny = Linear(5) @ Embed(5, 8)\n"


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], ModuleType]:
    def compiled(text: str) -> ModuleType:
        (tmp_path / "own.mod").write_text(text)
        return modnorm.load(tmp_path / "own.mod")

    return compiled


def function(call: Callable[..., Any]) -> Function:
    return Function("own:draw", call, Path(__file__), "0" * 64)


def regression(split: str, batch: int, generator: torch.Generator) -> tasks.Batch:
    x = torch.randn(batch, 6, generator=generator)
    return x, x[:, :3] * 2


def classes(split: str, batch: int, generator: torch.Generator) -> tasks.Batch:
    x = torch.randn(batch, 6, generator=generator)
    return x, x[:, :3].argmax(-1).to(torch.uint8)


def words(split: str, batch: int, generator: torch.Generator) -> tasks.Batch:
    found = torch.randint(5, (batch, 8), generator=generator, dtype=torch.int16)
    return found[:, :-1], found[:, 1:]


def made(compiled: ModuleType, call: Callable[..., Any], batch: int = 4) -> tasks.Task:
    """The task, once a model of the module has been tried on it."""
    spec = tasks.only_input(compiled)
    task = tasks.make_task(spec, function(call), batch, None, 3)
    tasks.probe(compiled, model(compiled), task)
    return task


def model(compiled: ModuleType) -> torch.nn.Module:
    made: torch.nn.Module = getattr(compiled, compiled.MODEL)(
        generator=torch.Generator().manual_seed(0)
    )
    return made


def test_floats_are_measured_by_the_squared_error(module: Callable[[str], ModuleType]) -> None:
    compiled = module(CLASSES)
    task = made(compiled, regression)
    x, y = task.draw(torch.Generator().manual_seed(5))
    again = regression("train", 4, torch.Generator().manual_seed(5))
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])
    output = model(compiled)(x)
    torch.testing.assert_close(task.loss(output, y), ((output - y) ** 2).mean())
    assert (task.labelled, task.classes, task.right(output, y)) == (False, None, None)
    loss, accuracy = task.measure(lambda x: x[:, :3] * 2 + 0.5)
    assert loss == pytest.approx(0.25)
    assert accuracy is None


def test_integers_are_classes(module: Callable[[str], ModuleType]) -> None:
    compiled = module(CLASSES)
    task = made(compiled, classes)
    assert (task.labelled, task.classes) == (True, 3)
    x, y = task.draw(torch.Generator().manual_seed(5))
    assert y.dtype == torch.int64
    output = model(compiled)(x)
    torch.testing.assert_close(task.loss(output, y), torch.nn.functional.cross_entropy(output, y))
    loss, accuracy = task.measure(lambda x: x[:, :3] * 1000)
    assert loss < 0.2
    assert accuracy == 1.0


def test_text_of_a_function(module: Callable[[str], ModuleType]) -> None:
    task = made(module(WORDS), words)
    x, y = task.draw(torch.Generator().manual_seed(5))
    assert (x.dtype, x.shape, y.shape) == (torch.int64, (4, 7), (4, 7))
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert made(module(FIXED), words).classes == 5


def test_the_held_out_set_is_drawn_once(module: Callable[[str], ModuleType]) -> None:
    seen: list[str] = []

    def draw(split: str, batch: int, generator: torch.Generator) -> tasks.Batch:
        seen.append(split)
        return regression(split, batch, generator)

    compiled = module(CLASSES)
    task = made(compiled, draw)
    calls = seen.count("held_out")
    first, again = list(task.held_out()), list(task.held_out())
    assert len(first) == 3
    assert seen.count("held_out") == calls
    other = list(made(compiled, draw).held_out())
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[0], c[0])
    assert not torch.equal(first[0][0], first[1][0])


def test_batches_come_in_the_dtype_of_the_run(module: Callable[[str], ModuleType]) -> None:
    task = made(module(CLASSES), regression)
    task.to(torch.device("cpu"), torch.bfloat16)
    for x, y in (task.draw(torch.Generator()), *task.held_out()):
        assert (x.dtype, y.dtype) == (torch.bfloat16, torch.float32)
        assert task.loss(x[:, :3], y).dtype == torch.float32


def test_the_same_loss_for_text_and_images(module: Callable[[str], ModuleType]) -> None:
    compiled = module(WORDS)
    text = texts.encode("own", "abcde" * 40)
    task = tasks.make_task(tasks.only_input(compiled), text, 4, 8, 2)
    tasks.probe(compiled, model(compiled), task)
    x, y = task.draw(torch.Generator().manual_seed(0))
    output = model(compiled)(x)
    assert torch.equal(task.loss(output, y), tasks.cross_entropy(output, y))
    assert task.measure(lambda x: torch.eye(5)[(x + 1) % 5] * 1000) == (0.0, 1.0)


X = torch.zeros(4, 6)
Y = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, r"^own:draw\('held_out', 4, generator\) returned NoneType, but .* two tensors"),
        (X, "returned Tensor, but it has to return two tensors"),
        ((X, Y, Y), "returned tuple of Tensor, Tensor, Tensor, but"),
        ((X, [0, 0, 0, 0]), "returned tuple of Tensor, list, but"),
        ((X[:3], Y), r"an input float32 \(3, 6\), but x: float.*takes floats of shape \(4, 6\)$"),
        ((X[:, :5], Y), r"an input float32 \(4, 5\), but"),
        ((X[:, None], Y), r"an input float32 \(4, 1, 6\), but"),
        ((X.long(), Y), r"an input int64 \(4, 6\), but .* takes floats"),
        ((X / 0, Y), "an input with values that are not finite$"),
        ((X, Y[:3]), r"a target int64 \(3,\), but .* of shape \(4, …\)$"),
        ((X, Y[0]), r"a target int64 \(\), but"),
        ((X, Y.bool()), r"a target bool \(4,\), but it has to be integers"),
        ((X, Y[:, None][:, :0]), r"a target without any number: int64 \(4, 0\)$"),
        ((X, Y - 1), "a target with the number -1, but integers count from 0$"),
        ((X, X[:, :3] / 0), "a target with values that are not finite$"),
        (
            (X, Y + 3),
            r"output is \(1, 3\), but the task needs \(1, 4\) \(the data has 4 classes\)$",
        ),
        ((X, Y[:, None]), r"output is \(1, 3\), but the task needs \(1, 1, 1\)"),
        ((X, X), r"output is \(1, 3\), but a target of own:draw is \(1, 6\): targets that are fl"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(
    module: Callable[[str], ModuleType], result: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        made(module(CLASSES), lambda *_: result)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 7), r"float32 \(4, 7\), but tokens.* takes integers of shape \(4, seq\)$"),
        (torch.full((4, 7), 5), "the number 5 in its input, but tokens: .* takes 0 to 4$"),
        (torch.full((4, 7), -1), "an input with the number -1"),
    ],
)
def test_numbers_that_the_model_does_not_know_are_refused(
    module: Callable[[str], ModuleType], x: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        made(module(WORDS), lambda *_: (x, x))


def test_a_function_that_draws_from_elsewhere_is_refused(
    module: Callable[[str], ModuleType],
) -> None:
    def draw(split: str, batch: int, generator: torch.Generator) -> tasks.Batch:
        return torch.randn(batch, 6), Y

    with pytest.raises(DataError, match="other 'train' batches for the same seed"):
        made(module(CLASSES), draw)


def test_what_changes_after_the_first_batches_is_refused(
    module: Callable[[str], ModuleType],
) -> None:
    late: list[torch.Tensor] = []
    task = made(module(CLASSES), lambda *_: (X, late[0] if late else Y))
    late.append(Y + 3)
    with pytest.raises(DataError, match="of class 3, but the model's output has 3 classes"):
        task.draw(torch.Generator())
    late[0] = Y.float()
    with pytest.raises(DataError, match=r"a target float32 \(4,\), but integers before$"):
        task.draw(torch.Generator())


def test_a_context_or_another_batch_is_refused(module: Callable[[str], ModuleType]) -> None:
    spec = tasks.only_input(module(FIXED))
    with pytest.raises(DataError, match="--context is for text; own:draw makes its batches itself"):
        tasks.make_task(spec, function(words), 4, 7, 3)
    with pytest.raises(DataError, match="fixes the batch: give --batch 4"):
        tasks.make_task(spec, function(words), 5, None, 3)


SOURCE = """
import torch

def draw(split, batch, generator):
    x = torch.randn(batch, 6, generator=generator)
    return x, x[:, :3]

def broken(split, batch, generator):
    raise ValueError("no such\\nsplit")
"""


def test_the_example_trains_on_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own.mod").write_text(CLASSES)
    Path("my_train_data.py").write_text(SOURCE)
    words = ["own.mod", "--steps", "4", "--threads", "1", "--eval-batches", "2", "--data"]
    result = CliRunner().invoke(train.main, [*words, "my_train_data:draw"])
    assert result.exit_code == 0, result.output
    assert "my_train_data:draw: batches drawn by" in result.output
    assert "accuracy" not in result.output
    result = CliRunner().invoke(train.main, [*words, "my_train_data:broken"])
    assert result.exit_code == 1
    assert result.output.strip() == (
        "error: my_train_data:broken('held_out', 12, generator) raised ValueError: no such "
        "(my_train_data.py, line 9)"
    )
