"""The coordinate check: what scales well is flat, and what does not is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import modnorm
from modnorm.measure.coordinates import Objective
from modnorm.measure.inputs import Batch
from modnorm.report.checked import ScalingFinding

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

MLP = """\
param width = 16
param blocks = 4
input x: float[batch, 12]
def layer = Tanh @ Linear(width)
model MLP = Linear(8) @ layer ** blocks @ Linear(width)
"""
SUM = MLP.replace("layer ** blocks", "(Identity + layer) ** blocks")


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """A function that writes a program and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "model.mod"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def scaling(found: modnorm.Check, path: str, quantity: str) -> ScalingFinding:
    training = found.findings.coordinates
    assert training is not None
    (param,) = training.params
    return next(m for m in param.modules if (m.path, m.quantity) == (path, quantity))


def test_hidden_layers_are_flat_in_width(file: Any) -> None:
    found = modnorm.check(file(MLP), vary={"width": (16, 32, 64, 128)}, seeds=3)
    for path in ("linear", "layer.*.linear", "layer.*"):
        for quantity in ("activation", "change"):
            assert scaling(found, path, quantity).verdict == "flat", (path, quantity)


def test_a_sum_without_weights_grows_with_depth(file: Any) -> None:
    """x + f(x), n times, and not (1 - 1/n)·x + f(x)/n: that is linear in n or more."""
    found = modnorm.check(file(SUM), vary={"blocks": (4, 8, 16)}, lr=1e-3)
    stream = scaling(found, "linear_1", "activation")
    assert stream.slope is not None
    assert stream.slope > 0.3
    assert stream.verdict == "grows"
    averaged = MLP.replace("layer **", "(3/4 * Identity + 1/4 * layer) **")
    tamed = modnorm.check(
        file(averaged.replace("3/4", "(1 - 1/blocks)").replace("1/4", "1/blocks")),
        vary={"blocks": (4, 8, 16)},
        lr=1e-3,
        width=64,
        seeds=4,
    )
    slope = scaling(tamed, "linear_1", "activation").slope
    assert slope is not None
    assert abs(slope) < 0.1


def test_values_are_rms_of_the_generated_models_activations(file: Any) -> None:
    """At the model's output, by the module itself and the optimizer itself."""
    path = file(MLP)
    found = modnorm.check(path, vary={"width": (8, 16)}, seeds=1, steps=2, lr=0.25, seed=4)
    data = modnorm.check(path, width=8, seed=4)
    assert data.findings.sizes == {"batch": 4}
    generator = torch.Generator().manual_seed(4)
    x = torch.randn([4, 12], generator=generator, dtype=torch.float64)
    x = x / x.square().mean(1).sqrt().amax()
    batch = Batch([x], {"batch": 4}, "random")
    for width, shown in zip((8, 16), zip(
        scaling(found, "output", "activation").values,
        scaling(found, "output", "change").values,
        strict=True,
    ), strict=True):  # fmt: skip
        net = modnorm.load(path, width=width)
        model = net.MLP(dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        optimizer = net.NormedAdam(model.named_parameters(), lr=0.25)
        objective = Objective(batch, torch.Generator().manual_seed(4))
        before = model(x).detach()
        for _ in range(2):
            loss = objective(model(x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after = model(x).detach()
        assert shown[0] == pytest.approx(float(after.square().mean().sqrt()), rel=1e-9)
        assert shown[1] == pytest.approx(float((after - before).square().mean().sqrt()), rel=1e-9)


def test_two_params_of_a_gpt() -> None:
    found = modnorm.check(
        EXAMPLES / "gpt.mod",
        vary={"d_embed": (16, 32), "blocks": (2, 4)},
        sizes={"batch": 2, "seq": 6},
        seeds=1,
        steps=2,
        d_embed=16,
        blocks=2,
        context=8,
        vocab=11,
    )
    training = found.findings.coordinates
    assert training is not None
    assert [p.param for p in training.params] == ["d_embed", "blocks"]
    assert training.loss == "cross-entropy to the next entry"
    paths = {m.path for m in training.params[0].modules}
    assert {"output", "embed", "block", "block.*", "block.*.mlp", "linear"} <= paths
    for param in training.params:
        assert all(len(m.values) == 2 and min(m.values) > 0 for m in param.modules)
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "blocks = 2, 4" in text


def test_a_picture(file: Any) -> None:
    pytest.importorskip("matplotlib")
    found = modnorm.check(file(SUM), vary={"blocks": (2, 4), "width": (8, 16)}, seeds=1, steps=1)
    assert found.plot().startswith(b"\x89PNG")


def test_training_that_diverges_is_told(file: Any) -> None:
    text = "param n = 4\ninput x: float[batch, 4]\nmodel M = Linear(4) @ Linear(n)\n"
    with pytest.raises(modnorm.CheckError, match="choose a smaller one with `--lr`"):
        modnorm.check(file(text), vary={"n": (4, 8)}, lr=1e200)


def test_values_that_do_not_compile_are_told(file: Any) -> None:
    with pytest.raises(modnorm.ModnormError, match="width"):
        modnorm.check(file(MLP), vary={"width": (8, 8.5)})


def test_the_loss_fits_the_output() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[0, 1, 2]])
    following = torch.tensor([[1, 2, 3]])
    batch = Batch([ids], {}, "random", following)
    objective = Objective(batch, generator)
    logits = torch.zeros(1, 3, 5)
    assert float(objective(logits)) == pytest.approx(math.log(5))
    assert objective.name == "cross-entropy to the next entry"
    small = Objective(batch, generator)  # fewer classes than entries: these are no classes
    assert float(small(torch.zeros(1, 3, 2))) == pytest.approx(math.log(2))
    assert small.name == "cross-entropy to random classes"
    image = Objective(batch, generator)
    assert float(image(torch.zeros(2, 3, 4, 4))) == pytest.approx(1, abs=0.3)
    assert image.name == "mean square distance to gaussian targets"
    assert not Objective(batch, generator)(ids).requires_grad
