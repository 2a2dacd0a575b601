"""Random operations with inputs that fit, for every registered class, without naming one."""

from __future__ import annotations

import ast
import dataclasses
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st

import modnorm.ops  # noqa: F401  (registers them)
from modnorm.ops import runtime
from modnorm.ops.base import Atom, Misfit, Op, Reader, Weighted
from modnorm.ops.fused import Fused
from modnorm.ops.registry import builtin
from modnorm.ops.types import Size, Symbol, Tensor, TupleType, Type

LONG = bool(os.environ.get("MODNORM_LONG"))
OPS = [op for op in builtin().values() if not issubclass(op, Fused)]
"""All but those that are a tuple of others, which test_fused.py compares with it."""
torch.set_num_threads(1)


def examples(normal: int, long: int) -> Any:
    """Hypothesis settings for a test that draws operations."""
    return settings(
        max_examples=long if LONG else normal,
        derandomize=not LONG,
        deadline=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )


class Case(NamedTuple):
    """A resolved operation, its input's type and its output's."""

    op: Op
    type: Type
    out: Type


NUMBERS = [Fraction(1), Fraction(-1), Fraction(1, 3), Fraction(-5, 2), Fraction(7, 8), 2, 2**0.5]
AXES = [-1, 0, 1, 2, -2, (1, 2), (1, 2, 3), (-1, -2), (0, 2), (3, 1)]
SIZES: list[tuple[int, ...]] = [(-1,), (2, -1), (-1, 2), (1, -1, 3), (4,), (2, 3), (-1, 1), ()]
WIDTHS = [1, 2, 3, 4, 6, 8, 12]


def windows(least: int, most: int) -> Any:
    """A number for all axes of pixels, or a pair for the two of an image."""
    one = st.integers(least, most)
    return st.one_of(one, st.tuples(one, one))


@st.composite
def operations(draw: Any, cls: type[Op]) -> Op:
    """An operation of the class with random arguments, not resolved."""
    values: dict[str, Any] = {}
    for argument in cls.arguments():
        if argument.from_input or (not argument.required and draw(st.booleans())):
            continue
        if issubclass(cls, Weighted) and argument.name in ("init", "std"):
            continue  # what a weight is at first changes nothing that it computes
        kinds: dict[str, Any] = {
            "size": st.integers(1, 4),
            "sizes": st.sampled_from(SIZES),
            "index": st.integers(0, 2),
            "integer": st.integers(-3, 3),
            "number": st.sampled_from([*NUMBERS, *argument.choices]),
            "flag": st.booleans(),
            "axis": st.sampled_from([axis for axis in AXES if isinstance(axis, int)]),
            "axes": st.sampled_from(AXES),
            "choice": st.sampled_from(argument.choices or ("",)),
            "window": windows(1, 4),
            "margin": st.one_of(windows(0, 2), st.sampled_from((0, *argument.choices))),
            "embed": st.just("embed"),
            "module": st.none(),
            "member": st.none(),
            "pick": st.integers(0, 2),
        }
        values[argument.field] = draw(kinds[argument.kind])
    if issubclass(cls, Reader):
        values |= {"count": draw(st.integers(1, 9)), "dim": draw(st.sampled_from(WIDTHS))}
    for field in dataclasses.fields(cls):
        if "kind" in field.metadata or field.name in values:
            continue
        if field.default is dataclasses.MISSING or field.name == "coefficients":
            assert field.name == "coefficients", f"do not know how to draw {field.name} of {cls}"
            values["coefficients"] = tuple(draw(st.sampled_from(COEFFICIENTS)))
    return cls(**values)


COEFFICIENTS: list[list[Any]] = [
    [Fraction(1, 4), Fraction(3, 4)],
    [1 - 2**0.5 / 2, 2**0.5 / 2],
    [Fraction(1, 2), -1],
    [1, 1],
    [1, Fraction(2, 7)],
    [Fraction(-1, 3), Fraction(4, 3)],
    [2, 1, Fraction(-1, 3)],
    [Fraction(1, 9)],
]


def candidates(batch: int, seq: int, other: int, d: int) -> Iterator[Type]:
    """Inputs of the shapes that models have."""

    def f(*shape: Size) -> Tensor:
        return Tensor("float", shape)

    yield from (f(batch, d), f(batch, seq, d), f(batch, other, seq, d), f(batch, d, other, seq))
    yield from (f(d), f(batch, 2, other, seq, d))
    yield Tensor("float", (batch, other, seq, d), None, ("batch", "head", "other", "channel"))
    yield Tensor("float", (batch, d, seq), None, ("batch", "channel", "space"))
    yield from (Tensor("int", (batch, seq), 3), Tensor("int", (seq,), 3))
    yield TupleType((f(batch, seq, d), f(seq, d)))
    yield TupleType((f(batch, seq, d), f(batch, seq, d)))
    yield TupleType((f(batch, 1, d), f(batch, seq, 1), f(batch, seq, d)))
    yield TupleType((f(batch, seq, d), f(batch, d, other)))
    yield TupleType((f(batch, 1, d), f(batch, seq, d)))
    yield TupleType((f(batch, other, seq, d), f(batch, other, 5, d), f(batch, other, 5, 3)))
    yield TupleType((f(batch, seq, d),) * 3)
    grouped = (f(batch, 2 * other, seq, d), f(batch, other, 5, d), f(batch, other, 5, 3))
    yield TupleType((*grouped, f(batch, 1, seq, 5)))
    yield TupleType((*grouped, Tensor("bool", (seq, 5))))
    yield TupleType((*grouped[:2], f(batch, other, 5, 2), Tensor("bool", (batch, 1, 1, 5))))
    for places in ((batch, seq), (batch, other), (batch, seq, other)):  # experts along the last
        yield TupleType((f(*places, d), f(*places)))
    for lead in ((), (batch,)):
        yield TupleType((f(*lead, seq, d), Tensor("int", (2, other), seq)))
    yield TupleType((f(batch, d),))
    yield TupleType((TupleType((f(seq, d), f(seq, d))), f(seq, d)))


@st.composite
def cases(draw: Any, cls: type[Op]) -> Case:
    """An operation of the class, resolved for an input that fits."""
    op = draw(operations(cls))
    sizes = (draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 5)))
    found = []
    width = op.dim if isinstance(op, Reader) else draw(st.sampled_from(WIDTHS))
    for type in candidates(*sizes, width):
        try:
            found.append(Case(*_resolve(op, type)))
        except Misfit:
            continue
    assume(found)
    return draw(st.sampled_from(found))


def _resolve(op: Op, type: Type) -> tuple[Op, Type, Type]:
    resolved, out = op.resolve(type)
    return resolved, type, out


def value(type: Type, generator: torch.Generator, *, grad: bool = False) -> Any:
    """A random value of a type without symbolic sizes."""
    if isinstance(type, TupleType):
        return tuple(value(member, generator, grad=grad) for member in type.members)
    if type.dtype == "int":
        bound = type.bound if isinstance(type.bound, int) else 1
        return torch.randint(bound, type.shape, generator=generator)
    if type.dtype == "bool":
        return torch.rand(type.shape, generator=generator) < 0.5
    x = torch.randn(type.shape, generator=generator, dtype=torch.float64)
    return x.requires_grad_(grad)


def weight(op: Op, generator: torch.Generator, *, grad: bool = False) -> torch.Tensor | None:
    """A random weight, for an operation that uses one."""
    if isinstance(op, Reader):
        shape: tuple[int, ...] = (op.count, op.dim)
    elif isinstance(op, Atom):
        shape = op.weight_shape
    else:
        return None
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    return w.requires_grad_(grad)


def used(op: Op, generator: torch.Generator, *, grad: bool = False) -> Any:
    """What the reference of an operation takes beside its input: a weight, or buffers by name."""
    kept = {
        name: 1 / 4 + torch.rand(op.buffer_shape, generator=generator, dtype=torch.float64)
        for name in op.buffers
    }
    return kept or weight(op, generator, grad=grad)


def emitted(op: Op, x: Any, type: Type, w: Any) -> Any:
    """What the operation's emission evaluates to, as the generated file runs it in `eval()`."""
    names = {k: v for k, v in vars(runtime).items() if own(v) != runtime.__name__}
    names |= {"torch": torch, "F": F, "math": math}
    for helper in op.helpers():
        exec(helper, names)
    if op.has_effects:
        names |= {"nn": torch.nn, "factory": {"dtype": leaves(x)[0].dtype, "generator": None}}
        names["own"] = eval(op.module(), names).eval()
        names["own"].load_state_dict(w or {})
    else:
        names["own"] = SimpleNamespace(weight=w, name="a.b")

    def name(v: Any, path: str) -> Any:
        if isinstance(v, tuple):
            return tuple(name(member, f"{path}{i}") for i, member in enumerate(v))
        names[path] = v
        return path

    code = op.emit(name(x, "x"), type, "own")
    ast.parse(code, mode="eval")
    return eval(code, names)


def own(v: Any) -> str | None:
    """The module that defines a function."""
    return getattr(v, "__module__", None)


def leaves(x: Any) -> list[torch.Tensor]:
    """The tensors of a value."""
    return [t for member in x for t in leaves(member)] if isinstance(x, tuple) else [x]


def symbolic(type: Type, names: dict[int, str]) -> Type:
    """The type with sizes replaced by symbols: `names` maps a size to its name."""
    if isinstance(type, TupleType):
        return TupleType(tuple(symbolic(member, names) for member in type.members))
    *shape, bound = (
        Symbol((names[s],)) if isinstance(s, int) and s in names else s
        for s in (*type.shape, type.bound)
    )
    return dataclasses.replace(type, shape=tuple(shape), bound=bound)


def concrete(size: Size, sizes: dict[str, int]) -> int:
    """A size with numbers for its names."""
    if isinstance(size, int):
        return size
    return size.factor * math.prod(int(eval(name, {}, sizes)) for name in size.names)
