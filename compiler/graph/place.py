"""Give every position of the module tree an id and a path.

A path is made of the names through which a position was reached, an index for each repetition, and
the operation's name. It is a template: `{k}` stands for the index of a repetition whose first index
is k. A shared module has one path, from the root, wherever it is mentioned.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from modnorm.diagnostics import Diagnostic, Diagnostics, Span
from modnorm.graph.modules import (
    Assume,
    Leaf,
    Module,
    Repeat,
    Run,
    Scan,
    Scope,
    Shared,
    Tare,
    children,
    counted,
    rebuilt,
)
from modnorm.graph.numbers import show
from modnorm.graph.paths import template
from modnorm.ops.base import Atom, Reader

MAX_POSITIONS = 5_000
"""Positions of the module tree, a repetition's body counted once."""
MAX_DEPTH = 800
"""Levels of the module tree."""
MAX_WEIGHTS = 200_000
"""Weights of a model, every copy counted."""
MAX_LOOPS = 16
"""Repetitions inside each other: Python allows 20 loops inside each other."""

RESERVED = frozenset(
    "T_destination add_module apply bfloat16 buffers call_super_init children compile cpu "
    "cuda double dump_patches eval extra_repr float forward get_buffer get_extra_state "
    "get_parameter get_submodule half ipu load_state_dict modules mtia named_buffers "
    "named_children named_modules named_parameters parameters register_backward_hook "
    "register_buffer register_forward_hook register_forward_pre_hook "
    "register_full_backward_hook register_full_backward_pre_hook "
    "register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module "
    "register_parameter register_state_dict_post_hook register_state_dict_pre_hook "
    "requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty train "
    "training type weight xpu zero_grad append extend insert pop self _apply _backward_hooks "
    "_backward_pre_hooks _buffers _call_impl _compiled_call_impl _forward_hooks "
    "_forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks "
    "_forward_pre_hooks_with_kwargs _get_abs_string_index _get_backward_hooks "
    "_get_backward_pre_hooks _get_name _is_full_backward_hook _load_from_state_dict "
    "_load_state_dict_post_hooks _load_state_dict_pre_hooks _maybe_warn_non_full_backward_hook "
    "_modules _named_members _non_persistent_buffers_set _parameters "
    "_register_load_state_dict_pre_hook _register_state_dict_hook _replicate_for_data_parallel "
    "_save_to_state_dict _slow_forward _state_dict_hooks _state_dict_pre_hooks _version "
    "_wrapped_call_impl _orig_mod module".split()
)
"""Attributes that a torch module has already, and those that torch's wrappers hold it under; a part
of that name gets an underscore."""


def legal(name: str) -> str:
    """The name, or the nearest one that Python takes as it stands.

    A class gives `__x` another meaning, and `_` is the variable of loops that need none.
    """
    name = re.sub(r"\W", "_", name)
    if name == "_" or name.startswith("__"):
        name = f"{name.strip('_') or 'part'}_"
    return f"_{name}" if name[:1].isdigit() else name


def is_reserved(name: str) -> bool:
    """Whether a part of a torch module cannot have a name."""
    return keyword.iskeyword(name) or name in RESERVED or name != legal(name)


def snake(name: str) -> str:
    """`RMSDivide` → `rms_divide`, `Conv2D` → `conv2d`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def camel(name: str) -> str:
    """`attention_block` → `AttentionBlock`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or "Part"


@dataclass(eq=False)
class _Container:
    """Where names of siblings are kept apart."""

    prefix: str
    taken: dict[str, int] = field(default_factory=dict)
    repeats: int = 0

    def claim(self, name: str) -> str:
        count = self.taken.get(name, 0)
        self.taken[name] = count + 1
        unique = name if not count else f"{name}_{count}"
        while count and (unique in self.taken or is_reserved(unique)):
            count += 1
            unique = f"{name}_{count}"
        self.taken.setdefault(unique, 1)
        return self.join(unique)

    def join(self, name: str) -> str:
        return f"{self.prefix}.{name}" if self.prefix else name


class _Placer:
    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        self.root = _Container("")
        self.next_id = 0
        self.holding: dict[int, bool] = {}
        self.shared: dict[str, str] = {}
        self.shared_weights: dict[str, str] = {}

    def has_modules(self, module: Module) -> bool:
        """Whether modules are placed inside; those of a shared part are placed at the root."""
        if id(module) not in self.holding:
            own = isinstance(module, Leaf) and module.op.is_module
            inside = () if isinstance(module, Shared) else children(module)
            self.holding[id(module)] = own or any(map(self.has_modules, inside))
        return self.holding[id(module)]

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def safe(self, name: str, span: Span) -> str:
        """The name, or another one where Python or torch would misunderstand it."""
        if not is_reserved(name):
            return name
        other = legal(f"{name.strip('_') or 'part'}_")
        while is_reserved(other):
            other += "_"
        self.diagnostics.add(
            Diagnostic(
                "W605",
                f"`{name}` means something else in Python; its weights are under `{other}`",
                span,
                hint="rename it if you want the two to agree",
            )
        )
        return other

    def place(self, module: Module, at: _Container) -> Module:
        number = self.new_id()
        match module:
            case Leaf(op=op):
                name = snake(op.label)
                if op.is_module:
                    path = at.claim(self.safe(name, module.span))
                    own = path if isinstance(op, Atom) else None
                    return replace(module, id=number, path=path, weight=own)
                weight = op.embed if isinstance(op, Reader) else None
                return replace(module, id=number, path=at.join(name), weight=weight)
            case Scope(name=name, body=body):
                if self.has_modules(body):
                    path = at.claim(self.safe(name, module.definition))
                else:
                    path = at.join(name)
                return replace(
                    module, id=number, path=path, body=self.place(body, _Container(path))
                )
            case Shared():
                return self.place_shared(module, number)
            case Repeat():
                return self.place_repeat(module, number, at)
            case Scan():
                path = at.join("scan")  # no module's: its cell stands in what is around
                return replace(module, id=number, path=path, body=self.place(module.body, at))
            case _:
                return rebuilt(module, lambda inner: self.place(inner, at), id=number)

    def place_shared(self, module: Shared, number: int) -> Module:
        if module.key not in self.shared:
            name = self.safe(module.key.rpartition(":")[2], module.definition)
            self.shared[module.key] = self.root.claim(name)
        path = self.shared[module.key]
        body = self.place(module.body, _Container(path))
        inner: Module = body
        while isinstance(inner, Scope | Tare | Assume):
            inner = inner.body
        if isinstance(inner, Leaf) and inner.weight is not None:
            self.shared_weights[module.key] = inner.weight
        return replace(module, id=number, body=body)

    def place_repeat(self, module: Repeat, number: int, at: _Container) -> Module:
        """Copies of a named body are `name.index`; others are `index` in the enclosing part."""
        bodies = [run.body for run in module.runs]
        names = {b.name if isinstance(b, Scope) else None for b in bodies}
        name = names.pop() if len(names) == 1 else None
        weighted = any(map(self.has_modules, bodies))
        suffix = ""
        if name is not None:
            definition = bodies[0].definition  # type: ignore[union-attr]
            path = at.claim(self.safe(name, definition)) if weighted else at.join(name)
        else:
            path = at.prefix
            if weighted:
                suffix = f"_{at.repeats}" if at.repeats else ""
                at.repeats += 1
        runs: list[Run] = []
        start = 0
        for run in module.runs:
            inner = template(path, start, suffix)
            body = run.body
            if name is not None and isinstance(body, Scope):
                placed: Module = replace(
                    body,
                    id=self.new_id(),
                    path=inner,
                    body=self.place(body.body, _Container(inner)),
                )
            else:
                placed = self.place(body, _Container(inner))
            runs.append(Run(placed, run.count, inner))
            start += run.count
        return replace(module, id=number, path=path, runs=tuple(runs))


class Measure(NamedTuple):
    """How large a tree is: positions, levels, weights (every copy), repetitions in each other,
    operations with effects (every copy)."""

    parts: int
    levels: int
    weights: int
    loops: int
    effects: int = 0


def measure(module: Module) -> Measure:
    """The size of a tree, without walking it out."""
    seen: dict[int, Measure] = {}

    def visit(m: Module) -> Measure:
        if id(m) not in seen:
            inside = counted(m)
            parts, counts = [visit(child) for child, _ in inside], [n for _, n in inside]
            weight = isinstance(m, Leaf) and isinstance(m.op, Atom)
            effect = isinstance(m, Leaf) and m.op.has_effects
            seen[id(m)] = Measure(
                1 + sum(p.parts for p in parts),
                1 + max((p.levels for p in parts), default=0),
                weight + sum(p.weights * n for p, n in zip(parts, counts, strict=True)),
                isinstance(m, Repeat | Scan) + max((p.loops for p in parts), default=0),
                effect + sum(p.effects * n for p, n in zip(parts, counts, strict=True)),
            )
        return seen[id(m)]

    return visit(module)


BOUNDS = (
    ("parts", MAX_POSITIONS, "repeat with `**`, which counts once, instead of copies by hand"),
    ("levels", MAX_DEPTH, ""),
    ("weights", MAX_WEIGHTS, ""),
    ("repetitions inside each other", MAX_LOOPS, "`(a ** m) ** n` can be written `a ** (m * n)`"),
    ("operations that draw random numbers or keep buffers", MAX_WEIGHTS, ""),
)


def place(module: Module, span: Span, diagnostics: Diagnostics) -> Module | None:
    """The tree with an id and a path at every position; None, and reported, if out of bounds."""
    for number, (what, most, hint) in zip(measure(module), BOUNDS, strict=True):
        if number > most:
            shown = f"{number:,}" if number < 10**15 else show(number)
            message = f"this model has {shown} {what}; at most {most:,} are allowed"
            diagnostics.add(Diagnostic("E305", message, span, hint=hint))
            return None
    placer = _Placer(diagnostics)
    placed = placer.place(module, placer.root)
    return _link(placed, placer.shared_weights, diagnostics)


def _link(module: Module, weights: dict[str, str], diagnostics: Diagnostics) -> Module:
    """Point every reader at the path of the weight that it reads."""
    match module:
        case Leaf(op=op) if isinstance(op, Reader):
            path = weights.get(op.embed)
            if path is None:
                diagnostics.add(
                    Diagnostic(
                        "E308",
                        "the shared Embed that this reads is nowhere used as an Embed",
                        module.span,
                        hint="use its name in the model, or use `Linear` for a readout of its own",
                    )
                )
            return replace(module, weight=path)
        case _:
            return rebuilt(module, lambda inner: _link(inner, weights, diagnostics))
