"""How the code base is built: one-way imports, short files, a compiler without torch, wheels."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

import modnorm.ops  # noqa: F401  (registers the operations)
from modnorm.cli import cli
from modnorm.ops import registry

ROOT = Path(__file__).resolve().parents[2]
COMPILER = ROOT / "compiler"

LAYERS = (
    ("grammar", "kernels", "diagnostics", "stack", "files", "options"),
    ("syntax",),
    ("ops",),
    ("graph",),
    ("passes",),
    ("pipeline",),
    ("codegen",),
    ("report",),
    ("console",),
    ("train",),
    ("measure",),
    ("data",),
    ("sweep",),
    ("adopting",),
    ("importing",),
)
"""The parts of the package, each of which may import those before it and itself.

Within the first line none imports another. Any other module of `compiler/`, such as the command
line, comes last.
"""
RANKS = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
LAST = len(LAYERS)
CALLABLE = {("compiler/report/__init__.py", "api")}
"""`modnorm.report` is a package and a function: the package calls the function."""

MOST_LINES = 800


@cache
def tracked(*suffixes: str) -> list[Path]:
    """The project's own text files; what is built, cached or installed is left out."""
    found = []
    for folder, inner, files in os.walk(ROOT):
        inner[:] = [name for name in inner if not _is_made(name)]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix in suffixes)


def _is_made(folder: str) -> bool:
    hidden = folder.startswith(".") and folder != ".ci"
    made = folder in {"build", "dist", "runs", "__pycache__"}
    return hidden or made or folder.endswith(".egg-info")


def package() -> list[Path]:
    """The Python files that are installed."""
    folders = ("compiler", "kernels", "grammar")
    return [path for path in tracked(".py") if path.relative_to(ROOT).parts[0] in folders]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(path: Path) -> str:
    """The part of the package that a file belongs to: `ops`, `kernels`, `cli`."""
    top, *rest = path.relative_to(ROOT).parts
    return top if top != "compiler" else rest[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The parts of the package that a file imports, wherever in the file it does."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert part(path) == "kernels", f"{path}: relative imports are for kernels only"
            continue
        else:
            continue
        for name in names:
            package, _, inner = name.partition(".")
            if package == "modnorm" and inner:
                yield inner.partition(".")[0]


# --- layers ---------------------------------------------------------------------------------


def test_imports_run_one_way() -> None:
    parts = {p.name.removesuffix(".py") for p in COMPILER.iterdir()} | {"kernels", "grammar"}
    wrong = []
    for path in package():
        own = part(path)
        rank = RANKS.get(own, LAST)
        for other in imported(path):
            if other not in parts:
                continue  # a name of the package itself, such as its version
            if (str(path.relative_to(ROOT)), other) in CALLABLE:
                continue
            if other != own and rank != LAST and RANKS.get(other, LAST) >= rank:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}, which comes after {own}")
    assert not wrong, "\n".join(wrong)


def test_no_imports_go_in_a_circle() -> None:
    """Of modules, wherever in them an import stands. The package names all of its functions."""
    paths = [*package(), *(ROOT / "kernels").glob("*.py")]
    names = {dotted(path): path for path in paths}
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, path in names.items():
        for found in targets(name, path):
            inside = found if found in names else found.rpartition(".")[0]
            if inside in names.keys() - {name, "modnorm"}:
                graph.add_edge(name, inside)
    assert [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1] == []


def dotted(path: Path) -> str:
    """A file's name as a module."""
    parts = ["modnorm", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(part for part in parts if part not in ("compiler", "__init__"))


def targets(name: str, path: Path) -> Iterator[str]:
    """The modules that one imports, or names in them."""
    around = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = around.split(".")[: len(around.split(".")) + 1 - node.level]
            front = [*(parts if node.level else []), *([node.module] if node.module else [])]
            yield from (".".join([*front, alias.name]) for alias in node.names)


def test_every_layer_exists() -> None:
    for layer in RANKS:
        place = ROOT if layer in ("grammar", "kernels") else COMPILER
        assert (place / layer).is_dir() or (place / f"{layer}.py").is_file(), layer


def test_passes_know_no_operation() -> None:
    """They ask for properties. `Mul`, which rewrites create, is the one constructor they use."""
    names = set(registry.builtin())
    modules = {cls.__module__ for cls in registry.builtin().values()}
    allowed = {("rewrite.py", "Mul"), ("rewrite.py", "modnorm.ops.scalars")}
    found: set[tuple[str, str]] = set()
    for path in sorted((COMPILER / "passes").glob("*.py")):
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Constant(value=str(word)) if word in names:
                    found.add((path.name, word))
                case ast.alias(name=word) | ast.Name(id=word) | ast.Attribute(attr=word):
                    if word in names:
                        found.add((path.name, word))
                case ast.ImportFrom(module=str(word)) if word in modules:
                    found.add((path.name, word))
    assert found - allowed == set()


# --- files ----------------------------------------------------------------------------------


def test_files_are_short() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in tracked(".py")}
    long = [f"{path.relative_to(ROOT)}: {n} lines" for path, n in lines.items() if n > MOST_LINES]
    assert not long, "split these: " + ", ".join(long)


FORBIDDEN = (
    r"\bsess" r"ions?\b",
    r"\b[Ii]ssue #?\d",
    r"(?<![\w.])/(work|tmp)/\w",
    r"\b(DESIGN|MATH|HOUSE|PERF|DATA)\b(\.md| [A-G]\.\d)",
    r"\bTODO\b|\bFIXME\b|\bXXX\b",
)
"""What has no place in the project: its workplace, and promises."""


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_the_project_speaks_of_itself_alone(pattern: str) -> None:
    files = [*tracked(".py", ".md", ".mod", ".lark", ".toml", ".txt", ".yml", ".json"),
             ROOT / "Makefile", ROOT / ".ci" / "run"]  # fmt: skip
    texts = {p: p.read_text(encoding="utf-8") for p in files if p != Path(__file__).resolve()}
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path, text in texts.items()
        if re.search(pattern, text)
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


# --- no torch -------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numpy", "triton"):
            raise ImportError(f"{name} is not to be imported here")

sys.meta_path.insert(0, Refuse())
import modnorm
from modnorm.cli import main
sys.exit(main())
"""


GPT = str(ROOT / "examples" / "gpt.mod")
ARGUMENTS = {
    "compile": [GPT, "-o", "gpt.py"],
    "report": [GPT],
    "explain": [GPT, "linear"],
    "fmt": ["--check", GPT],
}
"""A use of each command that is to work without torch."""
NEED_TORCH = {"audit", "check", "transfer", "import"}


@pytest.mark.parametrize("command", sorted(set(cli.commands) - NEED_TORCH))
def test_compiling_and_reporting_need_no_torch(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", WITHOUT_TORCH, command, *ARGUMENTS[command]]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_each_act_has_one_place() -> None:
    """What puts files in their place, draws a format's tables, shows how far it is, trains."""
    places = {
        r"os\.replace\(": {"files.py", "report/output.py"},
        r"rich\.table": {"report/terminal.py"},
        r"<table": {"report/html/pieces.py"},
        r"-{3}:": {"report/markdown.py"},
        r"rich\.progress": {"console.py"},
        r"\bbackward\(loss": {"train.py"},
    }
    texts = {
        str(path.relative_to(COMPILER)): path.read_text(encoding="utf-8")
        for path in package()
        if path.is_relative_to(COMPILER)
    }
    for act, files in places.items():
        assert {name for name, text in texts.items() if re.search(act, text)} == files, act
    trains = re.compile(r"optimizer\.step\(")
    examples = [p for p in tracked(".py") if p.is_relative_to(ROOT / "examples")]
    assert not [p.name for p in examples if trains.search(p.read_text(encoding="utf-8"))]
