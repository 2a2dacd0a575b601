"""Expressions as the text of a file."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field

from modnorm.importing.graph import Given, Graph
from modnorm.importing.structure import Built, is_plain
from modnorm.importing.tree import Both, Chain, Expr, Named, Repeat, Several, Word, words
from modnorm.ops import registry
from modnorm.syntax.build import SPECIAL_FORMS
from modnorm.syntax.words import KEYWORDS

WIDTH = 100
SUM, PRODUCT, POWER, OPERAND = range(4)
"""How tightly an expression's operator binds."""


@dataclass
class Scope:
    """Names that are bound behind `where`, with what they stand for."""

    bound: dict[str, Expr] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Writer:
    """The text of a model; definitions are written where they are first mentioned."""

    def __init__(self, graph: Graph, built: Built, name: str) -> None:
        self.graph, self.built, self.name = graph, built, name
        self.defs: dict[str, Expr] = {}
        self.statements: list[str] = []
        self.taken = {
            *KEYWORDS.values(), *SPECIAL_FORMS, *registry.names(), *STANDARD, name,
            *(g.name for g in graph.inputs.values()), *graph.bonds, *built.shared,
            *(str(s) for g in graph.inputs.values() for s in g.sizes),
        }  # fmt: skip

    def text(self) -> str:
        inputs = [given(x) for x in self.graph.inputs.values()]
        bonds = [f"bond {name}{rest}" for name, rest in self.graph.bonds.items()
                 if self.mentioned(name)]  # fmt: skip
        shared = [self.define("shared", name, body) for name, body in self.built.shared.items()]
        self.statements += shared
        main = self.define("model", self.name, self.built.body)
        blocks = ["\n".join(inputs), "\n".join(bonds), "\n".join(self.statements), main]
        return "\n\n".join(filter(None, blocks)) + "\n"

    def mentioned(self, name: str) -> bool:
        every = [self.built.body, *self.built.shared.values()]
        return any(w.text == name for expr in every for w in words(expr))

    def define(self, word: str, name: str, body: Expr) -> str:
        """A statement, with the bindings that it needs."""
        scope = Scope()
        text, _ = self.render(body, scope)
        first = f"{word} {name} = {text}"
        lines = [wrapped(first, "    ")]
        if scope.lines:
            lines.append("  where")
            lines += [wrapped(f"    {line}", "      ") for line in scope.lines]
        return "\n".join(lines)

    def named(self, part: Named, scope: Scope) -> str:
        """The name under which a part is defined."""
        if isinstance(part.body, Named):
            return self.named(part.body, scope)
        local = is_plain(part.body)
        known = scope.bound if local else self.defs
        stem = re.sub(r"\W", "_", part.name)
        if stem[:1].isdigit() or not stem:
            stem = f"part_{stem}"
        if stem in KEYWORDS.values():
            stem += "_"
        number = 1
        while True:
            name = stem if number == 1 else f"{stem}_{number}"
            if name in known and known[name] == part.body:
                return name
            if name not in known and name not in self.taken and not (local and name in self.defs):
                break
            number += 1
        known[name] = part.body
        if local:
            text, _ = self.render(part.body, scope)
            scope.lines.append(f"{name} = {text}")
        else:
            self.taken.add(name)
            self.statements.append(self.define("def", name, part.body))
        return name

    def render(self, expr: Expr, scope: Scope) -> tuple[str, int]:
        """An expression, and how tightly its operator binds."""
        match expr:
            case Word(text=text):
                return text, OPERAND
            case Named(body=body) if not has_weights(body) and is_plain(body):
                return self.render(body, scope)
            case Named():
                return self.named(expr, scope), OPERAND
            case Repeat(part=part, count=count):
                return f"{self.named(part, scope)} ** {count}", POWER
            case Chain(items=items):
                return self.chain(items, scope), PRODUCT
            case Both(sign="+", members=members):
                texts = [self.within(m, PRODUCT, scope) for m in members]
                return " + ".join(texts), SUM
            case Both(members=members):
                least = [PRODUCT, *[POWER] * (len(members) - 1)]
                texts = [self.within(m, n, scope) for m, n in zip(members, least, strict=True)]
                return " * ".join(texts), PRODUCT
            case Several(members=members, names=names):
                texts = [self.within(m, SUM, scope) for m in members]
                if names:
                    texts = [f"{n} = {t}" for n, t in zip(names, texts, strict=True)]
                return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})", OPERAND

    def chain(self, items: tuple[Expr, ...], scope: Scope) -> str:
        texts = [self.within(item, POWER, scope) for item in items]
        last = items[-1]
        factor = ""
        if isinstance(last, Word) and last.text.startswith("Mul("):
            factor = last.text[4:-1]
            factor = f"({factor})" if factor.startswith("-") else factor
            texts.pop()
        body = " @ ".join(reversed(texts))
        return f"{factor} * {body}" if factor else body

    def within(self, expr: Expr, least: int, scope: Scope) -> str:
        text, own = self.render(expr, scope)
        return text if own >= least else f"({text})"


STANDARD = frozenset("LayerNorm RMSNorm GroupNorm BatchNorm Standardize RNN GRU LSTM".split())
"""Definitions of the library that are there without an import."""


def has_weights(expr: Expr) -> bool:
    return any(w.weights and not w.shared for w in words(expr))


def given(x: Given) -> str:
    """The statement of an input."""
    sizes = ", ".join(map(str, x.sizes))
    bound = f" < {x.bound}" if x.bound is not None else ""
    return f"input {x.name}: {x.dtype}[{sizes}]{bound}"


def wrapped(line: str, indent: str) -> str:
    return textwrap.fill(
        line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
