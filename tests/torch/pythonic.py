"""Programs of the language, read by Python: a second front end that shares nothing with the first.

The language's expressions are Python's, but for `assume` and tuples whose members have names, for
which Python has a lambda and `dict`. So `ast` parses them here, and a small evaluator gives the
plain tree of `interpreter`; of the compiler only the operations themselves are used.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from modnorm.ops.base import Atom, Reader
from modnorm.ops.experts import Experts, Member, Scored, Spread
from modnorm.ops.registry import find
from modnorm.ops.types import Real, Type
from tests.plain import Assumed, Beside, Chain, Leaf, Mention, Plain, Scanned, Tared


@dataclass(frozen=True)
class Statement:
    """A statement of one of the kinds `def`, `shared`, `bond`, `param`, `model` and `input`.

    The body of an input is its type. Every formal has a default or None.
    """

    kind: str
    name: str
    body: str
    formals: tuple[tuple[str, str | None], ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    sensitivity: str = ""
    domain: str = ""

    def __str__(self) -> str:
        if self.kind == "input":
            return f"input {self.name}: {self.body}"
        given = ", ".join(n if d is None else f"{n} = {d}" for n, d in self.formals)
        head = f"{self.kind} {self.name}" + (f"({given})" if given else "")
        tail = f" on {self.domain}" if self.domain else ""
        tail += f" sensitivity {self.sensitivity}" if self.sensitivity else ""
        lines = [f"{head} = {self.body}{tail}"]
        if self.where:
            lines += ["  where", *(f"    {name} = {value}" for name, value in self.where)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Text:
    """A program: its statements, the model among them."""

    statements: tuple[Statement, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.statements)) + "\n"


STATEMENT = re.compile(
    r"(?P<kind>def|shared|bond|param|model) (?P<name>\w+)(\((?P<formals>.*?)\))? = (?P<body>.*)",
    re.DOTALL,
)


def read(text: str) -> Text:
    """The statements of a text, each on a line of its own; no `where`, no imports."""
    return Text(tuple(_statement(line) for line in text.splitlines() if line))


def _statement(line: str) -> Statement:
    if line.startswith("input "):
        name, _, declared = line.removeprefix("input ").partition(": ")
        return Statement("input", name, declared)
    match = STATEMENT.fullmatch(line)
    assert match is not None, line
    formals = [f.partition(" = ") for f in (match["formals"] or "").split(", ") if f]
    body, sensitivity = match["body"], ""
    if match["kind"] == "bond":
        body, _, sensitivity = body.partition(" sensitivity ")
    body, _, domain = body.partition(" on ")
    given = tuple((name, default or None) for name, _, default in formals)
    return Statement(match["kind"], match["name"], body, given, (), sensitivity, domain)


@dataclass(frozen=True)
class Curve:
    """An elementwise bond: what its formula says, with Python's own arithmetic on tensors."""

    formula: ast.expr
    tensor: str
    values: Mapping[str, Any]
    sensitivity: Real

    def resolve(self, x: Type) -> tuple[Curve, Type]:
        return self, x

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        def extreme(function: Any) -> Any:
            return lambda *two: function(*(torch.as_tensor(t, dtype=x.dtype) for t in two))

        functions = {n: getattr(torch, n) for n in ("abs", "exp", "log", "sqrt", "tanh")}
        functions |= {n: getattr(torch, n) for n in ("sigmoid", "erf", "sin", "cos")}
        functions |= {"min": extreme(torch.minimum), "max": extreme(torch.maximum)}
        numbers = {k: float(v) for k, v in self.values.items()}
        code = compile(ast.Expression(self.formula), "<bond>", "eval")
        result = eval(code, {"__builtins__": {}, **functions, **numbers, self.tensor: x})
        return result if isinstance(result, torch.Tensor) else torch.full_like(x, result)


@dataclass(frozen=True)
class Named:
    """An input by its name: what comes in is lost."""

    gives: int
    sensitivity: Real = 0


@dataclass(frozen=True)
class Call:
    """An operation with its arguments; every use of it has a weight of its own."""

    op: Any
    reads: str = ""


@dataclass(frozen=True)
class Steps:
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Shared:
    name: str


@dataclass(frozen=True)
class Rescaled:
    part: Any
    mass: Real


@dataclass(frozen=True)
class Said:
    """A module that is said to have a sensitivity."""

    part: Any
    sensitivity: Real


@dataclass(frozen=True)
class Members:
    """A tuple whose members have names."""

    parts: Mapping[str, Any]


@dataclass(frozen=True)
class Along:
    """A cell along a sequence."""

    cell: Any
    carry: Real | None


FUNCTIONS: dict[str, Any] = {
    "sqrt": lambda a: math.sqrt(a),
    "log2": lambda a: math.log2(a),
    "min": min,
    "max": max,
    "floor": math.floor,
    "ceil": math.ceil,
}
NAMES = {"true": True, "false": False, "True": True, "False": False}
COMPARE = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


def is_number(value: Any) -> bool:
    return isinstance(value, int | Fraction | float) and not isinstance(value, bool)


class Program:
    """A program, evaluated. `model` is its plain tree.

    A module is a value: a tuple of modules, or `Members` of one, `Call`, `Steps`, `Shared`,
    `Rescaled`, `Said` or `Along`.
    """

    def __init__(self, text: Text, overrides: Mapping[str, Any] | None = None) -> None:
        self.statements = {s.name: s for s in text.statements}
        self.overrides = overrides or {}
        self.fresh = 0
        (model,) = (s for s in text.statements if s.kind == "model")
        self.model = self.plain(self.body(model, {}))

    # -- values ------------------------------------------------------------------------------

    def body(self, statement: Statement, local: dict[str, Any]) -> Any:
        local = {**local, **{n: ("where", e) for n, e in statement.where}}
        return self.value(parse(statement.body), local)

    def value(self, node: ast.expr, local: Mapping[str, Any]) -> Any:
        def of(inner: ast.expr) -> Any:
            return self.value(inner, local)

        match node:
            case ast.Constant(value=bool() | str() as constant):
                return constant
            case ast.Constant(value=number):
                return exact(Fraction(ast.unparse(node)) if isinstance(number, float) else number)
            case ast.Name(id=name):
                return self.name(name, local)
            case ast.Tuple(elts=items):
                return tuple(map(of, items))
            case ast.IfExp():
                return of(node.body) if of(node.test) else of(node.orelse)
            case ast.BoolOp(op=op, values=values):
                test = all if isinstance(op, ast.And) else any
                return test(of(v) for v in values)
            case ast.Compare():
                sides = [of(node.left), *map(of, node.comparators)]
                pairs = zip(node.ops, sides, sides[1:], strict=False)
                return all(COMPARE[type(op)](a, b) for op, a, b in pairs)
            case ast.UnaryOp(op=ast.Not()):
                return not of(node.operand)
            case ast.UnaryOp(op=op):
                value = of(node.operand)
                if isinstance(op, ast.UAdd):
                    return value
                return -value if is_number(value) else self.times(value, -1)
            case ast.BinOp():
                return self.binary(node.op, of(node.left), of(node.right))
            case ast.Call(func=ast.Name(id="compose"), args=[ast.GeneratorExp() as loop]):
                (inner,) = loop.generators
                assert isinstance(inner.iter, ast.Call)
                assert isinstance(inner.target, ast.Name)
                numbers = [of(a) for a in inner.iter.args]
                return Steps(
                    tuple(
                        self.value(loop.elt, {**local, inner.target.id: i}) for i in range(*numbers)
                    )
                )
            case ast.Lambda(args=ast.arguments(defaults=[number]), body=body):
                return Said(of(body), of(number))
            case ast.Call(func=ast.Name(id="dict"), keywords=members):
                return Members({str(member.arg): of(member.value) for member in members})
            case ast.Call(func=ast.Name(id=name)):
                given = [of(a) for a in node.args]
                return self.call(name, given, {k.arg: of(k.value) for k in node.keywords}, local)
        raise AssertionError(ast.dump(node))

    def name(self, name: str, local: Mapping[str, Any]) -> Any:
        if name in local:
            value = local[name]
            if isinstance(value, tuple) and value[:1] == ("where",):
                return self.value(parse(value[1]), local)
            return value
        if name in NAMES:
            return NAMES[name]
        return self.call(name, [], {}, local)

    def call(self, name: str, given: list[Any], named: dict[Any, Any], local: Any) -> Any:
        if name in FUNCTIONS:
            return exact(FUNCTIONS[name](*given))
        if name == "tare":
            return Rescaled(*given)
        if name == "Scan":
            return Along(given[0], [*given[1:], *named.values(), None][0])
        if name in self.statements:
            return self.statement(self.statements[name], given, named)
        op = find(name)
        assert op is not None, name
        wanted = [a for a in op.arguments() if not a.named_only]
        if wanted and wanted[0].takes_all:
            given = [tuple(given)] if given else []
        values = {a.name: v for a, v in zip(wanted, given, strict=False)} | named
        fields = {a.field: values[a.name] for a in op.arguments() if a.name in values}
        if issubclass(op, Reader):
            (shared,) = given
            embed = self.body(self.statements[shared.name], {})
            while isinstance(embed, Rescaled):
                embed = embed.part
            sizes = {"count": embed.op.count, "dim": embed.op.dim}
            return Call(op(shared.name, **sizes), shared.name)
        if op is Experts:
            return self.mixture(fields.pop("module_"), op(None, **fields))
        return Call(op(**fields))

    def mixture(self, module: Any, op: Experts) -> Steps:
        """One expert with something for each of all in its weights, beside the scores."""

        def stacked(part: Any) -> Any:
            match part:
                case tuple():
                    return tuple(map(stacked, part))
                case Steps(parts=parts):
                    return Steps(tuple(map(stacked, parts)))
                case Rescaled(part=inner, mass=mass):
                    return Rescaled(stacked(inner), mass)
                case Call(op=one):
                    return Call(one.stacked(op.count))
            raise AssertionError(part)

        experts = Steps((Call(Member(0)), Call(Spread(op.count)), stacked(module)))
        return Steps((Call(Scored(op.count)), (experts, Call(Member(1))), Call(op)))

    def statement(self, statement: Statement, given: list[Any], named: dict[Any, Any]) -> Any:
        match statement.kind:
            case "input":
                names = [s.name for s in self.statements.values() if s.kind == "input"]
                return Call(Named(names.index(statement.name)))
            case "param":
                value = self.overrides.get(statement.name)
                return self.value(parse(statement.body), {}) if value is None else value
            case "shared":
                return Shared(statement.name)
        formals = statement.formals if statement.kind == "def" else statement.formals[1:]
        values = {n: self.value(parse(d), {}) for n, d in formals if d is not None}
        values |= {n: v for (n, _), v in zip(formals, given, strict=False)} | named
        if statement.kind == "def":
            return self.body(statement, values)
        names = [s.name for s in self.statements.values() if s.kind == "param"]
        params = {name: self.name(name, {}) for name in names}
        mu = self.value(parse(statement.sensitivity), values)
        tensor = statement.formals[0][0]
        return Call(Curve(parse(statement.body), tensor, {**params, **values}, mu))

    def binary(self, op: ast.operator, a: Any, b: Any) -> Any:
        if is_number(a) and is_number(b):
            return arithmetic(op, a, b)
        match op:
            case ast.MatMult():
                return Steps((b, a))
            case ast.RShift():
                return Steps((a, b))
            case ast.Mult() if is_number(a):
                return self.times(b, a)
            case ast.Mult() if is_number(b):
                return Steps((self.times((), b), a))
            case ast.Mult():
                return Steps(((a, b), self.operation("Product")))
            case ast.Add() if is_number(a):
                return Steps((b, self.operation("Shift", a)))
            case ast.Add() if is_number(b):
                return Steps((a, self.operation("Shift", b)))
            case ast.Sub() if is_number(a):
                return Steps((self.times(b, -1), self.operation("Shift", a)))
            case ast.Sub() if is_number(b):
                return Steps((a, self.operation("Shift", -b)))
            case ast.Div():
                return Steps((self.times((), arithmetic(op, 1, b)), a))
            case ast.Add():
                return Steps(((a, b), self.operation("Add")))
            case ast.Sub():
                return Steps(((a, self.times(b, -1)), self.operation("Add")))
            case ast.Pow():
                return Steps((a,) * b)
        raise AssertionError(op)

    def operation(self, name: str, *given: Any) -> Call:
        op = find(name)
        assert op is not None
        return Call(op(*given))

    def times(self, module: Any, factor: Real) -> Steps:
        """The module with `Mul(factor)` after it; of no module, `Mul(factor)` alone."""
        return Steps((*((module,) if module != () else ()), self.operation("Mul", factor)))

    # -- plain trees -------------------------------------------------------------------------

    def plain(self, value: Any, owner: list[Any] | None = None) -> Plain:
        """The tree of a value, a weight for every position but one for each of a shared module.

        `owner` is (name of the shared module, atoms of it so far) inside one.
        """
        match value:
            case tuple():
                return Beside(tuple(self.plain(v, owner) for v in value))
            case Members(parts=named):
                parts = tuple(self.plain(v, owner) for v in named.values())
                return Beside(parts, tuple(named))
            case Steps(parts=parts):
                return Chain(tuple(self.plain(p, owner) for p in parts))
            case Said(part=part, sensitivity=assumed):
                return Assumed(self.plain(part, owner), assumed)
            case Along(cell=cell, carry=carry):
                return Scanned(self.plain(cell, owner), carry)
            case Rescaled(part=part, mass=mass):
                return Tared(self.plain(part, owner), mass)
            case Shared(name=name):
                body = self.body(self.statements[name], {})
                return Mention(name, self.plain(body, [name, 0]))
            case Call(op=op, reads=reads):
                if reads:
                    return Leaf(op, (reads, 1))
                if not isinstance(op, Atom):
                    return Leaf(op)
                if owner is None:
                    self.fresh += 1
                    return Leaf(op, self.fresh)
                owner[1] += 1
                return Leaf(op, tuple(owner))
        raise AssertionError(value)


def parse(expression: str) -> ast.expr:
    """`assume` goes on as far as Python's lambda does; a tuple of names is a call of `dict`."""
    expression = expression.replace("assume sensitivity ", "lambda sensitivity=")
    expression = re.sub(r"(?<!\w)\((?=\w+ = )", "dict(", expression)
    return ast.parse(f"({expression})", mode="eval").body


def exact(value: Any) -> Any:
    """A number in its simplest form."""
    whole = isinstance(value, Fraction) and value.denominator == 1
    return int(value) if whole else value


def arithmetic(op: ast.operator, a: Real, b: Real) -> Any:
    match op:
        case ast.Add():
            return exact(a + b)
        case ast.Sub():
            return exact(a - b)
        case ast.Mult():
            return exact(a * b)
        case ast.Div():
            return a / b if isinstance(a, float) or isinstance(b, float) else exact(Fraction(a) / b)
        case ast.Pow():
            power = a**b if isinstance(a, float) or isinstance(b, float) else Fraction(a) ** b
            return exact(power)
    raise AssertionError(op)
