"""What goes to a terminal: no name or text of a user's is obeyed there."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report_models import MLP

from modnorm import console
from modnorm.cli import cli
from modnorm.data.__main__ import main as data
from tests.report_files import write_check

HOSTILE = "a\x1b[31m\x9b2J\u202eb\u2066\u200f\x07\nerror: forged\x7f\U000e0041"
"""Colours, a cleared screen, turned writing, a bell, a line of its own, and a tag nobody sees."""
SHOWN = "a␛[31m\\u{9b}2J\\u{202e}b\\u{2066}\\u{200f}␇ error: forged␡\\u{e0041}"
OBEYED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
FORMATS = ("text", "json", "markdown", "html", "dot")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("mlp", HOSTILE):
        Path(f"{name}.mod").write_text(MLP, encoding="utf-8")
    Path(f"wrong {HOSTILE}.mod").write_text("model M = Lineer(4)\n", encoding="utf-8")
    write_check(Path("named.json"), model=HOSTILE)
    Path("keys.json").write_text(json.dumps({HOSTILE: 1}), encoding="utf-8")
    Path("list.json").write_text(json.dumps([HOSTILE]), encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(cli, arguments, prog_name="modnorm")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def obeyed(text: str) -> set[str]:
    """The signs of a text that a terminal may obey."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in OBEYED}


COMMANDS = [
    ["compile", f"{HOSTILE}.mod"],
    ["compile", f"{HOSTILE}.mod", "-o", "-"],
    ["compile", f"no {HOSTILE}.mod"],
    ["compile", f"wrong {HOSTILE}.mod"],
    ["compile", "mlp.mod", "-o", f"{HOSTILE}.py"],
    ["compile", "mlp.mod", "-o", f"{HOSTILE}/mlp.py"],
    ["compile", "mlp.mod", "--model", HOSTILE],
    ["compile", "mlp.mod", "-p", HOSTILE],
    ["compile", "mlp.mod", "-p", f"{HOSTILE}=1"],
    ["compile", "mlp.mod", "-p", f"d={HOSTILE}"],
    ["compile", "mlp.mod", "--device", HOSTILE],
    ["compile", "mlp.mod", f"--{HOSTILE}"],
    ["compile", "mlp.mod", HOSTILE],
    [HOSTILE],
    [f"--{HOSTILE}"],
    *(["report", f"{HOSTILE}.mod", "--format", form] for form in FORMATS),
    *(
        ["report", "mlp.mod", "--against", f"{HOSTILE}.mod", "--format", form]
        for form in FORMATS[:4]
    ),
    ["report", "mlp.mod", "--format", HOSTILE],
    ["report", "mlp.mod", "--loss", HOSTILE],
    ["report", "mlp.mod", "-o", f"{HOSTILE}/mlp.json"],
    *(
        ["report", "mlp.mod", "--format", "html", option, file]
        for option in ("--check", "--monitor")
        for file in (HOSTILE, "named.json", "keys.json", "list.json")
    ),
    ["explain", f"{HOSTILE}.mod", "*"],
    ["explain", f"{HOSTILE}.mod", "linear"],
    ["explain", "mlp.mod", HOSTILE],
    ["explain", "mlp.mod", f"*{HOSTILE}*"],
    ["check", f"no {HOSTILE}.mod"],
    ["check", "mlp.mod", "--size", f"batch={HOSTILE}"],
    ["check", "mlp.mod", "--vary", f"d={HOSTILE}"],
    ["check", "mlp.mod", "--vary", "d=3,4", "--plot", HOSTILE],
    ["check", "mlp.mod", "-o", f"{HOSTILE}/mlp.json"],
    ["transfer", f"no {HOSTILE}.mod"],
    ["transfer", "mlp.mod", "--optimizer", HOSTILE],
    ["transfer", "mlp.mod", "--optimizer", f"adam:{HOSTILE}"],
    ["transfer", "mlp.mod", "--lr", HOSTILE],
    ["transfer", "mlp.mod", "--lr", f"{HOSTILE}=1"],
    ["transfer", "mlp.mod", "--vary", f"d={HOSTILE}"],
    ["transfer", "mlp.mod", "--vary", f"{HOSTILE}=1", "--vary", f"{HOSTILE}=1"],
    ["transfer", "mlp.mod", "--data", HOSTILE],
    ["transfer", "mlp.mod", "--plot", HOSTILE],
    ["transfer", "--from", HOSTILE],
    ["transfer", "--from", "keys.json"],
    ["transfer", "--from", "list.json"],
]


@pytest.mark.parametrize(
    "arguments", COMMANDS, ids=lambda a: " ".join(a).replace(HOSTILE, "HOSTILE")
)
def test_no_command_prints_what_a_terminal_obeys(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.output
    assert not obeyed(done.stdout)
    assert not obeyed(done.stderr)
    assert "\nerror: forged" not in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compile", f"{HOSTILE}.mod"], f"{SHOWN}.py: MLP, 3 weights, 13,000 parameters\n"),
        (
            ["compile", "mlp.mod", "-o", f"{HOSTILE}/mlp.py"],
            f"error: cannot write `{SHOWN}/mlp.py`: there is no folder `{SHOWN}`\n",
        ),
        (["compile", f"no {HOSTILE}.mod"], f"cannot read `no {SHOWN}.mod`: there is no such file"),
        (["compile", "mlp.mod", "-p", HOSTILE], f"'{SHOWN}' is not of the form NAME=VALUE."),
        (["report", "mlp.mod", "--format", "html", "--check", "named.json"], f"`{SHOWN}`"),
        (["transfer", "--from", HOSTILE], f"error: `{SHOWN}` cannot be read"),
    ],
)
def test_what_is_obeyed_elsewhere_is_shown(arguments: list[str], said: str) -> None:
    assert said in run(*arguments).stderr


@pytest.mark.parametrize("against", [[], ["--against", f"{HOSTILE}.mod"]])
def test_json_escapes_it_and_loses_nothing(against: list[str]) -> None:
    done = run("report", f"{HOSTILE}.mod", "--format", "json", *against)
    assert "\\u202eb\\u2066" in done.stdout
    assert "\\udb40\\udc41.mod" in done.stdout
    found = json.loads(done.stdout)
    assert (found["after"] if against else found)["source"] == f"{HOSTILE}.mod"


def test_data_sets_are_named_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"{HOSTILE}.txt").write_text("a text of some length, to train on", encoding="utf-8")
    assert data([HOSTILE]) == 1
    assert data([f"{HOSTILE}.txt"]) == 0
    done = capsys.readouterr()
    assert done.out.startswith(f"{SHOWN}.txt: ")
    assert not obeyed(done.out + done.err)


class Terminal(io.TextIOWrapper):
    """A terminal, and what was written to it."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", newline="")

    def isatty(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("write", [console.say, console.show, console.emit, console.tell])
@pytest.mark.parametrize("colored", [True, False])
def test_a_terminal_gets_no_more_than_colours(
    write: object, colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "" if colored else "1")
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", screen)
    text = "\x1b[1;31mred\x1b[0m \x1b[2J\x1b]0;title\x07 \x9b31m \u202e é κ\n"
    write(text)  # type: ignore[operator]
    painted = colored and write in (console.say, console.show)
    red = "\x1b[1;31mred\x1b[0m" if painted else "␛[1;31mred␛[0m"
    end = " \n" if write is console.tell else "\n"
    assert screen.read() == f"{red} ␛[2J␛]0;title␇ \\u{{9b}}31m \\u{{202e}} é κ{end}"


def test_a_file_that_is_piped_is_the_file_to_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", pipe)
    console.emit("# \x1b[1m \x9b κ\t\n")
    assert pipe.buffer.getvalue() == "# \x1b[1m \x9b κ\t\n".encode()  # type: ignore[attr-defined]
