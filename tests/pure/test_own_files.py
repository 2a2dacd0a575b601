"""What somebody made or changed is never written over; what modnorm made can be made anew."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

import modnorm
from modnorm.cli import cli
from modnorm.codegen.signature import is_own, signed
from modnorm.report.formats import FORMATS, SUFFIXES

MLP = """\
param width = 100
input x: float[batch, 20]
model MLP = Linear(10, width) @ ReLU @ Linear(width, 20)
"""
OTHERS = "# somebody's own file\n"
SWEEP = Path(__file__).parents[2] / "benchmarks" / "transfer" / "results" / "mlp_mass.json"
EDITS = {
    "a word": lambda text: text.replace("MLP", "Mlp", 1),
    "a line at the end": lambda text: text + "more\n",
    "a line at the start": lambda text: "# mine\n" + text,
    "no mark": lambda text: re.sub(r".*made by modnorm, sha256.*\n", "", text),
    "another mark": lambda text: re.sub(r"(?<=sha256 )\w{32}", "0" * 32, text),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mlp.mod").write_text(MLP, encoding="utf-8")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def refused(done: Result, name: str, kept: bytes) -> None:
    """A sentence says which file is there and what to do, and the file is as it was."""
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: cannot write `{name}`: modnorm did not make it")
    assert "--force" in done.stderr
    assert done.stderr.count("\n") == 1
    assert Path(name).read_bytes() == kept
    assert not list(Path().glob(".modnorm-*"))


# --- compile -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("-o", "mlp.py"), ("-o", "./mlp.py", "-p", "width=8")])
def test_a_persons_file_is_not_compiled_over(words: tuple[str, ...]) -> None:
    Path("mlp.py").write_text(OTHERS, encoding="utf-8")
    name = words[1] if words else "mlp.py"
    refused(run("compile", "mlp.mod", *words), name, OTHERS.encode())
    assert run("compile", "mlp.mod", *words, "--force").exit_code == 0
    assert "class MLP(" in Path("mlp.py").read_text(encoding="utf-8")


def test_an_untouched_file_is_compiled_over() -> None:
    assert run("compile", "mlp.mod").exit_code == 0
    first = Path("mlp.py").read_bytes()
    assert run("compile", "mlp.mod").exit_code == 0
    assert Path("mlp.py").read_bytes() == first, "the same bytes of the same program"
    Path("mlp.mod").write_text(
        "input x: float[batch, 3]\nmodel Other = Linear(3)\n", encoding="utf-8"
    )
    assert run("compile", "mlp.mod").exit_code == 0
    assert "class Other(" in Path("mlp.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("edit", EDITS)
def test_a_generated_file_that_was_edited_is_the_persons(edit: str) -> None:
    assert run("compile", "mlp.mod").exit_code == 0
    edited = EDITS[edit](Path("mlp.py").read_text(encoding="utf-8"))
    Path("mlp.py").write_text(edited, encoding="utf-8")
    refused(run("compile", "mlp.mod"), "mlp.py", edited.encode())
    assert run("compile", "mlp.mod", "--force").exit_code == 0
    assert is_own(Path("mlp.py").read_bytes())


def test_other_ends_of_lines_are_no_edit() -> None:
    """Git changes them on some systems."""
    assert run("compile", "mlp.mod").exit_code == 0
    Path("mlp.py").write_bytes(Path("mlp.py").read_bytes().replace(b"\n", b"\r\n"))
    assert run("compile", "mlp.mod").exit_code == 0
    assert b"\r" not in Path("mlp.py").read_bytes()


def test_an_empty_file_holds_nothing_to_lose() -> None:
    Path("mlp.py").touch()
    assert run("compile", "mlp.mod").exit_code == 0


def test_the_mark_leaves_the_docstring_where_it_is() -> None:
    source = modnorm.compile("mlp.mod")
    assert source.startswith("# made by modnorm, sha256 ")
    assert (ast.get_docstring(ast.parse(source)) or "").startswith("MLP: a model and its normed")


def test_from_python() -> None:
    Path("out.py").write_text(OTHERS, encoding="utf-8")
    with pytest.raises(OSError, match=r"`out.py`: modnorm did not make it.*force=True"):
        modnorm.compile("mlp.mod", output="out.py")
    assert Path("out.py").read_text(encoding="utf-8") == OTHERS
    source = modnorm.compile("mlp.mod", output="out.py", force=True)
    assert Path("out.py").read_text(encoding="utf-8") == source
    assert modnorm.compile("mlp.mod", output="out.py") == source


def test_check_compares_and_writes_nothing(folder: Path) -> None:
    def names() -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    missing = run("compile", "mlp.mod", "--check")
    assert missing.exit_code == 1
    assert "`mlp.py` is not what `mlp.mod` compiles to" in missing.stderr
    assert names() == ["mlp.mod"]
    assert run("compile", "mlp.mod").exit_code == 0
    same = run("compile", "mlp.mod", "--check")
    assert (same.exit_code, same.stderr.startswith("mlp.py: up to date: MLP")) == (0, True)
    before = Path("mlp.py").read_bytes()
    assert run("compile", "mlp.mod", "--check", "-p", "width=8", "-q").exit_code == 1
    assert Path("mlp.py").read_bytes() == before
    Path("mlp.py").write_bytes(before + b"x")
    assert run("compile", "mlp.mod", "--check").exit_code == 1
    assert Path("mlp.py").read_bytes() == before + b"x"
    assert run("compile", "mlp.mod", "--check", "-o", "-").exit_code == 2


# --- report --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_reports(form: str) -> None:
    name = "a" + next(suffix for suffix, stands in SUFFIXES.items() if stands == form)
    assert run("report", "mlp.mod", "-o", name).exit_code == 0
    first = Path(name).read_bytes()
    assert is_own(first)
    assert run("report", "mlp.mod", "-o", name).exit_code == 0
    assert Path(name).read_bytes() == first
    assert run("report", "mlp.mod", "-o", name, "-p", "width=8").exit_code == 0
    again = Path(name).read_bytes()
    assert again != first
    edited = again.replace(b"MLP", b"Mlp", 1)
    Path(name).write_bytes(edited)
    refused(run("report", "mlp.mod", "-o", name), name, edited)
    assert run("report", "mlp.mod", "-o", name, "--force").exit_code == 0
    assert Path(name).read_bytes() == first


@pytest.mark.parametrize("form", ["text", "json", "markdown", "html"])
def test_comparisons(form: str) -> None:
    name = "a" + next(suffix for suffix, stands in SUFFIXES.items() if stands == form)
    words = ("report", "mlp.mod", "--against", "mlp.mod", "--against-p", "width=8", "-o", name)
    assert run(*words).exit_code == 0
    assert is_own(Path(name).read_bytes())
    Path(name).write_text(OTHERS, encoding="utf-8")
    refused(run(*words), name, OTHERS.encode())


def test_what_is_shown_bears_no_mark() -> None:
    for form in FORMATS:
        assert "made by modnorm" not in run("report", "mlp.mod", "--format", form).stdout


def test_the_mark_of_json_is_a_key() -> None:
    assert run("report", "mlp.mod", "-o", "a.json").exit_code == 0
    found = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert re.fullmatch(r"made by modnorm, sha256 [0-9a-f]{32}", found.pop("signature"))
    assert found == json.loads(run("report", "mlp.mod", "--format", "json").stdout)


def test_a_quoted_mark_is_not_the_files_own() -> None:
    """Of a file that shows another one's mark, the own one counts."""
    line = "made by modnorm, sha256 " + "0" * 32 + "\n"
    assert is_own(signed(line, "text"))
    assert is_own(signed(line, "python"))
    assert not is_own(line.encode())


# --- sweeps and pictures -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.md", "a.html"])
def test_sweeps(name: str) -> None:
    words = ("transfer", "--from", str(SWEEP), "-o", name)
    assert run(*words).exit_code == 0
    assert is_own(Path(name).read_bytes())
    assert run(*words).exit_code == 0
    Path(name).write_text(OTHERS, encoding="utf-8")
    refused(run(*words), name, OTHERS.encode())
    assert run(*words, "--force").exit_code == 0
    if name == "a.json":
        assert run("transfer", "--from", name).exit_code == 0


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_pictures(form: str) -> None:
    pytest.importorskip("matplotlib")
    name = f"a.{form}"
    words = ("transfer", "--from", str(SWEEP), "--plot", name, "-o", "a.txt")
    assert run(*words).exit_code == 0
    first = Path(name).read_bytes()
    assert is_own(first)
    assert run(*words).exit_code == 0
    assert Path(name).read_bytes() == first
    for at in (40, len(first) // 2, len(first) - 30):
        edited = first[:at] + bytes([first[at] ^ 1]) + first[at + 1 :]
        Path(name).write_bytes(edited)
        refused(run(*words), name, edited)
    assert run(*words, "--force").exit_code == 0
    if form == "png":
        from matplotlib.image import imread

        assert imread(name).ndim == 3, "its chunks and their checksums are sound"
    elif form == "svg":
        assert ElementTree.parse(name).getroot().tag.endswith("svg")
    else:
        start = re.search(rb"startxref\n(\d+)\n%%EOF\n$", first)
        assert start is not None
        assert first[int(start[1]) :].startswith(b"xref")


def test_one_foreign_file_keeps_both_from_being_written() -> None:
    pytest.importorskip("matplotlib")
    Path("a.png").write_text(OTHERS, encoding="utf-8")
    refused(run("transfer", "--from", str(SWEEP), "--plot", "a.png", "-o", "a.txt"), "a.png",
            OTHERS.encode())  # fmt: skip
    assert not Path("a.txt").exists()


# --- endings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.png", "x.pdf", "train.py", "x.mod", "x.tar.gz", "x.htmll"])
def test_a_report_goes_to_no_name_that_says_something_else(name: str) -> None:
    done = run("report", "mlp.mod", "-o", name)
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2
    assert f"'{name}' ends in none of .txt .json .md .markdown .html .htm .dot .gv" in said
    assert "--format" in said
    assert not Path(name).exists()
    assert run("report", "mlp.mod", "-o", name, "--format", "text").exit_code == 0
    assert is_own(Path(name).read_bytes())


def test_a_named_format_does_not_reach_a_persons_script() -> None:
    Path("train.py").write_text(OTHERS, encoding="utf-8")
    assert run("report", "mlp.mod", "-o", "train.py").exit_code == 2
    done = run("report", "mlp.mod", "-o", "train.py", "--format", "text")
    refused(done, "train.py", OTHERS.encode())


def test_a_format_that_the_ending_contradicts() -> None:
    done = run("report", "mlp.mod", "-o", "x.html", "--format", "json")
    assert done.exit_code == 2
    assert "'x.html' ends in .html, which stands for html, but --format says json" in " ".join(
        done.stderr.split()
    )
    assert run("report", "mlp.mod", "-o", "x.htm", "--format", "html").exit_code == 0
    assert run("report", "mlp.mod", "-o", "report").exit_code == 0, "no ending says nothing"


@pytest.mark.parametrize(
    ("words", "endings"),
    [
        (["check", "mlp.mod", "-o", "a.html"], ".txt .json"),
        (["check", "mlp.mod", "-o", "a.py"], ".txt .json"),
        (["transfer", "mlp.mod", "-o", "a.dot"], ".txt .json .md .markdown .html .htm"),
        (["transfer", "--from", "a.json", "-o", "a.db"], ".txt .json .md .markdown .html .htm"),
    ],
)
def test_endings_of_other_commands(words: list[str], endings: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert f"ends in none of {endings}: change it" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["out", "out.txt", "mlp.html", "out.pyc"])
def test_what_is_compiled_is_a_python_file(name: str) -> None:
    done = run("compile", "mlp.mod", "-o", name)
    assert done.exit_code == 2
    assert f"'{name}' does not end in .py" in " ".join(done.stderr.split())
    assert not Path(name).exists()
