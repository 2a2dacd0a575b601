"""The optimizer runtime: plain torch, tested here, and copied into every generated file.

Each module listed in SECTIONS has one region between `# modnorm: begin` and `# modnorm: end`. A
generated file consists of these regions, one after the other, after one set of imports; it defines
PLAN and NORMS itself. This package reads them as text and never imports torch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

BEGIN, END = "# modnorm: begin\n", "# modnorm: end\n"


class Section(NamedTuple):
    """One module whose region can be copied."""

    name: str  # the module's, without .py
    needs: tuple[str, ...] = ()  # the sections that have to come before it
    norm: str | None = None  # the norm that it implements, as plans name it,
    norm_class: str | None = None  # and the class that does


SECTIONS = (
    Section("plan"),
    Section("schemes"),
    Section("polar", ("plan", "schemes")),
    Section("spectral", ("plan", "schemes", "polar"), "spectral", "Spectral"),
    Section(
        "spectral_taps",
        ("plan", "schemes", "polar", "spectral"),
        "spectral_taps",
        "SpectralTaps",
    ),
    Section("row_rms", ("plan",), "row_rms", "RowRMS"),
    Section("row", ("plan", "row_rms"), "row", "Row"),
    Section("column", ("plan", "row_rms"), "column", "Column"),
    Section("rms", ("plan",), "rms", "RMS"),
    Section("frobenius", ("plan", "rms"), "frobenius", "Frobenius"),
    Section("max_abs", ("plan",), "max", "MaxAbs"),
    Section("sign", ("plan", "max_abs"), "sign", "Sign"),
    Section("state", ("plan",)),
    Section("auto", ("plan", "state")),
    Section("optimizer", ("plan", "schemes", "polar", "state", "auto")),
    Section("monitor", ("plan", "state", "optimizer")),
)

ON_GPU = (
    *(Section("device"), Section("tiles"), Section("normed"), Section("launch")),
    *(Section(f"polar_{part}", ("polar",)) for part in ("tiles", "triton", "launch")),
)
"""What a file has beyond that for a GPU, in order, where what it needs is there."""


def needed(norms: Iterable[str]) -> tuple[Section, ...]:
    """The sections for a plan with these norms, in the order in which they have to stand.

    Raises ValueError for a norm that no section implements.
    """
    wanted = set(norms)
    if unknown := wanted - {section.norm for section in SECTIONS}:
        raise ValueError(f"no section implements the norms {sorted(unknown)}")
    names = {"plan", "schemes", "polar", "state", "auto", "optimizer", "monitor"}
    for section in SECTIONS:
        if section.norm in wanted:
            names |= {section.name, *section.needs}
    return tuple(section for section in SECTIONS if section.name in names)


@cache
def _module(name: str) -> str:
    names = [section.name for section in (*SECTIONS, *ON_GPU)]
    if name not in names:
        raise ValueError(f"{name} is no section; they are {names}")
    return files(__name__).joinpath(f"{name}.py").read_text("utf-8")


def source(name: str) -> str:
    """The text of a section's region, without the two marker lines."""
    before, region = _module(name).split(BEGIN)
    del before
    return region.split(END)[0]


@cache
def imports(name: str) -> tuple[str, ...]:
    """The import statements, one name each, that a section's region needs to stand above it."""
    lines = []
    for node in ast.parse(_module(name)).body:
        if isinstance(node, ast.Import):
            lines += [f"import {alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module != "__future__":
            lines += [f"from {node.module} import {alias.name}" for alias in node.names]
    return tuple(lines)


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse(source(name))


@cache
def uses(name: str) -> frozenset[str]:
    """The names that a section's region mentions."""
    return frozenset(node.id for node in ast.walk(_tree(name)) if isinstance(node, ast.Name))


@cache
def defines(name: str) -> tuple[str, ...]:
    """The module-level names in a section's region, which a generated file can't use again."""
    names: list[str] = []
    for node in _tree(name).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return tuple(names)
