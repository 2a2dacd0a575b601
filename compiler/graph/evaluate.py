"""From the syntax tree to the module tree: names, numbers and definitions are gone after this.

A mistake is reported and evaluates to `POISON`, which silences everything that depends on it, so
that one run shows all independent mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modnorm.diagnostics import Diagnostics, Label, Span
from modnorm.graph.bonds import build_bond
from modnorm.graph.calls import bind, bind_formals, build_op
from modnorm.graph.checks import MAX_COUNT
from modnorm.graph.lookups import Lookups
from modnorm.graph.modules import Assume, Hole, Module, Run, Scan, Scope, Tare, Tuple
from modnorm.graph.names import Namespace, mentions
from modnorm.graph.numbers import FUNCTIONS, Impossible, fits_float, show
from modnorm.graph.operators import Operators
from modnorm.graph.runs import equal_runs
from modnorm.graph.values import POISON, Closure, Frame, Poison, Value, describe, is_module
from modnorm.ops import registry
from modnorm.ops.formula import Formula
from modnorm.ops.formula_check import Violation
from modnorm.ops.types import Real
from modnorm.syntax import tree

MAX_STEPS = 100_000
"""Expressions evaluated in one run."""
MAX_RUNS = 1_000
"""Different modules in a row made by one `compose`."""
MAX_MEMBERS = 1_000
"""Members of one tuple of modules."""


class OutOfSteps(Exception):
    """The bound on evaluation was reached."""


class Evaluator(Operators, Lookups):
    """Evaluates the expressions of one compilation.

    `overrides` are values for params of the main file, already evaluated.
    """

    def __init__(
        self, main: Namespace, overrides: Mapping[str, Value], diagnostics: Diagnostics
    ) -> None:
        Lookups.__init__(self, overrides, diagnostics)
        self.main = main
        self.steps = 0
        self.checked_bonds: dict[Formula, Violation | None] = {}
        self.checked_nodes = 0

    def value(self, expr: tree.Expr, frame: Frame) -> Value:
        """Evaluate an expression.

        Raises:
            OutOfSteps: when the bound on evaluation is reached (reported already).
        """
        self.steps += 1
        if self.steps > MAX_STEPS:
            self.fail(
                "E305",
                f"this model takes more than {MAX_STEPS:,} steps to evaluate",
                self.busy[0][1] if self.busy else expr.span,
                hint="repeat with `**`, which is evaluated once whatever the count",
            )
            raise OutOfSteps
        match expr:
            case tree.Number(value=number):
                return number.numerator if number.denominator == 1 else number
            case tree.Boolean(value=boolean):
                return boolean
            case tree.String(value=string):
                return string
            case tree.Name():
                return self.name(expr, frame)
            case tree.Call():
                return self.call(expr, frame)
            case tree.Tare():
                return self.tare(expr, frame)
            case tree.Scan():
                return self.scan(expr, frame)
            case tree.Assume():
                return self.assume(expr, frame)
            case tree.ComposeFor():
                return self.compose_for(expr, frame)
            case tree.Tuple(items=items):
                return self.tuple_of(expr, tuple(self.value(item, frame) for item in items))
            case tree.Unary():
                return self.unary(expr, frame)
            case tree.Binary():
                return self.binary(expr, frame)
            case tree.Conditional():
                test = self.value(expr.test, frame)
                if isinstance(test, Poison):
                    return POISON
                if not isinstance(test, bool):
                    return self.not_a_condition(test, expr.test.span)
                return self.value(expr.then if test else expr.otherwise, frame)

    def tuple_of(self, expr: tree.Tuple, values: tuple[Value, ...]) -> Value:
        module = next((v for v in values if is_module(v)), None)
        if module is not None:
            places = [item.span for item in expr.items]
            at = next(span for v, span in zip(values, places, strict=True) if v is module)
            values = tuple(
                self.member(v, module, span, at) for v, span in zip(values, places, strict=True)
            )
        if any(isinstance(v, Poison) for v in values):
            return POISON
        if module is not None and len(values) > MAX_MEMBERS:
            return self.fail(
                "E305",
                f"a tuple of {len(values):,} modules; at most {MAX_MEMBERS:,} are allowed",
                expr.span,
            )
        if module is not None:
            made = self.module(values, expr.span, "a tuple holds modules")
            return replace(made, names=expr.names) if isinstance(made, Tuple) else made
        if expr.names:
            return self.fail(
                "E302",
                "members of a tuple have names where they are modules, but this one holds none",
                expr.span,
                hint="leave the names out",
            )
        return values

    def member(self, value: Value, module: Value, span: Span, at: Span) -> Value:
        """A member of a tuple with a module in it, which is at another place."""
        patched = self.patched(value, module, span)
        if isinstance(patched, Poison | tuple) or is_module(patched):
            return patched
        self.fail(
            "E302",
            f"a tuple holds modules or numbers, not both, but this is {describe(value)}",
            span,
            others=(Label(at, "this is a module"),),
        )
        return Hole(span)

    def tare(self, expr: tree.Tare, frame: Frame) -> Value:
        module = self.module(
            self.value(expr.module, frame), expr.module.span, "`tare` takes a module"
        )
        mass = self.number(self.value(expr.mass, frame), expr.mass.span, "a mass")
        if isinstance(module, Poison) or isinstance(mass, Poison):
            return POISON
        if mass < 0:
            return self.fail(
                "E307", f"a mass cannot be negative, but this is {show(mass)}", expr.mass.span
            )
        if not fits_float(mass):
            return self.fail(
                "E305",
                f"a mass must be 0 or a number that a float can hold, but it is {show(mass)}",
                expr.mass.span,
            )
        return Tare(module, mass, expr.span)

    def scan(self, expr: tree.Scan, frame: Frame) -> Value:
        function = self.function_of(expr.cell, frame)
        if function is not None:
            name = function.name
            return self.fail(
                "E302",
                f"`Scan` takes a module, its cell, but `{name}` is a definition with arguments",
                expr.cell.span,
                others=(Label(function.name_span, f"`{name}` is defined here"),),
                hint="a cell names no arguments: its input is the tuple (state, entry), as in"
                f" `def {name} = Tanh @ (Linear(32) @ Select(0) + Linear(32) @ Select(1))`",
            )
        cell = self.module(
            self.value(expr.cell, frame), expr.cell.span, "`Scan` takes a module, its cell"
        )
        if expr.carry is None:
            return POISON if isinstance(cell, Poison) else Scan(cell, None, expr.span)
        at = expr.carry.span
        declared = self.number(self.value(expr.carry, frame), at, "`carry` of `Scan`")
        if isinstance(cell, Poison) or isinstance(declared, Poison):
            return POISON
        if declared <= 0 or not fits_float(declared):
            return self.fail(
                "E501",
                f"`carry` of `Scan` is {show(declared)}; a sensitivity must be positive and finite",
                at,
                hint="a state moves so many times as far as the one before: below 1 it fades",
            )
        return Scan(cell, declared, expr.span)

    def function_of(self, expr: tree.Expr, frame: Frame) -> tree.Def | None:
        """The definition that a name alone stands for, where it needs arguments."""
        if not isinstance(expr, tree.Name):
            return None
        local = frame.local.get(expr.text)
        found = self.lookup(expr, frame) if local is None else None
        definition = found[1] if isinstance(found, tuple) else None
        if isinstance(local, Closure):
            definition = local.definition
        if not isinstance(definition, tree.Def):
            return None
        return definition if any(f.default is None for f in definition.formals) else None

    def assume(self, expr: tree.Assume, frame: Frame) -> Value:
        span = expr.sensitivity.span
        number = self.number(self.value(expr.sensitivity, frame), span, "a sensitivity")
        what = "`assume` speaks of a module"
        module = self.module(self.value(expr.module, frame), expr.module.span, what)
        if isinstance(module, Poison) or isinstance(number, Poison):
            return POISON
        if number <= 0 or not fits_float(number):
            wanted = "positive" if number <= 0 else "a number that a float can hold"
            return self.fail(
                "E501",
                f"a sensitivity that is assumed must be {wanted}, but it is {show(number)}",
                span,
            )
        return Assume(module, number, expr.span)

    def compose_for(self, expr: tree.ComposeFor, frame: Frame) -> Value:
        numbers = [
            self.count(self.value(arg, frame), arg.span, "an argument of `range`", -MAX_COUNT)
            for arg in expr.range
        ]
        limits = [n for n in numbers if not isinstance(n, Poison)]
        if len(limits) < len(numbers):
            return POISON
        if len(limits) == 3 and limits[2] == 0:
            return self.fail("E304", "the step of a `range` cannot be 0", expr.range[2].span)
        indices = range(*limits)
        uses_index = any(
            name.parts[0] == expr.variable and expr.variable not in inner
            for name, _, inner in mentions(expr.body)
        )
        if not uses_index:
            body = self.module(
                self.value(expr.body, frame), expr.body.span, "`compose` repeats a module"
            )
            if isinstance(body, Poison):
                return POISON
            return self.repeat((Run(body, len(indices)),), expr.span)
        bodies: list[Module] = []
        for index in indices:
            inner = frame.inner(**{expr.variable: index})
            body = self.module(
                self.value(expr.body, inner), expr.body.span, "`compose` repeats a module"
            )
            if isinstance(body, Poison):
                return POISON
            bodies.append(body)
        runs = equal_runs(bodies)
        if len(runs) > MAX_RUNS:
            return self.fail(
                "E305",
                f"a `compose` of {len(runs):,} different modules; at most {MAX_RUNS:,} are allowed",
                expr.span,
            )
        return self.repeat(runs, expr.span)

    def call(self, expr: tree.Call, frame: Frame) -> Value:
        head = expr.function.parts[0]
        if len(expr.function.parts) == 1:
            local = frame.local.get(head)
            if isinstance(local, Closure):
                arguments = expr.arguments
                return self.apply(local.frame, local.definition, arguments, expr.span, frame)
            if local is not None:
                value = self.name(expr.function, frame)
                if isinstance(value, Poison):
                    return POISON
                return self.fail(
                    "E301",
                    f"`{head}` is {describe(value)} and takes no arguments",
                    expr.span,
                    hint="compose modules with `@`; multiply with `*`",
                )
            if head in FUNCTIONS and frame.space.find(head) is None:
                return self.function(expr, frame)
        found = self.lookup(expr.function, frame)
        if isinstance(found, Poison):
            for argument in expr.arguments:
                self.value(argument.value, frame)
            return POISON
        if found is None:
            return self.operation(expr, frame)
        space, definition = found
        if isinstance(definition, tree.Def | tree.Bond):
            return self.apply(Frame(space), definition, expr.arguments, expr.span, frame)
        value = self.definition(space, definition, expr.function.span)
        if isinstance(value, Poison):
            return POISON
        return self.fail(
            "E301",
            f"`{expr.function.text}` is {describe(value)} and takes no arguments",
            expr.span,
            others=(Label(definition.name_span, "defined here"),),
        )

    def function(self, expr: tree.Call, frame: Frame) -> Value:
        name = expr.function.text
        function, least, most = FUNCTIONS[name]
        values: list[Real] = []
        for argument in expr.arguments:
            if argument.name is not None:
                return self.fail(
                    "E301", f"`{name}` takes no argument named `{argument.name}`", argument.span
                )
            number = self.number(
                self.value(argument.value, frame), argument.span, f"an argument of `{name}`"
            )
            if isinstance(number, Poison):
                return POISON
            values.append(number)
        if len(values) < least or (most is not None and len(values) > most):
            wanted = "one number" if most == 1 else "at least one number"
            message = f"`{name}` takes {wanted}, but here are {len(values) or 'none'}"
            return self.fail("E301", message, expr.span)
        try:
            return function(*values)
        except Impossible as impossible:
            return self.fail("E303", str(impossible), expr.span)

    def operation(self, expr: tree.Call, frame: Frame) -> Value:
        op = registry.find(expr.function.text)
        assert op is not None
        known = [a.name for a in op.arguments()]
        by_position = [a.name for a in op.arguments() if not a.named_only]
        takes_all = next((a.name for a in op.arguments() if a.takes_all), "")
        given = bind(
            self, op.name, known, by_position, op.signature, expr.arguments, frame, (), takes_all
        )
        return build_op(self, op.name, given.values, expr.span, complete=given.good)

    def apply(
        self,
        home: Frame,
        definition: tree.Def | tree.Bond,
        arguments: tuple[tree.Argument, ...],
        span: Span,
        frame: Frame,
    ) -> Value:
        """Call a definition, or mention one that needs no arguments."""
        bound = bind_formals(self, home, definition, arguments, span, frame)
        if bound is None:
            return POISON
        if not self.enter(definition.name, definition.name_span, definition):
            return POISON
        uses = self.uses
        if bound:
            self.uses = [*uses, Label(span, f"in this use of `{definition.name}`")]
        try:
            if isinstance(definition, tree.Bond):
                return build_bond(self, home.space, definition, bound, span)
            value = self.body(definition.body, home.inner(**bound))
        finally:
            self.uses = uses
            self.busy.pop()
        if is_module(value):
            return Scope(definition.name, value, "def", span, definition.name_span)
        return value
