"""What a shell's Tab key offers, as click asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from modnorm.cli import cli

FILES = (
    "mlp.mod",
    "gpt.mod",
    "gpt.py",
    "notes.txt",
    ".hidden.mod",
    "nets/a/deep.mod",
    "empty/x.py",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def offered(*words: str) -> list[str]:
    """What the last word may become."""
    *before, incomplete = words
    complete = ShellComplete(cli, {}, "modnorm", "_MODNORM_COMPLETE")
    return [item.value for item in complete.get_completions(before, incomplete)]


def test_commands() -> None:
    assert offered("") == sorted(cli.commands)
    assert offered("re") == ["report"]


@pytest.mark.parametrize("command", ["compile", "report", "explain", "check", "transfer"])
def test_programs(command: str) -> None:
    assert offered(command, "") == ["empty/", "gpt.mod", "mlp.mod", "nets/"]
    assert offered(command, "g") == ["gpt.mod"]
    assert offered(command, "gpt.p") == []
    assert offered(command, ".h") == [".hidden.mod"]
    assert offered(command, "nowhere/") == []


def test_a_folder_that_is_the_only_choice_is_gone_into() -> None:
    assert offered("compile", "ne") == ["nets/a/deep.mod"]
    assert offered("compile", "nets/") == ["nets/a/deep.mod"]
    assert offered("compile", "empty/") == []
    found = os.path.abspath("nets")
    assert offered("compile", found) == [f"{found}/a/deep.mod"]


def test_options_and_their_choices() -> None:
    assert offered("report", "--ag") == ["--against", "--against-p", "--against-model"]
    assert offered("report", "--format", "m") == ["markdown"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell: str) -> None:
    """As README.md says to ask for it; bash itself is asked for its version on the way."""
    code = "from modnorm.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"_MODNORM_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "modnorm" in done.stdout) == (0, True), done.stderr
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {"_MODNORM_COMPLETE": f"{shell}_complete", "COMP_WORDS": "modnorm compile m"}
        | {"COMP_CWORD": "m" if shell == "fish" else "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "mlp.mod" in done.stdout
    assert "notes.txt" not in done.stdout
