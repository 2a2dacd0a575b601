"""The whole generated file: plan, model and optimizers, one after the other."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from importlib.resources import files

from modnorm import __version__, kernels
from modnorm.codegen import tables
from modnorm.codegen.classes import Model, model
from modnorm.codegen.forward import file_name
from modnorm.codegen.plan import plan_text
from modnorm.codegen.signature import signed
from modnorm.diagnostics import Diagnostic, Diagnostics, InternalError
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

FUTURE = "from __future__ import annotations"
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


ASSIGNED = re.compile(r"^(\w+)\b.* = ", re.MULTILINE)
"""What a table assigns at module level."""


def generate(
    program: Program, device: str = tiles.DEFAULT, diagnostics: Diagnostics | None = None
) -> str:
    """The source of the generated file for an analysed program, with the file's mark.

    `device` is the class of GPUs for which the kernels' tiles are chosen, a key of tiles.DEVICES,
    or "cpu" for a file without kernels. Names that change on the way are warned of in
    `diagnostics`.

    Raises:
        InternalError: if it would be no Python: a mistake of ours, or of a plugin.
    """
    with room():
        try:
            source = _generate(program, device, diagnostics or Diagnostics())
        except (SyntaxError, ValueError) as error:
            raise InternalError(
                f"what {program.source.name} compiles to would be no Python ({error}); this is a"
                " mistake of modnorm's, or of a plugin's, and nothing was written"
            ) from error
        return signed(source, "python").decode()


def _generate(program: Program, device: str, diagnostics: Diagnostics) -> str:
    lean = run_passes(program, REWRITES, Diagnostics())
    norms = list(dict.fromkeys(w.op.norm.name for w in program.weights))
    sections = kernels.needed(norms)
    names = [section.name for section in sections]
    extra = [section.name for section in kernels.ON_GPU if set(section.needs) <= set(names)]
    on_gpu = [] if device == "cpu" else extra
    plan, *others = (kernels.source(name).strip() for name in names)
    *measures, optimizer, monitor = others
    table = [f'"{s.norm}": {s.norm_class}' for s in sections if s.norm in norms]
    planned = f"{plan_text(program)}\nPLAN_HASH = plan_hash(PLAN)"
    smoothness = tables.smoothness_table(program)
    chosen = f"{_norms(table)}\n{tables.scheme_table(program)}"
    # a file's names are the same with and without its kernels
    kind = tiles.DEFAULT if device == "cpu" else device
    moved = list(_kernels(program, kind, extra))
    lines = dict.fromkeys(MODEL_IMPORTS)
    for name in (*names, *extra):
        lines.update(dict.fromkeys(kernels.imports(name)))
    runtime = _runtime()
    taken = {name for section in (*names, *extra) for name in kernels.defines(section)}
    taken.update(kernels.bindings(ast.parse("\n".join([FUTURE, *lines, runtime]))))
    taken.update(ASSIGNED.findall("\n".join([planned, smoothness, chosen, *moved])))
    taken.update(ASSIGNED.findall(_inputs(program, "", ())))
    made = model(lean, taken)
    _warn(program, made, diagnostics)
    inputs = _inputs(program, made.name, made.inputs)
    body = "\n\n\n".join(
        [
            _rule("Plan"),
            plan,
            planned,
            smoothness,
            _rule("Model"),
            runtime,
            inputs,
            made.text,
            _rule("Optimizers"),
            *measures,
            chosen,
            optimizer,
            _rule("Monitor"),
            monitor,
            *(moved if on_gpu else ()),
        ]
    )
    used = _mentioned(ast.parse(runtime)) | _mentioned(made.tree)
    lines = dict.fromkeys(MODEL_IMPORTS)
    for name in (*names, *on_gpu):
        lines.update(dict.fromkeys(kernels.imports(name)))
        used |= kernels.uses(name)
    head = f"{_docstring(program, made.name, device)}\n\n{_imports(list(lines), used)}"
    ast.parse("\n".join([head, planned, smoothness, inputs, chosen]))  # the rest was parsed above
    return f"{head}\n\n{body}\n"


def _mentioned(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _warn(program: Program, made: Model, diagnostics: Diagnostics) -> None:
    """Say which names of the file are others than those in the source."""
    changed = [("the model's class", program.name, made.name, program.span)]
    for entry, name in zip(program.inputs, made.inputs, strict=True):
        changed.append(("its argument", entry.name, name, entry.span))
    for what, name, other, span in changed:
        if name != other:
            message = f"`{name}` means something else in the generated file; {what} is `{other}`"
            hint = "rename it if you want the two to agree"
            diagnostics.add(Diagnostic("W605", message, span, hint=hint))


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
    blocks = [FUTURE, *map(_merged, (library, torch))]
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


def _docstring(program: Program, name: str, device: str) -> str:
    triton = " only" if device == "cpu" else ", on a GPU Triton too"
    lines = [
        f'"""{program.name}: a model and its normed optimizers, compiled by modnorm {__version__}.',
        "",
        *_source(program),
        "",
        f"    model = {name}()",
        "    optimizer = NormedAdam(model.named_parameters(), lr=0.4)",
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


def _inputs(program: Program, model: str, names: Iterable[str]) -> str:
    rows = []
    for i, name in zip(program.inputs, names, strict=False):
        shape = tuple(_size(s) for s in i.type.shape)
        bound = None if i.type.bound is None else _size(i.type.bound)
        rows.append(f'    Input("{name}", "{i.type.dtype}", {shape!r}, {bound!r}),')
    return "\n".join([f'MODEL = "{model}"', "INPUTS = (", *rows, ")"]).replace("'", '"')


def _size(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)
