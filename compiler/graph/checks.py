"""What every part of the evaluator uses: reporting, and values checked for their kind."""

from __future__ import annotations

from abc import ABC, abstractmethod

from modnorm.diagnostics import Diagnostic, Diagnostics, Label, Span
from modnorm.graph.modules import Module, Tuple
from modnorm.graph.numbers import show, written
from modnorm.graph.values import POISON, Frame, Poison, Value, describe, is_module, is_number
from modnorm.ops.formula import Formula
from modnorm.ops.formula_check import Violation
from modnorm.ops.types import Real
from modnorm.syntax import tree

MAX_COUNT = 100_000
"""Copies made by one `**` or `compose`."""
SHOWN = 3
"""Calls shown of those on the way to a mistake, the innermost ones."""


class Checks:
    """Reports mistakes and checks values."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        self.uses: list[Label] = []
        """The calls with arguments that are being evaluated, outermost first."""

    def fail(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        label: str = "",
        others: tuple[Label, ...] = (),
        hint: str = "",
    ) -> Poison:
        uses = self.uses[::-1]
        mention = next((use.span for use in uses if not use.span.source.library), None)
        others = (*others, *(use for use in uses[:SHOWN] if use.span != span))
        self.diagnostics.add(Diagnostic(code, message, span, label, others, hint), mention)
        return POISON

    def not_a_condition(self, value: Value, span: Span) -> Poison:
        hint = f"compare it with something: `… > {written(value)}`" if is_number(value) else ""
        return self.fail(
            "E302",
            f"a condition must be true or false, but this is {describe(value)}",
            span,
            hint=hint,
        )

    def module(self, value: Value, span: Span, what: str) -> Module | Poison:
        """The value as a module; a tuple of modules is one. `what` says what a module is for."""
        if isinstance(value, Poison):
            return POISON
        if isinstance(value, tuple) and all(isinstance(v, tuple) or is_module(v) for v in value):
            members = [self.module(v, span, what) for v in value]
            if any(isinstance(m, Poison) for m in members):
                return POISON
            return Tuple(tuple(m for m in members if not isinstance(m, Poison)), span)
        if not is_module(value):
            hint = ""
            if is_number(value):
                hint = f"a module that multiplies by a number is `{written(value)} * Identity`"
            elif isinstance(value, str) and value.isidentifier():
                hint = f"a name stands without quotes: `{value}`"
            return self.fail("E302", f"{what}, but this is {describe(value)}", span, hint=hint)
        return value

    def number(self, value: Value, span: Span, what: str) -> Real | Poison:
        if isinstance(value, Poison):
            return POISON
        if not is_number(value):
            return self.fail(
                "E302", f"{what} must be a number, but this is {describe(value)}", span
            )
        return value

    def count(self, value: Value, span: Span, what: str, least: int = 0) -> int | Poison:
        number = self.number(value, span, what)
        if isinstance(number, Poison):
            return POISON
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if not isinstance(number, int) or number < least:
            kind = "a whole number" if least < 0 else f"a whole number of at least {least}"
            return self.fail(
                "E304",
                f"{what} must be {kind}, but it is {written(number)}",
                span,
                hint="round with `floor` or `ceil`" if not isinstance(number, int) else "",
            )
        if abs(number) > MAX_COUNT:
            return self.fail(
                "E305", f"{what} may be at most {MAX_COUNT:,}, but it is {show(number)}", span
            )
        return number


class Evaluates(Checks, ABC):
    """What the parts of the evaluator ask of the whole."""

    checked_bonds: dict[Formula, Violation | None]
    checked_nodes: int

    @abstractmethod
    def value(self, expr: tree.Expr, frame: Frame) -> Value:
        """Evaluate an expression."""

    @abstractmethod
    def apply(
        self,
        home: Frame,
        definition: tree.Def | tree.Bond,
        arguments: tuple[tree.Argument, ...],
        span: Span,
        frame: Frame,
    ) -> Value:
        """Call a definition that stands among the names of `home`."""

    @abstractmethod
    def name(self, expr: tree.Name, frame: Frame) -> Value:
        """What a name means."""

    @abstractmethod
    def origin(self, expr: tree.Expr, frame: Frame) -> tuple[Label, ...]:
        """Where a name that stands for an expression is defined."""
