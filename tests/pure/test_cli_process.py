"""The command line as a process: what it imports, pipes, signals, terminals, plugins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from report_models import BROKEN, GPT, MLP, ODD

posix = pytest.mark.skipif(os.name != "posix", reason="signals, pipes and terminals of POSIX")
OLD = "# what was there before\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"gpt": GPT, "mlp": MLP, "odd": ODD, "broken": BROKEN}.items():
        Path(f"{name}.mod").write_text(text, encoding="utf-8")
    return tmp_path


def environment(**variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_", "LANG"))}
    for name in ("NO_COLOR", "TERM", "COLUMNS", "COLORTERM"):
        kept.pop(name, None)
    return {**kept, **variables}


def run(
    *arguments: str, code: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`modnorm` with arguments, or Python code that calls it."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "modnorm"]), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env=environment(**(env or {})),
        check=False,
        timeout=120,
    )


def modules(code: str) -> set[str]:
    """The top-level packages that some code imports, and the parts of modnorm and rich."""
    done = run(code=f"{code}\nimport sys, json\nprint('\\n' + json.dumps(list(sys.modules)))")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {name.partition(".")[0] for name in found} | {n for n in found if "modnorm" in n}


def commanded(*arguments: str) -> set[str]:
    call = f"cli.main({list(arguments)!r}, standalone_mode=False)"
    return modules(f"from modnorm.cli import cli\n{call}")


# --- what is imported ------------------------------------------------------------------------

NEVER = {"torch", "numpy", "scipy", "triton", "setuptools", "pytest", "msgspec"}


def test_importing_modnorm_imports_next_to_nothing() -> None:
    found = modules("import modnorm; modnorm.__version__; dir(modnorm)")
    assert {name for name in found if "modnorm" in name and "editable" not in name} == {"modnorm"}
    assert not found & {*NEVER, "click", "lark", "networkx", "rich", "dataclasses"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "gpt.mod", "-o", "-"],
        ["compile", "odd.mod"],
        ["report", "gpt.mod"],
        ["report", "gpt.mod", "--format", "json"],
        ["report", "gpt.mod", "--format", "html"],
        ["explain", "gpt.mod", "q"],
    ],
)
def test_commands_never_import_torch(arguments: list[str]) -> None:
    found = commanded(*arguments)
    assert not found & NEVER
    as_text = arguments[0] == "report" and not {"json", "html"} & {*arguments}
    assert ("rich" in found) == as_text


def test_help_and_version_import_no_compiler() -> None:
    for arguments in (["--help"], ["--version"], ["compile", "-h"]):
        assert not commanded(*arguments) & {*NEVER, "lark", "networkx", "rich"}


# --- exit statuses ---------------------------------------------------------------------------


def test_statuses() -> None:
    assert run("compile", "mlp.mod").returncode == 0
    assert run("compile", "broken.mod").returncode == 1
    assert run("compile", "mlp.mod", "-o", "no/where.py").returncode == 1
    assert run("compile").returncode == 2
    assert run("compile", "mlp.mod", "-p", "x").returncode == 2
    assert run("nonsense").returncode == 2
    assert run().returncode == 2


def test_a_fault_is_told_on_stderr_and_nothing_is_written() -> None:
    Path("broken.py").write_text(OLD, encoding="utf-8")
    done = run("compile", "broken.mod")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error[E401]: ")
    assert done.stderr.endswith("\n")
    assert Path("broken.py").read_text(encoding="utf-8") == OLD


# --- pipes and encodings ---------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    "arguments", ["report gpt.mod", "compile gpt.mod -o -", "report gpt.mod --format json"]
)
def test_a_reader_that_goes_away(arguments: str) -> None:
    command = f"'{sys.executable}' -m modnorm {arguments} -p blocks=400 | head -c 10"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(),
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("standard output: ")]
    assert said == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments", ["report gpt.mod", "compile gpt.mod -o -", "explain gpt.mod q"]
)
def test_a_full_standard_output(arguments: str) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "modnorm", *arguments.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=environment(),
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: cannot write `standard output`: no space left on device\n"


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("arguments", ["report odd.mod", "compile odd.mod", "explain odd.mod cell"])
def test_closed_streams(arguments: str, closed: str) -> None:
    command = f"'{sys.executable}' -m modnorm {arguments} {closed}"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(),
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}]
)
def test_where_only_some_signs_can_be_shown(variables: dict[str, str]) -> None:
    for arguments in (["report", "gpt.mod"], ["explain", "gpt.mod", "q"]):
        done = run(*arguments, env=variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()
    done = run("report", "gpt.mod", "--format", "json", env=variables)
    assert json.loads(done.stdout)["atoms"][-1]["norm"] == "√(in/out)·σ_max", "always UTF-8"
    plain = run("compile", "gpt.mod", "-o", "-")
    assert run("compile", "gpt.mod", "-o", "-", env=variables).stdout == plain.stdout


@posix
def test_a_source_whose_name_is_no_utf8() -> None:
    name = b"caf\xe9.mod"
    try:
        Path(os.fsdecode(name)).write_text(MLP, encoding="utf-8")
    except OSError:
        pytest.skip("the file system takes no such name")
    for arguments in (["report"], ["report", "--format", "json"], ["explain", "linear"]):
        command, *rest = arguments
        done = run(command, os.fsdecode(name), *rest)
        assert (done.returncode, done.stderr) == (0, "")


# --- signals ---------------------------------------------------------------------------------

DURING = """
import os, signal
import modnorm.{module}
from modnorm.cli import main
owner, name = modnorm.{owner}, "{name}"
before = getattr(owner, name)
def struck(*arguments, **options):
    os.kill(os.getpid(), signal.{signal})
    return before(*arguments, **options)
setattr(owner, name, struck)
main()
"""
"""The command line, sent a signal when it first calls a function."""


@posix
@pytest.mark.parametrize(
    ("module", "name"),
    [("pipeline", "analyse"), ("codegen.assemble", "generate"), ("report.output", "write_all")],
)
def test_ctrl_c(module: str, name: str) -> None:
    Path("mlp.py").write_text(OLD, encoding="utf-8")
    code = DURING.format(module=module, owner=module, name=name, signal="SIGINT")
    done = run("compile", "mlp.mod", code=code)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == ""
    assert Path("mlp.py").read_text(encoding="utf-8") == OLD
    assert not list(Path().glob(".modnorm-*"))


@posix
def test_killed_while_it_writes() -> None:
    """No one can clean up then; but the old file is whole, and a new run succeeds."""
    Path("mlp.py").write_text(OLD, encoding="utf-8")
    module = "report.output"
    code = DURING.format(module=module, owner=f"{module}.os", name="replace", signal="SIGKILL")
    done = run("compile", "mlp.mod", "--force", code=code)
    assert done.returncode == -signal.SIGKILL
    assert Path("mlp.py").read_text(encoding="utf-8") == OLD
    assert run("compile", "mlp.mod", "-q", "--force").returncode == 0
    assert "class MLP(" in Path("mlp.py").read_text(encoding="utf-8")


# --- terminals -------------------------------------------------------------------------------


def on_terminal(*arguments: str, **variables: str) -> str:
    """What a command prints on a terminal of 90 columns, both streams together."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "modnorm", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**{"TERM": "xterm", **variables}),
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not read:
            break
        shown += read
    os.close(ours)
    process.wait(timeout=60)
    return shown.decode("utf-8").replace("\r\n", "\n")


@posix
@pytest.mark.parametrize("arguments", [["report", "odd.mod"], ["compile", "broken.mod"]])
def test_colour_on_a_terminal_only(arguments: list[str]) -> None:
    piped = run(*arguments)
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "\x1b[" in on_terminal(*arguments)
    assert "\x1b" not in on_terminal(*arguments, NO_COLOR="1")
    assert "\x1b" not in on_terminal(*arguments, TERM="dumb")
    assert "\x1b[" in on_terminal(*arguments, NO_COLOR=""), "an empty NO_COLOR is none"


@posix
def test_a_report_is_as_wide_as_the_terminal() -> None:
    shown = on_terminal("report", "gpt.mod", NO_COLOR="1")
    plain = run("report", "gpt.mod").stdout
    assert max(map(len, plain.splitlines())) <= 80
    assert max(map(len, shown.splitlines())) <= 90
    assert shown.split() == plain.split()


# --- plugins ---------------------------------------------------------------------------------

OPERATION = """
from dataclasses import dataclass
from modnorm.ops.elementwise import ReLU
from modnorm.ops.registry import register

@register
@dataclass(frozen=True)
class Wobble(ReLU):
    name = "Wobble"

    def resolve(self, x):
        {body}
"""


def plugin(folder: Path, source: str) -> dict[str, str]:
    """An installed package `wobbly` with an entry point for operations."""
    site = folder / "site"
    (site / "wobbly-1.0.dist-info").mkdir(parents=True)
    (site / "wobbly.py").write_text(source, encoding="utf-8")
    info = site / "wobbly-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wobbly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[modnorm.ops]\nwobble = wobbly\n")
    Path("wob.mod").write_text("input x: float[b, 8]\nmodel M = Wobble @ Linear(8)\n")
    return {"PYTHONPATH": str(site)}


def test_a_plugin_that_works(folder: Path) -> None:
    env = plugin(folder, OPERATION.format(body="return super().resolve(x)"))
    done = run("report", "wob.mod", env=env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["compile", "report"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('not today')\n", "RuntimeError: not today"),
        ("this is no Python\n", "SyntaxError: "),
    ],
)
def test_a_plugin_that_cannot_be_loaded(
    folder: Path, command: str, source: str, message: str
) -> None:
    done = run(command, "wob.mod", env=plugin(folder, source))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "error: the plugin `wobble = wobbly` of the package wobbly failed: " + message
    )
    assert "Traceback" not in done.stderr


def test_a_plugin_that_fails_later(folder: Path) -> None:
    env = plugin(folder, OPERATION.format(body="return 1 / 0"))
    done = run("compile", "wob.mod", env=env)
    assert (done.returncode, done.stdout) == (1, "")
    said = "error: the operation `Wobble` of the plugin wobbly failed: ZeroDivisionError: "
    assert done.stderr == said + "division by zero\n"
    assert not Path("wob.py").exists()
