"""The syntax tree: frozen dataclasses, each with the span it was read from.

Nothing is resolved here: names are strings, numbers exact rationals.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from modnorm.diagnostics import Source, Span

# --- expressions ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    value: Fraction
    span: Span


@dataclass(frozen=True)
class String:
    value: str
    span: Span


@dataclass(frozen=True)
class Boolean:
    value: bool
    span: Span


@dataclass(frozen=True)
class Name:
    """A name, or a dotted one: `block`, `transformer.block`."""

    parts: tuple[str, ...]
    span: Span

    @property
    def text(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True)
class Argument:
    """An argument of a call; `name` is None for a positional one."""

    name: str | None
    value: Expr
    span: Span


@dataclass(frozen=True)
class Call:
    function: Name
    arguments: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True)
class Tare:
    """`tare(module, mass)`."""

    module: Expr
    mass: Expr
    span: Span


@dataclass(frozen=True)
class Scan:
    """`Scan(cell)` and `Scan(cell, carry = number)`."""

    cell: Expr
    carry: Expr | None
    span: Span


@dataclass(frozen=True)
class Assume:
    """`assume sensitivity number: module`."""

    sensitivity: Expr
    module: Expr
    span: Span


@dataclass(frozen=True)
class ComposeFor:
    """`compose(body for variable in range(arguments))`, index 0 applied first."""

    body: Expr
    variable: str
    range: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True)
class Tuple:
    """`(a, b)`, or with a name for each member `(mean = a, logvar = b)`."""

    items: tuple[Expr, ...]
    span: Span
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unary:
    """`operator` is one of `-`, `+`, `not`."""

    operator: str
    operand: Expr
    span: Span


@dataclass(frozen=True)
class Binary:
    """`operator` is one of `@ >> + - * / ** == != < <= > >= and or`.

    `operator_span` is where the operator itself stands.
    """

    operator: str
    left: Expr
    right: Expr
    operator_span: Span
    span: Span


@dataclass(frozen=True)
class Conditional:
    """`then if test else otherwise`; only the branch taken is evaluated."""

    test: Expr
    then: Expr
    otherwise: Expr
    span: Span


Expr: TypeAlias = (
    Number
    | String
    | Boolean
    | Name
    | Call
    | Tare
    | Scan
    | Assume
    | ComposeFor
    | Tuple
    | Unary
    | Binary
    | Conditional
)


# --- statements ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Binding:
    """`name = value` in a `where`."""

    name: str
    value: Expr
    name_span: Span


@dataclass(frozen=True)
class Body:
    """An expression with the local definitions of its `where`, some of them with arguments."""

    value: Expr
    where: tuple[Binding | Def, ...] = ()


@dataclass(frozen=True)
class Formal:
    """A parameter of a `def` or a `bond`, with its default."""

    name: str
    default: Expr | None
    span: Span


@dataclass(frozen=True)
class ImportModule:
    """`import std.x [as y]` or `import "file.mod" as y`."""

    path: str
    is_file: bool
    alias: str
    path_span: Span
    span: Span


@dataclass(frozen=True)
class ImportNames:
    """`from std.x import a, b as c` or `from "file.mod" import a`: pairs (name, local name)."""

    path: str
    is_file: bool
    names: tuple[tuple[str, str, Span], ...]
    path_span: Span
    span: Span


@dataclass(frozen=True)
class Param:
    name: str
    value: Expr
    name_span: Span
    span: Span


@dataclass(frozen=True)
class Input:
    """`input name: dtype[sizes] < bound`; a size is any expression of numbers, or a free name."""

    name: str
    dtype: str
    sizes: tuple[Expr, ...]
    bound: Expr | None
    name_span: Span
    dtype_span: Span
    span: Span


@dataclass(frozen=True)
class Def:
    """`def name(formals) = body`; `formals` is empty for a definition without parentheses."""

    name: str
    formals: tuple[Formal, ...]
    body: Body
    name_span: Span
    span: Span


@dataclass(frozen=True)
class Shared:
    name: str
    body: Body
    name_span: Span
    span: Span


@dataclass(frozen=True)
class Bond:
    """`bond name(x, constants) = formula on [low, high] sensitivity expr`."""

    name: str
    formals: tuple[Formal, ...]
    formula: Expr
    sensitivity: Expr
    name_span: Span
    span: Span
    domain: tuple[Expr, Expr] | None = None
    domain_span: Span | None = None

    @property
    def constants(self) -> tuple[Expr, ...]:
        """The expressions that cannot depend on the tensor."""
        return (self.sensitivity, *(self.domain or ()))


@dataclass(frozen=True)
class Model:
    name: str
    body: Body
    name_span: Span
    span: Span


@dataclass(frozen=True)
class Rename:
    """`rename "weight" = what it is made of in a checkpoint`."""

    weight: String
    value: Expr
    span: Span


Statement: TypeAlias = (
    ImportModule | ImportNames | Param | Input | Def | Shared | Bond | Model | Rename
)


@dataclass(frozen=True)
class Broken:
    """A statement with a mistake in it: the names that it seems to define."""

    names: frozenset[str]
    is_input: bool


@dataclass(frozen=True)
class File:
    """A parsed file: its statements in source order.

    `broken` are those that could not be read. `is_cut` says that there may be more, of which
    nothing is known.
    """

    source: Source
    statements: tuple[Statement, ...]
    broken: tuple[Broken, ...] = ()
    is_cut: bool = False
