"""The plan: one record a weight, in execution order, expanded or as the generated file's text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from modnorm.codegen.forward import place_of
from modnorm.graph.dataflow import Apply, Loop, Recurrence, Region
from modnorm.graph.paths import instance
from modnorm.kernels.weight import Layout
from modnorm.ops.base import Atom
from modnorm.ops.types import Real
from modnorm.passes.program import Program, Weight
from modnorm.passes.streams import Branch, Copies, Items, Stream


@dataclass(frozen=True)
class Record:
    """One weight of the model. `path` is the atom's; the weight's name is that plus `.weight`."""

    path: str
    weight: Weight
    downstream: float
    target: float

    @property
    def name(self) -> str:
        return f"{self.path}.weight"

    @property
    def parameter(self) -> str:
        """The name of what stores it."""
        stored = self.weight.stored
        return f"{stored.holder(self.path)}.weight" if stored else self.name

    @property
    def layout(self) -> Layout | None:
        """Where it is stored, if not in a parameter of its own, in the shape that it has here."""
        return _layout(self.weight, self.parameter)


def _layout(weight: Weight, parameter: str = "") -> Layout | None:
    stored = weight.stored
    return stored.op.layout(stored.part, parameter) if stored else weight.op.layout(parameter)


def has_layouts(program: Program) -> bool:
    """Whether the plan says of some weight how a parameter holds it."""
    return any(_layout(weight) is not None for weight in program.weights)


def records(program: Program, *, planned: bool = True) -> list[Record]:
    """Every weight, every copy, in execution order: a shared one stands where it is first used.

    In the order of `PLAN` (`planned`) one that is first used in a repetition stands before it.
    """
    weights = {w.path: w for w in program.weights}
    seen: set[str] = set()
    found: list[Record] = []

    @cache
    def parts(inside: Region) -> list[Apply | Loop | Recurrence]:
        values = [inside[number] for number in inside.numbers()]
        return [
            value
            for value in values
            if isinstance(value, Loop | Recurrence)
            or (isinstance(value, Apply) and isinstance(value.op, Atom))
        ]

    def region(inside: Region, indices: tuple[int, ...], besides: str | None = None) -> None:
        """With `besides`, only the weights that are not of copies at that path."""
        for value in parts(inside):
            if isinstance(value, Apply):
                assert value.weight is not None
                if besides is not None and value.weight.startswith(besides):
                    continue
                weight = weights[value.weight]
                own = indices[len(indices) - len(weight.levels) :]
                path = instance(weight.path, own)
                if path not in seen:
                    seen.add(path)
                    factor = weight.later(own)
                    downstream, target = float(weight.downstream), float(weight.target)
                    found.append(Record(path, weight, downstream * factor, target / factor))
            elif isinstance(value, Recurrence):
                region(value.region, indices, besides)
            else:
                if besides is not None and value.runs[0].path.startswith(besides):
                    for run in value.runs:
                        region(run.region, (*indices, 0), besides)
                    continue
                for run in value.runs if planned else ():
                    region(run.region, (*indices, 0), f"{run.path}.")
                for run in value.runs:
                    for index in range(run.count):
                        region(run.region, (*indices, index))

    region(program.flow, ())
    return found


def plan_text(program: Program) -> str:
    """The records of `PLAN`: repetitions are comprehensions, so they are as long as the source."""
    weights = {w.path: w for w in program.weights}
    writer = _PlanWriter(weights)
    lines = writer.region(program.flow, ())
    return "\n".join(["(", *(f"    {line}" for line in lines), "),"])


def _along(weight: Weight, variables: tuple[str, ...]) -> str:
    """The target of a weight in a residual stream, for the copies that the variables name."""
    terms = weight.terms
    if len({term.factor for term in terms}) == 1:  # the factor is in the target
        terms = tuple(replace(term, factor=1.0) for term in terms)
    whole = float(weight.target) * sum(term(weight.last) for term in terms)
    sums = []
    for term in terms:
        text = "" if term.factor == 1 and term.places else repr(term.factor)
        for place in term.places:
            parts, constant = [], place.start
            for stride, n in zip(place.strides, place.levels, strict=True):
                parts.append(variables[n] if stride == 1 else f"{stride} * {variables[n]}")
                constant -= stride * weight.levels[n].start
            index = " + ".join(parts)
            index += f" {'-' if constant < 0 else '+'} {abs(constant)}" if constant else ""
            entry = f"{stream_name(place.stream)}.{place.name}[{index}]"
            text += f" * {entry}" if text else entry
        sums.append(text)
    single = len(terms) == len(terms[0].places) == 1
    below = " + ".join(sums)
    return f"{whole!r} / {below if single else f'({below})'}"


def stream_name(number: int) -> str:
    """The table of a residual stream in the generated file."""
    return f"STREAM_{number}" if number else "STREAM"


def streams_text(program: Program) -> dict[str, str]:
    """By name, the tables of the residual streams on which targets depend."""
    places = [p for weight in program.weights for term in weight.terms for p in term.places]
    found = {}
    for number in sorted({place.stream for place in places}):
        stream, name = program.streams.streams[number], stream_name(number)
        rows = _stream_rows(stream, stream.items)
        head = f"{name} = residual_stream("
        found[name] = "\n".join([head, "    (", *(f"        {row}" for row in rows), "    )", ")"])
    return found


def _stream_rows(stream: Stream, items: Items) -> list[str]:
    rows: list[str] = []
    for item in items:
        match item:
            case Branch(sum=sum, key=key, length=length):
                pair = f"({stream.added[key]!r}, {float(length)!r}),"
                rows.append(f"{pair}  # {place_of(sum.add.span)}")
            case Copies(runs=runs):
                for _, count, inner in runs:
                    lines = [f"    {row}" for row in _stream_rows(stream, inner)]
                    rows += ["*(", *lines, f") * {count},"]
    return rows


NEGLIGIBLE = 1e-13
"""Relative difference between copies' targets that is put down to rounding."""
WIDEST = 22
"""Characters of a number, at most. Lines break where these would not fit, and not where the numbers
at hand don't: so a file has as many lines whatever the number of copies."""
VARIABLES = "ijklmn"
"""Loop variables, by depth."""


class _PlanWriter:
    def __init__(self, weights: dict[str, Weight]) -> None:
        self.weights = weights
        names = [path.split(".") for path in weights]
        self.holders = {".".join(n[:depth]) for n in names for depth in range(1, len(n))}
        """The paths of everything with a weight inside."""
        self.seen: set[str] = set()

    def region(self, region: Region, loops: tuple[str, ...]) -> list[str]:
        """One element a line: records, and a starred comprehension for a repetition."""
        lines: list[str] = []
        for number in region.numbers():
            value = region[number]
            if isinstance(value, Apply) and isinstance(value.op, Atom):
                assert value.weight is not None
                lines += self.record(self.weights[value.weight], loops)
            elif isinstance(value, Loop):
                lines += self.loop(value, loops)
            elif isinstance(value, Recurrence):
                lines += self.region(value.region, loops)
        return lines

    def loop(self, loop: Loop, loops: tuple[str, ...]) -> list[str]:
        lines = [line for run in loop.runs for line in self.hoisted(run.region, run.path)]
        for run in loop.runs:
            if run.path not in self.holders:
                continue
            name = VARIABLES[len(loops)] if len(loops) < len(VARIABLES) else f"i{len(loops)}"
            inner = self.region(run.region, (*loops, name))
            if not inner:
                continue
            bounds = str(run.count) if not run.start else f"{run.start}, {run.start + run.count}"
            lines += [
                "*(",
                "    weight",
                f"    for {name} in range({bounds})",
                "    for weight in (",
                *(f"        {line}" for line in inner),
                "    )",
                "),",
            ]
        return lines

    def hoisted(self, region: Region, prefix: str) -> list[str]:
        """Records of shared weights first used in a repetition; they stand before it."""
        lines: list[str] = []
        for number in region.numbers():
            value = region[number]
            if isinstance(value, Apply) and isinstance(value.op, Atom):
                assert value.weight is not None
                if not value.weight.startswith(prefix + "."):
                    lines += self.record(self.weights[value.weight], ())
            elif isinstance(value, Loop):
                if value.runs[0].path.startswith(prefix + "."):
                    for run in value.runs:
                        lines += self.hoisted(run.region, prefix)
                else:
                    lines += self.loop(value, ())
            elif isinstance(value, Recurrence):
                lines += self.hoisted(value.region, prefix)
        return lines

    def record(self, weight: Weight, loops: tuple[str, ...]) -> list[str]:
        if weight.path in self.seen:
            return []
        self.seen.add(weight.path)
        own = loops[len(loops) - len(weight.levels) :]
        name, held = f"{weight.path}.weight", f"{weight.holder}.weight"
        target = repr(float(weight.target))
        room = 2 * WIDEST
        if weight.terms:
            target = _along(weight, own)
            room += 2 * WIDEST
        for level, variable in zip(weight.levels, own, strict=True):
            name, held = (
                x.replace(f"{{{level.start}}}", f"{{{variable}}}", 1) for x in (name, held)
            )
            ratio: Real = level.ratio
            if abs(float(ratio) - 1) * level.count > NEGLIGIBLE:
                last = level.start + level.count - 1
                target += f" * {float(ratio)!r} ** ({variable} - {last})"
                room += 2 * WIDEST
        quoted = f'f"{name}"' if weight.levels else f'"{name}"'
        op = weight.op
        place = f"# {place_of(weight.span)}"
        arguments = f'{quoted}, "{op.name}", {op.measured_shape}, "{op.norm.name}"'
        numbers = f"{float(weight.mass)!r}, {target}"
        indentation = 8 + 8 * len(loops)
        room += indentation
        layout = _layout(weight)
        if layout is None and len(f"Weight({arguments}, ),  {place}") + room <= 100:
            return [f"Weight({arguments}, {numbers}),  {place}"]
        rest = arguments.removeprefix(f"{quoted}, ")
        tail = [f"    {rest}, {numbers},"]
        if len(f"    {rest}, ,") + room > 100:
            tail = [f"    {rest},", f"    {numbers},"]
        if layout is not None:
            stored = f'f"{held}"' if weight.levels else f'"{held}"'
            cut = ", ".join(map(str, layout[1:]))
            where = [f"    Layout({stored}, {cut}),"]
            if len(where[0]) + indentation > 100:
                where = ["    Layout(", f"        {stored},", f"        {cut},", "    ),"]
            tail += where
        return [f"Weight(  {place}", f"    {quoted},", *tail, "),"]
