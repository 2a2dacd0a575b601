"""The statements of a region's forward pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from modnorm.codegen.layout import INDEX, Layout, Part, is_list, is_weighted
from modnorm.codegen.names import TAKEN
from modnorm.diagnostics import Span
from modnorm.graph.dataflow import Apply, Input, Loop, Pack, Region
from modnorm.ops.base import Atom
from modnorm.ops.types import TupleType, Type

COLUMN = 56
"""Comments stand here, after the statement, where there is room."""
ROOM = 90
OUTPUT = math.inf
"""The last use of what a region gives back."""


def place_of(span: Span) -> str:
    """Where something stands in the source: `gpt.mod:12`."""
    return f"{PurePath(span.source.name).name}:{span.line}"


def commented(statement: str, span: Span, type: Type) -> list[str]:
    """A statement with its source line and the type of its value, beside it or above."""
    indent = statement[: len(statement) - len(statement.lstrip())]
    comment = f"# {place_of(span)} {str(type).replace('float[', '[')}"
    if len(statement) <= COLUMN and COLUMN + len(comment) < ROOM:
        return [f"{statement:<{COLUMN}}  {comment}"]
    return [indent + comment, statement]


def local_name(path: str) -> str:
    """A local variable for something borrowed from the model's root; for copies, for their list."""
    holder, _, last = path.rpartition(".")
    return re.sub(r"\W+", "_", holder if INDEX.fullmatch(last) else path).strip("_")


def singular(name: str) -> str:
    return name[:-1] if len(name) > 2 and name.endswith("s") and not name.endswith("ss") else name


@dataclass
class Forward:
    """Writes the forward pass of one region.

    `borrows` says which borrowed paths the class of a repetition takes as arguments. `inputs` are
    the expressions of the region's input: one name, or a tuple of names where it is a tuple.
    """

    region: Region
    layout: Layout
    inputs: Any
    borrows: Callable[[Loop], tuple[str, ...]]
    lines: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    parts: dict[str, set[str]] = field(default_factory=dict)

    def write(self) -> str:
        """Fill in `lines`; returns the expression of the region's output."""
        for number in reversed(self.region.numbers()):
            self.last[number] = self.last_use(number)
        if isinstance(self.inputs, str):
            self.names[self.region.input] = self.inputs
        for number in self.region.numbers():
            value = self.region[number]
            if isinstance(value, Apply):
                self.apply(number, value)
            elif isinstance(value, Loop):
                self.loop(number, value)
        return _text(self.expression(self.region.output))

    # -- names -------------------------------------------------------------------------------

    def last_use(self, number: int) -> float:
        """The last value that is computed from this one; a Pack is computed where it is used."""
        last: float = OUTPUT if number == self.region.output else -1
        for user in self.region.uses(number):
            value = self.region[user]
            last = max(last, self.last[user] if isinstance(value, Pack) else user)
        return last

    def expression(self, number: int) -> Any:
        """The expression of a value: a name, or a tuple of expressions."""
        value = self.region[number]
        if isinstance(value, Pack):
            return tuple(self.expression(i) for i in value.inputs)
        if isinstance(value, Input):
            return self.inputs
        if isinstance(value.type, TupleType):
            name = self.names[number]
            return tuple(f"{name}[{i}]" for i in range(len(value.type.members)))
        return self.names[number]

    def operands(self, number: int) -> list[int]:
        """The values that a value is computed from, through packs."""
        value = self.region[number]
        found: list[int] = []
        for i in value.inputs:
            found += self.operands(i) if isinstance(self.region[i], Pack) else [i]
        return found

    def choose(self, number: int, value: Apply | Loop) -> str:
        """A name for a value: that of its input, if that is used no more, or of its part."""
        operands = self.operands(number)
        live = self.model_inputs() | {
            name for i, name in self.names.items() if self.last[i] > number
        }
        dying = [self.names[i] for i in operands if self.last[i] <= number and i in self.names]
        free = [name for name in dying if name not in live]
        if isinstance(value, Loop) or len(operands) > 1:
            candidates = ["x", self.scope(value), *free]
        elif value.weight is not None:
            candidates = [name for name in free if name == "x"]
            candidates += [self.scope(value), *free]
        else:
            candidates = [*free, self.scope(value)]
        for name in (*candidates, "x", "y", "z"):
            if name and name not in live:
                return name
        return self.unique("y", live)

    def model_inputs(self) -> set[str]:
        """Names of the model's inputs, which keep their meaning."""
        if self.layout.prefix:
            return set()
        return {self.inputs} if isinstance(self.inputs, str) else set(self.inputs)

    def scope(self, value: Apply | Loop) -> str:
        """The innermost named part around a value, as a variable.

        For a weight it is the innermost that occurs once: of the paths `q.split` and `k.split` the
        names are `q` and `k`.
        """
        inside = value.path.removeprefix(self.layout.prefix).strip(".").split(".")[:-1]
        weighted = isinstance(value, Apply) and value.weight is not None
        for depth in reversed(range(len(inside))):
            name = inside[depth]
            if INDEX.fullmatch(name) or (weighted and self.repeated(name)):
                continue
            return f"{name}_" if name in TAKEN or name == "self" else name
        return ""

    def repeated(self, name: str) -> bool:
        """Whether several parts of the region have a name."""
        if not self.parts:
            for value in self.region.applies():
                inside = value.path.removeprefix(self.layout.prefix).strip(".").split(".")[:-1]
                for depth, part in enumerate(inside):
                    self.parts.setdefault(part, set()).add(".".join(inside[: depth + 1]))
        return len(self.parts.get(name, ())) > 1

    @staticmethod
    def unique(name: str, live: set[str]) -> str:
        number = 1
        while f"{name}{number}" in live:
            number += 1
        return f"{name}{number}"

    # -- statements --------------------------------------------------------------------------

    def access(self, path: str) -> str:
        """The module at a path."""
        if not self.layout.owns(path):
            return local_name(path)
        inside = path[len(self.layout.prefix) :].strip(".") if self.layout.prefix else path
        return f"self.{inside}"

    def apply(self, number: int, value: Apply) -> None:
        (x,) = value.inputs
        argument, type = self.expression(x), self.region[x].type
        if isinstance(value.op, Atom):
            assert value.weight is not None
            code = f"{self.access(value.weight)}({_text(argument)})"
        else:
            code = value.op.emit(argument, type)
            if value.weight is not None:
                code = code.replace("{weight}", f"{self.access(value.weight)}.weight")
        name = self.choose(number, value)
        self.names[number] = name
        self.lines += commented(f"{name} = {code}", value.span, value.type)

    def loop(self, number: int, value: Loop) -> None:
        (x,) = value.inputs
        argument = _text(self.expression(x))
        name = self.choose(number, value)
        if not is_weighted(value):
            self.inline(number, value, name, argument)
            return
        self.names[number] = name
        if name != argument:
            self.lines.append(f"{name} = {argument}")
        extra = "".join(f", {self.access(path)}" for path in self.borrows(value))
        path = value.runs[0].path
        holder, _, index = path.rpartition(".")
        match = INDEX.fullmatch(index)
        assert match is not None, path
        if self.held_as_list(path):
            item = self.fresh(singular(holder.rpartition(".")[2]))
            self.lines.append(f"for {item} in {self.access(holder)}:")
            self.lines += commented(
                f"    {name} = {item}({name}{extra})", value.span, value.type
            )
            return
        where = self.access(holder) if holder and holder != self.layout.prefix else "self"
        call = f'{where}.get_submodule(f"{{i}}{match[2]}")({name}{extra})'
        self.lines.append(f"for i in range({value.runs[0].start}, {_end(value)}):")
        self.lines += commented(f"    {name} = {call}", value.span, value.type)

    def held_as_list(self, path: str) -> bool:
        """Whether a repetition stands in an `nn.ModuleList` of its own."""
        if not self.layout.owns(path):
            beside = path.rpartition(".")[0] + "."
            return not any(p != path and p.startswith(beside) for p in self.layout.borrowed)
        part: Any = self.layout.root
        inside = path[len(self.layout.prefix) :].strip(".") if self.layout.prefix else path
        for name in inside.split(".")[:-1]:
            part = part.children[name]
        assert isinstance(part, Part)
        return part is not self.layout.root and is_list(part)

    def fresh(self, name: str) -> str:
        taken = {*self.names.values(), *map(local_name, self.layout.borrowed)}
        return name if name.isidentifier() and name not in taken | TAKEN else f"{name}_item"

    def inline(self, number: int, value: Loop, name: str, argument: str) -> None:
        """A repetition without weights of its own: a plain loop."""
        self.names[number] = name
        if name != argument:
            self.lines.append(f"{name} = {argument}")
        for run in value.runs:
            inner = Forward(run.region, self.layout, name, self.borrows)
            out = inner.write()
            self.lines.append(f"for _ in range({run.count}):")
            self.lines += [f"    {line}" for line in inner.lines]
            if out != name:
                self.lines.append(f"    {name} = {out}")


def _end(value: Loop) -> int:
    return value.runs[-1].start + value.runs[-1].count


def _text(expression: Any) -> str:
    if isinstance(expression, tuple):
        inner = ", ".join(map(_text, expression))
        return f"({inner},)" if len(expression) == 1 else f"({inner})"
    return str(expression)

