"""`modnorm check` as a command: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import modnorm
from modnorm.cli import cli
from modnorm.measure.check import check
from modnorm.measure.options import CheckOptions

NET = """\
param width = 8
input x: float[batch, 6]
model Net = Linear(4) @ Tanh @ Linear(width)
"""
LM = """\
param d = 8
input ids: int[batch, seq] < 9
model LM = Linear(9) @ Tanh @ Linear(d) @ Embed(9, d)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with programs in it."""
    monkeypatch.chdir(tmp_path)
    Path("net.mod").write_text(NET, encoding="utf-8")
    Path("lm.mod").write_text(LM, encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments], prog_name="modnorm")


def files() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"net.mod", "lm.mod"}


# --- what it prints ---------------------------------------------------------------------------


def test_text() -> None:
    done = run("net.mod")
    assert (done.exit_code, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    head, _, rest = done.stdout.partition("\n\n")
    assert "κ         0.9965 certified" in head  # an entry of tanh is at most tanh(√8)
    assert "data      random, seed 0: batch = 4" in head
    assert rest.splitlines()[0].split() == [
        "part", "input", "declared", "certified", "measured", "here"
    ]  # fmt: skip
    assert files() == set()


def test_json_has_the_keys_that_reports_read() -> None:
    done = run("net.mod", "--format", "json", "-o", "check.json")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    found = json.loads(Path("check.json").read_text(encoding="utf-8"))
    assert {
        "model", "source", "params", "seed", "data", "kappa", "measured_kappa", "modules",
        "weights", "coordinates", "violations",
    } <= found.keys()  # fmt: skip
    assert (found["model"], found["source"], found["params"]) == ("Net", "net.mod", {"width": 8})
    assert found["coordinates"] is None
    for module in found["modules"]:
        assert {
            "path", "name", "kind", "line", "norm", "input", "declared", "certified", "measured",
            "verdict",
        } <= module.keys()  # fmt: skip
        assert module["input"].keys() == {"low", "high"}
    for weight in found["weights"]:
        assert {"weight", "norm", "target", "change"} <= weight.keys()
    assert 0 < found["measured_kappa"] <= found["kappa"] * (1 + 1e-6)


def test_the_command_and_the_function_measure_the_same() -> None:
    done = run("net.mod", "-p", "width=5", "--format", "json", "--seed", "3", "--size", "batch=2")
    found = modnorm.check("net.mod", width=5, seed=3, sizes={"batch": 2})
    assert json.loads(done.stdout) == json.loads(json.dumps(found.json))


def test_the_page_of_a_report_shows_a_check() -> None:
    """What `check` writes, `report` reads: measurements and exponents."""
    done = run("lm.mod", "--vary", "d=8,16", "--steps", "1", "--format", "json", "-o", "a.json")
    assert (done.exit_code, done.stderr) == (0, "")
    words = ["report", "lm.mod", "--check", "a.json", "-o", "a.html"]
    shown = CliRunner().invoke(cli, words, prog_name="modnorm")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert files() == {"a.json", "a.html"}


def test_the_coordinate_check_and_its_picture() -> None:
    pytest.importorskip("matplotlib")
    done = run(
        "lm.mod", "--vary", "d=8,16,32", "--steps", "3", "--seeds", "1", "--plot", "a.png"
    )  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    said = "coordinate check: 3 steps of NormedAdam at lr 0.125, 1 seed, cross-entropy to the next"
    assert said in " ".join(done.stdout.split())
    assert "d = 8, 16, 32" in done.stdout
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert files() == {"a.png"}


# --- data ---------------------------------------------------------------------------------------


def test_a_text() -> None:
    Path("data.txt").write_text("abcabcabdabc" * 9, encoding="utf-8")
    done = run("lm.mod", "--data", "data.txt", "--size", "seq=7", "--format", "json")
    assert (done.exit_code, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["data"] == "data.txt"
    assert found["sizes"] == {"batch": 4, "seq": 7}


def test_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    x = numpy.random.default_rng(0).standard_normal((3, 6)) / 9
    numpy.savez("named.npz", y=x + 1, x=x)
    numpy.savez("ordered.npz", x)
    named, ordered = (
        json.loads(run("net.mod", "--data", f"{name}.npz", "--format", "json").stdout)
        for name in ("named", "ordered")
    )
    assert named["modules"] == ordered["modules"]
    assert named["sizes"] == {"batch": 3}
    high = max(float((row**2).mean() ** 0.5) for row in x)
    assert named["modules"][0]["input"]["high"] == pytest.approx(high)


def test_data_beyond_what_is_certified() -> None:
    """The certificate is for inputs of norm 1; larger ones break nothing, and are told of."""
    numpy = pytest.importorskip("numpy")
    numpy.savez("large.npz", 50 * numpy.ones((2, 6)))
    done = run("net.mod", "--data", "large.npz")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "the input `x` is larger than what the certificate assumes" in " ".join(
        done.stdout.split()
    )


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.mod"], "there is no such file"),
        (["net.mod", "-p", "widht=3"], "did you mean `width`"),
        (["net.mod", "--size", "bacth=3"], "`bacth` is no free size of the inputs of Net"),
        (["net.mod", "--data", "none.txt"], "cannot read the data `none.txt`: no such file"),
        (["net.mod", "--data", "some.txt"], "text, which is for one input of integers"),
        (["lm.mod", "--data", "some.txt"], "12 different characters, but `ids` is below 9"),
        (["lm.mod", "--data", "few.txt"], "2 characters, fewer than the 17"),
        (["lm.mod", "--data", "bytes.txt"], "neither text in UTF-8 nor an .npz"),
        (["lm.mod", "--data", "some.npz"], "cannot read the data `some.npz`"),
        (["lm.mod", "--data", "high.npz"], "holds 0 … 9, but must be 0 … 8"),
        (["lm.mod", "--data", "real.npz"], "holds float64, but the input is int[batch, seq]"),
        (["lm.mod", "--data", "flat.npz"], "has the shape (3,), but the input is"),
        (["net.mod", "--data", "nan.npz"], "holds NaN or infinity"),
        (["net.mod", "--data", "two.npz"], "have arrays `a`, `b`, but the inputs are `x`"),
        (["net.mod", "--checkpoint", "none.pt"], "cannot read the checkpoint `none.pt`"),
        (["net.mod", "--checkpoint", "some.txt"], "no file of tensors that torch.save wrote"),
        (["net.mod", "--checkpoint", "list.pt"], "holds no state dict"),
        (["net.mod", "--checkpoint", "other.pt"], "it lacks `linear_1.weight`; it has `extra`"),
        (["net.mod", "--checkpoint", "shape.pt"], "`linear.weight (8, 5) for (8, 6)`"),
        (["net.mod", "--checkpoint", "nan.pt"], "holds NaN or infinity in `linear.weight`"),
        (["net.mod", "--vary", "wdith=8,16"], "did you mean `width`"),
        (["net.mod", "-o", "none/a.txt"], "there is no folder `none`"),
        (["net.mod", "-o", "net.mod"], "it is the file that is being compiled"),
    ],
)
def test_an_input_at_fault(arguments: list[str], said: str) -> None:
    broken_inputs()
    before = files()
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert files() == before
    assert Path("net.mod").read_text(encoding="utf-8") == NET


def broken_inputs() -> None:
    import numpy

    Path("some.txt").write_text("abcdefghijkl" * 9, encoding="utf-8")
    Path("few.txt").write_text("ab", encoding="utf-8")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00" * 50)
    Path("some.npz").write_bytes(b"no archive")
    ids = numpy.arange(10).reshape(1, 10)
    numpy.savez("high.npz", ids)
    numpy.savez("real.npz", ids / 2)
    numpy.savez("flat.npz", numpy.arange(3))
    numpy.savez("nan.npz", numpy.full((2, 6), numpy.nan))
    numpy.savez("two.npz", a=ids, b=ids)
    first, second = torch.zeros(8, 6), torch.zeros(4, 8)
    torch.save([first], "list.pt")
    torch.save({"linear.weight": first, "extra": second}, "other.pt")
    torch.save({"linear.weight": first[:, :5], "linear_1.weight": second}, "shape.pt")
    torch.save({"linear.weight": first / 0, "linear_1.weight": second}, "nan.pt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "batch"], "not of the form NAME=VALUE"),
        (["--size", "batch=0"], "is no positive integer"),
        (["--size", "batch=x"], "is no positive integer"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--effort", "4"], "4 is not in the range"),
        (["--vary", "width=8"], "two different positive values"),
        (["--vary", "width=8,8"], "two different positive values"),
        (["--vary", "width=8,-1"], "two different positive values"),
        (["--vary", "width=8,x"], "are not numbers"),
        (["--lr", "0"], "0.0 is not in the range"),
        (["--plot", "a.png"], "give --vary"),
        (["--format", "yaml"], "'yaml' is not one of"),
    ],
)
def test_options_with_wrong_values(arguments: list[str], said: str) -> None:
    done = run("net.mod", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert files() == set()


def test_without_torch() -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom modnorm.cli import main\n"
        "sys.argv = ['modnorm', 'check', 'net.mod']\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: to measure a model is to run it, which needs torch: "
        '`pip install "modnorm[torch]"`\n'
    )


def test_without_matplotlib() -> None:
    code = (
        "import sys\nsys.modules['matplotlib'] = None\nfrom modnorm.cli import main\n"
        "sys.argv = ['modnorm', 'check', 'net.mod', '--vary', 'width=8,16', '--plot', 'a.png']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'pip install "modnorm[plot]"' in done.stderr
    assert files() == set()


# --- a violated certificate ---------------------------------------------------------------------

PLUGIN = """
from dataclasses import dataclass
from modnorm.ops.base import Bond, Sharpness, expect_tensor

@dataclass(frozen=True)
class Triple(Bond):
    '''y = 3·x, which claims to be a contraction.'''

    name = "Triple"
    sensitivity = 1
    certified = 1
    sharpness = Sharpness(0.0, 0.0, 0.0)

    def resolve(self, x):
        return self, expect_tensor(self.name, x)

    def reference(self, x, weight=None):
        return {factor} * x

    def emit(self, x, type, own):
        return f"{factor} * {{x}}"
"""


def installed(factor: int) -> dict[str, str]:
    """An installed package with an operation behind an entry point of `modnorm.ops`."""
    info = Path("site/tripled-1.0.dist-info")
    info.mkdir(parents=True)
    text = PLUGIN.replace("{factor}", str(factor)).replace("{{", "{").replace("}}", "}")
    Path("site/tripled.py").write_text(text, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tripled\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[modnorm.ops]\ntriple = tripled:Triple\n")
    Path("wrong.mod").write_text(
        "input x: float[batch, 6]\n\ndef step = Triple @ Linear(6)\n\n"
        "model Wrong = Linear(4) @ step\n",
        encoding="utf-8",
    )
    paths = os.pathsep.join(filter(None, ["site", os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths}


def process(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "modnorm", "check", *arguments]
    return subprocess.run(
        words, env=environment, capture_output=True, encoding="utf-8", check=False
    )


def test_a_plugins_bond_that_is_certified_wrongly_is_named() -> None:
    done = process(installed(3), "wrong.mod", "--format", "json")
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert first == (
        "error: Triple (step.triple) at line 3 stretches an input by 3, which is more than its"
        " certified sensitivity 1"
    )
    found: dict[str, Any] = json.loads(done.stdout)
    bond = next(m for m in found["modules"] if m["name"] == "Triple")
    assert (bond["verdict"], bond["path"], bond["line"]) == ("violated", "step.triple", 3)
    assert bond["measured"] == pytest.approx(3)
    assert found["violations"][0] == first.removeprefix("error: ")
    assert any("more than the certified κ" in text for text in found["violations"])
    assert found["measured_kappa"] > found["kappa"]


def test_the_same_bond_certified_rightly_passes() -> None:
    done = process(installed(1), "wrong.mod")
    assert (done.returncode, done.stderr) == (0, "")


# --- progress -------------------------------------------------------------------------------------


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bool] = []
    found = modnorm.check("net.mod")

    def measured(*_: Any, progress: bool) -> modnorm.Check:
        shown.append(progress)
        return found

    monkeypatch.setattr("modnorm.measure.interface.measured", measured)
    for arguments in ([], ["-q"]):
        for terminal in (False, True):
            monkeypatch.setattr("modnorm.cli._is_terminal", lambda answer=terminal: answer)
            assert run("net.mod", *arguments).exit_code == 0
    assert shown == [False, True, False, False]


def test_everything_is_counted_once() -> None:
    """The bar ends full: as many things are done as were announced."""
    seen: list[tuple[int, int]] = []
    analysis = modnorm.report("lm.mod").analysis
    options = CheckOptions(vary={"d": (8, 9)}, seeds=2)
    check(
        analysis, lambda _: analysis, options, lambda *a: seen.append(a[:2])
    )  # fmt: skip
    done, total = seen[-1]
    assert done == total - 1
    assert [d for d, _ in seen] == list(range(len(seen)))
