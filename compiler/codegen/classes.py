"""The model's classes: one an atom, one a repeated part, one the model."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

from modnorm.codegen import sections
from modnorm.codegen.forward import COLUMN, File, Forward, place_of, singular
from modnorm.codegen.layout import (
    Copies,
    Held,
    Node,
    Part,
    is_list,
    layout,
)
from modnorm.codegen.names import BUILTINS, Names, local, meant
from modnorm.graph.dataflow import Apply, Loop, Recurrence, Region
from modnorm.graph.paths import last_copy, starred
from modnorm.graph.place import camel
from modnorm.ops.base import Atom, Norm, Weighted
from modnorm.ops.text import expression, parts, quoted
from modnorm.ops.types import TupleType, Type
from modnorm.passes.program import Program

FACTORY = "**factory"
WIDTH = 100
LINE = 80
"""Longest construction of parts on one line."""


LOADS = (
    "    def load_checkpoint(self, state: Any) -> None:",
    '        """Take the weights of the model that this is made of: `state` is its state_dict.\n',
    "        KeyError and ValueError name the first tensor that is missing or does not fit.",
    '        """',
    "        load_checkpoint(self, state, RENAMES)",
)
"""The method of a model with renames."""


class Model(NamedTuple):
    """The model's part of a generated file: its source, its class, and its inputs as called."""

    text: str
    tree: ast.Module
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    """The classes of the tuples that it returns whose members have names."""


def model(program: Program, taken: Iterable[str]) -> Model:
    """The classes of a program; `taken` are the names that the rest of the file defines.

    An input keeps its name unless the forward pass needs what that means otherwise. This shows in
    the text: it is written once more where a name turns out to be free, or not to be.
    """
    taken, free = frozenset(taken), frozenset[str]()
    while True:
        classes = Classes(program, taken, free)
        text = classes.write()
        tree = ast.parse(text)
        others = {*classes.atoms.values(), *classes.parts.values()} & local(tree, "__init__")
        asked = {entry.name for entry in program.inputs}
        found = asked.intersection(classes.taken) - meant(tree, "forward") - {"self"}
        if not others and found <= free:
            outputs = tuple(classes.outputs.values())
            return Model(text, tree, classes.model, classes.arguments, outputs)
        taken, free = taken | others, free | found


class Classes:
    """Writes the classes of a program, in an order in which each uses only those before it.

    `free` are inputs' names that are taken, but not needed in a forward pass.
    """

    def __init__(
        self, program: Program, taken: Iterable[str], free: frozenset[str] = frozenset()
    ) -> None:
        self.program = program
        self.helpers = dict.fromkeys(h for a in program.flow.applies() for h in a.called.helpers())
        functions = sections.bindings(ast.parse("\n".join(self.helpers)))
        self.taken = BUILTINS.union(taken, functions)
        self.names = Names(self.taken)
        self.model = self.names.claim(program.name)
        self.output = program.types[program.tree.id][1]
        self.outputs: dict[tuple[int | str, ...], str] = {}
        """The classes of named tuples in the output, by the members that lead there."""
        self.claim_outputs(self.output, ())
        self.taken = self.taken.union(self.outputs.values())
        self.locals: dict[str, str] = {}
        self.given_names: dict[int, str] = {}
        self.local_names = Names(self.taken | {"self", "x"})
        codes, types = _first_uses(program.flow)
        self.file = File(self.borrows, self.local, self.reads, self.taken, codes, types)
        inputs = Names({"self"} | self.taken - free)
        self.arguments = tuple(inputs.claim(entry.name) for entry in program.inputs)
        moving = {w.holder for w in program.weights if w.target}
        self.frozen = {w.holder for w in program.weights} - moving
        self.atoms: dict[tuple[type[Weighted], Norm, str, str], str] = {}
        self.named: set[str] = set()
        self.parts: dict[str, str] = {}
        self.loops: dict[int, list[tuple[str, int, int]]] = {}
        self.borrowed: dict[int, tuple[str, ...]] = {}
        self.read: dict[int, dict[int, Apply]] = {}
        self.texts: list[str] = []

    def write(self) -> str:
        """The source of all classes."""
        self.output_classes(self.output, ())
        body = self.region_class(self.model, self.program.flow, "", None)
        text = "\n\n\n".join([*self.texts, body])
        for helper in reversed(self.helpers):  # each calls only those before it
            named = sections.bindings(ast.parse(helper))
            if any(re.search(rf"\b{name}\(", text) for name in named):
                text = f"{helper}\n\n\n{text}"
        return text

    # -- what the model returns --------------------------------------------------------------

    def claim_outputs(self, type: Type, at: tuple[int | str, ...]) -> None:
        """Names for those classes, before anything that could hide them has its own."""
        if isinstance(type, TupleType):
            for key, member in zip(type.keys, type.members, strict=True):
                self.claim_outputs(member, (*at, key))
            if type.names:
                where = "".join(camel(str(key)) for key in at)
                self.outputs[at] = self.names.claim(f"{self.program.name}Output{where}")

    def output_classes(self, type: Type, at: tuple[int | str, ...]) -> None:
        """A NamedTuple for each tuple of the output whose members have names, inner ones first."""
        if not isinstance(type, TupleType):
            return
        for key, member in zip(type.keys, type.members, strict=True):
            self.output_classes(member, (*at, key))
        if not type.names:
            return
        name = self.outputs[at]
        lines = [f"class {name}(NamedTuple):"]
        lines += [f'    """What `{self.program.name}` returns{_member_of(at)}."""', ""]
        for key, member in zip(type.names, type.members, strict=True):
            lines.append(f"    {key}: {self.annotation(member, (*at, key))}  # {member}")
        self.texts.append("\n".join(lines))

    def annotation(self, type: Type, at: tuple[int | str, ...] = ()) -> str:
        """The type of what the model returns, or of a part of it."""
        return self.outputs.get(at) or _annotation(type)

    def returned(self, x: Any, type: Type, at: tuple[int | str, ...] = ()) -> str:
        """The expression of what the model returns, from that of its value."""
        if not any(key[: len(at)] == at for key in self.outputs):
            return expression(x)
        assert isinstance(type, TupleType)
        values = zip(type.keys, parts(x, len(type.members)), type.members, strict=True)
        members = [(key, self.returned(value, t, (*at, key))) for key, value, t in values]
        if not type.names:
            return expression(tuple(value for _, value in members))
        return f"{self.outputs[at]}({', '.join(f'{key}={value}' for key, value in members)})"

    # -- atoms -------------------------------------------------------------------------------

    def atom(self, op: Weighted, type: Type) -> str:
        """The class of an atom: one for each operation, norm, and way of calling it."""
        code = op.emit("x", type, "self")
        key = (op.__class__, op.norm, code, op.shown)
        if key not in self.atoms:
            name = self.atoms[key] = self.names.claim(op.name)
            self.texts.append(_atom_class(name, op, code, type))
            if "self.name" in code:
                self.named.add(name)
        return self.atoms[key]

    # -- regions -----------------------------------------------------------------------------

    def region_class(self, name: str, region: Region, prefix: str, loop: Loop | None) -> str:
        """A class for a region: the model itself where `loop` is None."""
        found = layout(region, prefix)
        types = _input_types(region)
        held = [
            line
            for key, node in found.root.children.items()
            for line in self.register(key, node, types)
        ]
        inputs = self.inputs(loop)
        around = inputs if loop is None else map(self.local, self.borrows(loop))
        given = self.given(loop)
        kept = frozenset((around,) if isinstance(around, str) else around)
        kept |= frozenset(given.values())
        forward = Forward(region, found, inputs, self.file, kept, given=given)
        out = forward.write()
        lines = forward.lines
        if loop is None and self.outputs:
            out = self.returned(forward.expression(region.output), self.output)
        if lines and lines[-1].startswith(f"{out} = "):
            code, mark, comment = lines[-1].removeprefix(f"{out} = ").partition("  # ")
            code = f"return {code.rstrip()}"
            lines[-1] = f"{code:<{COLUMN}}{mark}{comment}" if mark else code
        elif loop is None and self.outputs:
            first, *rest = textwrap.wrap(
                out, WIDTH - 20, break_long_words=False, break_on_hyphens=False
            )
            lines += [f"return {first}", *(f"    {line}" for line in rest)]  # in its brackets
        else:
            lines.append(f"return {out}")
        return self.class_text(name, held, lines, region, loop)

    def inputs(self, loop: Loop | None) -> str | tuple[str, ...]:
        if loop is not None:
            return "x"
        return self.arguments[0] if len(self.arguments) == 1 else self.arguments

    def class_text(
        self, name: str, held: list[str], lines: list[str], region: Region, loop: Loop | None
    ) -> str:
        type = region[region.output].type
        out = self.annotation(self.output) if loop is None else _annotation(type)
        if loop is None:
            inputs = self.inputs(None)
            arguments = [inputs] if isinstance(inputs, str) else list(inputs)
            signature = ", ".join(f"{a}: Tensor" for a in arguments)
            doc = [
                f"The model `{self.program.name}`, {place_of(self.program.span)}.",
                "",
                f"Mass {float(self.program.mass):.6g}, sensitivity"
                f" {float(self.program.sensitivity):.6g}, {self.program.entries:,} weights.",
                *(f"{a}: {i.type}" for a, i in zip(arguments, self.program.inputs, strict=True)),
            ]
            doc += dict.fromkeys(
                f"Assumed: sensitivity {float(found.module.sensitivity):.6g} at"
                f" {place_of(found.module.span)}, where {float(found.otherwise):.6g} is declared."
                for found in self.program.assumptions.values()
            )
            doc += dict.fromkeys(
                f"`{a.op.label}`, {place_of(a.span)}, is declared for values from"
                f" {a.op.meant_for[0]:.6g} to {a.op.meant_for[1]:.6g}."
                for a in self.program.flow.applies()
                if a.op.meant_for is not None
            )
            if any(a.op.has_effects for a in self.program.flow.applies()):
                doc.append("It computes otherwise in training: call train() and eval() in turn.")
        else:
            extra = "".join(f", {self.local(p)}: Any" for p in self.borrows(loop))
            found = self.found(loop)
            for index, given in self.given(loop).items():
                extra += f", {given}: {_annotation(found[index].type)}"
            signature = f"x: {_annotation(region[region.input].type)}{extra}"
            doc = [
                f"One of {loop.count} copies, {place_of(loop.span)}: x is"
                f" {region[region.input].type}."
            ]
        init = "self, **factory: Any"
        if loop is None:
            init = "self, device: Any = None, dtype: Any = None, generator: Any = None"
            factory = '{"device": device, "dtype": dtype, "generator": generator}'
            if any(FACTORY in line for line in held):
                held = [f"factory = {factory}", *held]
        text = [f"class {name}(nn.Module):", '    """' + doc[0]]
        text += [f"    {line}".rstrip() for line in doc[1:]]
        text[-1] += '"""' if len(doc) == 1 else ""
        if len(doc) > 1:
            text.append('    """')
        text += ["", f"    def __init__({init}) -> None:", "        super().__init__()"]
        text += [f"        {line}" for line in held]
        text += ["", f"    def forward(self, {signature}) -> {out}:"]
        text += [f"        {line}".rstrip() for line in lines]
        if loop is None and self.program.renames:
            text += ["", *LOADS]
        return "\n".join(text)

    def local(self, path: str) -> str:
        """The variable for something borrowed from the model's root; for copies, for their list."""
        holder, _, last = path.rpartition(".")
        path = holder if last_copy(last) else path
        if path not in self.locals:
            self.locals[path] = self.local_names.claim(path.replace(".", "_"))
        return self.locals[path]

    def borrows(self, loop: Loop) -> tuple[str, ...]:
        """What the class of a repetition takes from the model's root."""
        if id(loop) not in self.borrowed:
            found: dict[str, str] = {}
            for run in loop.runs:
                for path in layout(run.region, run.path).borrowed:
                    found.setdefault(self.local(path), path)
            self.borrowed[id(loop)] = tuple(found.values())
        return self.borrowed[id(loop)]

    def reads(self, loop: Loop) -> tuple[int, ...]:
        """The inputs of the model that the class of a repetition takes, by their numbers."""
        return tuple(sorted(self.found(loop)))

    def found(self, loop: Loop) -> dict[int, Apply]:
        """What the copies of a repetition are given, by number."""
        if id(loop) in self.read:
            return self.read[id(loop)]
        found = self.read[id(loop)] = dict[int, Apply]()
        for region in loop.regions:
            found.update(self.found_in(region))
        return found

    def found_in(self, region: Region) -> dict[int, Apply]:
        """What a region is given, by number, but for what is made in it."""
        found: dict[int, Apply] = {}
        for number in region.numbers():
            value = region[number]
            if isinstance(value, Apply) and value.op.gives is not None:
                found[value.op.gives] = value
            elif isinstance(value, Loop | Recurrence):
                inner = (
                    self.found(value) if isinstance(value, Loop) else self.found_in(value.region)
                )
                found.update({i: inner[i] for i in inner.keys() - value.takes})
        return found

    def given(self, loop: Loop | None) -> dict[int, str]:
        """The names of the model's inputs in a class."""
        if loop is None:
            return dict(enumerate(self.arguments))
        for index, value in self.found(loop).items():
            if index not in self.given_names:
                self.given_names[index] = self.local_names.claim(value.op.label)
        return {index: self.given_names[index] for index in self.reads(loop)}

    # -- registration ------------------------------------------------------------------------

    def register(self, key: str, node: Node, types: dict[int, Type]) -> list[str]:
        """The statements of `__init__` that make one part."""
        if isinstance(node, Copies):
            return self.numbered(node, types)
        if not _is_long(node):
            statement = f"self.{key} = {self.construct(node, types)}"
            if len(statement) <= LINE:
                place = _place(node)
                return [f"{statement}  # {place}" if place else statement]
        return self.broken(f"self.{key} = ", node, types)

    def construct(self, node: Node, types: dict[int, Type]) -> str:
        """The expression that makes a part, on one line."""
        match node:
            case Held(value=value):
                if not isinstance(value.op, Atom):
                    return value.op.module()
                axes = zip(node.op.axes, node.op.weight_shape, strict=True)
                sizes = ", ".join(map(str, dict(axes).values()))
                made = self.atom(node.op, types[id(value)])
                if made in self.named:
                    sizes += f', "{starred(value.path)}"'
                still = ".requires_grad_(False)" if value.holder in self.frozen else ""
                return f"{made}({sizes}, {FACTORY}){still}"
            case Copies():
                return self.module_list(node, types)
            case Part(children=children):
                if is_list(node):
                    (only,) = children.values()
                    return self.construct(only, types)
                parts = ", ".join(
                    f"{key}={self.construct(child, types)}"
                    if not isinstance(child, Copies)
                    else f"**{self.as_dict(child, types)}"
                    for key, child in children.items()
                )
                return f"Part({parts})"

    def broken(self, head: str, node: Node, types: dict[int, Type]) -> list[str]:
        """A part's construction over several lines."""
        if isinstance(node, Part) and is_list(node):
            (node,) = node.children.values()
        if isinstance(node, Copies) and len(made := self.made(node, types)) > 1:
            return [f"{head}nn.ModuleList([", *(f"    *({m})," for m in made), "])"]
        if not isinstance(node, Part):
            return [f"{head}{self.construct(node, types)}"]
        lines = [f"{head}Part("]
        for key, child in node.children.items():
            if isinstance(child, Copies):
                lines += [f"    {part}," for part in self.entries(child, types)]
                continue
            code = "" if _is_long(child) else f"{key}={self.construct(child, types)},"
            if code and len(code) <= LINE:
                place = _place(child)
                lines.append(f"    {code}  # {place}" if place else f"    {code}")
            else:
                inner = self.broken(f"{key}=", child, types)
                inner[-1] += ","
                lines += [f"    {line}" for line in inner]
        return [*lines, ")"]

    def copies(self, node: Copies) -> list[tuple[str, int, int]]:
        """(class, start, count) of the runs of a repetition; neighbours of one class are one."""
        if id(node.loop) in self.loops:
            return self.loops[id(node.loop)]
        found = self.loops[id(node.loop)] = []
        for run in node.loop.runs:
            holder = run.path.rpartition(".")[0].rpartition(".")[2]
            base = singular(holder) if holder and not last_copy(holder) else "layer"
            text = self.region_class("{name}", run.region, run.path, node.loop)
            if text not in self.parts:
                self.parts[text] = self.names.claim(camel(base))
                self.texts.append(text.replace("{name}", self.parts[text], 1))
            name = self.parts[text]
            if found and found[-1][0] == name:
                found[-1] = (name, found[-1][1], found[-1][2] + run.count)
            else:
                found.append((name, run.start, run.count))
        return found

    def made(self, node: Copies, types: dict[int, Type]) -> list[str]:
        """The copies as generators, one for each class in turn."""
        return [
            f"{name}({FACTORY}) for _ in range({count})" for name, _, count in self.copies(node)
        ]

    def module_list(self, node: Copies, types: dict[int, Type]) -> str:
        made = self.made(node, types)
        if len(made) == 1:
            return f"nn.ModuleList({made[0]})"
        return f"nn.ModuleList([{', '.join(f'*({m})' for m in made)}])"

    def entries(self, node: Copies, types: dict[int, Type]) -> list[str]:
        """The copies under their indices, as the keyword arguments of a part."""
        return [
            f'**{{f"{{i}}{node.suffix}": {name}({FACTORY}) for i in range({s}, {s + n})}}'
            for name, s, n in self.copies(node)
        ]

    def as_dict(self, node: Copies, types: dict[int, Type]) -> str:
        parts = self.entries(node, types)
        return parts[0][2:] if len(parts) == 1 else f"{{{', '.join(parts)}}}"

    def numbered(self, node: Copies, types: dict[int, Type]) -> list[str]:
        """Copies that stand in the class itself, under their indices."""
        lines: list[str] = []
        for name, start, count in self.copies(node):
            bounds = str(count) if start == 0 else f"{start}, {start + count}"
            lines.append(f"for i in range({bounds}):")
            lines.append(f'    self.add_module(f"{{i}}{node.suffix}", {name}({FACTORY}))')
        return lines


def _is_long(node: Node) -> bool:
    """Whether a part certainly needs several lines, which saves writing it on one at each level."""
    stack, count = [node], 0
    while stack and count * len(FACTORY) <= LINE:
        inner = stack.pop()
        count += not isinstance(inner, Part)
        stack += inner.children.values() if isinstance(inner, Part) else ()
    return count * len(FACTORY) > LINE


def _place(node: Node) -> str:
    """The source line of what a part holds, where that is one thing."""
    match node:
        case Held(value=value):
            return place_of(value.span)
        case Copies(loop=loop):
            return place_of(loop.span)
        case Part(children=children):
            return _place(next(iter(children.values()))) if len(children) == 1 else ""


def _input_types(region: Region) -> dict[int, Type]:
    """The input type of every atom of a region and of the regions inside, by id of its value."""
    types: dict[int, Type] = {}
    for number in region.numbers():
        value = region[number]
        if isinstance(value, Apply):
            types[id(value)] = region[value.inputs[0]].type
        elif isinstance(value, Loop | Recurrence):
            for inner in value.regions:
                types |= _input_types(inner)
    return types


def _first_uses(region: Region) -> tuple[dict[str, str], dict[str, Type]]:
    """What every atom computes from `x` where it is first used, and every copy's type of input."""
    codes: dict[str, str] = {}
    types: dict[str, Type] = {}
    for number in region.numbers():
        value = region[number]
        if isinstance(value, Apply) and isinstance(value.op, Atom):
            code = value.called.emit("x", region[value.inputs[0]].type, "self")
            codes.setdefault(value.holder, code)
        elif isinstance(value, Loop):
            for run in value.runs:
                types.setdefault(run.path, run.region[run.region.input].type)
                inner_codes, inner_types = _first_uses(run.region)
                codes, types = inner_codes | codes, inner_types | types
        elif isinstance(value, Recurrence):
            inner_codes, inner_types = _first_uses(value.region)
            codes, types = inner_codes | codes, inner_types | types
    return codes, types


def _member_of(at: tuple[int | str, ...]) -> str:
    return f" as member {'.'.join(map(str, at))}" if at else ""


def _annotation(type: Type) -> str:
    return "tuple[Tensor, ...]" if isinstance(type, TupleType) else "Tensor"


def _wrapped(signature: str) -> list[str]:
    """The head of a method without result, over three lines where one is too long."""
    line = f"{signature} -> None:"
    if len(line) <= WIDTH:
        return [line]
    head, _, arguments = signature.removesuffix(")").partition("(")
    return [f"{head}(", f"        {arguments}", "    ) -> None:"]


def _atom_class(name: str, op: Weighted, code: str, type: Type) -> str:
    """The class of an atom: its weight, how it begins, and its forward pass."""
    out = op.resolve(type)[1]
    arguments = ", ".join(f"{a}: int" for a in dict.fromkeys(op.axes))
    named = "self.name" in code  # for messages
    kept = "nn.Parameter(weight.to(dtype))" + (", name" if named else "")
    arguments += ", name: str" if named else ""
    shape = ", ".join(op.axes)
    about = quoted(f"{op.doc()} Norm of the weight: {op.norm.formula}.")
    doc = textwrap.wrap(about, WIDTH - 8, break_long_words=False)
    base, made_with = op.layer
    made_with += ', device="meta"' if made_with else ""  # what it makes is replaced
    lines = [f"class {name}({base}):", f'    """{doc[0]}', *(f"    {d}" for d in doc[1:])]
    if len(doc) == 1:
        lines[-1] += '"""'
    else:
        lines.append('    """')
    lines += [
        "",
        *_wrapped(f"    def __init__(self, {arguments}, generator: Any = None, **factory: Any)"),
        f"        super().__init__({made_with})",
        f"        weight, dtype = blank({shape}, **factory)",
        "        with torch.no_grad():",
        *(f"            {line}" for line in op.beginning.splitlines()),
        f"        self.{'weight, self.name' if named else 'weight'} = {kept}",
        "",
        "    def extra_repr(self) -> str:",
        f'        return "{op.shown}".format(*self.weight.shape)',
        "",
        f"    def forward(self, x: {_annotation(type)}) -> {_annotation(out)}:",
        f"        return {code}",
    ]
    return "\n".join(lines)
