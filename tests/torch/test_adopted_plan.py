"""Plans of adopted models are plans like any other: reports, explanations, monitors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import modnorm  # noqa: E402
from modnorm.cli import cli  # noqa: E402
from modnorm.kernels import Monitor  # noqa: E402


class Net(nn.Module):
    """A table, fused matrices of a gate and what it gates, and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 6)
        self.gate_up, self.down = nn.Linear(6, 16, bias=False), nn.Linear(8, 6)
        self.head = nn.Linear(6, 11, bias=False)

    def forward(self, tokens: Any) -> Any:
        x = self.wte(tokens)
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.head(x + self.down(nn.functional.silu(gate) * up))


TOKENS = torch.arange(20).view(2, 10) % 11


def adopted(kind: str = "dualized_sgd") -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Net()
    return model, modnorm.adopt(model, TOKENS, kind=kind, lr=0.1)


def test_a_saved_plan_is_reported_as_the_one_in_memory(tmp_path: Path) -> None:
    _, optimizer = adopted()
    path = tmp_path / "plan.json"
    optimizer.plan.save(path)
    done = CliRunner().invoke(cli, ["report", str(path), "--format", "json"])
    assert done.exit_code == 0, done.output
    report = modnorm.report(optimizer.plan)
    assert json.loads(done.output) == report.json | {"source": "plan.json"}
    assert [atom["weight"] for atom in report.json["atoms"]] == [w.name for w in optimizer.plan]
    assert report.json["model"] == "Net"
    assert modnorm.explain(optimizer.plan, "gate_up").weights == (
        "gate_up.weight.gate", "gate_up.weight.up",
    )  # fmt: skip
    again = modnorm.report(modnorm.load_plan(path))
    assert again.json == report.json


@pytest.mark.parametrize("kind", ["dualized_sgd", "normed_adam", "normed_sgd"])
def test_a_monitor_measures_weights_and_steps(tmp_path: Path, kind: str) -> None:
    model, optimizer = adopted(kind)
    path, before = tmp_path / "run.jsonl", {}
    with Monitor(optimizer, path, every=1) as monitor:
        for _ in range(3):
            before = {name: p.detach().double() for name, p in model.named_parameters()}
            loss = nn.functional.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten())
            loss.backward()
            monitor.record(loss)
            optimizer.step()
            optimizer.zero_grad()
    found = modnorm.read_monitor(path)
    assert found.weights == tuple(w.name for w in optimizer.plan)
    row = found.rows[-1]
    norms, spent = (dict(zip(found.weights, x, strict=True)) for x in (row.norm, row.spent))
    for weight in optimizer.plan:
        if weight.norm == "spectral":  # √(inputs/outputs) of the largest singular value
            name = weight.layout.parameter if weight.layout else weight.name
            p = dict(model.named_parameters())[name].detach().double()
            new, old = weight.cut(p), weight.cut(before[name])
            scale = (new.shape[1] / new.shape[0]) ** 0.5
            exact = float(torch.linalg.svdvals(new).max()) * scale
            assert norms[weight.name] == pytest.approx(exact, rel=1e-5)
            moved = float(torch.linalg.svdvals(new - old).max()) * scale / (0.1 * weight.target)
            total = sum(w.mass for w in optimizer.plan)
            assert spent[weight.name] == pytest.approx(moved * weight.mass / total, rel=1e-4)
    assert sum(x or 0.0 for x in row.spent) == pytest.approx(1, abs=0.25)
