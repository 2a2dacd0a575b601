"""Copies of which most are left out get only the vectors that count: what mixtures choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from modnorm.diagnostics import Diagnostics
from modnorm.graph.dataflow import Apply, Builder, Loop, Pack, Recurrence, Region, Value
from modnorm.ops.base import Op
from modnorm.ops.types import Size, Tensor, TupleType, Type
from modnorm.passes.flow import verify_region
from modnorm.passes.program import Program

ROUTE = ("rows", "sizes", "places", "shares")
"""What is routed: names for generated files."""


@dataclass(frozen=True)
class Route:
    """Between an operation that fans out and one that leaves most of it out, the rest alone is
    computed: see `Op.routed`. Where a repetition stands between them, all is."""

    name: ClassVar[str] = "route"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        return replace(program, graph=routed(program.flow))

    def verify(self, program: Program) -> None:
        verify_region(program.flow)


@dataclass(frozen=True, eq=False)
class _Mixture:
    """Values between the two operations: `inside`, from what fans out to what is mixed."""

    mix: int
    start: int
    end: int
    scores: int
    inside: frozenset[int]
    ops: tuple[Op, tuple[Op, ...], Op]


def routed(region: Region) -> Region:
    """The region with all of its mixtures routed, and so those of its repetitions."""
    mixtures = [found for n in region.numbers() if (found := _mixture(region, n)) is not None]
    starts = {one.start: one for one in mixtures}
    ends = {one.mix: one for one in mixtures}
    within = {n: one for one in mixtures for n in one.inside}
    builder = Builder(region[region.input].type)
    new = {region.input: builder.input}
    routes: dict[int, tuple[int, ...]] = {}  # rows, sizes, places and gates, by what fans out
    for number in region.numbers():
        value = region[number]
        if number == region.input:
            continue
        if isinstance(value, Loop):
            value = replace(
                value, runs=tuple(replace(r, region=routed(r.region)) for r in value.runs)
            )
        if isinstance(value, Recurrence):
            value = replace(value, region=routed(value.region))
        if number in starts:
            routes[number] = _begun(builder, starts[number], value, new)
            new[number] = routes[number][0]
        elif number in ends:
            one = ends[number]
            _, _, places, gates = routes[one.start]
            x = new[region[one.start].inputs[0]]
            new[number] = _applied(builder, value, one.ops[2], (new[one.end], x, places, gates))
        elif number in within:
            new[number] = _rows(builder, value, new, routes[within[number].start])
        else:
            new[number] = builder.add(replace(value, inputs=tuple(new[i] for i in value.inputs)))
    return builder.finish(new[region.output])


def _mixture(region: Region, number: int) -> _Mixture | None:
    """What lies before an operation that leaves most of it out, if it can be routed."""
    value = region[number]
    if not isinstance(value, Apply):
        return None
    pair = region[value.inputs[0]]
    ops = value.op.routed(pair.type) if isinstance(pair, Pack) else None
    if ops is None:
        return None
    end, scores = pair.inputs
    inside, starts, stack = set[int](), set[int](), [end]
    while stack:
        n = stack.pop()
        one = region[n]
        if isinstance(one, Apply) and one.op.fans_out:
            starts.add(n)
        elif not isinstance(one, Apply | Pack):
            return None
        elif n not in inside:
            inside.add(n)
            stack.extend(one.inputs)
    start = min(starts, default=0)
    own = {*inside, start}
    used = {user for n in own for user in region.uses(n)}
    if len(starts) > 1 or not used <= {*inside, value.inputs[0]} or scores >= start:
        return None
    return _Mixture(number, start, end, scores, frozenset(inside), ops)


def _begun(builder: Builder, one: _Mixture, value: Value, new: dict[int, int]) -> tuple[int, ...]:
    """What is routed to the copies, member by member."""
    assert isinstance(value, Apply)
    whole = _applied(builder, value, one.ops[0], (new[value.inputs[0]], new[one.scores]))
    made: Value = builder.graph.nodes[whole]["value"]
    assert isinstance(made.type, TupleType)
    return tuple(
        builder.add(replace(value, op=pick, inputs=(whole,), type=type, path=f"{name}.member"))
        for name, pick, type in zip(ROUTE, one.ops[1], made.type.members, strict=True)
    )


def _applied(builder: Builder, like: Value, op: Op, inputs: tuple[int, ...]) -> int:
    """An operation on several values, in the place of another one."""
    assert isinstance(like, Apply)
    types = tuple(builder.graph.nodes[i]["value"].type for i in inputs)
    pack = builder.add(Pack(inputs, TupleType(types), like.span))
    resolved, out = op.resolve(TupleType(types))
    return builder.add(replace(like, op=resolved, inputs=(pack,), type=out))


def _rows(builder: Builder, value: Value, new: dict[int, int], route: tuple[int, ...]) -> int:
    """A value of all copies as one of the vectors that go to them."""
    rows, sizes = route[:2]
    count = builder.graph.nodes[rows]["value"].type.shape[0]
    inputs = tuple(new[i] for i in value.inputs)
    value = replace(value, inputs=inputs, type=_of_rows(value.type, count))
    if isinstance(value, Apply) and value.weight is not None:
        return _applied(builder, value, value.op, (*inputs, sizes))
    return builder.add(value)


def _of_rows(type: Type, count: Size) -> Type:
    if isinstance(type, TupleType):
        return TupleType(tuple(_of_rows(member, count) for member in type.members))
    return Tensor(type.dtype, (count, type.shape[-1]), None, ("other", type.roles[-1]))
