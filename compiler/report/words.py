"""How numbers, operations and weights are written in reports."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from modnorm.diagnostics import Span
from modnorm.graph.modules import Leaf, Module, Scope, Shared, children
from modnorm.graph.numbers import show
from modnorm.ops.base import Op, Reader, Weighted
from modnorm.ops.types import Real
from modnorm.passes.program import Program, Weight
from modnorm.report.blocks import NONE

UNSEEN = re.compile(r"[^\n -~]")
"""What may be among signs that are not shown: control characters, turns of direction, and such."""
SHORT = 9_999
"""Numerators and denominators up to here are shown as a fraction."""


def exact(value: Real) -> str:
    """A number as a person would write it: a short fraction as one, else six digits."""
    if isinstance(value, Fraction) and value.denominator > 1:
        long = max(abs(value.numerator), value.denominator) > SHORT
        return short(value, 6) if long else show(value)
    return short(value, 6) if isinstance(value, float) else show(int(value))


def short(value: Real, digits: int = 4) -> str:
    """A number as a decimal of so many digits."""
    number = as_float(value)
    if not math.isfinite(number) and not isinstance(value, float):
        return show(value)
    return f"{number:.{digits}g}"


def number(value: float | None, digits: int = 4) -> str:
    """A number that may not be known."""
    return NONE if value is None else short(value, digits)


def percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 or not share else "< 0.1%"


def between(first: float, last: float) -> str:
    """Two numbers, such as the targets of the first and the last copy; once if they are alike."""
    one, other = short(first), short(last)
    return one if one == other else f"{one} … {other}"


def sizes(shape: Iterable[object]) -> str:
    return " × ".join(map(str, shape))


def as_float(value: Real) -> float:
    """The nearest float; infinite where an exact number is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def call(op: Op) -> str:
    """An operation with its arguments, as the language writes it; defaults are left out."""
    arguments = ", ".join(_arguments(op))
    return f"{op.label}({arguments})" if arguments else op.label


def _arguments(op: Op) -> Iterator[str]:
    for argument in op.arguments():
        value = getattr(op, argument.field)
        if argument.name == "mass" or value is None:
            continue
        if isinstance(op, Reader) and argument.kind == "embed":
            yield str(value).rpartition(":")[2]
        elif argument.takes_all:
            yield from map(_value, value)
        elif argument.required or argument.from_input:
            yield _value(value)
        elif value != argument.default:
            yield f"{argument.name} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        inner = ", ".join(map(_value, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return show(value) if isinstance(value, bool) else exact(value)


def begins(weight: Weight) -> dict[str, str | float]:
    """How a weight is told to begin, by arguments; nothing where it begins with norm 1."""
    op: Weighted = weight.stored.op if weight.stored else weight.op
    if op.init_ is None:
        return {}
    return {"init": op.init_} | ({} if op.std is None else {"std": float(op.std)})


def constant(value: object) -> str:
    """A param's value as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return short(value, 6) if isinstance(value, float) else str(value)


def place(span: Span, program: Program) -> dict[str, int | str]:
    """The line of a place, and its file where that is not the model's own."""
    if span.source is program.source or span.source.name == program.source.name:
        return {"line": span.line}
    return {"line": span.line, "file": span.source.name}


def shared_name(module: Shared) -> str:
    """The name under which a module is shared."""
    return module.key.rpartition(":")[2]


def shared_path(module: Shared) -> str:
    """The path of a shared module; it has one from the root, wherever it is mentioned."""
    inner: Module = module.body
    while not isinstance(inner, Leaf | Scope):
        inner = children(inner)[0]
    return inner.path.partition(".")[0]


ASCII = str.maketrans(
    dict(zip("├└│─█▉▊▋▌▍▎▏×…·–", "|`|-########x~*-", strict=True))
    | {"√": "sqrt", "σ": "sigma", "α": "alpha", "β": "beta", "γ": "gamma", "κ": "kappa"}
)
"""What stands for the signs of reports where only ASCII can be shown."""


def encodable(text: str, encoding: str | None) -> str:
    """The text, in signs that an encoding has."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return text.translate(ASCII).encode("ascii", "replace").decode()
    return text


def encode(value: object, indent: int | None = None) -> str:
    """A value as JSON in UTF-8, with escapes for what a terminal may obey and nobody sees."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    if text.isprintable():
        return text
    return UNSEEN.sub(lambda s: s[0] if s[0].isprintable() else json.dumps(s[0])[1:-1], text)


def plain(value: Any) -> Any:
    """A value as what `json` can write; None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def listed(found: Mapping[str, Any], others: Mapping[str, str] = MappingProxyType({})) -> str:
    """An object as JSON text: a member of it a line, and so each object of a list in it.

    `others` are members that are JSON text already.
    """
    lines = []
    for key, value in found.items():
        text = others.get(key) or encode(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join(f"    {encode(entry)}" for entry in value) + "\n  ]"
        lines.append(f"  {encode(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def kind_of(name: str) -> str:
    """A parameter's name with `*` for the numbers of layers."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)", "*", name)


def from_here(place: str) -> str:
    """A place in words, with files named from the working directory."""
    return place.replace(os.path.join(os.getcwd(), ""), "")


def plural(number: int, what: str) -> str:
    """`1 weight`, `1,000 weights`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
