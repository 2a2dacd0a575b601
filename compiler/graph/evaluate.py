"""From the syntax tree to the module tree: names, numbers and definitions are gone after this.

A mistake is reported and evaluates to `POISON`, which silences everything that depends on it, so
that one run shows all independent mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping

from modnorm.diagnostics import Diagnostic, Diagnostics, Label, Span, did_you_mean
from modnorm.graph.bonds import build_bond
from modnorm.graph.calls import bind_formals, build_op
from modnorm.graph.modules import Module, Repeat, Run, Scope, Shared, Tare, Tuple, compose
from modnorm.graph.names import Definition, Namespace, mentions
from modnorm.graph.numbers import FUNCTIONS, Impossible, arithmetic, show
from modnorm.graph.runs import equal_runs
from modnorm.graph.values import (
    POISON,
    Frame,
    Lazy,
    Poison,
    Value,
    describe,
    is_module,
    is_number,
)
from modnorm.ops import registry
from modnorm.ops.formula import Formula
from modnorm.ops.formula_check import Violation
from modnorm.ops.types import Real
from modnorm.syntax import tree

MAX_STEPS = 200_000
"""Expressions evaluated in one run."""
MAX_COUNT = 100_000
"""Copies made by one `**` or `compose`."""
MAX_CALLS = 64
"""Definitions inside definitions."""

COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}
ORDER = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class OutOfSteps(Exception):
    """The bound on evaluation was reached."""


class Evaluator:
    """Evaluates the expressions of one compilation.

    `overrides` are values for params of the main file, already evaluated.
    """

    def __init__(
        self, main: Namespace, overrides: Mapping[str, Value], diagnostics: Diagnostics
    ) -> None:
        self.main, self.overrides, self.diagnostics = main, overrides, diagnostics
        self.cache: dict[int, Value] = {}
        self.busy: list[tuple[str, Span, object]] = []
        self.steps = 0
        self.checked_bonds: dict[Formula, Violation | None] = {}

    # -- reporting ---------------------------------------------------------------------------

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
        self.diagnostics.add(Diagnostic(code, message, span, label, others, hint))
        return POISON

    # -- expressions -------------------------------------------------------------------------

    def value(self, expr: tree.Expr, frame: Frame) -> Value:
        """Evaluate an expression.

        Raises:
            OutOfSteps: when the bound on evaluation is reached (reported already).
        """
        self.steps += 1
        if self.steps > MAX_STEPS:
            self.fail(
                "E305",
                f"this model takes more than {MAX_STEPS} steps to evaluate",
                expr.span,
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
            case tree.ComposeFor():
                return self.compose_for(expr, frame)
            case tree.Tuple(items=items):
                return self.tuple(expr, tuple(self.value(item, frame) for item in items))
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

    def not_a_condition(self, value: Value, span: Span) -> Poison:
        return self.fail(
            "E302",
            f"a condition must be true or false, but this is {describe(value)}",
            span,
            hint="compare it with something: `x > 0`",
        )

    def module(self, value: Value, span: Span, what: str) -> Module | Poison:
        """The value as a module; a tuple of modules is one."""
        if isinstance(value, Poison):
            return POISON
        if isinstance(value, tuple):
            members = [self.module(v, span, what) for v in value]
            if any(isinstance(m, Poison) for m in members):
                return POISON
            return Tuple(tuple(m for m in members if not isinstance(m, Poison)), span)
        if not is_module(value):
            hint = "multiply with `*`" if is_number(value) else ""
            if is_number(value) and what.startswith(("`+`", "`-`")):
                hint = f"a module plus a constant is not linear; did you mean `{show(value)} * …`?"
            return self.fail(
                "E302", f"{what} takes modules, but this is {describe(value)}", span, hint=hint
            )
        return value  # type: ignore[return-value]

    def number(self, value: Value, span: Span, what: str) -> Real | Poison:
        if isinstance(value, Poison):
            return POISON
        if not is_number(value):
            return self.fail(
                "E302", f"{what} must be a number, but this is {describe(value)}", span
            )
        return value  # type: ignore[return-value]

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
                f"{what} must be {kind}, but it is {show(number)}",
                span,
                hint="round with `floor` or `ceil`" if not isinstance(number, int) else "",
            )
        if abs(number) > MAX_COUNT:
            return self.fail(
                "E305", f"{what} may be at most {MAX_COUNT}, but it is {show(number)}", span
            )
        return number

    def tuple(self, expr: tree.Tuple, values: tuple[Value, ...]) -> Value:
        if any(isinstance(v, Poison) for v in values):
            return POISON
        if any(is_module(v) for v in values):
            return self.module(values, expr.span, "a tuple with a module in it")
        return values

    def unary(self, expr: tree.Unary, frame: Frame) -> Value:
        value = self.value(expr.operand, frame)
        if isinstance(value, Poison):
            return POISON
        if expr.operator == "not":
            if not isinstance(value, bool):
                return self.not_a_condition(value, expr.operand.span)
            return not value
        if is_number(value):
            return -value if expr.operator == "-" else value  # type: ignore[operator]
        module = self.module(value, expr.span, f"`{expr.operator}`")
        if isinstance(module, Poison) or expr.operator == "+":
            return module
        return self.scaled(module, -1, expr.span, after=True)

    def scaled(self, module: Module, factor: Real, span: Span, *, after: bool) -> Value:
        """The module with `Mul(factor)` after or before it."""
        leaf = build_op(self, "Mul", {"a": (factor, span)}, span)
        if isinstance(leaf, Poison):
            return POISON
        return compose((module, leaf) if after else (leaf, module), span)

    def binary(self, expr: tree.Binary, frame: Frame) -> Value:
        operator = expr.operator
        if operator in ("and", "or"):
            return self.logical(expr, frame)
        left, right = self.value(expr.left, frame), self.value(expr.right, frame)
        if isinstance(left, Poison) or isinstance(right, Poison):
            return POISON
        if operator in COMPARISONS:
            return self.comparison(expr, left, right)
        if is_number(left) and is_number(right) and operator not in ("@", ">>"):
            try:
                return arithmetic(operator, left, right)  # type: ignore[arg-type]
            except Impossible as impossible:
                return self.fail("E303", str(impossible), expr.span)
        return self.modules(expr, left, right)

    def modules(self, expr: tree.Binary, left: Value, right: Value) -> Value:
        """The operators on modules."""
        operator, what = expr.operator, f"`{expr.operator}`"
        if operator == "**":
            module = self.module(left, expr.left.span, what)
            count = self.count(right, expr.right.span, "the exponent of a module")
            if isinstance(module, Poison) or isinstance(count, Poison):
                return POISON
            return self.repeat((Run(module, count),), expr.span)
        if operator in ("*", "/"):
            if operator == "*" and is_number(left):
                module = self.module(right, expr.right.span, what)
                if isinstance(module, Poison):
                    return POISON
                return self.scaled(module, left, expr.left.span, after=True)  # type: ignore[arg-type]
            if is_number(right):
                module = self.module(left, expr.left.span, what)
                if isinstance(module, Poison):
                    return POISON
                factor: Real = right  # type: ignore[assignment]
                if operator == "/":
                    try:
                        factor = arithmetic("/", 1, factor)
                    except Impossible as impossible:
                        return self.fail("E303", str(impossible), expr.span)
                return self.scaled(module, factor, expr.right.span, after=False)
            hint = "compose modules with `@` or `>>`" if operator == "*" else ""
            return self.fail(
                "E302",
                f"{what} takes a module and a number, but here are {describe(left)} and"
                f" {describe(right)}",
                expr.span,
                hint=hint,
            )
        a = self.module(left, expr.left.span, what)
        b = self.module(right, expr.right.span, what)
        if isinstance(a, Poison) or isinstance(b, Poison):
            return POISON
        if operator == "@":
            return compose((b, a), expr.span)
        if operator == ">>":
            return compose((a, b), expr.span)
        if operator == "-":
            negative = self.scaled(b, -1, expr.operator_span, after=True)
            if isinstance(negative, Poison):
                return POISON
            b = negative  # type: ignore[assignment]
        add = build_op(self, "Add", {}, expr.operator_span)
        if isinstance(add, Poison):
            return POISON
        return compose((Tuple((a, b), expr.span), add), expr.span)

    def repeat(self, runs: tuple[Run, ...], span: Span) -> Value:
        runs = tuple(run for run in runs if run.count > 0)
        if not runs:
            return build_op(self, "Identity", {}, span)
        return Repeat(runs, span)

    def logical(self, expr: tree.Binary, frame: Frame) -> Value:
        left = self.value(expr.left, frame)
        if isinstance(left, Poison):
            return POISON
        if not isinstance(left, bool):
            return self.not_a_condition(left, expr.left.span)
        if left == (expr.operator == "or"):
            return left
        right = self.value(expr.right, frame)
        if isinstance(right, Poison):
            return POISON
        if not isinstance(right, bool):
            return self.not_a_condition(right, expr.right.span)
        return right

    def comparison(self, expr: tree.Binary, left: Value, right: Value) -> Value:
        if is_module(left) or is_module(right):
            return self.fail("E302", "modules cannot be compared", expr.span)
        if expr.operator in ("==", "!="):
            same = is_number(left) == is_number(right) and left == right
            return same == (expr.operator == "==")
        both_numbers = is_number(left) and is_number(right)
        if not both_numbers and not (isinstance(left, str) and isinstance(right, str)):
            return self.fail(
                "E302",
                f"`{expr.operator}` cannot order {describe(left)} and {describe(right)}",
                expr.span,
            )
        return bool(ORDER[expr.operator](left, right))

    def tare(self, expr: tree.Tare, frame: Frame) -> Value:
        module = self.module(self.value(expr.module, frame), expr.module.span, "`tare`")
        mass = self.number(self.value(expr.mass, frame), expr.mass.span, "a mass")
        if isinstance(module, Poison) or isinstance(mass, Poison):
            return POISON
        if mass < 0:
            return self.fail(
                "E307", f"a mass cannot be negative, but this is {show(mass)}", expr.mass.span
            )
        return Tare(module, mass, expr.span)

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
            body = self.module(self.value(expr.body, frame), expr.body.span, "`compose`")
            if isinstance(body, Poison):
                return POISON
            return self.repeat((Run(body, len(indices)),), expr.span)
        bodies: list[Module] = []
        for index in indices:
            inner = frame.inner(**{expr.variable: index})
            body = self.module(self.value(expr.body, inner), expr.body.span, "`compose`")
            if isinstance(body, Poison):
                return POISON
            bodies.append(body)
        return self.repeat(equal_runs(bodies), expr.span)

    # -- names and calls ---------------------------------------------------------------------

    def name(self, expr: tree.Name, frame: Frame) -> Value:
        head = expr.parts[0]
        if len(expr.parts) == 1 and head in frame.local:
            local = frame.local[head]
            return self.lazy(local, expr.span) if isinstance(local, Lazy) else local
        found = self.lookup(expr, frame)
        if isinstance(found, Poison):
            return POISON
        if found is None:
            return build_op(self, expr.text, {}, expr.span)
        space, definition = found
        return self.definition(space, definition, expr.span)

    def lookup(
        self, name: tree.Name, frame: Frame
    ) -> tuple[Namespace, Definition] | Poison | None:
        """What a name defined in a file means; None for an operation; unknown ones are reported."""
        space, parts = frame.space, name.parts
        if parts[0] in space.broken:
            return POISON
        if len(parts) == 2 and parts[0] in space.modules:
            space, parts = space.modules[parts[0]][0], parts[1:]
        if len(parts) > 1:
            return POISON
        found = space.find(parts[0])
        if found is None and (len(name.parts) > 1 or registry.find(parts[0]) is None):
            return POISON
        return found

    def definition(self, space: Namespace, definition: Definition, span: Span) -> Value:
        match definition:
            case tree.Param():
                return self.param(space, definition)
            case tree.Input():
                return self.fail(
                    "E302",
                    f"`{definition.name}` is an input, not a module",
                    span,
                    others=(Label(definition.name_span, "declared here"),),
                    hint="a model is a function of its inputs; they are not named in it",
                )
            case tree.Model():
                return self.fail(
                    "E302",
                    f"`{definition.name}` is a model; only a `def` can be used in others",
                    span,
                    others=(Label(definition.name_span, "defined here"),),
                )
            case tree.Shared():
                return self.shared(space, definition, span)
            case tree.Def() | tree.Bond():
                return self.apply(space, definition, (), span, Frame(space))

    def param(self, space: Namespace, definition: tree.Param) -> Value:
        if space.is_main and definition.name in self.overrides:
            return self.overrides[definition.name]
        return self.once(
            definition,
            definition.name,
            definition.name_span,
            lambda: self.value(definition.value, Frame(space)),
        )

    def once(self, key: object, name: str, span: Span, compute) -> Value:  # type: ignore[no-untyped-def]
        """Evaluate something that has one value; a cycle is reported."""
        if id(key) not in self.cache:
            if not self.enter(name, span, key):
                return POISON
            try:
                self.cache[id(key)] = compute()
            finally:
                self.busy.pop()
        return self.cache[id(key)]

    def enter(self, name: str, span: Span, key: object) -> bool:
        """Begin evaluating a definition; False, and reported, if that is going on already."""
        for at, (_, _, active) in enumerate(self.busy):
            if active is key:
                chain = " → ".join([*(n for n, _, _ in self.busy[at:]), name])
                others = tuple(Label(s, f"`{n}` is defined here") for n, s, _ in self.busy[at + 1 :])
                self.fail(
                    "E205",
                    f"`{name}` is defined in terms of itself: {chain}",
                    span,
                    others=others,
                    hint="there is no recursion; repeat with `**` or `compose(… for i in range(n))`",
                )
                return False
        if len(self.busy) >= MAX_CALLS:
            self.fail("E305", f"definitions more than {MAX_CALLS} deep inside each other", span)
            return False
        self.busy.append((name, span, key))
        return True

    def lazy(self, lazy: Lazy, span: Span) -> Value:
        binding = lazy.binding
        value = self.once(
            lazy,
            binding.name,
            binding.name_span,
            lambda: self.value(binding.value, lazy.frame),
        )
        if isinstance(value, tuple) and any(is_module(v) for v in value):
            value = self.module(value, span, "a tuple")
        if is_module(value):
            return Scope(binding.name, value, "where", span, binding.name_span)  # type: ignore[arg-type]
        return value

    def shared(self, space: Namespace, definition: tree.Shared, span: Span) -> Value:
        body = self.once(
            definition,
            definition.name,
            definition.name_span,
            lambda: self.module(
                self.body(definition.body, Frame(space)), definition.name_span, "`shared`"
            ),
        )
        if not is_module(body):
            return POISON
        key = f"{space.file.source.name}:{definition.name}"
        return Shared(key, body, span, definition.name_span)  # type: ignore[arg-type]

    def body(self, body: tree.Body, frame: Frame) -> Value:
        if body.where:
            frame = Frame(frame.space, dict(frame.local))
            for binding in body.where:
                frame.local[binding.name] = Lazy(binding, frame)
        return self.value(body.value, frame)

    def call(self, expr: tree.Call, frame: Frame) -> Value:
        head = expr.function.parts[0]
        if len(expr.function.parts) == 1:
            if head in frame.local:
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
            return self.apply(space, definition, expr.arguments, expr.span, frame)
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
            return self.fail("E301", f"`{name}` takes {wanted}, got {len(values)}", expr.span)
        try:
            return function(*values)
        except Impossible as impossible:
            return self.fail("E303", str(impossible), expr.span)

    def operation(self, expr: tree.Call, frame: Frame) -> Value:
        op = registry.find(expr.function.text)
        assert op is not None
        wanted = [a for a in op.arguments() if not a.named_only]
        values: dict[str, tuple[Value, Span]] = {}
        position = 0
        for argument in expr.arguments:
            value = self.value(argument.value, frame)
            name = argument.name
            if name is None:
                if position >= len(wanted):
                    return self.fail(
                        "E301",
                        f"`{op.name}` takes at most {len(wanted)} positional arguments:"
                        f" {op.signature()}",
                        argument.span,
                    )
                name = wanted[position].name
                position += 1
            known = [a.name for a in op.arguments()]
            if name not in known:
                return self.fail(
                    "E301",
                    f"`{op.name}` has no argument `{name}`: {op.signature()}",
                    argument.span,
                    hint=did_you_mean(name, known),
                )
            if name in values:
                return self.fail(
                    "E301",
                    f"`{op.name}` gets its argument `{name}` twice",
                    argument.span,
                    others=(Label(values[name][1], "first given here"),),
                )
            values[name] = (value, argument.value.span)
        return build_op(self, op.name, values, expr.span)

    def apply(
        self,
        space: Namespace,
        definition: tree.Def | tree.Bond,
        arguments: tuple[tree.Argument, ...],
        span: Span,
        frame: Frame,
    ) -> Value:
        """Call a definition, or mention one that needs no arguments."""
        bound = bind_formals(self, space, definition, arguments, span, frame)
        if bound is None:
            return POISON
        if isinstance(definition, tree.Bond):
            return build_bond(self, space, definition, bound, span)
        if not self.enter(definition.name, definition.name_span, definition):
            return POISON
        try:
            value = self.body(definition.body, Frame(space, dict(bound)))
        finally:
            self.busy.pop()
        if isinstance(value, tuple) and any(is_module(v) for v in value):
            value = self.module(value, span, "a tuple")
        if is_module(value):
            return Scope(definition.name, value, "def", span, definition.name_span)  # type: ignore[arg-type]
        return value
