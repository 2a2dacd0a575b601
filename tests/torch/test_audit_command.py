"""`modnorm audit`: models and optimizers of functions, and files that mend them."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from click.testing import CliRunner, Result
from torch import nn

from modnorm.adopting.audit import audit
from modnorm.adopting.mend import base_shapes, mended
from modnorm.adopting.problems import AuditError
from modnorm.cli import cli

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.wte = nn.Embedding(61, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.lm_head = nn.Linear(width, 61)

    def forward(self, tokens):
        x = self.rnn(self.wte(tokens))[0]
        return self.lm_head(x + self.down(torch.relu(self.up(x))))

def wide():
    return Net(24)

def batch():
    return torch.arange(16).view(2, 8)

def given(model, skip):
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and skip(n)]
    ids = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in ids]
    return [torch.optim.Muon(hidden, lr=0.02), torch.optim.AdamW(rest, lr=3e-4)]

def wrong(model):
    return given(model, lambda name: name[:3] not in ("lm_", "rnn"))

def right(model):
    return given(model, lambda name: name[:3] not in ("lm_", "rnn", "wte"))

def broken(model):
    raise RuntimeError("it is broken")

def slow(model):
    return torch.optim.LBFGS(model.parameters())
"""
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `modnorm audit` in a folder with the module `audited`, of a name of its own a test."""
    name = f"audited_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*words: str) -> Result:
        own = [word.replace("own:", f"{name}:") for word in ("audit", *words)]
        return CliRunner().invoke(cli, own)

    return run


CALL = ("own:Net", "--example", "own:batch", "--optimizer")


def test_status_0_without_findings(run: Run) -> None:
    done = run(*CALL, "own:right")
    assert done.exit_code == 0, done.output
    assert "findings    none" in done.output
    assert "elementwise, by AdamW, group 0" in done.output


def test_status_1_with_findings(run: Run) -> None:
    done = run(*CALL, "own:wrong")
    assert done.exit_code == 1
    assert "table-as-matrix: `wte.weight`, used in wte" in done.output
    assert "error: 1 finding\n" in done.output


def test_json(run: Run) -> None:
    done = run(*CALL, "own:wrong", "--format", "json")
    data = json.loads(done.stdout)
    assert [*data] == ["model", "findings", "parameters", "notes"]
    assert [(one["parameter"], one["fault"]) for one in data["findings"]] == [
        ("wte.weight", "table-as-matrix")
    ]
    names = [one["name"] for one in data["parameters"]]
    assert names[0] == "wte.weight"
    assert len(names) == 11


def test_a_page(run: Run) -> None:
    done = run(*CALL, "own:wrong", "-o", "audit.html")
    assert done.exit_code == 1
    page = Path("audit.html").read_text()
    assert "<title>Audit of Net · modnorm</title>" in page
    assert "<code>wte.weight</code>" in page
    assert run(*CALL, "own:right", "-o", "audit.html").exit_code == 0  # its own file


def test_another_width(run: Run) -> None:
    done = run(*CALL, "own:right", "--other", "own:wide", "--format", "json")
    data = json.loads(done.stdout)
    assert {"lm_head.weight", "rnn.weight_hh_l0"} <= {
        one["parameter"] for one in data["findings"] if one["fault"] == "size-with-width"
    }
    assert "wte.weight" not in [one["parameter"] for one in data["findings"]]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("own:Net",), 2, "Give --optimizer MODULE:FUNCTION to audit one, or --fix."),
        (("own:Net", "--optimizer", "own:right"), 1, "error: Net has no dummy_inputs to call it"),
        ((*CALL, "own:nope"), 1, "error: there is no function nope in "),
        ((*CALL, "own"), 1, "error: 'own' is not module:function"),
        ((*CALL, "own:broken"), 1, "raised RuntimeError: it is broken (audited_"),
        ((*CALL, "own:slow"), 1, "error: LBFGS cannot be looked at, since its step"),
        ((*CALL, "own:batch"), 1, "error: audited_"),
        (("own:batch", *CALL[1:], "own:right"), 1, "returned Tensor, which is no torch.nn.Module"),
        (("own:Net", "--fix", "mup"), 2, "--fix mup tells from --other"),
        (("own:Net", "--fix", "torch", "--format", "json"), 2, "--fix prints a file of its own"),
        ((*CALL, "own:right", "-o", "audit.docx"), 2, "'audit.docx' ends in none of"),
    ],
)
def test_what_is_wrong_is_said(run: Run, words: tuple[str, ...], status: int, said: str) -> None:
    done = run(*words)
    assert (done.exit_code, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# --- what would be right --------------------------------------------------------------------


def test_groups_for_torch_are_right(run: Run) -> None:
    done = run(*CALL[:3], "--fix", "torch")
    assert done.exit_code == 0
    assert "# rnn.weight_ih_l0 holds r 12 × 12, z 12 × 12, n 12 × 12.\n" in done.stdout
    name = f"{Path.cwd().name}_fixed"
    Path(f"{name}.py").write_text(done.stdout)
    assert run(*CALL, f"{name}:optimizers").exit_code == 0


class Mixed(nn.Module):
    """A matrix, one that is stored as (in, out), a kernel, and a stack of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(3, 8, 3)
        self.turned = nn.Parameter(torch.randn(8, 10))
        self.plain = nn.Linear(10, 12, bias=False)
        self.stack = nn.Parameter(torch.randn(4, 6, 3))
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.kernel(x)).mean((-2, -1))
        x = torch.relu(self.plain(torch.relu(x @ self.turned)))
        x = torch.einsum("bei,eoi->beo", x.view(-1, 4, 3), self.stack)
        return self.head(torch.relu(x.flatten(1)))


def test_dimension_numbers_for_optax() -> None:
    text = mended("optax", Mixed(), torch.randn(2, 3, 8, 8))
    table = next(node.value for node in ast.parse(text).body if isinstance(node, ast.Assign))
    assert isinstance(table, ast.Dict)
    found = {ast.literal_eval(k): ast.unparse(v) for k, v in
             zip(table.keys, table.values, strict=True) if k is not None}  # fmt: skip
    numbers = "MuonDimensionNumbers(reduction_axis={}, output_axis={})".format
    assert found == {
        "kernel.weight": numbers((1, 2, 3), (0,)), "kernel.bias": "None",
        "turned": numbers((0,), (1,)), "plain.weight": numbers((1,), (0,)),
        "stack": numbers((2,), (1,)), "head.weight": "None", "head.bias": "None",
    }  # fmt: skip


def test_torch_gets_matrices_alone() -> None:
    model = Mixed()
    text = mended("torch", model, torch.randn(2, 3, 8, 8))
    space: dict[str, object] = {}
    exec(text, space)
    assert set(space["MUON"]) == {"turned", "plain.weight"}  # type: ignore[call-overload]
    made = space["optimizers"](model)  # type: ignore[operator]
    assert audit(model, made, torch.randn(2, 3, 8, 8)).findings == ()
    with pytest.raises(AuditError, match=r"^the model has no hidden matrix"):
        mended("torch", nn.Linear(4, 4), torch.randn(2, 4))


def test_base_shapes_for_mup() -> None:
    """As its documentation shows them: null for what does not grow."""

    def net(width: int, depth: int = 1) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), *(nn.Linear(width, width) for _ in range(depth)))

    assert base_shapes(net(8), net(16)) == (
        "0.weight:\n- 8\n- null\n0.bias:\n- 8\n1.weight:\n- 8\n- 8\n1.bias:\n- 8\n"
    )
    with pytest.raises(AuditError, match=r"^only one of the two models has 2\.bias: they may"):
        base_shapes(net(8), net(16, 2))
