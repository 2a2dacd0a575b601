"""The runtime `modnorm.kernels` as text, for files that are to need torch alone.

Each module listed in SECTIONS has one region between `# modnorm: begin` and `# modnorm: end`. Such
a file has these regions, one after the other, after one set of imports. Nothing is imported here,
since that would import torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from modnorm import kernels

BEGIN, END = "# modnorm: begin\n", "# modnorm: end\n"


class Section(NamedTuple):
    """One module whose region can be copied."""

    name: str  # the module's, without .py
    norm: str | None = None  # the norm that it implements, as plans name it
    needs: str | None = None  # the section of another norm that has to come before it


SECTIONS = (
    *(Section(name) for name in ("schemes", "streams", "weight", "checkpoint", "plan", "polar")),
    Section("spectral", "spectral"),
    Section("spectral_taps", "spectral_taps", "spectral"),
    Section("spectral_groups", "spectral_groups", "spectral_taps"),
    Section("row_rms", "row_rms"),
    Section("row", "row", "row_rms"),
    Section("column", "column", "row_rms"),
    Section("rms", "rms"),
    Section("frobenius", "frobenius", "rms"),
    Section("max_abs", "max"),
    Section("sign", "sign", "max_abs"),
    *(Section(name) for name in ("rule", "state", "auto", "optimizer")),
    *(Section(name) for name in ("dualized", "adam", "sgd", "monitor")),
)

ON_GPU = (
    *("device", "tiles", "normed", "launch"),
    *("polar_tiles", "polar_triton", "polar_launch"),
)
"""The names of what a file has beyond that for a GPU, in order."""


def needed(norms: Iterable[str]) -> tuple[Section, ...]:
    """The sections for a plan with these norms, in the order in which they have to stand.

    Raises ValueError for a norm that no section implements.
    """
    wanted = set(norms)
    if unknown := wanted - {section.norm for section in SECTIONS}:
        raise ValueError(f"no section implements the norms {sorted(unknown)}")
    needs = {section.name: section.needs for section in SECTIONS}
    found = {section.name for section in SECTIONS if section.norm in {None, *wanted}}
    while others := {other for name in found if (other := needs[name])} - found:
        found |= others
    return tuple(section for section in SECTIONS if section.name in found)


@cache
def _module(name: str) -> str:
    names = [*(section.name for section in SECTIONS), *ON_GPU]
    if name not in names:
        raise ValueError(f"{name} is no section; they are {names}")
    return files(kernels).joinpath(f"{name}.py").read_text("utf-8")


def source(name: str) -> str:
    """The text of a section's region, without the two marker lines."""
    return _module(name).split(BEGIN)[1].split(END)[0]


def file_format() -> int:
    """The format of generated files that the runtime reads."""
    found = re.search(r"^FORMAT = (\d+)", source("plan"), re.MULTILINE)
    assert found is not None
    return int(found[1])


# To parse the sections would take most of the time that it takes to compile.
IMPORT = re.compile(r"^(import|from (?!\.|__future__)\S+ import) (.+)$", re.MULTILINE)
DEFINED = re.compile(r"^(?:(?:class|def) (\w+)|(\w+)(?:: [^=\n]+)? = )", re.MULTILINE)


def imports(name: str) -> list[str]:
    """The import statements, one name each, that a section's region needs to stand above it."""
    above = _module(name).split(BEGIN)[0]
    return [f"{head} {one}" for head, names in IMPORT.findall(above) for one in names.split(", ")]


def defines(name: str) -> list[str]:
    """The module-level names in a section's region, which a generated file can't use again."""
    return [first or second for first, second in DEFINED.findall(source(name))]


def uses(name: str) -> set[str]:
    """The names that a section's region mentions."""
    tree = ast.parse(source(name))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def bindings(tree: ast.Module) -> tuple[str, ...]:
    """The names that a source defines, assigns or imports at module level, in order."""
    names: list[str] = []
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.append(node.name)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                pass
            case ast.Lambda():
                pass
            case ast.Name(ctx=ast.Store()):
                names.append(node.id)
            case ast.alias():
                names.append((node.asname or node.name).partition(".")[0])
            case ast.ExceptHandler(name=str(caught)):
                names.append(caught)
                nodes += reversed(node.body)
            case _:
                nodes += reversed(list(ast.iter_child_nodes(node)))
    return tuple(dict.fromkeys(names))
