"""The declared sensitivity of every part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce
from typing import ClassVar, NamedTuple

from modnorm.diagnostics import Diagnostic, Diagnostics
from modnorm.graph.modules import (
    Around,
    Assume,
    Compose,
    Leaf,
    Module,
    Repeat,
    Run,
    Scan,
    Tuple,
    walk,
)
from modnorm.graph.numbers import fits_float, show
from modnorm.kernels.streams import residual_stream
from modnorm.ops.edges import slots
from modnorm.ops.types import Real, Symbol, Tensor, TupleType, Type
from modnorm.passes.fold import fold
from modnorm.passes.program import Assumed, Program, Steps
from modnorm.passes.streams import Branch, Streams, branches

EXACT_BITS = 1000
"""Exact numbers longer than this continue as floats, which can hold all that are shorter."""
LONG = 100_000
"""Terms of a sum that are added up one by one, at most."""


def times(a: Real, b: Real, bits: int = EXACT_BITS) -> Real:
    """a·b, exact while that stays short; an exact 0 stays one."""
    if _is_exact_zero(a) or _is_exact_zero(b):
        return 0
    if isinstance(a, float) or isinstance(b, float):
        return float(a) * float(b)
    return shorten(Fraction(a) * Fraction(b), bits)


def shorten(a: Fraction, bits: int = EXACT_BITS) -> Real:
    """The number, as an int where it is whole, as a float where it has grown too long."""
    if max(a.numerator.bit_length(), a.denominator.bit_length()) <= bits:
        return a.numerator if a.denominator == 1 else a
    try:
        return float(a)
    except OverflowError:
        return math.inf


def plus(a: Real, b: Real, bits: int = EXACT_BITS) -> Real:
    """a + b, exact while that stays short."""
    if isinstance(a, float) or isinstance(b, float):
        return float(a) + float(b)
    return shorten(Fraction(a) + Fraction(b), bits)


def power(a: Real, n: int) -> Real:
    """aⁿ, exact while that stays short; infinite or 0 where a float runs over."""
    if a == 1 or n == 0:
        return 1
    if _is_exact_zero(a):
        return 0
    if not isinstance(a, float):
        bits = max(abs(a.numerator).bit_length(), a.denominator.bit_length())
        if bits * n <= EXACT_BITS:
            return shorten(Fraction(a) ** n)
    try:
        return float(a) ** n
    except OverflowError:
        return math.inf


def _holds(sensitivity: Real) -> bool:
    """Whether a float can hold a sensitivity, and it is positive; or 0, and not by rounding."""
    return (sensitivity > 0 and fits_float(sensitivity)) or _is_exact_zero(sensitivity)


def _is_exact_zero(a: Real) -> bool:
    return a == 0 and not isinstance(a, float)


def divide(a: Real, b: Real) -> Real:
    """a / b, exact where both are."""
    if not (isinstance(a, float) or isinstance(b, float)):
        return Fraction(a) / Fraction(b)
    try:
        return float(a) / float(b)
    except OverflowError:  # one of the two is exact, and longer than a float
        return math.inf if a > b else 0.0


def geometric(ratio: Real, count: int) -> Real:
    """1 + ratio + … + ratio^(count-1)."""
    if ratio == 1:
        return count
    if isinstance(ratio, float) and abs(ratio - 1) < 1e-6 and count > LONG:
        return math.expm1(count * math.log(ratio)) / (ratio - 1)
    if isinstance(ratio, float) and abs(ratio - 1) < 1e-6:
        total, term = 0.0, 1.0
        for _ in range(count):
            total += term
            term *= ratio
        return total
    return divide(power(ratio, count) - 1, ratio - 1)


class Moved(NamedTuple):
    """Sensitivities of a part: in what comes in, and in the inputs that are named inside."""

    passed: Real
    named: Real = 0


@dataclass(frozen=True)
class _Declared:
    """Products along compositions and sums over tuples."""

    diagnostics: Diagnostics
    streams: Streams
    types: Mapping[int, tuple[Type, Type]]
    values: dict[int, Moved] = field(default_factory=dict)
    assumptions: dict[int, Assumed] = field(default_factory=dict)
    unit: Moved = Moved(1)
    steps: dict[int, Steps] = field(default_factory=dict)

    def leaf(self, leaf: Leaf) -> Moved:
        if leaf.op.gives is not None:  # what is true or false does not move
            type = self.types[leaf.id][1]
            return Moved(0, 0 if isinstance(type, Tensor) and type.dtype == "bool" else 1)
        value = leaf.op.sensitivity
        if _holds(value) and (value != 0 or leaf.op.certified == 0):
            size = self.streams.size(leaf.id)
            return Moved(value if size == 1 else value / size)
        what = f"`{leaf.op.label}` has sensitivity {show(value)}; it must be positive and finite"
        hint = "0 is for what ignores its input, and is then certified, too" if value == 0 else ""
        self.diagnostics.add(Diagnostic("E501", what, leaf.span, hint=hint))
        return Moved(1)

    def after(self, first: Moved, second: Moved) -> Moved:
        named = plus(second.named, times(second.passed, first.named))
        return Moved(times(first.passed, second.passed), named)

    def beside(self, parts: Sequence[Moved]) -> Moved:
        zero: Real = 0
        return Moved(*(reduce(plus, column, zero) for column in zip(*parts, strict=True)))

    def apart(self, parts: Sequence[Moved]) -> Moved:
        return self.beside(parts)._replace(passed=max(part.passed for part in parts))

    def repeat(self, part: Moved, run: Run) -> Moved:
        stream = self.streams.runs.get(run.body.id)
        if stream is None:
            named = times(part.named, geometric(part.passed, run.count)) if part.named else 0
            return Moved(power(part.passed, run.count), named)
        sizes = self.streams.streams[stream.at.stream].sizes[stream.at.last :]
        added = [self.added(branch) for branch in branches(stream.items)] * run.count
        found = Moved(1.0)
        for branch, size in zip(added, sizes, strict=False):
            found = self.after(found, Moved(1 + branch.passed / float(size), branch.named))
        return found

    def scan(self, cell: Moved, scan: Scan) -> Moved:
        """T steps: the state behind the last one moves with what entered at every one."""
        every = slots(self.types[scan.id][1])
        row = self.by_tensor([scan.body], self.types[scan.body.id][0])
        state, entry = max(row[: len(every)]), max(row[len(every) :])
        state = state if scan.carry is None else scan.carry
        count = every[0].shape[1]
        if not isinstance(count, Symbol):
            total = times(geometric(state, count), 1)  # as an int where it is one
        elif state < 1:
            total = divide(1, 1 - state)
        else:
            total = 1
            self.endless(scan, state, count)
        self.steps[scan.id] = Steps(state, count, total)
        return Moved(times(entry, total), times(cell.named, total))

    def endless(self, scan: Scan, state: Real, count: Symbol) -> None:
        """E501 for a state that does not fade, along a sequence of any length."""
        follows = "follows from its cell" if scan.carry is None else "is declared"
        self.diagnostics.add(
            Diagnostic(
                "E501",
                f"the targets in this `Scan` depend on how many steps there are, which `{count}`"
                f" leaves open: that a state moves {show(state)} times as far as the one before"
                f" {follows}",
                scan.span,
                hint=f"give `{count}` a number in the `input` declaration, or declare that the"
                " state fades, with `carry` below 1: `carry = 3/4` is a memory of 4 steps",
            )
        )

    def by_tensor(self, steps: Sequence[Module], x: Type) -> list[Real]:
        """The sensitivities of parts one after the other in each tensor of a tuple, for itself."""
        if not steps:
            return [1] * len(slots(x))
        first, *rest = steps
        match first:
            case Compose(steps=inner):
                return self.by_tensor([*inner, *rest], x)
            case Around(body=body) if not isinstance(first, Assume):
                return self.by_tensor([body, *rest], x)
            case Leaf(op=op) if op.picks is not None and isinstance(x, TupleType):
                found: list[Real] = []
                for i, member in enumerate(x.members):
                    picked = i == op.picks
                    found += self.by_tensor(rest, member) if picked else [0] * len(slots(member))
                return found
            case Tuple(members=members):
                rows = [self.by_tensor([member], x) for member in members]
                row: list[Real] = [reduce(plus, column) for column in zip(*rows, strict=True)]
            case _:  # a tuple's norm is the sum of its members' norms
                row = [self.values[first.id].passed] * len(slots(x))
        for step in rest:
            row = [times(one, self.values[step.id].passed) for one in row]
        return row

    def assumed(self, module: Assume, body: Moved) -> Moved:
        """What is assumed in the place of what follows; of inputs named inside the same part.

        It is said of values of the size that is declared for them: where the body begins with a
        norm that reads a residual stream, of the mean of its terms.
        """
        size = self.streams.size(self.streams.assumed.get(module.id, -1))
        total = plus(times(body.passed, size), body.named)
        if total == 0:
            what = "what ignores its input has no sensitivity that could be another one"
            hint = "leave `assume` out"
            self.diagnostics.add(Diagnostic("E501", what, module.span, hint=hint))
            return body
        factor = divide(module.sensitivity, total)
        self.assumptions[module.id] = Assumed(module, total, factor)
        return Moved(times(body.passed, factor), times(body.named, factor))

    def added(self, branch: Branch) -> Moved:
        """How far what a branch adds to a sum of one term moves with it."""
        at, _ = self.streams.sums[branch.key]
        size = self.streams.streams[at.stream].sizes[at.last - 1]
        passed, named = self.beside([self.values[member] for member in branch.members])
        return Moved(float(passed * size), named)

    def reaching(self) -> Streams:
        """The streams with how far each one's end moves with the sums on the way."""
        found = []
        for stream in self.streams.streams:
            each = {branch.key: branch for branch in branches(stream.items)}
            added = {add: float(self.added(branch).passed) for add, branch in each.items()}
            pairs = [(added[b.key], float(b.length)) for b in branches(stream.items)]
            reach = residual_stream(pairs).reach
            found.append(replace(stream, added=added, reach=reach))
        return replace(self.streams, streams=tuple(found))


@dataclass(frozen=True)
class Sensitivities:
    """Products along compositions and sums over tuples.

    Source: Large et al. 2024 (arXiv 2405.14813).
    """

    name: ClassVar[str] = "sensitivities"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        algebra = _Declared(diagnostics, program.streams, program.types)
        moved = algebra.values
        fold(program.tree, algebra, moved)
        declared = {i: plus(*both) if both.named else both.passed for i, both in moved.items()}
        inside_out = reversed(list(walk(program.tree)))
        # an operation's own has been looked at
        over = (m for m in inside_out if not isinstance(m, Leaf) and not _holds(declared[m.id]))
        if not diagnostics.errors and (module := next(over, None)) is not None:
            diagnostics.add(self.out_of_range(module, declared))
        passing = {i: both.passed for i, both in moved.items()}
        streams = algebra.reaching()
        return replace(
            program,
            sensitivities=declared,
            passing=passing,
            streams=streams,
            steps=algebra.steps,
            assumptions=algebra.assumptions,
        )

    def out_of_range(self, module: Module, numbers: dict[int, Real]) -> Diagnostic:
        """E501 for a part whose sensitivity no float can hold."""
        message = "the sensitivities here multiply to more or less than a float can hold"
        hint = "bring the parts to sensitivity 1"
        if isinstance(module, Repeat):
            one = {numbers[run.body.id] for run in module.runs}
            each = f" of sensitivity {show(one.pop())}" if len(one) == 1 else ""
            message = (
                f"{module.count} copies{each} together have more or less sensitivity than a"
                " float can hold"
            )
            hint = (
                "bring the repeated module to sensitivity 1, as"
                " `(1 - 1/n) * Identity + 1/n * f` does"
            )
        if isinstance(module, Scan):
            message = (
                "the steps of this `Scan` together have more sensitivity than a float can hold"
            )
            hint = "declare how far a state moves with the one before: `Scan(cell, carry = 1)`"
        return Diagnostic("E501", message, module.span, hint=hint)

    def verify(self, program: Program) -> None:
        for module in walk(program.tree):
            assert _holds(program.sensitivities[module.id]), module
