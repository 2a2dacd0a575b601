"""The whole generated file: plan, model and optimizers, one after the other."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import PurePath

from modnorm import __version__
from modnorm.codegen import sections, tables
from modnorm.codegen.classes import Model, model
from modnorm.codegen.plan import has_layouts, plan_text, streams_text
from modnorm.codegen.signature import signed
from modnorm.diagnostics import Diagnostic, Diagnostics, InternalError
from modnorm.graph.numbers import show
from modnorm.graph.renames import Recipe
from modnorm.kernels import tiles
from modnorm.ops.types import Size
from modnorm.passes.hoist import Hoist
from modnorm.passes.losses import Curvature
from modnorm.passes.program import Pass, Program, run_passes
from modnorm.passes.rewrite import DropIdentities, FoldScalars, Fuse, ShareEqual
from modnorm.passes.route import Route
from modnorm.stack import room

REWRITES: tuple[Pass, ...] = (
    DropIdentities(),
    ShareEqual(),
    FoldScalars(),
    Fuse(),
    Hoist(),
    Route(),
)
"""Rewrites before code is generated: scalars out of the way first, then what they kept apart."""
LOWERING: tuple[Pass, ...] = (Curvature(), *REWRITES)
"""What is run for code generation alone, behind `ANALYSIS`."""

WIDTH = 96
FUTURE = "from __future__ import annotations"
MODEL_IMPORTS = (
    "import math",
    "import torch",
    "import torch.nn.functional as F",
    "from torch import Tensor",
    "from torch import nn",
    "from typing import TYPE_CHECKING",
    "from typing import Any",
    "from typing import NamedTuple",
)
"""What the model's part of a generated file may import; an optimizer's section names its own."""


IMPORTS = (
    "from modnorm import kernels",
    "from modnorm.kernels import Monitor",
    "from modnorm.kernels import Plan",
    "from modnorm.kernels import Weight",
    "from modnorm.kernels import plan_hash",
)
"""What a file imports of the runtime that is not in it."""
STREAMS = "streams"
"""The section that tables of residual streams need."""
CHECKPOINT = "checkpoint"
"""The section that renames need."""
BASE = ("schemes", STREAMS, "weight", CHECKPOINT, "plan")
"""The sections that a plan needs."""
STREAM_NOTE = """\
# How far the end of a residual stream moves with the sum behind each of its branches. Norms alone
# read the sum, so it counts as the mean of its terms: (sensitivity, terms) of each branch."""
DEFAULT_PLAN = "NormedOptimizer.default_plan = PLAN"
KINDS = {
    "NormedAdam": "Adam's updates, each of its target's size",
    "NormedSGD": "Averages of gradients, each of its target's size",
    "DualizedSGD": "Such averages under the duality map, as in Muon",
}
"""The optimizers, and what their updates are."""
SUBCLASSES = [
    f'''class {kind}(kernels.{kind}):
    """{words}; its options: help(kernels.{kind})."""

    default_plan = PLAN'''
    for kind, words in KINDS.items()
]
TABLES = ("PLAN", "PLAN_HASH", "MODEL", "INPUTS")
RENAMES = "RENAMES"


def generate(
    program: Program,
    device: str = tiles.DEFAULT,
    diagnostics: Diagnostics | None = None,
    *,
    standalone: bool = False,
) -> str:
    """The source of the generated file for an analysed program, with the file's mark.

    `device` is the class of GPUs for which the kernels' tiles are chosen, a key of tiles.DEVICES,
    or "cpu" for a file without them. With `standalone` the file has all of the runtime that it
    needs in it; else it imports modnorm.kernels. Names that change on the way are warned of in
    `diagnostics`.

    Raises:
        InternalError: if it would be no Python: a mistake of ours, or of a plugin.
    """
    with room():
        try:
            source = _generate(program, device, diagnostics or Diagnostics(), standalone)
        except (SyntaxError, ValueError) as error:
            raise InternalError(
                f"what {program.source.name} compiles to would be no Python ({error}); this is a"
                " mistake of modnorm's, or of a plugin's, and nothing was written"
            ) from error
        return signed(source, "python").decode()


def _generate(program: Program, device: str, diagnostics: Diagnostics, standalone: bool) -> str:
    lean = run_passes(program, LOWERING, Diagnostics())
    norms = list(dict.fromkeys(w.op.norm.name for w in program.weights))
    core = [section.name for section in sections.needed(norms)]
    streams = streams_text(lean)
    if not streams:
        core.remove(STREAMS)
    if not program.renames:
        core.remove(CHECKPOINT)
    runtime = _runtime()
    # A file's names are the same in both forms, and with and without kernels.
    taken = {name for part in (*core, *sections.ON_GPU) for name in sections.defines(part)}
    lines = _import_lines((*core, *sections.ON_GPU))
    taken.update(sections.bindings(ast.parse("\n".join([FUTURE, *lines, *IMPORTS, runtime]))))
    made = model(lean, taken.union(TABLES, streams, [RENAMES]))
    _warn(program, made, diagnostics)
    plan, inputs = (
        _plan(lean, made.name, device, [*streams.values()]),
        _inputs(program, made.name, made.inputs),
    )
    renames = [_renames(program)] if program.renames else []
    parts = [_rule("Model"), runtime, inputs, *renames, made.text]
    used = _mentioned(ast.parse(runtime)) | _mentioned(made.tree)
    if standalone:
        on_gpu = () if device == "cpu" else sections.ON_GPU
        *names, monitor = core
        base = [sections.source(name).strip() for name in names if name in BASE]
        rest = [sections.source(name).strip() for name in names if name not in BASE]
        lines = _import_lines((*core, *on_gpu))
        for name in (*core, *on_gpu):
            used |= sections.uses(name)
        parts = [_rule("Plan"), *base, plan, *parts, _rule("Optimizers"), *rest]
        parts += [DEFAULT_PLAN, _rule("Monitor"), sections.source(monitor).strip()]
        if on_gpu:
            parts += [_rule("Kernels"), *(sections.source(name).strip() for name in on_gpu)]
    else:
        runtime_imports = [*IMPORTS]
        if has_layouts(program):
            runtime_imports.append("from modnorm.kernels import Layout")
        if streams:
            runtime_imports.append("from modnorm.kernels import residual_stream")
        if program.renames:
            runtime_imports.append("from modnorm.kernels import load_checkpoint")
        lines = dict.fromkeys((*MODEL_IMPORTS, *runtime_imports))
        used |= {line.split()[-1] for line in runtime_imports}
        parts = [
            _public(made.name, *made.outputs),
            _rule("Plan"),
            plan,
            *parts,
            _rule("Optimizers"),
            *SUBCLASSES,
        ]
    head = f"{_docstring(program, made.name, device, standalone)}\n\n{_imports(list(lines), used)}"
    ast.parse("\n".join([head, plan, inputs]))  # the rest was parsed above
    body = "\n\n\n".join(parts)
    return f"{head}\n\n{body}\n"


def _plan(program: Program, name: str, device: str, streams: Sequence[str]) -> str:
    """The table `PLAN` and its hash, behind those of the residual streams."""
    rows = [
        *plan_text(program).split("\n"),
        f'model="{name}",',
        f"format={sections.file_format()},",
    ]
    rows += tables.choices(program, device)
    tail = (")", "PLAN_HASH = plan_hash(PLAN)")
    plan = "\n".join(["PLAN = Plan(", *(f"    {row}" for row in rows), *tail])
    return "\n".join([*([STREAM_NOTE] if streams else []), *streams, plan])


def _import_lines(names: Iterable[str]) -> dict[str, None]:
    """The imports of the model's part and of sections, each once."""
    lines = dict.fromkeys(MODEL_IMPORTS)
    for name in names:
        lines.update(dict.fromkeys(sections.imports(name)))
    return lines


def _public(*model: str) -> str:
    names = [*model, *KINDS, "Monitor", *TABLES]
    return "\n".join(["__all__ = [", *(f'    "{name}",' for name in sorted(names, key=_rank)), "]"])


def _rank(name: str) -> tuple[bool, bool, str]:
    """Where a name stands in ruff's order: constants, classes, others."""
    return not name.isupper(), not name[:1].isupper(), name


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


def _runtime() -> str:
    text = files("modnorm.codegen").joinpath("runtime.py").read_text("utf-8")
    return text.split(sections.BEGIN)[1].split(sections.END)[0].strip()


def _imports(lines: list[str], used: set[str]) -> str:
    """The imports of what is used, in ruff's order."""
    lines = [line for line in lines if line.split()[-1].partition(".")[0] in used]
    torch = [line for line in lines if line.split()[1].startswith(("torch", "modnorm"))]
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
    pairs = sorted(names.items())
    joined = [f"from {module} import {', '.join(sorted(n, key=_rank))}" for module, n in pairs]
    return "\n".join(plain + joined)


def _docstring(program: Program, name: str, device: str, standalone: bool) -> str:
    """The file's first lines: what it is, how it was made and what it needs."""
    triton = "" if device == "cpu" else ", on a GPU Triton too"
    needs = (
        f"torch{triton}"
        if standalone
        else f"torch and modnorm{triton}; with --standalone a file needs no modnorm"
    )
    lines = [
        f'"""{program.name}: a model and its normed optimizers, made by modnorm {__version__}.',
        "",
        *_command(program, device, standalone),
        "",
        f"    model = {name}()",
        "    optimizer = NormedAdam(model.named_parameters(), lr=0.4)",
        "    loss.backward(); optimizer.step(); optimizer.zero_grad()",
        "",
        f"It needs {needs}.",
        "Comments name the source's line and the shape of the value.",
        '"""',
        "# fmt: off",
    ]
    return "\n".join(lines)


def _command(program: Program, device: str, standalone: bool) -> list[str]:
    """The command that makes the file again. Short values are all given the same room, so that
    other values break the lines in the same places."""

    def word(text: str) -> str:
        """As in a shell, and as it can stand in a docstring."""
        return shlex.quote(text).encode("unicode_escape").decode().replace('"', '\\"')

    path = program.source.name
    name = "FILE.mod" if path.startswith("<") else word(PurePath(path).name)
    words = ["modnorm", "compile", name, "--model", program.name]
    widths = [*map(len, words)]
    for name, value in program.params.items():
        text = word(f"{name}={value if isinstance(value, str) else show(value)}")
        words.append(f"-p {text}")
        widths.append(max(len(text), 14) + 3)
    more = ["--device", device] if device != tiles.DEFAULT else []
    more += ["--standalone"] if standalone else []
    words += more
    widths += map(len, more)
    lines, left = ["   "], WIDTH - 3
    for text, width in zip(words, widths, strict=True):
        if width >= left:
            lines.append("       ")
            left = WIDTH - 7
        lines[-1] += f" {text}"
        left -= width + 1
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _rule(title: str) -> str:
    return f"# {f' {title} ':-^{WIDTH}}"


def _inputs(program: Program, model: str, names: Iterable[str]) -> str:
    rows = []
    for i, name in zip(program.inputs, names, strict=False):
        shape = tuple(_size(s) for s in i.type.shape)
        bound = None if i.type.bound is None else _size(i.type.bound)
        rows.append(f'    Input("{name}", "{i.type.dtype}", {shape!r}, {bound!r}),')
    return "\n".join([f'MODEL = "{model}"', "INPUTS = (", *rows, ")"]).replace("'", '"')


def _renames(program: Program) -> str:
    """The table of what weights are made of in checkpoints of another model."""
    rows = [f"    ({_recipe(r.weight)}, {_recipe(r.made)})," for r in program.renames]
    head = "# What a checkpoint of another model has for weights: see load_checkpoint."
    return "\n".join([head, f"{RENAMES} = (", *rows, ")"])


def _recipe(made: Recipe) -> str:
    """As it stands in Python."""
    if isinstance(made, str):
        return json.dumps(made)
    if isinstance(made, tuple):
        return f"({', '.join(map(_recipe, made))})"
    return repr(made)


def _size(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)
