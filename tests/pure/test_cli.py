"""The command line: what each command does, and what it says where the input is at fault."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report_models import BROKEN, GPT, MLP, ODD
from report_models import as_text as render

import modnorm
from modnorm.cli import cli
from modnorm.codegen import assemble
from modnorm.codegen.assemble import generate
from modnorm.codegen.signature import signed
from modnorm.pipeline import analyse
from modnorm.report.as_json import dumps, report
from modnorm.report.explain import explanation


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with programs in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"gpt": GPT, "mlp": MLP, "odd": ODD, "broken": BROKEN}.items():
        Path(f"{name}.mod").write_text(text, encoding="utf-8")
    two = MLP + "model Other = Linear(2)\n"
    Path("two.mod").write_text(two, encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="modnorm")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- compile ---------------------------------------------------------------------------------


def test_compile_writes_beside_you(folder: Path) -> None:
    before = names(folder)
    done = run("compile", "gpt.mod")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "gpt.py: GPT, 27 weights, 811,264 parameters\n"
    assert names(folder) == before | {"gpt.py"}
    text = Path("gpt.py").read_text(encoding="utf-8")
    assert text == generate(analyse("gpt.mod").program)
    ast.parse(text)


def test_compile_writes_in_the_current_folder_not_in_the_sources(folder: Path) -> None:
    Path("inner").mkdir()
    Path("mlp.mod").rename("inner/net.mod")
    assert run("compile", "inner/net.mod", "-q").exit_code == 0
    assert Path("net.py").exists()
    assert names(Path("inner")) == {"net.mod"}


def test_compile_to_a_path(folder: Path) -> None:
    done = run("compile", "mlp.mod", "-o", "out.py")
    assert done.stderr == "out.py: MLP, 3 weights, 13,000 parameters\n"
    assert not Path("mlp.py").exists()
    ast.parse(Path("out.py").read_text(encoding="utf-8"))


def test_compile_to_standard_output(folder: Path) -> None:
    before = names(folder)
    done = run("compile", "mlp.mod", "-o", "-")
    assert done.stdout == generate(analyse("mlp.mod").program)
    assert done.stderr == "standard output: MLP, 3 weights, 13,000 parameters\n"
    assert names(folder) == before


def test_quiet(folder: Path) -> None:
    done = run("compile", "mlp.mod", "-q")
    assert (done.exit_code, done.output) == (0, "")
    assert Path("mlp.py").exists()


def test_params(folder: Path) -> None:
    done = run("compile", "gpt.mod", "-p", "d_embed=64", "-p", "blocks = 1+2")
    assert done.exit_code == 0
    expected = generate(analyse("gpt.mod", {"d_embed": 64, "blocks": 3}).program)
    assert Path("gpt.py").read_text(encoding="utf-8") == expected


def test_model(folder: Path) -> None:
    assert run("compile", "two.mod", "--model", "Other").exit_code == 0
    assert "class Other(" in Path("two.py").read_text(encoding="utf-8")


def test_warnings_go_to_stderr_and_do_not_fail(folder: Path) -> None:
    done = run("compile", "odd.mod")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "warning[W602]" in done.stderr
    assert done.stderr.endswith("odd.py: M, 26 weights, 8,880 parameters\n")
    assert Path("odd.py").exists()
    quiet = run("compile", "odd.mod", "-q")
    assert quiet.stderr == done.stderr.replace("odd.py: M, 26 weights, 8,880 parameters\n", "")


# --- the input is at fault -------------------------------------------------------------------

WRONG = [
    (["broken.mod"], "E401"),
    (["nosuch.mod"], "E101"),
    (["."], "E101"),
    (["two.mod"], "E206"),
    (["two.mod", "--model", "Othr"], "E206"),
    (["gpt.mod", "-p", "d_embd=64"], "E207"),
    (["gpt.mod", "-p", "d_embed="], "E102"),
    (["gpt.mod", "-p", "d_embed=64 *"], "E102"),
    (["gpt.mod", "-p", "d_embed=wide"], "E201"),
    (["gpt.mod", "-p", "d_embed=7"], "E401"),
]


@pytest.mark.parametrize("command", ["compile", "report", "explain"])
@pytest.mark.parametrize(("arguments", "code"), WRONG)
def test_faults_leave_everything_as_it_is(
    folder: Path, command: str, arguments: list[str], code: str
) -> None:
    for name in ("gpt", "two", "broken", "nosuch"):
        Path(f"{name}.py").write_text("# mine\n", encoding="utf-8")
    before = names(folder)
    extra = ["linear"] if command == "explain" else []
    done = run(command, *arguments, *extra)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"error[{code}]" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(folder) == before
    assert Path("gpt.py").read_text(encoding="utf-8") == "# mine\n"


@pytest.mark.parametrize("command", ["compile", "report", "explain", "check", "transfer"])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mlp.py", b"import torch\nfrom torch import nn\n\nmodel = nn.Linear(3, 4)\n", "it is no"),
        ("mlp.json", b'{"model": "MLP", "weights": 13000}', "it is no .mod file: it has neither"),
        ("mlp.txt", b"", "it is no .mod file"),
        ("mlp.pt", b"PK\x03\x04\x00\x00\xff\xfe\x80", "is not UTF-8 text"),
        ("mlp.db", b"SQLite format 3\0", "holds a NUL character, so this is no text file"),
        ("mlp.bin", b"\xff" * 2_000_000, "it is larger than 1 MB"),
        ("mlp.mod.bak", b"nothing\n", "it is no .mod file"),
        ("mlp", None, "it is a folder"),
        ("mlp", b"\n", "it is no .mod file"),
        ("mlp.onnx", b"", "it is no .mod file"),
    ],
)
def test_a_file_that_is_no_program(
    folder: Path, command: str, name: str, content: bytes | None, said: str
) -> None:
    """As a shell's Tab key may write it."""
    Path(name).mkdir() if content is None else Path(name).write_bytes(content)
    before = names(folder)
    done = run(command, name, *(["linear"] if command == "explain" else []))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error[E101]: cannot read `{name}`: ")
    assert said in done.stderr
    assert "= help: did you mean `mlp.mod`?\n" in done.stderr
    assert done.stderr.endswith("\n1 error\n")
    assert names(folder) == before


def test_a_folder_with_one_program_in_it(folder: Path) -> None:
    Path("nets").mkdir()
    Path("mlp.mod").rename("nets/wide.mod")
    assert "did you mean `nets/wide.mod`?" in run("report", "nets").stderr
    Path("nets/deep.mod").write_text(MLP, encoding="utf-8")
    assert "= help: name a file in it" in run("report", "nets").stderr


@pytest.mark.parametrize("name", ["mlp.txt", "mlp", "mlp.mod.orig"])
def test_a_program_may_have_another_name(folder: Path, name: str) -> None:
    Path("mlp.mod").rename(name)
    assert run("report", name).exit_code == 0
    Path(name).write_text(MLP.replace("Linear", "Lineer", 1), encoding="utf-8")
    assert "did you mean `Linear`?" in run("report", name).stderr, "with its own mistakes"


def test_every_mistake_is_shown(folder: Path) -> None:
    program = (
        "input x: float[b, 8]\ndef f = Lineer(3)\nmodel M = f @ Rellu @ Linear(8, mass = -1)\n"
    )
    Path("bad.mod").write_text(program, encoding="utf-8")
    done = run("compile", "bad.mod")
    for sign in ("`Lineer`", "`Rellu`", "mass = -1", "did you mean `Linear`?", "3 errors"):
        assert sign in done.stderr


def test_nested_too_deeply(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deep(*arguments: object, **options: object) -> None:
        raise RecursionError

    monkeypatch.setattr(assemble, "generate", deep)
    done = run("compile", "mlp.mod")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "error[E104]: the model is nested too deeply to compile" in done.stderr
    assert not Path("mlp.py").exists()


# --- usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile"], "Missing argument 'FILE.mod'"),
        (["explain", "gpt.mod"], "Missing argument 'PATH'"),
        (["compile", "gpt.mod", "x.mod"], "unexpected extra argument"),
        (["compile", "gpt.mod", "-p", "d_embed"], "'d_embed' is not of the form NAME=VALUE"),
        (["compile", "gpt.mod", "-p", "=3"], "'=3' is not of the form NAME=VALUE"),
        (["report", "gpt.mod", "--format", "yaml"], "'yaml' is not one of 'text', 'json'"),
        (["compile", "gpt.mod", "--no-such-option"], "No such option"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_usage(folder: Path, arguments: list[str], message: str) -> None:
    before = names(folder)
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert names(folder) == before


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag: str) -> None:
    done = run(flag)
    assert done.exit_code == 0
    commands = re.findall(r"^  (\w+)  +\S", done.stdout.partition("Commands:")[2], re.MULTILINE)
    assert commands == sorted(cli.commands)
    for name in cli.commands:
        shown = run(name, flag)
        assert shown.exit_code == 0
        argument = "MODULE:FACTORY" if name in ("audit", "import") else "FILE.mod"
        assert f"Usage: modnorm {name} [OPTIONS] {argument}" in shown.stdout
        assert f"  modnorm {name} " in shown.stdout, "an example"
        assert max(map(len, shown.stdout.splitlines())) <= 80


def test_version() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"modnorm {modnorm.__version__}\n")


# --- report and explain ----------------------------------------------------------------------


def test_report_text(folder: Path) -> None:
    done = run("report", "gpt.mod")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == render(analyse("gpt.mod"))


def test_report_json(folder: Path) -> None:
    done = run("report", "odd.mod", "--format", "json", "-p", "n=2")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout) == report(analyse("odd.mod", {"n": 2}))


@pytest.mark.parametrize("form", ["text", "json"])
def test_report_to_a_file(folder: Path, form: str) -> None:
    done = run("report", "gpt.mod", "--format", form, "-o", "out")
    assert (done.exit_code, done.output) == (0, "")
    analysis = analyse("gpt.mod")
    expected = render(analysis) if form == "text" else dumps(report(analysis))
    assert Path("out").read_bytes() == signed(expected, form)
    assert run("report", "gpt.mod", "--format", form, "-o", "-").stdout == expected


def test_explain(folder: Path) -> None:
    done = run("explain", "gpt.mod", "q", "-p", "blocks=2")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == explanation(analyse("gpt.mod", {"blocks": 2}).program, "q")


def test_explain_several(folder: Path) -> None:
    done = run("explain", "gpt.mod", "*.[qk].*")
    assert done.exit_code == 0
    assert done.stdout.startswith("8 weights match `*.[qk].*`")


def test_explain_none(folder: Path) -> None:
    done = run("explain", "gpt.mod", "attentoin")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "did you mean `attention`?" in done.stderr


def test_explain_a_path_that_looks_like_an_option(folder: Path) -> None:
    assert run("explain", "gpt.mod", "-x").exit_code == 2
    assert run("explain", "gpt.mod", "--", "-x").exit_code == 1
