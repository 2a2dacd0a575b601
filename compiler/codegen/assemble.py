"""The whole generated file: plan, model and optimizers, one after the other."""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterable, Iterator
from importlib.resources import files

from modnorm import __version__, kernels
from modnorm.codegen import tables
from modnorm.codegen.classes import Classes
from modnorm.codegen.forward import file_name
from modnorm.codegen.plan import plan_text
from modnorm.codegen.signature import signed
from modnorm.diagnostics import Diagnostics
from modnorm.graph.numbers import show
from modnorm.kernels import tiles
from modnorm.ops.types import Size
from modnorm.passes.program import Pass, Program, run_passes
from modnorm.passes.rewrite import DropIdentities, FoldScalars, Fuse, ShareEqual
from modnorm.stack import room

REWRITES: tuple[Pass, ...] = (DropIdentities(), ShareEqual(), FoldScalars(), Fuse())
"""Rewrites before code is generated: scalars out of the way first, then what they kept apart."""

SPACE, FILLER = "\ue000", "\ue001"
"""A space where no line breaks, and one that is taken out after lines have been broken."""

MODEL_IMPORTS = (
    "import math",
    "import os",
    "import platform",
    "from functools import cache",
    "import torch",
    "import torch.nn.functional as F",
    "from torch import Tensor",
    "from torch import nn",
    "from typing import Any",
    "from typing import NamedTuple",
)
"""What the model's part of a generated file may import; an optimizer's section names its own."""


def generate(program: Program, device: str = tiles.DEFAULT) -> str:
    """The source of the generated file for an analysed program, with the file's mark.

    `device` is the class of GPUs for which the kernels' tiles are chosen, a key of tiles.DEVICES,
    or "cpu" for a file without kernels.
    """
    with room():
        return signed(_generate(program, device), "python").decode()


def _generate(program: Program, device: str) -> str:
    lean = run_passes(program, REWRITES, Diagnostics())
    norms = list(dict.fromkeys(w.op.norm.name for w in program.weights))
    sections = kernels.needed(norms)
    names = [section.name for section in sections]
    extra = [section.name for section in kernels.ON_GPU if set(section.needs) <= set(names)]
    on_gpu = [] if device == "cpu" else extra
    plan, *others = (kernels.source(name).strip() for name in names)
    *measures, optimizer, monitor = others
    taken = [name for section in (*names, *extra) for name in kernels.defines(section)]
    classes = Classes(lean, taken=[*taken, *tables.NAMES])
    model = classes.write()
    written = "\n\n\n".join([_runtime(), _inputs(program, classes.model), model])
    table = [f'"{s.norm}": {s.norm_class}' for s in sections if s.norm in norms]
    body = "\n\n\n".join(
        [
            _rule("Plan"),
            plan,
            f"{plan_text(program)}\nPLAN_HASH = plan_hash(PLAN)",
            tables.smoothness_table(program),
            _rule("Model"),
            written,
            _rule("Optimizers"),
            *measures,
            f"{_norms(table)}\n{tables.scheme_table(program)}",
            optimizer,
            _rule("Monitor"),
            monitor,
            *(_kernels(program, device, on_gpu) if on_gpu else ()),
        ]
    )
    lines = dict.fromkeys(MODEL_IMPORTS)
    used = {node.id for node in ast.walk(ast.parse(written)) if isinstance(node, ast.Name)}
    for name in (*names, *on_gpu):
        lines.update(dict.fromkeys(kernels.imports(name)))
        used |= kernels.uses(name)
    return f"{_docstring(program, device)}\n\n{_imports(list(lines), used)}\n\n{body}\n"


def _kernels(program: Program, device: str, sections: Iterable[str]) -> Iterator[str]:
    """What moves weights that are on a GPU, with the tables that it reads."""
    yield _rule("Kernels")
    for name in sections:
        yield kernels.source(name).strip()
        if name == "tiles":
            yield tables.tile_table(program, device)
        if name == "polar_tiles":
            yield tables.polar_table(program, device)


def _runtime() -> str:
    text = files("modnorm.codegen").joinpath("runtime.py").read_text("utf-8")
    return text.split(kernels.BEGIN)[1].split(kernels.END)[0].strip()


def _imports(lines: list[str], used: set[str]) -> str:
    """The imports of what is used, in ruff's order."""
    lines = [line for line in lines if line.split()[-1].partition(".")[0] in used]
    torch = [line for line in lines if line.split()[1].startswith("torch")]
    library = [line for line in lines if line not in torch]
    blocks = ["from __future__ import annotations", *map(_merged, (library, torch))]
    return "\n\n".join(block for block in blocks if block)


def _merged(lines: list[str]) -> str:
    """Plain imports first; several names from one module on one line."""
    plain = sorted(line for line in lines if line.startswith("import"))
    names: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("from"):
            _, module, _, name = line.split()
            names.setdefault(module, []).append(name)
    joined = [f"from {m} import {', '.join(sorted(n))}" for m, n in sorted(names.items())]
    return "\n".join(plain + joined)


def _docstring(program: Program, device: str) -> str:
    name = program.name
    triton = " only" if device == "cpu" else ", on a GPU Triton too"
    lines = [
        f'"""{name}: a model and its normed optimizers, compiled by modnorm {__version__}.',
        "",
        *_source(program),
        "",
        f"    model = {name}()",
        "    optimizer = NormedAdam(model.named_parameters(), lr=0.5)",
        "    loss.backward(); optimizer.step(); optimizer.zero_grad()",
        "",
        f"It needs torch{triton}. Comments name the source's line and the shape of the value.",
        '"""',
    ]
    return "\n".join(lines)


def _source(program: Program) -> list[str]:
    """Where the file comes from. Short values are all given the same room, so that other values
    break the lines in the same places."""
    params = []
    for name, value in program.params.items():
        text = json.dumps(value) if isinstance(value, str) else show(value)
        params.append(f"{name} = {text:{FILLER}<8}".replace(" ", SPACE))
    given = f", with {', '.join(params)}" if params else ""
    text = f"Source: {file_name(program.source)}{given}"
    lines = textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
    return [line.replace(FILLER, "").replace(SPACE, " ") for line in lines]


def _norms(entries: list[str]) -> str:
    """The table of norms, on one line if that is short."""
    head = "NORMS: dict[str, type[Norm]] ="
    line = f"{head} {{{', '.join(entries)}}}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{head} {{", *(f"    {entry}," for entry in entries), "}"])


def _rule(title: str) -> str:
    return f"# {f' {title} ':-^96}"


def _inputs(program: Program, model: str) -> str:
    rows = []
    for i in program.inputs:
        shape = tuple(_size(s) for s in i.type.shape)
        bound = None if i.type.bound is None else _size(i.type.bound)
        rows.append(f'    Input("{i.name}", "{i.type.dtype}", {shape!r}, {bound!r}),')
    return "\n".join([f'MODEL = "{model}"', "INPUTS = (", *rows, ")"]).replace("'", '"')


def _size(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)
