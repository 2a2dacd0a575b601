"""Files are written whole or not at all, and only where they may be."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report_models import MLP, analysed

import modnorm
from modnorm import files
from modnorm.cli import cli
from modnorm.codegen.assemble import generate
from modnorm.report import output
from modnorm.report.output import CannotWrite, expect_writable, write, write_all
from tests.report_files import write_check, write_run

OLD = "# what was there before\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mlp.mod").write_text(MLP, encoding="utf-8")
    return tmp_path


def compile_to(out: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["compile", "mlp.mod", "-o", out, *options])


def an_old_one(path: str = "out.py") -> str:
    """A file that modnorm wrote, of another program, at a path; what is in it."""
    old = modnorm.analyse_text("input x: float[batch, 2]\nmodel Old = Linear(2)\n")
    Path(path).write_text(text := generate(old.program), encoding="utf-8")
    return text


def refused(out: str, reason: str) -> None:
    """Compiling to `out` fails with a message, and changes nothing."""
    before = sorted(Path().rglob("*"))
    done = compile_to(out)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"error: cannot write `{out}`: {reason}\n"
    assert sorted(Path().rglob("*")) == before


# --- where not to write ----------------------------------------------------------------------


def test_a_folder(folder: Path) -> None:
    Path("out").mkdir()
    refused("out", "it is a folder")
    refused("out/", "it is a folder")
    refused("new/", "it is the name of a folder")


def test_no_folder(folder: Path) -> None:
    refused("nowhere/out.py", "there is no folder `nowhere`")


def test_below_a_file(folder: Path) -> None:
    refused("mlp.mod/out.py", "not a directory")


def test_no_name(folder: Path) -> None:
    refused("", "the file's name is empty")


def test_a_name_too_long(folder: Path) -> None:
    refused("x" * 300 + ".py", "file name too long")


def test_a_name_with_a_nul() -> None:
    with pytest.raises(CannotWrite, match="null"):
        write("a\0b", "text")


@pytest.mark.parametrize("make", ["same", "other path", "link", "symlink"])
def test_the_input_itself(folder: Path, make: str) -> None:
    out = {"same": "mlp.mod", "other path": "./sub/../mlp.mod"}.get(make, "out.py")
    Path("sub").mkdir()
    if make == "link":
        os.link("mlp.mod", "out.py")
    elif make == "symlink":
        os.symlink("mlp.mod", "out.py")
    refused(out, "it is the file that is being compiled")
    assert Path("mlp.mod").read_text(encoding="utf-8") == MLP


def test_the_default_is_not_the_input_either(folder: Path) -> None:
    Path("mlp.mod").rename("mlp.py")
    done = CliRunner().invoke(cli, ["compile", "mlp.py"])
    assert done.exit_code == 1
    assert Path("mlp.py").read_text(encoding="utf-8") == MLP


def test_a_protected_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.py").write_text(OLD, encoding="utf-8")
    Path("out.py").chmod(0o444)
    if os.geteuid() == 0:  # whom no permission stops
        monkeypatch.setattr(output.os, "access", lambda path, mode: mode != os.W_OK)
    refused("out.py", "it is write-protected")
    assert Path("out.py").read_text(encoding="utf-8") == OLD


def test_a_protected_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sub").mkdir(mode=0o555)
    if os.geteuid() == 0:

        def refuse(*arguments: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(files, "open", refuse, raising=False)
    refused("sub/out.py", "permission denied")


# --- how it is written -----------------------------------------------------------------------


def test_an_old_file_is_replaced(folder: Path) -> None:
    old = an_old_one()
    with Path("out.py").open(encoding="utf-8") as reader:
        assert compile_to("out.py").exit_code == 0
        assert reader.read() == old, "who has it open keeps the old one"
    assert "class MLP(" in Path("out.py").read_text(encoding="utf-8")
    assert sorted(p.name for p in folder.iterdir()) == ["mlp.mod", "out.py"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_a_new_file(folder: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert compile_to("out.py").exit_code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("out.py").stat().st_mode) == 0o666 & ~mask


def test_a_link_stays_a_link(folder: Path) -> None:
    Path("real").mkdir()
    an_old_one("real/net.py")
    os.symlink("real/net.py", "out.py")
    assert compile_to("out.py").exit_code == 0
    assert Path("out.py").is_symlink()
    assert "class MLP(" in Path("real/net.py").read_text(encoding="utf-8")
    assert [p.name for p in Path("real").iterdir()] == ["net.py"]


def test_a_link_to_nothing_yet(folder: Path) -> None:
    Path("real").mkdir()
    os.symlink("real/net.py", "out.py")
    assert compile_to("out.py").exit_code == 0
    assert Path("out.py").is_symlink()
    assert Path("real/net.py").exists()


def test_a_link_in_a_circle(folder: Path) -> None:
    os.symlink("out.py", "out.py")
    done = compile_to("out.py")
    assert done.exit_code == 1
    assert "too many levels of symbolic links" in done.stderr
    assert Path("out.py").is_symlink()


def test_a_device_is_written_to_not_replaced(folder: Path) -> None:
    before = os.stat(os.devnull)
    assert compile_to(os.devnull).exit_code == 0
    assert os.stat(os.devnull).st_mode == before.st_mode


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_written_to_not_replaced(folder: Path) -> None:
    os.mkfifo("pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text(encoding="utf-8")))
    reader.start()
    assert compile_to("pipe").exit_code == 0
    reader.join(timeout=30)
    assert "class MLP(" in read[0]
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_a_name_that_is_no_utf8(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    try:
        an_old_one(name)
    except OSError:
        pytest.skip("the file system takes no such name")
    done = compile_to(name)
    assert done.exit_code == 0
    assert "class MLP(" in Path(name).read_text(encoding="utf-8")


# --- when it goes wrong halfway --------------------------------------------------------------

FAILURES = {
    "disk full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "quota": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "io": OSError(errno.EIO, os.strerror(errno.EIO)),
}


@pytest.mark.parametrize("at", ["fsync", "replace"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_halfway(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at: str, failure: str, exists: bool
) -> None:
    old = an_old_one() if exists else ""

    def fail(*arguments: object) -> None:
        assert any(p.name.startswith(".modnorm-") for p in folder.iterdir()), "begun"
        raise FAILURES[failure]

    monkeypatch.setattr(output.os, at, fail)
    done = compile_to("out.py")
    assert done.exit_code == 1
    reason = str(FAILURES[failure].strerror)
    assert done.stderr == f"error: cannot write `out.py`: {reason[0].lower()}{reason[1:]}\n"
    expected = ["mlp.mod", "out.py"] if exists else ["mlp.mod"]
    assert sorted(p.name for p in folder.iterdir()) == expected
    if exists:
        assert Path("out.py").read_text(encoding="utf-8") == old


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_an_interrupt_halfway(folder: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    old = an_old_one()

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output.os, at, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write("out.py", "new")
    assert sorted(p.name for p in folder.iterdir()) == ["mlp.mod", "out.py"]
    assert Path("out.py").read_text(encoding="utf-8") == old


def test_the_same_for_reports(folder: Path) -> None:
    Path("out").mkdir()
    done = CliRunner().invoke(cli, ["report", "mlp.mod", "-o", "out"])
    assert (done.exit_code, done.stderr) == (1, "error: cannot write `out`: it is a folder\n")
    same = CliRunner().invoke(cli, ["report", "mlp.mod", "-o", "mlp.mod"])
    assert same.exit_code == 1
    assert Path("mlp.mod").read_text(encoding="utf-8") == MLP


@pytest.mark.parametrize("option", ["--against", "--check", "--monitor"])
def test_nothing_that_a_report_reads_is_replaced(folder: Path, option: str) -> None:
    other = folder / "other.html"
    analysis = analysed(MLP)
    if option == "--against":
        other.write_text(MLP, encoding="utf-8")
    elif option == "--check":
        write_check(other, model="MLP")
    else:
        write_run(other, analysis.program)
    before = other.read_bytes()
    done = CliRunner().invoke(cli, ["report", "mlp.mod", option, "other.html", "-o", "other.html"])
    assert (done.exit_code, done.stdout) == (1, "")
    said = f"error: cannot write `other.html`: it is the file that `{option}` reads\n"
    assert done.stderr == said
    assert other.read_bytes() == before


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    "words",
    [("compile", "-o", "lib.py"), ("report", "-o", "lib.txt"), ("report", "-o", "lib.html")],
)
def test_nothing_that_is_imported_is_replaced(
    folder: Path, words: tuple[str, ...], force: tuple[str, ...]
) -> None:
    Path(words[-1]).write_text("def part(d) = Linear(d) @ ReLU\n", encoding="utf-8")
    Path("top.mod").write_text(
        f'from "{words[-1]}" import part\ninput x: float[batch, 8]\nmodel M = part(4)\n',
        encoding="utf-8",
    )
    before = Path(words[-1]).read_bytes()
    done = CliRunner().invoke(cli, [words[0], "top.mod", *words[1:], *force])
    said = f"error: cannot write `{words[-1]}`: it is a file that the compiled one imports\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", said)
    assert Path(words[-1]).read_bytes() == before
    if words[0] == "compile":
        with pytest.raises(OSError, match="a file that the compiled one imports"):
            modnorm.compile("top.mod", output="lib.py", force=True)
        assert Path(words[-1]).read_bytes() == before


def test_permissions_stay(folder: Path) -> None:
    an_old_one("out.py")
    for mode in (0o600, 0o640, 0o755):
        Path("out.py").chmod(mode)
        write("out.py", "new", force=True)
        assert stat.S_IMODE(Path("out.py").stat().st_mode) == mode
    write("made.py", "new")
    Path("plain").touch()
    assert Path("made.py").stat().st_mode == Path("plain").stat().st_mode


def test_check_has_nothing_to_force(folder: Path) -> None:
    done = CliRunner().invoke(cli, ["compile", "mlp.mod", "--check", "--force"])
    assert done.exit_code == 2
    assert "--check writes nothing: there is nothing for --force to replace" in done.stderr


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("compile", "-p", "width=16", "-p", "width=32"), "width"),
        (("report", "-p", "width=16", "-p", " width =16"), "width"),
        (("report", "--against", "mlp.mod", *("--against-p", "d=1") * 2), "d"),
        (("check", "--size", "batch=2", "--size", "batch=3"), "batch"),
        (("check", "--vary", "width=8,16", "--vary", "width=8,32"), "width"),
        (("transfer", "--vary", "width=8,16", "--vary", "width=8,32"), "width"),
    ],
)
def test_a_name_is_given_once(folder: Path, words: tuple[str, ...], name: str) -> None:
    done = CliRunner().invoke(cli, [words[0], "mlp.mod", *words[1:]])
    assert done.exit_code == 2
    assert f"Invalid value for '{words[-2]}': '{name}' is given twice." in done.stderr


# --- several at once ---------------------------------------------------------------------------


def test_several_files_or_none(folder: Path) -> None:
    old = an_old_one("a")
    with pytest.raises(CannotWrite, match="there is no folder `none`"):
        write_all({"a": "new", "none/b": "new"})
    assert Path("a").read_text(encoding="utf-8") == old
    write_all({"a": "new", "b": b"\xff", os.devnull: "gone"})
    assert Path("a").read_text(encoding="utf-8") == "new"
    assert Path("b").read_bytes() == b"\xff"
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b", "mlp.mod"]


@pytest.mark.parametrize("name", ["a", "new", os.devnull])
def test_finding_out_whether_it_can_be_written_writes_nothing(folder: Path, name: str) -> None:
    old = an_old_one("a")
    expect_writable(name, source={"": "mlp.mod", "--data": None, "--check": "none"})
    assert sorted(p.name for p in folder.iterdir()) == ["a", "mlp.mod"]
    assert Path("a").read_text(encoding="utf-8") == old


@pytest.mark.parametrize("name", ["", "none/a", "sub", "sub/", "mlp.mod/a", "x" * 300, "mlp.mod"])
def test_what_cannot_be_written_is_found_out(folder: Path, name: str) -> None:
    Path("sub").mkdir()
    with pytest.raises(CannotWrite) as found:
        expect_writable(name, source={"--data": "mlp.mod"})
    with pytest.raises(CannotWrite) as when_written:
        write(name, "text", source={"--data": "mlp.mod"})
    assert str(found.value) == str(when_written.value)


def test_a_protected_folder_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(CannotWrite, match="permission denied"):
        expect_writable("a")
