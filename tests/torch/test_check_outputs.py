"""What `modnorm check` writes, and where: formats by suffix, both files or none, no input lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import modnorm
from modnorm.cli import cli
from modnorm.measure import check as measuring

NET = """\
param width = 8
input x: float[batch, 6]
model Net = Linear(4) @ Tanh @ Linear(width)
"""
LM = "input ids: int[batch, seq] < 9\nmodel LM = Linear(9) @ Embed(9, 8)\n"
VARIED = ("--vary", "width=8,16", "--steps", "1", "--seeds", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.mod").write_text(NET, encoding="utf-8")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", "-q", *arguments], prog_name="modnorm")


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be measured."""

    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr(measuring, "check", measured)


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "is_json"),
    [
        (["-o", "a.json"], True),
        (["-o", "a.JSON"], True),
        (["-o", "a.txt"], False),
        (["-o", "a"], False),
        (["-o", "a.out", "--format", "text"], False),
        (["-o", "a.out", "--format", "json"], True),
    ],
)
def test_the_suffix_chooses_the_format(arguments: list[str], is_json: bool) -> None:
    done = run("net.mod", *arguments)
    assert (done.exit_code, done.output) == (0, "")
    assert Path(arguments[1]).read_text(encoding="utf-8").startswith("{") == is_json


@pytest.mark.parametrize(
    ("name", "starts"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")]
)
def test_the_suffix_chooses_the_kind_of_picture(name: str, starts: bytes) -> None:
    pytest.importorskip("matplotlib")
    for _ in range(2):
        done = run("net.mod", *VARIED, "--plot", name, "-o", "a.json")
        assert (done.exit_code, done.output) == (0, "")
        found = contents()
        assert found.keys() == {"net.mod", name, "a.json"}
        assert found[name].startswith(starts)
    assert run("net.mod", *VARIED, "--plot", name).exit_code == 0
    assert Path(name).read_bytes() == found[name], "the same picture of the same numbers"


@pytest.mark.parametrize("name", ["a.jpg", "a", "", "png", ".png", "-"])
def test_other_kinds_of_pictures_are_refused(name: str, unmeasured: None) -> None:
    done = run("net.mod", *VARIED, "--plot", name)
    assert done.exit_code == 2
    assert "--plot draws png svg pdf" in done.stderr
    assert contents().keys() == {"net.mod"}


def test_kinds_of_pictures_from_python() -> None:
    pytest.importorskip("matplotlib")
    found = modnorm.check("net.mod", vary={"width": (8, 16)}, steps=1, seeds=1)
    assert found.plot("svg").startswith(b"<?xml")
    with pytest.raises(ValueError, match="not 'gif'"):
        found.plot("gif")


# --- where it cannot be written ------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-o", "--plot"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/a", "there is no folder `none`"),
        ("sub", "it is a folder"),
        ("net.mod/a", "not a directory"),
        ("net", "it is the file that is being compiled"),
        ("data", "it is the file that `--data` reads"),
        ("weights", "it is the file that `--checkpoint` reads"),
        ("others", "modnorm did not make it, or it was changed since"),
    ],
)
def test_it_is_said_before_anything_is_measured(
    option: str, name: str, said: str, unmeasured: None
) -> None:
    end, other = (".json", ("--plot", "b.png")) if option == "-o" else (".png", ("-o", "b.json"))
    Path(f"sub{end}").mkdir()
    Path(f"net{end}").symlink_to("net.mod")
    for made in ("data", "weights", "others"):
        Path(f"{made}{end}").write_text("abc", encoding="utf-8")
    before = contents()
    reads = ("--data", f"data{end}", "--checkpoint", f"weights{end}")
    done = run("net.mod", *VARIED, *reads, option, f"{name}{end}", *other)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: cannot write `{name}{end}`: {said}")
    assert contents() == before


@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_the_name_of_a_folder(option: str, unmeasured: None) -> None:
    other = ("--plot", "b.png") if option == "-o" else ("-o", "b.json")
    done = run("net.mod", *VARIED, option, "a.png/", *other)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: cannot write `a.png/`: it is the name of a folder\n"


@pytest.mark.parametrize("name", ["a.json", "a.txt"])
def test_a_changed_result_stays_unless_forced(name: str) -> None:
    for _ in range(2):
        assert run("net.mod", "-o", name).exit_code == 0
    Path(name).write_text(Path(name).read_text(encoding="utf-8") + "my note\n", encoding="utf-8")
    before = contents()
    done = run("net.mod", "-o", name)
    assert done.exit_code == 1
    assert f"`{name}`" in done.stderr
    assert "--force" in done.stderr
    assert contents() == before
    assert run("net.mod", "-o", name, "--force").exit_code == 0
    assert "my note" not in Path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("other", ["a.png", "./a.png", "sub/../a.png"])
def test_one_name_for_both(other: str, unmeasured: None) -> None:
    Path("sub").mkdir()
    done = run("net.mod", *VARIED, "--plot", "a.png", "-o", other)
    assert done.exit_code == 2
    assert "one would be lost" in done.stderr


def test_both_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stops being possible while it is measured: the folder of the second goes."""
    pytest.importorskip("matplotlib")
    Path("sub").mkdir()
    checked = measuring.check

    def measured(*arguments: Any) -> Any:
        Path("sub").rmdir()
        return checked(*arguments)

    monkeypatch.setattr(measuring, "check", measured)
    done = run("net.mod", *VARIED, "--plot", "a.png", "-o", "sub/a.json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: cannot write `sub/a.json`: there is no folder `sub`\n"
    assert contents().keys() == {"net.mod"}


def test_inputs_are_left_as_they_are() -> None:
    Path("lm.mod").write_text(LM, encoding="utf-8")
    Path("data.txt").write_text("abcdefgh" * 40, encoding="utf-8")
    torch.save(modnorm.load("lm.mod").LM().state_dict(), "w.pt")
    reads = ("--data", "data.txt", "--checkpoint", "w.pt")
    before = contents()
    for name in ("data.txt", "w.pt", "lm.mod"):
        assert run("lm.mod", *reads, "-o", name).exit_code == 1
    assert contents() == before
    assert run("lm.mod", *reads, "-o", "a.json").exit_code == 0
    assert json.loads(Path("a.json").read_text(encoding="utf-8"))["data"] == "data.txt"


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("9" * 5000, "'batch' must be below 2,147,483,648 (2^31)"),
        ("99999999999999", "'batch' must be below 2,147,483,648 (2^31)"),
        (str(2**31), "'batch' must be below 2,147,483,648 (2^31)"),
        ("٩" * 5000, "'batch' must be below 2,147,483,648 (2^31)"),
        ("0" * 5000, "is no positive integer"),
        ("x" * 5000, "is no positive integer"),
        ("-1", "is no positive integer"),
        ("", "is no positive integer"),
    ],
)
def test_sizes_out_of_range(size: str, said: str, unmeasured: None) -> None:
    done = run("net.mod", "--size", f"batch={size}")
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert len(done.stderr) < 500


def test_sizes_with_zeros_before_them() -> None:
    done = run("net.mod", "--size", f"batch={'0' * 5000}3", "--format", "json")
    assert json.loads(done.stdout)["sizes"] == {"batch": 3}
