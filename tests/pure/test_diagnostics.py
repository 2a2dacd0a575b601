"""The cases of `diagnostics/*.md`: files, and exactly what is said about them.

A case is a level-two heading with its blocks:

* ```` ```mod ```` holds the file that is compiled, `main.mod`; with a name behind (```` ```mod
  common.mod ````) it is a further file;
* ```` ```bytes NAME ```` holds a file with the escapes of a Python bytes literal;
* ```` ```params ```` holds lines `NAME=VALUE`, as given to `-p`;
* ```` ```model ```` holds a name, as given to `--model`;
* ```` ```root ```` holds a folder, as given to `--root`;
* ```` ```text ```` holds the rendering, compared to the letter; it is empty for a correct file.

`MODNORM_GOLDEN=1 pytest tests/pure/test_diagnostics.py` writes the renderings anew.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from modnorm.diagnostics import CODES, Diagnostic, ModnormError
from modnorm.pipeline import analyse, reported
from modnorm.report.diagnostics import render
from modnorm.syntax import foreign

FOLDER = Path(__file__).parent / "diagnostics"
COMPILER = Path(__file__).parents[2] / "compiler"
GOLDEN = os.environ.get("MODNORM_GOLDEN") == "1"
MAIN = "main.mod"


def findings(
    path: str,
    params: dict[str, str],
    model: str | None,
    loss: str | None = None,
    root: str | None = None,
) -> tuple[Diagnostic, ...]:
    """What a report finds in a file and its options."""
    try:
        return analyse(path, params, model, passes=reported(loss), root=root).diagnostics
    except ModnormError as error:
        return error.diagnostics


@dataclass
class Case:
    """A heading's blocks; `start` and `end` are the lines between the fences of its text."""

    file: Path
    title: str
    files: dict[str, bytes] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    loss: str | None = None
    root: str | None = None
    text: str = ""
    start: int = 0
    end: int = 0

    def run(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        for name, content in self.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        monkeypatch.chdir(folder)
        return render(findings(MAIN, self.params, self.model, self.loss, self.root))


def read_cases(file: Path) -> Iterator[Case]:
    case: Case | None = None
    block: list[str] | None = None
    info: list[str] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n")):
        if block is None:
            if line.startswith("## "):
                if case is not None:
                    yield case
                case = Case(file, line[3:].strip())
            elif line.startswith("```"):
                block, info = [], line[3:].split()
                if info[:1] == ["text"] and case is not None:
                    case.start = number + 1
        elif line != "```":
            block.append(line)
        else:
            assert case is not None, f"{file.name}:{number}: a block before the first heading"
            content = "".join(f"{entry}\n" for entry in block)
            if info[0] == "mod":
                case.files[info[1] if len(info) > 1 else MAIN] = content.encode()
            elif info[0] == "bytes":
                written = "".join(block).replace('"', r"\"")
                case.files[info[1]] = ast.literal_eval(f'b"{written}"')
            elif info[0] == "params":
                case.params = dict(entry.split("=", 1) for entry in block)
            elif info[0] == "model":
                case.model = "".join(block)
            elif info[0] == "loss":
                case.loss = "".join(block)
            elif info[0] == "root":
                case.root = "".join(block)
            elif info[0] == "text":
                case.text, case.end = content, number
            block = None
    if case is not None:
        yield case


def rewrite(file: Path) -> None:
    """Write a file's renderings anew."""
    lines = file.read_text(encoding="utf-8").split("\n")
    for case in reversed(list(read_cases(file))):
        assert case.end, f"{file.name}: {case.title}: no text block to write to"
        with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
            said = case.run(Path(folder), patch)
            patch.undo()  # leave the folder before it is removed
        lines[case.start : case.end] = said.split("\n")[:-1]
    file.write_text("\n".join(lines), encoding="utf-8")


FILES = sorted(FOLDER.glob("*.md"))
if GOLDEN:
    for changed in FILES:
        rewrite(changed)
CASES = [case for file in FILES for case in read_cases(file)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.file.stem}: {c.title}")
def test_case(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert case.run(tmp_path, monkeypatch) == case.text


def test_titles_are_told_apart() -> None:
    names = [(case.file, case.title) for case in CASES]
    assert len(names) == len(set(names))


def test_every_code_has_a_case() -> None:
    shown = {code for case in CASES for code in re.findall(r"\[([EWA]\d+)\]:", case.text)}
    assert shown == set(CODES)


# --- every message stands in some case ---------------------------------------------------------

ELSEWHERE = {
    "the file is longer than": "test_syntax_bounds.py",
    "the file has more than": "test_syntax_bounds.py",
    "more than": "test_syntax_bounds.py",
    "a model has at most": "test_robust.py",
    "the numbers of": "test_robust.py",
    "it is larger than": "test_syntax_loader.py",
    "it is no .* file: it has neither": "test_cli.py",
    "it is no ordinary file": "test_syntax_loader.py",
    "permission denied": "test_syntax_loader.py",
    "the file's name is empty": "test_syntax_loader.py",
    "`std` is the whole library": "test_syntax_loader.py",
    "the library has no module": "test_syntax_loader.py",
    "there is no module": "test_syntax_loader.py",
    "a file of the library imports": "test_syntax_loader.py",
    "param `": "test_hostile.py",  # values from Python, not from the command line
    "an operation's sensitivity": "test_hostile.py",  # of a plugin
    "`.*` takes a vector for each of": "test_ops.py",  # of what only `Experts` makes
    "`.*` has sensitivity .*; it must": "test_hostile.py",
    ".* coefficients for": "test_ops.py",  # of an operation that only rewrites make
    "`.*` is neither the tensor": "test_ops_formula.py",
    "a bond's formula cannot use `.*`, code": "test_ops_formula.py",
    "`scale` of `": "test_ops.py",
    "`Product` has nothing": "test_ops.py",  # an empty tuple, which cannot be written
    "`Concat` has nothing": "test_ops.py",
    "`Stack` has nothing": "test_ops.py",
}
"""Messages that need what a Markdown file cannot hold, with the test that provokes them."""

SPEAKS = {
    "error": 0,
    "problem": 1,
    "Diagnostic": 1,
    "_Unreadable": 0,
    "fail": 1,
    "report": 1,
    "Advice": 1,
    "Misfit": 0,
    "BadFormula": 0,
    "Impossible": 0,
    "reject": 1,
    "refuse": 1,
}
"""What takes a message, and as which argument."""
FOLDERS = ("syntax", "graph", "passes", "ops")


def _templates(node: ast.expr) -> Iterator[str]:
    """A message as regular expressions, one a branch, its fields as wildcards."""
    match node:
        case ast.Constant(value=str(text)):
            yield re.escape(text)
        case ast.JoinedStr(values=parts):
            yield "".join(
                re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*"
                for part in parts
            )
        case ast.IfExp(body=body, orelse=otherwise):
            yield from _templates(body)
            yield from _templates(otherwise)
        case ast.BinOp(left=left, op=ast.Add()):
            yield from _templates(left)


def _messages() -> Iterator[tuple[str, str]]:
    """Every message written in the compiler's stages, with its place."""
    for file in sorted(file for folder in FOLDERS for file in (COMPILER / folder).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            said: ast.expr | None = None
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                name = node.func.id if isinstance(node.func, ast.Name) else name
                position = SPEAKS.get(name, len(node.args))
                said = node.args[position] if position < len(node.args) else None
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "message":
                said = node.value
            for template in _templates(said) if said is not None else ():
                if template.replace(".*", "").strip():
                    yield template, f"{file.parent.name}/{file.name}:{node.lineno}"


@pytest.mark.parametrize(("template", "place"), sorted(set(_messages())))
def test_every_message_has_a_case(template: str, place: str) -> None:
    if any(template.replace("\\", "").startswith(start) for start in ELSEWHERE):
        return
    said = "\n".join(case.text for case in CASES)
    assert re.search(rf"\]: .*{template}", said), f"{place}: no case shows this message"


def test_every_foreign_sign_has_a_case() -> None:
    said = "\n".join(case.text for case in CASES)
    missing = [sign for sign in foreign.SIGNS if f"]: `{sign}` is not part of" not in said]
    assert missing == []
