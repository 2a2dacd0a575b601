"""Turns what the grammar's rules reduce to into the syntax tree.

`Builder` has one method a rule (or alias) of `mod.lark`; lark calls it with the rule's children
while it parses. What can only be said about a tree that is already read (a number out of range,
a `compose` without its `for`) is collected in `problems`, since an exception here would end the
parse.
"""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from lark import Token

from modnorm.diagnostics import Diagnostic, Source, Span, did_you_mean
from modnorm.syntax import tree
from modnorm.syntax.words import cut, span_of

DTYPES = ("int", "float", "bool")
SPECIAL_FORMS = {
    "tare": "tare(module, mass)",
    "Scan": "Scan(cell)",
    "compose": "compose(f(i) for i in range(n))",
}
"""Names that the language itself gives a meaning, with how they are written."""

TUPLES_OWN = ("count", "index")
"""What members of a tuple cannot be called."""

MAX_PROBLEMS = 50
"""Problems told of one statement."""
MAX_NAME = 100
"""Letters of a name."""
MAX_DIGITS = 100
"""Digits of a number."""
MAX_EXPONENT = 300
"""Powers of ten of a number, up and down."""
LARGEST = Fraction(10**MAX_EXPONENT)
ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'"}


class Builder:
    """Callbacks for `Lark(transformer=...)`; set `source` and empty `problems` before a parse."""

    def __init__(self) -> None:
        self.source = Source("", "")
        self.problems: list[Diagnostic] = []

    # --- helpers ---

    def span(self, token: Token, end: Token | None = None) -> Span:
        return span_of(self.source, token, end)

    def problem(
        self, code: str, message: str, span: Span, *, label: str = "", hint: str = ""
    ) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Diagnostic(code, message, span, label, (), hint))

    def short(self, token: Token) -> str:
        """A name, cut where it is too long to be shown and to be part of a path."""
        if len(token) <= MAX_NAME:
            return str(token)
        message = f"a name of {len(token):,} characters"
        self.problem("E103", message, self.span(token), label=f"at most {MAX_NAME} are allowed")
        return str(token)[:MAX_NAME]

    def defined(self, token: Token, what: str) -> tuple[str, Span]:
        """A name that a statement defines."""
        name, span = self.short(token), self.span(token)
        if name in SPECIAL_FORMS:
            self.problem(
                "E102",
                f"`{name}` is part of the language and cannot be the name of {what}",
                span,
                label="choose another name",
            )
        return name, span

    # --- statements ---

    def path_of(self, child: tree.Name | Token) -> tuple[str, bool, Span]:
        if isinstance(child, tree.Name):
            return child.text, False, child.span
        text = self.string([child])
        return text.value, True, text.span

    def import_module(self, children: list[Any]) -> tree.ImportModule:
        path, is_file, path_span = self.path_of(children[1])
        span = self.span(children[0])
        if len(children) > 2:
            alias, end = self.defined(children[2], "an import")
            return tree.ImportModule(path, is_file, alias, path_span, span.to(end))
        alias = path.rpartition(".")[2]
        if is_file:
            alias = path.replace("\\", "/").rpartition("/")[2].removesuffix(".mod")
            if not (alias.isascii() and alias.isidentifier()):
                self.problem(
                    "E102",
                    f"the file `{cut(path)}` needs a name to be called by",
                    path_span,
                    label="its own name is no identifier",
                    hint=f'write `import "{cut(path)}" as name`',
                )
        return tree.ImportModule(path, is_file, alias, path_span, span.to(path_span))

    def import_names(self, children: list[Any]) -> tree.ImportNames:
        path, is_file, path_span = self.path_of(children[1])
        names = tuple(children[2:])
        span = self.span(children[0]).to(names[-1][2])
        return tree.ImportNames(path, is_file, names, path_span, span)

    def imported(self, children: list[Token]) -> tuple[str, str, Span]:
        self.defined(children[-1], "an import")
        return str(children[0]), str(children[-1]), self.span(children[0], children[-1])

    def param(self, children: list[Any]) -> tree.Param:
        keyword, token, value = children
        name, span = self.defined(token, "a param")
        return tree.Param(name, value, span, self.span(keyword).to(value.span))

    def input(self, children: list[Any]) -> tree.Input:
        keyword, token, dtype, sizes, close, *bound = children
        name, span = self.defined(token, "an input")
        limit = bound[0] if bound else None
        whole = self.span(keyword, close)
        if str(dtype) not in DTYPES:
            self.problem(
                "E102",
                f"an input's type is `int`, `float` or `bool`, not `{cut(dtype)}`",
                self.span(dtype),
                hint=did_you_mean(cut(dtype), DTYPES)
                or "`int` for token ids, `bool` for a mask, `float` otherwise",
            )
        return tree.Input(
            name,
            str(dtype),
            sizes,
            limit,
            span,
            self.span(dtype),
            whole.to(limit.span) if limit else whole,
        )

    def definition(self, children: list[Any]) -> tree.Def:
        keyword, token, *formals, body = children
        name, span = self.defined(token, "a definition")
        whole = self.span(keyword).to(_end(body))
        return tree.Def(name, formals[0] if formals else (), body, span, whole)

    def shared(self, children: list[Any]) -> tree.Shared:
        keyword, token, body = children
        name, span = self.defined(token, "a shared module")
        return tree.Shared(name, body, span, self.span(keyword).to(_end(body)))

    def model(self, children: list[Any]) -> tree.Model:
        keyword, token, body = children
        name, span = self.defined(token, "a model")
        return tree.Model(name, body, span, self.span(keyword).to(_end(body)))

    def bond(self, children: list[Any]) -> tree.Bond:
        keyword, token, formals, formula, *domain, sensitivity = children
        name, span = self.defined(token, "a bond")
        whole = self.span(keyword).to(sensitivity.span)
        if not formals:
            self.problem(
                "E102",
                f"the bond `{cut(name)}` does not name its input",
                span,
                hint=f"write `bond {cut(name)}(x) = …`: x is the tensor, others are constants",
            )
        ends, place = domain[0] if domain else (None, None)
        return tree.Bond(name, formals, formula, sensitivity, span, whole, ends, place)

    def rename(self, children: list[Any]) -> tree.Rename:
        keyword, token, value = children
        return tree.Rename(self.string([token]), value, self.span(keyword).to(value.span))

    def domain(self, children: list[Any]) -> tuple[tuple[tree.Expr, tree.Expr], Span]:
        keyword, low, high, close = children
        return (low, high), self.span(keyword, close)

    def formals(self, formals: list[tree.Formal]) -> tuple[tree.Formal, ...]:
        return tuple(formals)

    def formal(self, children: list[Any]) -> tree.Formal:
        name, span = self.defined(children[0], "an argument")
        if len(children) == 1:
            return tree.Formal(name, None, span)
        return tree.Formal(name, children[1], span.to(children[1].span))

    def body(self, children: list[Any]) -> tree.Body:
        return tree.Body(*children)

    def where(self, children: list[tree.Binding | tree.Def]) -> tuple[tree.Binding | tree.Def, ...]:
        return tuple(children)

    def binding(self, children: list[Any]) -> tree.Binding | tree.Def:
        token, *formals, value = children
        name, span = self.defined(token, "a local definition")
        if not formals:
            return tree.Binding(name, value, span)
        return tree.Def(name, formals[0], tree.Body(value), span, span.to(value.span))

    # --- expressions ---

    def number(self, children: list[Token]) -> tree.Number:
        (token,) = children
        text, span = str(token), self.span(token)
        value = Fraction(0)
        digits, _, exponent = text.lower().partition("e")
        if any(part.endswith("_") or "__" in part for part in text.replace(".", "e").split("e")):
            self.problem(
                "E102",
                "a number's `_` stands between two digits",
                span,
                hint=f"write `{cut(_tidy(text))}`",
            )
        elif len(digits.replace("_", "")) > MAX_DIGITS:
            self.problem(
                "E103",
                f"a number of {len(digits.replace('_', '')):,} digits",
                span,
                label=f"at most {MAX_DIGITS} digits can be written",
            )
        else:
            # 10 ** 1000 is cheap; the digits of an exponent are cut before they are a number
            size = exponent.lstrip("+-").replace("_", "").lstrip("0")
            if len(size) <= 3:
                value = Fraction(text)
            if len(size) > 3 or (value and not 1 / LARGEST <= value <= LARGEST):
                self.problem(
                    "E103",
                    "a number out of range",
                    span,
                    label=f"beyond 1e{MAX_EXPONENT} or below 1e-{MAX_EXPONENT}",
                )
                value = Fraction(0)
        return tree.Number(value, span)

    def string(self, children: list[Token]) -> tree.String:
        (token,) = children
        text, span = str(token)[1:-1], self.span(token)
        if "\\" not in text:
            return tree.String(text, span)
        out: list[str] = []
        characters = iter(text)
        for character in characters:
            if character != "\\":
                out.append(character)
                continue
            escaped = next(characters)
            if escaped not in ESCAPES:
                self.problem(
                    "E102",
                    f"`\\{escaped}` in a string has no meaning",
                    span,
                    hint="a backslash itself is written `\\\\`; folders are separated by `/`",
                )
            out.append(ESCAPES.get(escaped, escaped))
        return tree.String("".join(out), span)

    def boolean(self, children: list[Token]) -> tree.Boolean:
        return tree.Boolean(children[0].lower() == "true", self.span(children[0]))

    def dotted(self, children: list[Token]) -> tree.Name:
        return tree.Name(tuple(map(self.short, children)), self.span(children[0], children[-1]))

    def name(self, children: list[tree.Name]) -> tree.Name:
        (name,) = children
        if name.text in SPECIAL_FORMS:
            self.problem(
                "E102",
                f"`{name.text}` stands without its arguments",
                name.span,
                hint=f"write `{SPECIAL_FORMS[name.text]}`",
            )
        return name

    def group(self, children: list[Any]) -> tree.Expr:
        opening, expression, close = children
        span = self.span(opening, close)
        if isinstance(expression, tree.Argument):
            self.problem(
                "E102",
                f"`{expression.name}` names no member: brackets alone make no tuple",
                expression.span,
                hint=f"write `({expression.name} = {expression.value.span.text(20)},)`, with a"
                " comma, or leave the name out",
            )
            expression = expression.value
        grouped: tree.Expr = replace(expression, span=span)
        return grouped

    def named_member(self, children: list[Any]) -> tree.Argument:
        return self.named_argument(children)

    def tuple_of(self, children: list[Any]) -> tree.Tuple:
        opening, *members, close = children
        named = [m for m in members if isinstance(m, tree.Argument)]
        items = tuple(m.value if isinstance(m, tree.Argument) else m for m in members)
        span = self.span(opening, close)
        if named and len(named) < len(members):
            bare = next(m for m in members if not isinstance(m, tree.Argument))
            self.problem(
                "E102",
                "some members of a tuple have a name, and this one has none",
                bare.span,
                hint="give every member a name, or none: `(mean = a, logvar = b)`",
            )
        self.check_members(named)
        names = tuple(m.name or "" for m in named) if len(named) == len(members) else ()
        return tree.Tuple(items, span, names)

    def check_members(self, named: Sequence[tree.Argument]) -> None:
        """Names of members are fields of a NamedTuple in the generated file."""
        seen: set[str] = set()
        for member in named:
            name, why = member.name or "", ""
            if name in seen:
                why = "names two members of a tuple"
            elif keyword.iskeyword(name):
                why = "is a word of Python's and cannot name a member of a tuple"
            elif name in TUPLES_OWN:
                why = "is a method of every tuple in Python and cannot name a member"
            elif name.startswith("_"):
                why = "begins with `_`, which a member of a NamedTuple in Python may not"
            if why:
                self.problem("E102", f"`{name}` {why}", member.span, hint="choose another name")
            seen.add(name)

    def items(self, children: list[tree.Expr]) -> tuple[tree.Expr, ...]:
        return tuple(children)

    def unary(self, children: list[Any]) -> tree.Unary:
        operator, operand = children
        return tree.Unary(str(operator), operand, self.span(operator).to(operand.span))

    def binary(self, children: list[Any]) -> tree.Binary:
        left, operator, right = children
        return tree.Binary(
            str(operator), left, right, self.span(operator), left.span.to(right.span)
        )

    def comparisons(self, children: list[Any]) -> tree.Binary:
        """`a < b < c` is `a < b and b < c`, as in Python."""
        found = self.binary(children[:3])
        for index in range(2, len(children) - 1, 2):
            step = self.binary(children[index : index + 3])
            whole = found.span.to(step.span)
            found = tree.Binary("and", found, step, step.operator_span, whole)
        return found

    def conditional(self, children: list[Any]) -> tree.Conditional:
        then, test, otherwise = children
        return tree.Conditional(test, then, otherwise, then.span.to(otherwise.span))

    def assumption(self, children: list[Any]) -> tree.Assume:
        keyword, _, sensitivity, module = children
        span = self.span(keyword).to(module.span)
        return tree.Assume(sensitivity, module, span)

    def argument(self, children: list[tree.Expr]) -> tree.Argument:
        (value,) = children
        return tree.Argument(None, value, value.span)

    def named_argument(self, children: list[Any]) -> tree.Argument:
        name, value = children
        return tree.Argument(self.short(name), value, self.span(name).to(value.span))

    def arguments(self, children: list[tree.Argument]) -> tuple[tree.Argument, ...]:
        return tuple(children)

    def call(self, children: list[Any]) -> tree.Expr:
        function, _, arguments, close = children
        span = function.span.to(self.span(close))
        if function.text == "tare":
            return self._tare(arguments, span)
        if function.text == "Scan":
            return self._scan(arguments, span)
        if function.text == "compose":
            self.problem(
                "E102",
                "`compose` needs a `for`",
                span,
                hint=f"write `{SPECIAL_FORMS['compose']}`, or `f @ g` for two modules",
            )
        return tree.Call(function, arguments, span)

    def _tare(self, arguments: Sequence[tree.Argument], span: Span) -> tree.Call | tree.Tare:
        given = _named(arguments, ("module", "mass"))
        if given is not None and len(given) == 2:
            return tree.Tare(given["module"], given["mass"], span)
        self.problem(
            "E301",
            "`tare` takes a module and the mass it is to have",
            span,
            hint=f"write `{SPECIAL_FORMS['tare']}`",
        )
        return tree.Call(tree.Name(("tare",), span), tuple(arguments), span)

    def _scan(self, arguments: Sequence[tree.Argument], span: Span) -> tree.Call | tree.Scan:
        given = _named(arguments, ("cell", "carry"))
        if given is not None and "cell" in given:
            return tree.Scan(given["cell"], given.get("carry"), span)
        self.problem(
            "E301",
            "`Scan` takes a cell, a module of the tuple (state, entry), and how far a state is"
            " declared to move with the one before",
            span,
            hint=f"write `{SPECIAL_FORMS['Scan']}`, or `Scan(cell, carry = 3/4)`",
        )
        return tree.Call(tree.Name(("Scan",), span), tuple(arguments), span)

    def comprehension(self, children: list[Any]) -> tree.Expr:
        function, _, body, keyword, variable, bounds, close = children
        span = function.span.to(self.span(close))
        name, _ = self.defined(variable, "a counter")
        if function.text != "compose":
            self.problem(
                "E102",
                f"`for` stands in `compose` only, not in `{cut(function.text)}`",
                self.span(keyword),
                hint=f"write `{SPECIAL_FORMS['compose']}`",
            )
        if len(bounds) > 3:
            self.problem(
                "E301",
                f"`range` takes one to three numbers, not {len(bounds)}",
                bounds[0].span.to(bounds[-1].span),
                hint="`range(n)`, `range(start, stop)` or `range(start, stop, step)`",
            )
        return tree.ComposeFor(body, name, bounds, span)


def _named(arguments: Sequence[tree.Argument], names: Sequence[str]) -> dict[str, tree.Expr] | None:
    """The arguments of a form by name; None where there are others, or one twice."""
    given: dict[str, tree.Expr] = {}
    positions = [*names, *[None] * len(arguments)]
    for argument, position in zip(arguments, positions, strict=False):
        name = argument.name or position
        if name is None or name not in names or name in given:
            return None
        given[name] = argument.value
    return given


def _end(body: tree.Body) -> Span:
    last = body.where[-1] if body.where else body
    return last.body.value.span if isinstance(last, tree.Def) else last.value.span


def _tidy(text: str) -> str:
    while "__" in text:
        text = text.replace("__", "_")
    for wrong, right in (("_.", "."), ("._", "."), ("_e", "e"), ("_E", "E")):
        text = text.replace(wrong, right)
    return text.rstrip("_")
