"""What is varied, read from text: values, ranges, optimizers, learning rates of each.

A label of an optimizer is `NAME[:option=value…]`, as in `dualized_sgd:momentum=0.9:steps=5`, or
names a function of the user's own, `module:function[:option=value…]`. Names may be written as those
of classes are: `DualizedSGD`, `AdamW`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modnorm.diagnostics import did_you_mean
from modnorm.sweep import RATES
from modnorm.sweep.records import Size

NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?")
POWER = re.compile(r"(?P<base>[\d.]+)\^(?P<exponent>[+-]?[\d.]+)")
MOST = 1000
"""Values of one axis."""
EXACT = 6
"""Decimals that exponents of two are rounded to, so that grids meet in the same numbers."""


class BadAxis(ValueError):
    """Values or labels that cannot be read; the text says what is wrong and what would do."""


def values(text: str, between: bool = False) -> tuple[Size, ...]:
    """The values of an axis in rising order: numbers and ranges, with commas between.

    A number is `64`, `0.1`, `1e-3` or `2^-3`. A range `2^-8..2^2` has every power of two from end
    to end, and `2^-8..2^2:0.5` every half one.

    Raises:
        BadAxis: for anything else, or a value that occurs twice.
    """
    found: list[Size] = []
    for part in text.split(","):
        part = part.strip()
        if ".." in part:
            found += _range(part, between)
        else:
            found.append(_number(part))
        if len(found) > MOST:
            raise BadAxis(f"'{text:.40}' has more than {MOST:,} values")
    if len(set(found)) < len(found):
        twice = next(value for value in found if found.count(value) > 1)
        raise BadAxis(f"'{text:.40}' has the value {twice:g} twice")
    return tuple(sorted(found))


def _number(text: str) -> Size:
    """A positive number; an int where it is written as one."""
    value: Size
    power = POWER.fullmatch(text)
    try:
        if power is not None:
            base, exponent = float(power["base"]), float(power["exponent"])
            made = base**exponent
            whole = made.is_integer() and base.is_integer() and exponent.is_integer()
            value = int(made) if whole else made
        elif NUMBER.fullmatch(text):
            value = int(text) if text.isdecimal() else float(text)
        else:
            raise ValueError
        sound = 0 < value < 1e300
    except (ValueError, OverflowError, ZeroDivisionError):
        sound = False
    if not sound:
        raise BadAxis(f"'{text:.40}' is no positive number: write 64, 0.1, 1e-3 or 2^-3")
    return value


def _range(text: str, between: bool) -> list[Size]:
    ends, _, by = text.partition(":")
    first, _, last = ends.partition("..")
    low, high = _number(first.strip()), _number(last.strip())
    step = float(_number(by.strip())) if by else 1.0
    if low >= high:
        raise BadAxis(f"the range '{text:.40}' does not rise: its first end must be the lower one")
    count = math.log2(high / low) / step
    if count > MOST:
        raise BadAxis(f"'{text:.40}' has more than {MOST:,} values")
    met = abs(count - round(count)) <= 1e-6
    if not met and not (between and count > 1):
        reached = low * 2.0 ** (int(count) * step)
        factor = "doubling" if step == 1 else f"steps of 2^{step:g}"
        raise BadAxis(
            f"the range '{text:.40}' misses its end: by {factor} from {low:g} it gets to "
            f"{reached:g} and then to {reached * 2.0**step:g}"
        )
    steps = range(round(count) if met else math.ceil(count))
    made = [_power(math.log2(low) + i * step, low * 2.0 ** (i * step)) for i in steps]
    made += [float(high)] if met else []
    whole = isinstance(low, int) and isinstance(high, int) and all(v.is_integer() for v in made)
    return [int(value) for value in made] if whole else list(made)


def _power(exponent: float, value: float) -> float:
    """The value, which is about two to the exponent, without the last digits' dirt."""
    rounded = round(exponent, EXACT)
    if abs(rounded - exponent) < 1e-12 * max(1.0, abs(exponent)):
        return float(2.0**rounded)
    return float(f"{value:.14g}")


def beyond(rates: Sequence[float], low: bool) -> float:
    """The learning rate past an end of rising ones: as far from it as the next one within."""
    end, within = (rates[0], rates[1]) if low else (rates[-1], rates[-2])
    return _power(2 * math.log2(end) - math.log2(within), end * (end / within))


# --- optimizers and their learning rates ------------------------------------------------------


NORMED = {"normed_adam": "NormedAdam", "normed_sgd": "NormedSGD", "dualized_sgd": "DualizedSGD"}
"""The optimizers of a generated file; theirs alone depend on masses."""
PLAIN = ("adam", "sgd", "muon")
NAMES = (*NORMED, *PLAIN)
ALIASES = {name.replace("_", ""): name for name in NAMES} | {"adamw": "adam"}
"""Names as people write them, in small letters and without `_` and `-`."""

Option = int | float | bool | str


@dataclass(frozen=True)
class Label:
    """An optimizer's name and options. `function` is set for the user's own."""

    name: str
    options: dict[str, Option] = field(default_factory=dict)
    function: str | None = None

    @property
    def normed(self) -> bool:
        return self.name in NORMED


def usual(text: str) -> str:
    """A label, or the name of an optimizer, with the name under which a sweep keeps it."""
    name, colon, options = text.strip().partition(":")
    folded = name.lower().replace("_", "").replace("-", "")
    return f"{ALIASES.get(folded, name)}{colon}{options}"


def read_label(text: str) -> Label:
    """The parts of a label.

    Raises:
        BadAxis: where it has no such parts.
    """
    written, *rest = text.strip().split(":")
    name, function = usual(written), None
    if name not in NAMES:
        if not rest or "=" in rest[0] or not name or not rest[0]:
            near = did_you_mean(written, NAMES)
            raise BadAxis(
                f"there is no optimizer {written!r}{f' ({near})' if near else ''}: choose from "
                f"{', '.join(NAMES)} (adam is AdamW), or name a function of your own as "
                "module:function"
            )
        function, rest = f"{name}:{rest[0]}", rest[1:]
    options: dict[str, Option] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or not value or key in options:
            raise BadAxis(
                f"{part!r} in {text!r} is not option=value: write NAME:option=value:option=value"
            )
        options[key] = _value(value)
    return Label(name if function is None else function, options, function)


def _value(text: str) -> Option:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)


def labels(texts: Iterable[str]) -> tuple[str, ...]:
    """Labels of optimizers from texts with commas between them, each once.

    Raises:
        BadAxis: for one that is no label.
    """
    found: dict[str, None] = {}
    for text in texts:
        for label in text.split(","):
            read_label(label)
            found[usual(label)] = None
    return tuple(found)


def rates(texts: Iterable[str], optimizers: Sequence[str]) -> Mapping[str, tuple[float, ...]]:
    """The learning rates of each optimizer.

    A text is `VALUES` for all optimizers or `OPTIMIZER=VALUES` for one, by its label or its name;
    what is said for a label goes before what is said for a name, and that before the rest. An
    optimizer of which nothing is said has RATES.

    Raises:
        BadAxis: for values that cannot be read, an optimizer that is not among the others.
    """
    by_name: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, _, grid = text.rpartition("=")
        name = usual(name)
        if name in by_name:
            whose = f"of {name} " if name else ""
            raise BadAxis(f"the learning rates {whose}are given twice")
        if name and name not in (*optimizers, *map(_name, optimizers)):
            raise BadAxis(f"learning rates are given for {name!r}, which is not among --optimizer")
        by_name[name] = tuple(float(value) for value in values(grid, between=True))
    by_name.setdefault("", tuple(map(float, values(RATES))))
    return {
        label: next(by_name[name] for name in (label, _name(label), "") if name in by_name)
        for label in optimizers
    }


def _name(label: str) -> str:
    return read_label(label).name
