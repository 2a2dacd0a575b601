"""`modnorm check` with odd checkpoints, arrays that don't belong together, and odd options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import modnorm
from modnorm.cli import cli

TWO = """\
param d = 4
input x: float[batch, seq, 6]
input y: float[batch, seq, 6]
model Two = Linear(d) @ Add @ (Linear(8) @ Select(0), Linear(8) @ Select(1))
"""
IDS = """\
import std.transformer
input ids: int[batch, seq] < 9

model Ids = Linear(9) @ transformer.embedding(9, 64, 4)
"""
GATED = """\
input x: float[batch, 8]
model Gated = Readout(5) @ Product @ (Tanh @ Linear(16), Linear(16, norm = "sign"))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.mod").write_text(TWO, encoding="utf-8")
    Path("gated.mod").write_text(GATED, encoding="utf-8")
    Path("ids.mod").write_text(IDS, encoding="utf-8")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", "-q", *arguments], prog_name="modnorm")


def gated(factor: float = 1.0) -> dict[str, torch.Tensor]:
    module = modnorm.load("gated.mod")
    model = module.Gated(generator=torch.Generator().manual_seed(0))
    return {name: factor * weight for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("odd", [torch.Tensor.to_sparse, lambda w: w.to("meta")])
def test_a_checkpoint_without_dense_values(odd: Any) -> None:
    weights = gated()
    torch.save({**weights, "linear.weight": odd(weights["linear.weight"])}, "odd.pt")
    done = run("gated.mod", "--checkpoint", "odd.pt")
    assert done.exit_code == 1
    assert "`odd.pt` has `linear.weight` as sparse tensors or without values" in done.stderr


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": (3, 5, 6), "y": (4, 5, 6)}, "differ along `batch`: 3 for `x`, 4 for `y`"),
        ({"x": (3, 5, 6), "y": (3, 7, 6)}, "differ along `seq`: 5 for `x`, 7 for `y`"),
        ({"y": (3, 5, 6), "b": (3, 5, 6)}, "arrays `y`, `b`, but the inputs are `x`, `y`"),
    ],
)
def test_arrays_that_do_not_belong_together(arrays: dict[str, tuple[int, ...]], said: str) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.savez("data.npz", **{name: numpy.ones(shape) for name, shape in arrays.items()})
    done = run("two.mod", "--data", "data.npz")
    assert done.exit_code == 1
    assert said in done.stderr


def test_more_examples_than_there_are() -> None:
    numpy = pytest.importorskip("numpy")
    numpy.savez("data.npz", x=numpy.ones((3, 5, 6)), y=numpy.ones((3, 5, 6)))
    done = run("two.mod", "--data", "data.npz", "--size", "batch=9")
    assert done.exit_code == 1
    assert "have 3 along `batch`, fewer than 9" in done.stderr


TABLE = (
    "with seq = 100 integers go beyond the 64 rows of `embedding.position.embed` (Embed):"
    " choose a smaller size with `--size NAME=VALUE`"
)


@pytest.mark.parametrize("source", ["random", "text", "arrays"])
def test_sizes_beyond_a_table_are_told_with_its_name(source: str) -> None:
    arguments = ["--size", "seq=100"]
    if source == "text":
        Path("data.txt").write_text("abcdefgh" * 40, encoding="utf-8")
        arguments += ["--data", "data.txt"]
    elif source == "arrays":
        numpy = pytest.importorskip("numpy")
        numpy.savez("data.npz", ids=numpy.zeros((2, 100), dtype="int64"))
        arguments = ["--data", "data.npz"]
    done = run("ids.mod", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert TABLE in done.stderr


def test_sizes_as_large_as_a_table() -> None:
    assert run("ids.mod", "--size", "seq=64", "--size", "batch=1").exit_code == 0


def test_a_value_that_does_not_compile_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(*arguments: object, **named: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr("modnorm.measure.weights.build", measured)
    done = run("two.mod", "--vary", "d=4,0.5")
    assert done.exit_code == 1
    assert "must be a positive whole number" in done.stderr


def test_a_model_without_weights_is_not_trained() -> None:
    text = "param k = 2\ninput x: float[batch, 8]\nmodel Bare = Tanh @ Mul(k)\n"
    Path("bare.mod").write_text(text, encoding="utf-8")
    done = run("bare.mod", "--vary", "k=2,4")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "with k = 2 Bare has no weights to train" in done.stderr


def test_inputs_of_zeros_have_norm_zero() -> None:
    torch.save(gated(0.0), "zero.pt")
    found = modnorm.check("gated.mod", checkpoint="zero.pt").findings
    (readout,) = (m for m in found.modules if m.name == "Readout")
    assert (readout.input.low, readout.input.high) == (0.0, 0.0)
    assert "e-100" not in run("gated.mod", "--checkpoint", "zero.pt").stdout


def test_a_bond_behind_weights_outside_of_their_balls() -> None:
    torch.save(gated(5.0), "large.pt")
    found = modnorm.check("gated.mod", checkpoint="large.pt").findings
    (product,) = (m for m in found.modules if m.name == "Product")
    assert product.certified == 1
    assert (product.here or 0.0) > 1
    assert product.verdict == "outside the ball"
    assert found.violations == ()


def test_weights_that_float32_has_rounded_up_break_nothing() -> None:
    text = "input ids: int[batch, seq] < 9\nmodel LM = Linear(9) @ Embed(9, 8)\n"
    Path("lm.mod").write_text(text, encoding="utf-8")
    state = modnorm.load("lm.mod").LM(generator=torch.Generator().manual_seed(0)).state_dict()
    state["embed.weight"] *= 1 + 3e-7
    assert state["embed.weight"].double().square().mean(-1).min() > 1
    torch.save(state, "lm.pt")
    assert modnorm.check("lm.mod", checkpoint="lm.pt").violations == ()


def test_a_model_with_nothing_to_add_ends_with_its_table() -> None:
    Path("bare.mod").write_text("input x: float[batch, 8]\nmodel Bare = Tanh\n", encoding="utf-8")
    assert run("bare.mod").stdout.splitlines()[-1].startswith("Bare")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": {"seq": "a"}}, "the size seq must be an integer of at least 1, not 'a'"),
        ({"sizes": {"seq": 1.5}}, "the size seq must be an integer of at least 1, not 1.5"),
        ({"vary": {"d": 32}}, "d needs two different values or more, not 32"),
        ({"lr": "a"}, "lr must be positive and finite, not 'a'"),
        ({"sizes": 3}, "sizes must be a dict by names, not 3"),
        ({"sizes": 0}, "sizes must be a dict by names, not 0"),
        ({"sizes": "batch=3"}, "sizes must be a dict by names, not 'batch=3'"),
        ({"vary": 3}, "vary must be a dict by names, not 3"),
        ({"vary": ["d"]}, "vary must be a dict by names, not ['d']"),
        ({"vary": {"d": [[4], [8]]}}, "d needs positive numbers, not [[4], [8]]"),
        ({"vary": {"d": [4, 4.0]}}, "d needs two different values or more, not [4, 4.0]"),
        ({"vary": {"d": [4, float("nan")]}}, "d needs positive numbers, not [4, nan]"),
    ],
)
def test_options_of_another_kind(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        modnorm.check("two.mod", **options)
