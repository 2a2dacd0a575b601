"""Rewrites of the data flow that change no number: what the generated code need not compute.

They run after the analysis and touch nothing that it found out. Each asks operations for their
properties (`is_identity`, `scalar`, `absorb`, `fuse`) and never for their names. Operations with
effects are computed as often as they are written, and what they keep is what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import ClassVar, TypeAlias

from modnorm.diagnostics import Diagnostics
from modnorm.graph.dataflow import (
    Apply,
    Builder,
    Input,
    Loop,
    LoopRun,
    Pack,
    Recurrence,
    Region,
    Value,
    holds_modules,
)
from modnorm.graph.numbers import fits_float
from modnorm.ops.base import Op
from modnorm.ops.scalars import Mul
from modnorm.ops.types import Real, TupleType, Type
from modnorm.passes.flow import verify_region
from modnorm.passes.program import Program
from modnorm.passes.sensitivity import times

Emit: TypeAlias = Callable[[Builder, Value, dict[int, int]], int]


def rewrite(region: Region, emit: Emit) -> Region:
    """A new region built by `emit`, which adds one old value, its operands renumbered, to it.

    Regions inside loops are rewritten the same way first.
    """
    builder = Builder(region[region.input].type)
    new = {region.input: builder.input}
    for number in region.numbers():
        value = region[number]
        if isinstance(value, Input):
            continue
        if isinstance(value, Loop):
            runs = tuple(replace(r, region=rewrite(r.region, emit)) for r in value.runs)
            value = replace(value, runs=runs)
        if isinstance(value, Recurrence):
            value = replace(value, region=rewrite(value.region, emit))
        inputs = tuple(new[i] for i in value.inputs)
        new[number] = emit(builder, replace(value, inputs=inputs), new)
    return builder.finish(new[region.output])


class _Rewrite:
    """What the rewriting passes have in common."""

    def region(self, region: Region) -> Region:
        raise NotImplementedError

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        return replace(program, graph=self.region(program.flow))

    def verify(self, program: Program) -> None:
        verify_region(program.flow)


@dataclass(frozen=True)
class DropIdentities(_Rewrite):
    """Operations that give back their input, or a member of a tuple made just before, are gone."""

    name: ClassVar[str] = "drop-identities"

    def region(self, region: Region) -> Region:
        def emit(builder: Builder, value: Value, new: dict[int, int]) -> int:
            if isinstance(value, Apply):
                if value.op.is_identity or value.op.scalar == 1:
                    return value.inputs[0]
                before: Value = builder.graph.nodes[value.inputs[0]]["value"]
                if value.op.picks is not None and isinstance(before, Pack):
                    return before.inputs[value.op.picks]
            if isinstance(value, Loop) and not holds_modules(value):
                outputs = [run.region.output == run.region.input for run in value.runs]
                return value.inputs[0] if all(outputs) else builder.add(value)
            return builder.add(value)

        return rewrite(region, emit)


@dataclass(frozen=True)
class ShareEqual(_Rewrite):
    """The same operation on the same value is computed once, if it has no weight and no effects."""

    name: ClassVar[str] = "share-equal"

    def region(self, region: Region) -> Region:
        seen: dict[Hashable, int] = {}

        def emit(builder: Builder, value: Value, new: dict[int, int]) -> int:
            if isinstance(value, Apply) and value.weight is None and not value.op.has_effects:
                key: Hashable = (builder, value.op, value.inputs)
            elif isinstance(value, Pack):
                key = (builder, value.inputs)
            else:
                return builder.add(value)
            if key not in seen:
                seen[key] = builder.add(value)
            return seen[key]

        return rewrite(region, emit)


@dataclass(frozen=True)
class Fuse(_Rewrite):
    """Two operations in a row become one where the second knows how."""

    name: ClassVar[str] = "fuse"

    def region(self, region: Region) -> Region:
        def emit(builder: Builder, value: Value, new: dict[int, int]) -> int:
            if isinstance(value, Apply) and not value.op.has_effects:
                before: Value = builder.graph.nodes[value.inputs[0]]["value"]
                if isinstance(before, Apply) and not before.op.is_module and before.weight is None:
                    fused = value.op.fuse(before.op)
                    if fused is not None and _holds(fused):
                        return builder.add(replace(value, op=fused, inputs=before.inputs))
            return builder.add(value)

        return rewrite(region, emit)


Scalars: TypeAlias = "Real | tuple[Scalars, ...]"


@dataclass(frozen=True)
class FoldScalars(_Rewrite):
    """Constant factors move downstream until an operation swallows them.

    A factor that nothing downstream swallows stays where it was written.
    """

    name: ClassVar[str] = "fold-scalars"

    def region(self, region: Region) -> Region:
        return _Folding(region).run(self)


class _Folding:
    """One region's factors. Every old value is `factor` times a new one."""

    def __init__(self, region: Region) -> None:
        self.old = region
        self.builder = Builder(region[region.input].type)
        self.new: dict[int, int] = {region.input: self.builder.input}
        self.factor: dict[int, Scalars] = {region.input: _ones(region[region.input].type)}
        self.scaled: dict[int, int] = {}

    def run(self, fold: FoldScalars) -> Region:
        for number in self.old.numbers():
            value = self.old[number]
            match value:
                case Input():
                    pass
                case Apply():
                    self.apply(number, value)
                case Pack(inputs=inputs):
                    self.keep(number, value)
                    self.factor[number] = tuple(self.factor[i] for i in inputs)
                case Loop(inputs=(x,)):
                    runs = tuple(
                        LoopRun(fold.region(r.region), r.count, r.start, r.path) for r in value.runs
                    )
                    self.keep(number, replace(value, runs=runs), (self.exact(x),))
                    self.factor[number] = _ones(value.type)
                case Recurrence(inputs=(x,)):
                    cell = replace(value, region=fold.region(value.region))
                    self.keep(number, cell, (self.exact(x),))
                    self.factor[number] = _ones(value.type)
        return self.builder.finish(self.exact(self.old.output))

    def keep(self, number: int, value: Value, inputs: tuple[int, ...] | None = None) -> None:
        if inputs is None:
            inputs = tuple(self.new[i] for i in value.inputs)
        self.new[number] = self.builder.add(replace(value, inputs=inputs))

    def apply(self, number: int, value: Apply) -> None:
        (x,) = value.inputs
        factor = self.factor[x]
        if value.op.scalar is not None:
            product = _scale(factor, value.op.scalar)
            if self.swallowed(number, product):
                self.new[number], self.factor[number] = self.new[x], product
                return
            self.new[number] = self.new[x]
            self.factor[number] = product
            self.new[number] = self.exact(number)
            self.factor[number] = _ones(value.type)
            return
        absorbed = _absorb(value, factor)
        if absorbed is None:
            self.keep(number, value, (self.exact(x),))
            self.factor[number] = _ones(value.type)
            return
        op, out = absorbed
        self.keep(number, replace(value, op=op))
        self.factor[number] = _uniform(value.type, out)

    def swallowed(self, number: int, factor: Scalars) -> bool:
        """Whether every use of a value takes the factor in without leaving one behind."""
        if _is_one(factor):
            return True
        if number == self.old.output or not _fits(factor):
            return False
        return all(self.use_swallows(user, number, factor) for user in self.old.uses(number))

    def use_swallows(self, user: int, number: int, factor: Scalars) -> bool:
        value = self.old[user]
        match value:
            case Apply() if value.op.scalar is not None:
                return self.swallowed(user, _scale(factor, value.op.scalar))
            case Apply():
                absorbed = _absorb(value, factor)
                return absorbed is not None and self.swallowed(
                    user, _uniform(value.type, absorbed[1])
                )
            case Pack(inputs=inputs):
                # members not folded yet count as they are written
                factors = tuple(
                    factor if i == number else self.factor.get(i, _ones(self.old[i].type))
                    for i in inputs
                )
                return self.swallowed(user, factors)
            case _:
                return False

    def exact(self, number: int) -> int:
        """The new number of a value with its factor multiplied in."""
        if _is_one(self.factor[number]):
            return self.new[number]
        if number not in self.scaled:
            self.scaled[number] = self.multiplied(
                self.new[number], self.factor[number], self.old[number]
            )
        return self.scaled[number]

    def multiplied(self, new: int, factor: Scalars, old: Value) -> int:
        value: Value = self.builder.graph.nodes[new]["value"]
        uniform = _same(factor)
        if uniform is None and isinstance(value, Pack) and isinstance(old, Pack):
            assert isinstance(factor, tuple)
            members = tuple(
                new_member if _is_one(f) else self.multiplied(new_member, f, self.old[old_member])
                for new_member, f, old_member in zip(value.inputs, factor, old.inputs, strict=True)
            )
            return self.builder.add(replace(value, inputs=members))
        assert uniform is not None, "factors of a tuple that is no Pack are equal"
        span = getattr(old, "span", None)
        path = getattr(old, "path", "")
        assert span is not None
        return self.builder.add(Apply(Mul(uniform), (new,), value.type, span, path, None, -1))


def _ones(type: Type) -> Scalars:
    return _uniform(type, 1)


def _uniform(type: Type, factor: Real) -> Scalars:
    if isinstance(type, TupleType):
        return tuple(_uniform(member, factor) for member in type.members)
    return factor


def _scale(factor: Scalars, by: Real) -> Scalars:
    return tuple(_scale(f, by) for f in factor) if isinstance(factor, tuple) else times(factor, by)


def _same(factor: Scalars) -> Real | None:
    """The one factor of a value, or of all members of a tuple; None where they differ."""
    if not isinstance(factor, tuple):
        return factor
    found = {_same(f) for f in factor}
    return found.pop() if len(found) == 1 else None


def _fits(factor: Scalars) -> bool:
    """Whether floats can hold a value's factors."""
    return all(map(_fits, factor)) if isinstance(factor, tuple) else fits_float(factor)


def _is_one(factor: Scalars) -> bool:
    return _same(factor) == 1


def _absorb(value: Apply, factor: Scalars) -> tuple[Op, Real] | None:
    """The operation with the factors of its input taken in, and the factor of its output.

    None where the operation takes none in, or one of its numbers would leave the range of floats.
    """
    if _is_one(factor):
        return value.op, 1
    members = [_same(f) for f in factor] if isinstance(factor, tuple) else [factor]
    known = [m for m in members if m is not None and not isinstance(m, tuple)]
    if len(known) < len(members) or not all(map(fits_float, known)):
        return None
    try:
        # buffers are of the input as it is written
        absorbed = None if value.op.buffers else value.op.absorb(tuple(known))
    except OverflowError:
        return None
    fits = absorbed is not None and fits_float(absorbed[1]) and _holds(absorbed[0])
    return absorbed if fits else None


def _holds(op: Op) -> bool:
    """Whether floats can hold every number of an operation."""
    stack: list[object] = [getattr(op, field.name) for field in fields(op)]
    while stack:
        value = stack.pop()
        if isinstance(value, tuple):
            stack.extend(value)
        elif isinstance(value, int | float | Fraction) and not fits_float(value):
            return False
    return True
