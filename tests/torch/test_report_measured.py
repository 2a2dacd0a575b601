"""What `modnorm check` measured, in the report's page: one writes what the other reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from modnorm.cli import cli
from modnorm.report.checked import read_check

MODEL = """\
param width = 4
input x: float[batch, 4]
def layer = Linear(width) @ ReLU
model M = Linear(3) @ layer ** 2 @ Linear(width)
"""


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("m.mod").write_text(MODEL, encoding="utf-8")
    words = ["check", "m.mod", "--format", "json", "-o", "check.json", "-q", "--steps", "1"]
    done = CliRunner().invoke(cli, [*words, "--seeds", "1", "--vary", "width=2,4,8"])
    assert done.exit_code == 0, done.output
    return tmp_path / "check.json"


def test_what_check_writes_is_shown(checked: Path) -> None:
    found = json.loads(checked.read_text(encoding="utf-8"))
    read = read_check(checked)
    assert [m.measured for m in read.modules] == [m["measured"] for m in found["modules"]]
    assert [w.change for w in read.weights] == [w["change"] for w in found["weights"]]
    assert read.measured_kappa == found["measured_kappa"]
    assert read.coordinates is not None
    assert {varied.param for varied in read.coordinates.params} == {"width"}
    done = CliRunner().invoke(cli, ["report", "m.mod", "--check", "check.json", "-o", "m.html"])
    assert done.exit_code == 0, done.output
    page = Path("m.html").read_text(encoding="utf-8")
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert data
    nodes = json.loads(data[1])["nodes"]
    shown = {
        node["path"]: node["measured"] for node in nodes if "measured" in node and "path" in node
    }
    by_path = {m.path: m.measured for m in read.modules}
    assert shown["linear_1"] == pytest.approx(by_path["linear_1"], rel=1e-5)
    assert shown["layer"] == pytest.approx(by_path["layer"], rel=1e-5)
    assert {"layer.{0}.re_lu", "layer.{0}.linear"} <= set(shown)
    assert "No certificate is violated." in page
