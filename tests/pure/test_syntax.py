"""The syntax tree: what a text means, and where each part of it stands."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import lark
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modnorm.diagnostics import Diagnostics, Source, Span
from modnorm.grammar import grammar
from modnorm.syntax import tree
from modnorm.syntax.parser import parse, parse_expression

GPT = (Path(__file__).parent / "realistic.mod").read_text(encoding="utf-8")


def read(text: str) -> tree.File:
    diagnostics = Diagnostics()
    file = parse(Source("test.mod", text), diagnostics)
    assert list(diagnostics) == []
    assert file is not None
    return file


def one(text: str) -> tree.Statement:
    (statement,) = read(text).statements
    return statement


def show(node: object) -> str:
    """An expression with a bracket around each part: `(a @ (b ** 2))`."""
    match node:
        case tree.Number(value):
            return str(value)
        case tree.String(value):
            return repr(value)
        case tree.Boolean(value):
            return str(value).lower()
        case tree.Name():
            return node.text
        case tree.Argument(name, value):
            return show(value) if name is None else f"{name}={show(value)}"
        case tree.Call(function, arguments):
            return f"{function.text}({', '.join(map(show, arguments))})"
        case tree.Tare(module, mass):
            return f"tare({show(module)}, {show(mass)})"
        case tree.ComposeFor(body, variable, bounds):
            return f"compose({show(body)} for {variable} in {', '.join(map(show, bounds))})"
        case tree.Tuple(items):
            return f"<{', '.join(map(show, items))}>"
        case tree.Unary(operator, operand):
            return f"({operator} {show(operand)})"
        case tree.Binary(operator, left, right):
            return f"({show(left)} {operator} {show(right)})"
        case tree.Conditional(test, then, otherwise):
            return f"({show(then)} if {show(test)} else {show(otherwise)})"
    raise AssertionError(node)


def shown(text: str) -> str:
    return show(parse_expression(text, "test"))


# --- expressions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a @ b @ c", "((a @ b) @ c)"),
        ("a >> b >> c", "((a >> b) >> c)"),
        ("a >> b @ c", "(a >> (b @ c))"),
        ("a + b >> c", "((a + b) >> c)"),
        ("a - b - c", "((a - b) - c)"),
        ("a + b @ c", "(a + (b @ c))"),
        ("2 * a @ b / 3", "(((2 * a) @ b) / 3)"),
        ("a ** b ** c", "(a ** (b ** c))"),
        ("-a ** b", "(- (a ** b))"),
        ("-a ** -b", "(- (a ** (- b)))"),
        ("- - + a", "(- (- (+ a)))"),
        ("-a @ b", "((- a) @ b)"),
        ("2 * -a", "(2 * (- a))"),
        ("a < b", "(a < b)"),
        ("a < b + 1", "(a < (b + 1))"),
        ("a >> b == c", "((a >> b) == c)"),
        ("a < b <= c", "((a < b) and (b <= c))"),
        ("a < b <= c != d", "(((a < b) and (b <= c)) and (c != d))"),
        ("(a < b) < c", "((a < b) < c)"),
        ("not a == b", "(not (a == b))"),
        ("not not a", "(not (not a))"),
        ("a or b and not c", "(a or (b and (not c)))"),
        ("a or b or c", "((a or b) or c)"),
        ("x if c else y if d else z", "(x if c else (y if d else z))"),
        ("a or b if c or d else e", "((a or b) if (c or d) else e)"),
        ("x if (a if b else c) else y", "(x if (a if b else c) else y)"),
        ("(a, b)", "<a, b>"),
        ("(a,)", "<a>"),
        ("(a, b,)", "<a, b>"),
        ("((a))", "a"),
        ("f()", "f()"),
        ("f(1, x = 2, in = 3)", "f(1, x=2, in=3)"),
        ("f(a,)", "f(a)"),
        ("f(for = 1, as = 2, range = 3, where = 4)", "f(for=1, as=2, range=3, where=4)"),
        ("t.block(d) ** 2", "(t.block(d) ** 2)"),
        ("a . b . c", "a.b.c"),
        ("tare(m, 5)", "tare(m, 5)"),
        ("tare(m, mass = 5)", "tare(m, 5)"),
        ("tare(mass = 5, module = m)", "tare(m, 5)"),
        ("compose(f(i) for i in range(n))", "compose(f(i) for i in n)"),
        ("compose(f @ g for k in range(1, n, 2))", "compose((f @ g) for k in 1, n, 2)"),
        ("true and True or false", "((true and true) or false)"),
        ("lambda + class_ + range + as", "(((lambda + class_) + range) + as)"),
        ("'a' == \"b\"", "('a' == 'b')"),
        (r"'it\'s' + \"\\\" + '\t\n'".replace(r"\"", '"'), "((\"it's\" + '\\\\') + '\\t\\n')"),
        ("''", "''"),
        ("a # comment ( [\n + b", "(a + b)"),
        ("a\r\n\t+\fb", "(a + b)"),
    ],
)
def test_expression(text: str, meaning: str) -> None:
    assert shown(text) == meaning


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", Fraction(3)),
        ("1_000", Fraction(1000)),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("1e-12", Fraction(1, 10**12)),
        ("1E+2", Fraction(100)),
        ("0.1", Fraction(1, 10)),
        ("1_0.2_5e1_0", Fraction(41, 4) * 10**10),
        ("007", Fraction(7)),
        ("0e999", Fraction(0)),
    ],
)
def test_numbers_are_exact(text: str, value: Fraction) -> None:
    number = parse_expression(text, "test")
    assert isinstance(number, tree.Number)
    assert number.value == value


OPERANDS = st.sampled_from(["a", "b", "3", "f(a)", "(a, b)"])
SIGNS = st.sampled_from(["+", "-", "*", "/", "@", "**", ">>", "==", "<", "and", "or"])
EXPRESSIONS = st.recursive(
    OPERANDS,
    lambda inner: st.one_of(
        st.tuples(inner, SIGNS, inner).map(" ".join),
        st.tuples(st.sampled_from(["-", "+", "not "]), inner).map("".join),
        inner.map("({})".format),
        st.tuples(inner, inner, inner).map(lambda t: f"{t[0]} if {t[1]} else {t[2]}"),
    ),
    max_leaves=12,
)


def as_python(node: ast.expr) -> str:
    """`show` for Python's own tree."""
    signs: dict[type[ast.AST], str] = {
        ast.Add: "+",
        ast.Sub: "-",
        ast.Mult: "*",
        ast.Div: "/",
        ast.MatMult: "@",
        ast.Pow: "**",
        ast.RShift: ">>",
        ast.Eq: "==",
        ast.Lt: "<",
        ast.And: "and",
        ast.Or: "or",
        ast.USub: "-",
        ast.UAdd: "+",
        ast.Not: "not",
    }
    match node:
        case ast.Constant(value):
            return str(value)
        case ast.Name(name):
            return name
        case ast.Call(ast.Name(name), arguments):
            return f"{name}({', '.join(map(as_python, arguments))})"
        case ast.Tuple(items):
            return f"<{', '.join(map(as_python, items))}>"
        case ast.UnaryOp(operator, operand):
            return f"({signs[type(operator)]} {as_python(operand)})"
        case ast.BinOp(left, operator, right):
            return f"({as_python(left)} {signs[type(operator)]} {as_python(right)})"
        case ast.BoolOp(operator, values):
            first, *rest = map(as_python, values)
            for value in rest:
                first = f"({first} {signs[type(operator)]} {value})"
            return first
        case ast.Compare(left, operators, values):
            parts = [as_python(v) for v in (left, *values)]
            steps = [
                f"({parts[i]} {signs[type(o)]} {parts[i + 1]})" for i, o in enumerate(operators)
            ]
            first, *others = steps
            for step in others:
                first = f"({first} and {step})"
            return first
        case ast.IfExp(test, then, otherwise):
            return f"({as_python(then)} if {as_python(test)} else {as_python(otherwise)})"
    raise AssertionError(ast.dump(node))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(EXPRESSIONS)
def test_expressions_are_read_as_python_reads_them(text: str) -> None:
    try:
        python = ast.parse(text, mode="eval").body
    except SyntaxError:  # `a + not b`
        return
    assert shown(text) == as_python(python)


# --- statements -------------------------------------------------------------------------------


def test_realistic_file() -> None:
    file = read(GPT)
    kinds = [type(s).__name__ for s in file.statements]
    assert kinds == [
        "ImportModule",
        *["Param"] * 5,
        "Input",
        *["Def"] * 6,
        "Shared",
        "Bond",
        "Model",
    ]
    model = file.statements[-1]
    assert isinstance(model, tree.Model)
    assert [b.name for b in model.body.where] == ["position", "body"]
    assert show(model.body.where[1].value) == "tare((block(d_embed) ** blocks), 5)"


def test_newlines_and_spaces_mean_nothing() -> None:
    def plain(file: tree.File) -> object:
        return [without_spans(s) for s in file.statements]

    words = GPT.split()
    assert plain(read(" ".join(words))) == plain(read(GPT))
    assert plain(read("\n".join(words))) == plain(read(GPT))


def without_spans(node: object) -> object:
    if dataclasses.is_dataclass(node):
        fields = [f.name for f in dataclasses.fields(node) if "span" not in f.name]
        return type(node).__name__, [without_spans(getattr(node, name)) for name in fields]
    if isinstance(node, tuple):
        return [without_spans(part) for part in node if not isinstance(part, Span)]
    return node


@pytest.mark.parametrize(
    ("text", "path", "is_file", "alias"),
    [
        ("import std.transformer", "std.transformer", False, "transformer"),
        ("import std.transformer as t", "std.transformer", False, "t"),
        ('import "common.mod"', "common.mod", True, "common"),
        ("import 'a/b/common.mod' as c", "a/b/common.mod", True, "c"),
        ('import "a/b/common.mod"', "a/b/common.mod", True, "common"),
    ],
)
def test_import_module(text: str, path: str, is_file: bool, alias: str) -> None:
    found = one(text)
    assert isinstance(found, tree.ImportModule)
    assert (found.path, found.is_file, found.alias) == (path, is_file, alias)
    assert at(found.span) == text


def test_import_names() -> None:
    found = one("from std.mlp import a, b as c, d,")
    assert isinstance(found, tree.ImportNames)
    assert [(name, local, at(span)) for name, local, span in found.names] == [
        ("a", "a", "a"),
        ("b", "c", "b as c"),
        ("d", "d", "d"),
    ]
    assert at(found.path_span) == "std.mlp"
    assert at(found.span) == "from std.mlp import a, b as c, d"
    broken = read('from "a.mod"\nimport b\nfrom std.c import d import std.e from std.f\nimport g')
    assert [s.path for s in broken.statements if hasattr(s, "path")] == [
        "a.mod",
        "std.c",
        "std.e",
        "std.f",
    ]


def test_input() -> None:
    found = one("input x: float[batch, 3 * d, 2,] < 2 * n + 1")
    assert isinstance(found, tree.Input)
    assert (found.name, found.dtype) == ("x", "float")
    assert [show(s) for s in found.sizes] == ["batch", "(3 * d)", "2"]
    assert show(found.bound) == "((2 * n) + 1)"
    free = one("input x: int[n]")
    assert isinstance(free, tree.Input)
    assert free.bound is None


def test_def_and_its_formals() -> None:
    found = one("def f(a, b = 2 * a, c = true,) = a")
    assert isinstance(found, tree.Def)
    assert [(f.name, f.default and show(f.default)) for f in found.formals] == [
        ("a", None),
        ("b", "(2 * a)"),
        ("c", "true"),
    ]
    assert one("def f = a").formals == one("def f() = a").formals == ()  # type: ignore[union-attr]


def test_where_bindings_end_where_the_next_one_begins() -> None:
    found = one("def f = a @ b where a = c b = d(x) e = (g, h) range = 2 as = -3")
    assert isinstance(found, tree.Def)
    assert [(b.name, show(b.value)) for b in found.body.where] == [
        ("a", "c"),
        ("b", "d(x)"),
        ("e", "<g, h>"),
        ("range", "2"),
        ("as", "(- 3)"),
    ]
    assert [at(b.name_span) for b in found.body.where] == ["a", "b", "e", "range", "as"]


def test_bond() -> None:
    found = one("bond Softcap(x, cap = 15) = cap * tanh(x / cap) sensitivity 1 / cap")
    assert isinstance(found, tree.Bond)
    assert show(found.formula) == "(cap * tanh((x / cap)))"
    assert show(found.sensitivity) == "(1 / cap)"


# --- spans ------------------------------------------------------------------------------------


def at(span: Span) -> str:
    """The text that a span covers."""
    lines = span.source.text.split("\n")[span.line - 1 : span.end_line]
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return "\n".join(lines)


def nodes(node: object) -> Iterator[object]:
    if isinstance(node, tuple):
        for part in node:
            yield from nodes(part)
    elif dataclasses.is_dataclass(node) and not isinstance(node, Source | Span):
        yield node
        for field in dataclasses.fields(node):
            yield from nodes(getattr(node, field.name))


def test_every_span_covers_its_text() -> None:
    for node in nodes(read(GPT)):
        span = getattr(node, "span", None)
        match node:
            case tree.Name():
                assert at(node.span) == node.text
            case tree.Number():
                assert Fraction(at(node.span)) == node.value
            case tree.Binary():
                assert at(node.operator_span) == node.operator
                assert at(node.span).lstrip("(").startswith(at(node.left.span).lstrip("("))
                assert at(node.span).rstrip(")").endswith(at(node.right.span).rstrip(")"))
            case tree.Formal() | tree.Argument():
                assert not node.name or at(node.span).startswith(node.name)
            case tree.Def() | tree.Model() | tree.Shared() | tree.Bond() | tree.Param():
                assert at(node.name_span) == node.name
                assert at(node.span).startswith(type(node).__name__.lower())
        # what a span covers is read as the same expression again
        if isinstance(node, tree.Expr) and span is not None:
            again = parse_expression(at(span), "again")
            assert without_spans(again) == without_spans(node)


def test_a_group_and_a_statement_cover_all_of_it() -> None:
    found = one("def f =\n  (a + b) @ c\n  where c = (d,\n e)")
    assert isinstance(found, tree.Def)
    assert at(found.body.value.span) == "(a + b) @ c"
    assert isinstance(found.body.value, tree.Binary)
    assert at(found.body.value.left.span) == "(a + b)"
    assert at(found.span) == found.span.source.text


def test_a_chained_comparison_has_the_span_of_each_step() -> None:
    chain = parse_expression("a < b <= c", "test")
    assert isinstance(chain, tree.Binary)
    assert [at(s.span) for s in (chain, chain.left, chain.right)] == [
        "a < b <= c",
        "a < b",
        "b <= c",
    ]


# --- the grammar ------------------------------------------------------------------------------


def test_the_grammar_is_lalr_as_a_whole() -> None:
    """`file` reads in one go what the parser reads statement by statement."""
    whole = lark.Lark(grammar(), parser="lalr", lexer="basic", start="file")
    found = whole.parse(GPT)
    assert [child.data for child in found.children] == [
        "import_module",
        *["param"] * 5,
        "input",
        *["definition"] * 6,
        "shared",
        "bond",
        "model",
    ]
