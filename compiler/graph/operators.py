"""The operators of the language, on numbers, truth values and modules."""

from __future__ import annotations

from modnorm.diagnostics import Span
from modnorm.graph.calls import Passed, build_op
from modnorm.graph.checks import Evaluates
from modnorm.graph.modules import (
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Run,
    Tuple,
    compose,
    is_value,
    walk,
)
from modnorm.graph.numbers import Impossible, arithmetic, show, written
from modnorm.graph.place import MAX_POSITIONS
from modnorm.graph.values import (
    POISON,
    Frame,
    Poison,
    Value,
    describe,
    is_module,
    is_number,
)
from modnorm.ops.base import Atom
from modnorm.ops.types import Real
from modnorm.syntax import tree

COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}
JOINS = {"+": "Add", "-": "Add", "*": "Product"}
"""What joins the outputs of two modules."""
ORDER = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class Operators(Evaluates):
    """Evaluates unary and binary expressions."""

    def unary(self, expr: tree.Unary, frame: Frame) -> Value:
        value = self.value(expr.operand, frame)
        if isinstance(value, Poison):
            return POISON
        if expr.operator == "not":
            if not isinstance(value, bool):
                return self.not_a_condition(value, expr.operand.span)
            return not value
        if is_number(value):
            return -value if expr.operator == "-" else value
        what = f"`{expr.operator}` takes a number or a module"
        module = self.module(value, expr.operand.span, what)
        if isinstance(module, Poison) or expr.operator == "+":
            return module
        return self.scaled(module, -1, expr.span, after=True)

    def scaled(self, module: Module, factor: Real, span: Span, *, after: bool) -> Module | Poison:
        """The module with `Mul(factor)` after or before it; always after what ignores its input."""
        after = after or is_value(module)
        leaf = build_op(self, "Mul", {"a": Passed(factor, span)}, span)
        if isinstance(leaf, Poison):
            return POISON
        return self.composed((module, leaf) if after else (leaf, module), span)

    def shifted(self, expr: tree.Binary, left: Value, right: Value, what: str) -> Value:
        """A module and a constant that is added to what it gives, or taken off."""
        minus, first = expr.operator == "-", is_number(left)
        other, inner = (expr.left, expr.right) if first else (expr.right, expr.left)
        module = self.module(right if first else left, inner.span, what)
        if isinstance(module, Poison):
            return POISON
        number = left if first else right
        assert is_number(number)
        if minus and first:
            module = self.scaled(module, -1, expr.operator_span, after=True)
            if isinstance(module, Poison):
                return POISON
        passed = Passed(-number if minus and not first else number, other.span)
        leaf = build_op(self, "Shift", {"a": passed}, expr.operator_span)
        return POISON if isinstance(leaf, Poison) else self.composed((module, leaf), expr.span)

    def composed(self, steps: tuple[Module, ...], span: Span) -> Module | Poison:
        """The composition of modules in execution order, if it is not too long."""
        length = sum(len(step.steps) if isinstance(step, Compose) else 1 for step in steps)
        if length <= MAX_POSITIONS:
            return compose(steps, span)
        return self.fail(
            "E305",
            f"a composition of {length:,} parts; at most {MAX_POSITIONS:,} are allowed",
            span,
            hint="repeat with `**`, which counts once",
        )

    def binary(self, expr: tree.Binary, frame: Frame) -> Value:
        operator = expr.operator
        if operator in ("and", "or"):
            return self.logical(expr, frame)
        left, right = self.value(expr.left, frame), self.value(expr.right, frame)
        if operator in ("@", ">>", "+", "-"):
            left = self.patched(left, right, expr.left.span)
            right = self.patched(right, left, expr.right.span)
        if isinstance(left, Poison) or isinstance(right, Poison):
            return self.beside_a_mistake(expr, left, right)
        if operator in COMPARISONS:
            return self.comparison(expr, left, right)
        if is_number(left) and is_number(right) and operator not in ("@", ">>"):
            try:
                return arithmetic(operator, left, right)
            except Impossible as impossible:
                return self.fail("E303", str(impossible), expr.span)
        return self.modules(expr, left, right)

    def beside_a_mistake(self, expr: tree.Binary, left: Value, right: Value) -> Value:
        """What can still be checked of an operation whose one side, at least, is a mistake."""
        operator = expr.operator
        if operator in ("@", ">>"):
            left = Hole(expr.left.span) if isinstance(left, Poison) else left
            right = Hole(expr.right.span) if isinstance(right, Poison) else right
            return self.modules(expr, left, right)
        if operator == "*" and is_module(right):
            return right
        return left if operator in ("*", "/", "**") and is_module(left) else POISON

    def patched(self, value: Value, beside: Value, span: Span) -> Value:
        """A hole for what could not be evaluated, if the module beside it can be checked still."""
        return Hole(span) if isinstance(value, Poison) and is_module(beside) else value

    def modules(self, expr: tree.Binary, left: Value, right: Value) -> Value:
        """The operators on modules."""
        operator, what = expr.operator, f"`{expr.operator}` takes modules"
        if operator in ("+", "-", "*"):
            what = f"`{operator}` takes numbers and modules"
        if operator in ("+", "-") and is_number(left) != is_number(right):
            return self.shifted(expr, left, right, what)
        if operator == "**":
            what = "`**` repeats a module or raises a number to a power"
            if is_number(left):
                what = f"the exponent of {show(left)} must be a number"
                return self.fail("E302", f"{what}, but this is {describe(right)}", expr.right.span)
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
                return self.scaled(module, left, expr.left.span, after=True)
            if is_number(right):
                module = self.module(
                    left, expr.left.span, f"`{operator}` takes numbers and modules"
                )
                if isinstance(module, Poison):
                    return POISON
                factor: Real = right
                if operator == "/":
                    try:
                        factor = arithmetic("/", 1, factor)
                    except Impossible as impossible:
                        return self.fail("E303", str(impossible), expr.right.span)
                return self.scaled(module, factor, expr.right.span, after=False)
            if operator == "/":
                both = is_module(left) and is_module(right)
                here = "two modules" if both else f"{describe(left)} and {describe(right)}"
                return self.fail(
                    "E302",
                    f"`/` takes a module and a number, but here are {here}",
                    expr.span,
                    hint="only a module can be divided by a number: `f / 2`",
                )
        a = self.module(left, expr.left.span, what)
        if operator == "@" and is_number(right):
            number = written(right)
            b: Module | Poison = self.fail(
                "E302",
                f"{what}, but this is {describe(right)}",
                expr.right.span,
                hint=f"`@` and `*` bind alike, from the left: write `f @ ({number} * g)`",
            )
        else:
            b = self.module(right, expr.right.span, what)
        if isinstance(a, Poison) or isinstance(b, Poison):
            return POISON
        if operator == "@":
            return self.composed((b, a), expr.span)
        if operator == ">>":
            return self.composed((a, b), expr.span)
        if operator == "-":
            b = self.scaled(b, -1, expr.operator_span, after=True)
            if isinstance(b, Poison):
                return POISON
        join = build_op(self, JOINS[operator], {}, expr.operator_span)
        if isinstance(join, Poison):
            return POISON
        return compose((Tuple((a, b), expr.span), join), expr.span)

    def repeat(self, runs: tuple[Run, ...], span: Span) -> Value:
        runs = tuple(run for run in runs if run.count > 0)
        if not runs:
            return build_op(self, "Identity", {}, span)
        bodies = [run.body for run in runs]
        if (len(runs) > 1 or runs[0].count > 1) and all(map(is_value, bodies)):
            leaves = (part for body in bodies for part in walk(body) if isinstance(part, Leaf))
            if not any(isinstance(leaf.op, Atom) for leaf in leaves):  # E306 speaks of weights
                return self.fail(
                    "E302",
                    "a repetition puts copies behind each other, and these ignore what comes to"
                    " them",
                    span,
                    hint="products are written out: the square of an input `x` is `x * x`",
                )
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
