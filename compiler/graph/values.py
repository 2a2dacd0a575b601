"""Values of the language and how the elaborator keeps what it has not evaluated yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, TypeGuard

from modnorm.diagnostics import Span
from modnorm.graph.modules import (
    Assume,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Scan,
    Scope,
    Shared,
    Tare,
    Tuple,
)
from modnorm.graph.names import Namespace
from modnorm.graph.numbers import show, written
from modnorm.ops.types import Real
from modnorm.syntax import tree
from modnorm.syntax.words import cut


class Poison:
    """Stands for a value that could not be computed; its mistake has been reported already."""


POISON = Poison()

Value: TypeAlias = "Real | bool | str | tuple[Value, ...] | Module | Poison"

MODULES = (Leaf, Compose, Tuple, Repeat, Scope, Shared, Tare, Assume, Scan, Hole)


def is_module(value: Value) -> TypeGuard[Module]:
    return isinstance(value, MODULES)


def is_number(value: Value) -> TypeGuard[Real]:
    from fractions import Fraction

    return isinstance(value, int | float | Fraction) and not isinstance(value, bool)


def describe(value: Value) -> str:
    """What a value is, for a message: `a module`, `the number 3`."""
    if isinstance(value, bool):
        return f"the truth value {show(value)}"
    if isinstance(value, str):
        return f'the string "{cut(value)}"'
    if is_number(value):
        return f"the number {written(value)}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} values"
    return "a module"


@dataclass(eq=False)
class Lazy:
    """A `where` binding: evaluated when first mentioned."""

    binding: tree.Binding
    frame: Frame
    value: Value | None = None
    busy: bool = False


@dataclass(frozen=True, eq=False)
class Closure:
    """A `where` definition with arguments: a `def` among the names of a frame."""

    definition: tree.Def
    frame: Frame


@dataclass(eq=False)
class Frame:
    """Where an expression is evaluated: its file's names, and local ones."""

    space: Namespace
    local: dict[str, Value | Lazy | Closure] = field(default_factory=dict)

    def inner(self, /, **names: Value) -> Frame:
        return Frame(self.space, {**self.local, **names})


@dataclass(frozen=True)
class InputDecl:
    """A declared input of the model, evaluated."""

    name: str
    type: object
    span: Span
