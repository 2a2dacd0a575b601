"""The statements of a region's forward pass."""

from __future__ import annotations

import keyword
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from modnorm.codegen.layout import Layout, Part, has_modules, is_list, layout
from modnorm.diagnostics import Source, Span
from modnorm.graph.dataflow import Apply, Input, Loop, Pack, Recurrence, Region
from modnorm.graph.paths import last_copy
from modnorm.graph.place import legal, snake
from modnorm.ops.base import Atom, Weighted
from modnorm.ops.edges import slots
from modnorm.ops.fused import Fused
from modnorm.ops.types import Symbol, TupleType, Type

COLUMN = 56
"""Comments stand here, after the statement, where there is room."""
ROOM = 90
LINE = 76
NUMBER = re.compile(r"\d+\.\d+(e-?\d+)?|\d+/\d+")
"""Constants, which all count as equally long, so that a file's length does not depend on them."""
OUTPUT = math.inf
"""The last use of what a region gives back."""


def file_name(source: Source) -> str:
    """A file's name as it can stand in a comment or a docstring."""
    name = PurePath(source.name).name
    return "".join(c if c.isprintable() and c not in '"\\' else "?" for c in name)


def place_of(span: Span) -> str:
    """Where something stands in the source: `gpt.mod:12`."""
    return f"{file_name(span.source)}:{span.line}"


def commented(statement: str, span: Span, type: Type) -> list[str]:
    """A statement with its source line and the type of its value, beside it or above."""
    indent = statement[: len(statement) - len(statement.lstrip())]
    comment = f"# {place_of(span)} {str(type).replace('float[', '[')}"
    room = len(NUMBER.sub("0.123456789012345", statement))
    if room <= COLUMN and len(statement) <= COLUMN and COLUMN + len(comment) < ROOM:
        return [f"{statement:<{COLUMN}}  {comment}"]
    return [indent + comment, statement]


def singular(name: str) -> str:
    return name[:-1] if len(name) > 2 and name.endswith("s") and not name.endswith("ss") else name


@dataclass(frozen=True)
class File:
    """What the statements of a region need to know of the file around them.

    `borrows` says which borrowed paths the class of a repetition takes as arguments, `local` how it
    calls them, `reads` which values it is given by their numbers, and `taken` which names mean
    something else at module level. By path, `codes` has what the class of every atom computes from
    `x`, and `types` the input of every copy's class.
    """

    borrows: Callable[[Loop], tuple[str, ...]]
    local: Callable[[str], str]
    reads: Callable[[Loop], tuple[int, ...]]
    taken: frozenset[str]
    codes: Mapping[str, str]
    types: Mapping[str, Type]


@dataclass
class Forward:
    """Writes the forward pass of one region.

    `inputs` are the expressions of the region's input: one name, or a tuple of names where it is a
    tuple. `kept` are names that keep the meaning that they have around these statements. `holder`
    is what holds the region's weights, and `outside` says how to reach others; `given` are the
    expressions of the model's inputs, by their numbers.
    """

    region: Region
    layout: Layout
    inputs: Any
    file: File
    kept: frozenset[str] = frozenset()
    holder: str = "self"
    outside: Callable[[str], str] | None = None
    given: Mapping[int, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    tuples: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    """Members that are tuples of names themselves: nothing is computed for them."""
    in_use: dict[int, str] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    parts: dict[str, set[str]] = field(default_factory=dict)

    def write(self) -> str:
        """Fill in `lines`; returns the expression of the region's output."""
        needed = {self.region.output, self.region.input}
        for number in reversed(self.region.numbers()):
            if number in needed:
                needed.update(self.region[number].inputs)
                self.last[number] = self.last_use(number)
        if isinstance(self.inputs, str):
            self.call(self.region.input, self.inputs)
        for number in sorted(needed):
            value = self.region[number]
            if isinstance(value, Apply):
                self.apply(number, value)
            elif isinstance(value, Loop):
                self.loop(number, value)
            elif isinstance(value, Recurrence):
                self.recurrence(number, value)
        return self.whole(self.region.output)

    # -- names -------------------------------------------------------------------------------

    def last_use(self, number: int) -> float:
        """The last value that is computed from this one; a Pack is computed where it is used."""
        last: float = OUTPUT if number == self.region.output else -1
        for user in self.region.uses(number):
            if user in self.last:  # else the output does not need it
                value = self.region[user]
                last = max(last, self.last[user] if isinstance(value, Pack) else user)
        return last

    def expression(self, number: int) -> Any:
        """The expression of a value: a name, or a tuple of expressions."""
        value = self.region[number]
        if isinstance(value, Pack):
            return tuple(self.expression(i) for i in value.inputs)
        if isinstance(value, Input) and not isinstance(self.inputs, str):
            return self.inputs
        if number in self.tuples:
            return self.tuples[number]
        return _members(self.names[number], value.type)

    def whole(self, number: int) -> str:
        """A value as one expression: a tuple with a name by its name."""
        value = self.region[number]
        if isinstance(value, Pack):
            return _text(tuple(map(self.whole, value.inputs)))
        return self.names.get(number) or _text(self.expression(number))

    def operands(self, number: int) -> list[int]:
        """The values that a value is computed from, through packs."""
        value = self.region[number]
        found: list[int] = []
        for i in value.inputs:
            found += self.operands(i) if isinstance(self.region[i], Pack) else [i]
        return found

    def choose(self, number: int, value: Apply | Loop | Recurrence) -> str:
        """A name for a value: that of its input, if that is used no more, or of its part."""
        operands = self.operands(number)
        live = self.live(number)
        if isinstance(value, Loop):  # its copies need what they are given to the end
            live |= {self.names[i] for i in value.inputs[1:]}
        dying = [self.names[i] for i in operands if self.last[i] <= number and i in self.names]
        free = [name for name in dying if name not in live]
        if isinstance(value, Loop | Recurrence) or len(operands) > 1:
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

    def call(self, number: int, name: str) -> None:
        """Give a value its name."""
        self.names[number] = self.in_use[number] = name

    def live(self, number: int) -> frozenset[str]:
        """The names that are used after a value, or elsewhere. Values are asked for in order."""
        self.in_use = {i: name for i, name in self.in_use.items() if self.last[i] > number}
        return self.kept.union(self.in_use.values())

    def scope(self, value: Apply | Loop | Recurrence) -> str:
        """The innermost named part around a value, as a variable.

        For a weight it is the innermost that occurs once: of the paths `q.split` and `k.split` the
        names are `q` and `k`.
        """
        inside = value.path.removeprefix(self.layout.prefix).strip(".").split(".")[:-1]
        weighted = isinstance(value, Apply) and value.weight is not None
        for depth in reversed(range(len(inside))):
            name = inside[depth]
            if last_copy(name) or (weighted and self.repeated(name)):
                continue
            name = legal(snake(name))
            taken = keyword.iskeyword(name) or name in self.file.taken or name == "self"
            return f"{name}_" if taken else name
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
    def unique(name: str, live: Set[str]) -> str:
        number = 1
        while f"{name}{number}" in live:
            number += 1
        return f"{name}{number}"

    # -- statements --------------------------------------------------------------------------

    def access(self, path: str) -> str:
        """The module at a path; for copies, the one that they stand in."""
        if not self.layout.owns(path):
            return self.outside(path) if self.outside else self.file.local(path)
        inside = path[len(self.layout.prefix) :].strip(".").split(".")
        names = inside[:-1] if last_copy(path) else inside
        return ".".join([self.holder, *names])

    def apply(self, number: int, value: Apply) -> None:
        if value.stored is not None:
            self.fused(number, value, value.stored.op)
            return
        (x,) = value.inputs
        argument, type = self.expression(x), self.region[x].type
        own = value.weight or (value.path if value.op.is_module else None)
        held = "" if own is None else self.access(own)
        if value.op.picks is not None and isinstance(argument, tuple):
            member = argument[value.op.picks]
            if isinstance(member, tuple) and self.kept.issuperset(member):
                self.tuples[number] = member
                return
        if value.op.gives is not None:
            held = self.given[value.op.gives]
        if isinstance(value.op, Atom) and self.is_called(value.op, type, value.path):
            code = f"{held}({_text(argument)})"
        else:
            code = value.op.emit(argument, type, held)
        if code.isidentifier():
            self.call(number, code)
            return
        name = self.choose(number, value)
        self.call(number, name)
        self.lines += commented(f"{name} = {code}", value.span, value.type)

    def is_called(self, op: Weighted, type: Type, holder: str) -> bool:
        """Whether the class of an atom computes it for such an input; else its weight is used."""
        return op.emit("x", type, "self") == self.file.codes[holder]

    def fused(self, number: int, value: Apply, op: Fused) -> None:
        """Atoms that are stored together: all those of one input are computed where the first is.

        Those of the others are computed too, and not used.
        """
        if number in self.names:
            return
        (x,) = value.inputs
        argument, type = self.expression(x), self.region[x].type
        names: dict[str, str] = {}
        for other in sorted(self.last):
            same = self.region[other]
            if isinstance(same, Apply) and same.stored and same.holder == value.holder:
                if same.inputs != value.inputs or other in self.names:
                    continue
                part, live = same.stored.part, self.live(number)
                names[part] = name = part if part not in live else self.choose(number, same)
                self.call(other, name)
        held = self.access(value.holder)
        if self.is_called(op, type, value.holder):
            code = f"{held}({_text(argument)})"
        else:
            code = op.emit(argument, type, held)
        targets = ", ".join(names.get(part, "_") for part in op.parts())
        self.lines += commented(f"{targets} = {code}", value.span, op.resolve(type)[1])

    def loop(self, number: int, value: Loop) -> None:
        x, *others = value.inputs
        argument = self.whole(x)
        taken = dict(zip(value.takes, map(self.whole, others), strict=True))
        self.given = {**self.given, **taken}
        name = self.choose(number, value)
        self.call(number, name)
        if name != argument:
            self.lines.append(f"{name} = {argument}")
        if not has_modules(value):
            self.inline(number, value, name)
        elif any(r.region[r.region.input].type != self.file.types[r.path] for r in value.runs):
            self.opened(number, value, name)
        else:
            self.calls(number, value, name)

    def calls(self, number: int, value: Loop, name: str) -> None:
        """A repetition: each copy is called."""
        extra = "".join(f", {self.access(path)}" for path in self.file.borrows(value))
        extra += "".join(f", {self.given[index]}" for index in self.file.reads(value))
        path = value.runs[0].path
        where, last = self.access(path), path.rpartition(".")[2]
        if self.held_as_list(path):
            item = self.fresh(singular(where.rpartition(".")[2]), number)
            self.lines.append(f"for {item} in {where}:")
            call = f"{item}({name}{extra})"
        else:
            item = self.fresh("i", number)
            self.lines.append(f"for {item} in range({value.runs[0].start}, {_end(value)}):")
            call = f"{self.submodule(where, last, item)}({name}{extra})"
        self.lines += commented(f"    {name} = {call}", value.span, value.type)

    @staticmethod
    def submodule(where: str, last: str, index: str) -> str:
        copy = last_copy(last)
        assert copy is not None, last
        return f'{where}.get_submodule(f"{{{index}}}{copy.suffix}")'

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

    def fresh(self, name: str, number: int) -> str:
        """A name for the variable of a loop."""
        live = self.live(number).union(self.file.taken, self.given.values())
        name = legal(name)
        free = name not in live and not keyword.iskeyword(name)
        return name if free else self.unique(f"{name}_", live)

    def inline(self, number: int, value: Loop, name: str) -> None:
        """A repetition without modules of its own: a plain loop."""
        kept = frozenset(self.live(number) - {name}).union(self.given.values())
        for run in value.runs:
            body = self.body(
                run.region, self.layout, name, kept, self.holder, self.outside, self.given
            )
            if body:
                self.lines += [f"for _ in range({run.count}):", *body]

    def opened(self, number: int, value: Loop, name: str) -> None:
        """A shared repetition whose class is for another type of input: its weights are used."""
        for run in value.runs:
            index = self.fresh("i", number)
            copy = self.fresh("copy", number)
            kept = frozenset(self.live(number) - {name} | {index, copy}).union(self.given.values())
            where, last = self.access(run.path), run.path.rpartition(".")[2]
            inside = layout(run.region, run.path)
            body = self.body(run.region, inside, name, kept, copy, self.access, self.given)
            self.lines.append(f"for {index} in range({run.start}, {run.start + run.count}):")
            self.lines += [f"    {copy}: Any = {self.submodule(where, last, index)}", *body]

    def recurrence(self, number: int, value: Recurrence) -> None:
        """A cell along a sequence: its statements in a loop, and the states side by side."""
        x, *others = value.inputs
        self.given = {**self.given, **dict(zip(value.takes, map(self.whole, others), strict=True))}
        type, argument = self.region[x].type, self.expression(x)
        whole = list(map(_text, argument)) if isinstance(argument, tuple) else [argument]
        sizes, several = value.start
        state = self.numbered("state", len(sizes) if several else 0, number)
        entry = self.numbered("entry", len(whole) if isinstance(type, TupleType) else 0, number)
        states = self.fresh("states", number)
        like = next(i for i, one in enumerate(slots(type)) if one.dtype == "float")
        for one, axes in zip(_each(state), sizes, strict=True):
            shape = (f"{whole[s[0]]}.shape[{s[1]}]" if isinstance(s, tuple) else s for s in axes)
            self.lines.append(f"{one} = {whole[like]}.new_zeros({', '.join(map(str, shape))})")
        if isinstance(slots(type)[0].shape[1], Symbol):
            message = "a sequence of length 0: `Scan` has no first step"
            self.lines += [f"if not {whole[0]}.shape[1]:", f'    raise ValueError("{message}")']
        places = [f"{one}.unbind(1)" for one in whole]
        over = places if isinstance(entry, str) else _zipped(places)
        head = [f"for {_bare(_text(entry))} in {over[0]}", *over[1:]]
        self.lines += [f"{states} = []", *head[:-1], f"{head[-1]}:"]
        names = (*_each(state), *_each(entry), states)
        kept = self.live(number).union(self.given.values(), names)
        rest = (kept, self.holder, self.outside, self.given)
        self.lines += self.body(value.region, self.layout, (state, entry), *rest, into=state)
        self.lines.append(f"    {states}.append({_text(state)})")
        code = f"torch.stack({states}, dim=1)"
        if several:
            code = f"tuple(torch.stack(one, dim=1) for one in zip(*{states}, strict=True))"
        name = self.choose(number, value)
        self.call(number, name)
        self.lines += commented(f"{name} = {code}", value.span, value.type)

    def numbered(self, name: str, count: int, number: int) -> Any:
        """A name for what is computed along a sequence; for a tuple one for each member."""
        if not count:
            return self.fresh(name, number)
        return tuple(self.fresh(f"{name}_{i}", number) for i in range(count))

    def body(
        self, region: Region, layout: Layout, inputs: Any, *rest: Any, into: Any = None
    ) -> list[str]:
        """The indented statements that replace a value by what a region makes of it.

        Its expression is `into`, or that of the region's input.
        """
        inner = Forward(region, layout, inputs, self.file, *rest)
        out, name = inner.write(), _text(inputs if into is None else into)
        lines = inner.lines if out == name else [*inner.lines, f"{_bare(name)} = {_bare(out)}"]
        return [f"    {line}" for line in lines]


def _end(value: Loop) -> int:
    return value.runs[-1].start + value.runs[-1].count


def _members(name: str, type: Type) -> Any:
    """A named value as the name, a tuple as the expressions of its members."""
    if isinstance(type, TupleType):
        return tuple(_members(f"{name}[{i}]", member) for i, member in enumerate(type.members))
    return name


def _zipped(places: list[str]) -> list[str]:
    """What goes along several sequences at once, over several lines where there are many."""
    inside = ", ".join([*places, "strict=True"])
    if len(inside) <= COLUMN:
        return [f"zip({inside})"]
    return ["zip(", *(f"    {line}" for line in textwrap.wrap(inside, LINE)), ")"]


def _bare(text: str) -> str:
    """A tuple without the brackets around it."""
    return text[1:-1] if text.startswith("(") else text


def _each(names: Any) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,)


def _text(expression: Any) -> str:
    if isinstance(expression, tuple):
        inner = ", ".join(map(_text, expression))
        return f"({inner},)" if len(expression) == 1 else f"({inner})"
    return str(expression)
