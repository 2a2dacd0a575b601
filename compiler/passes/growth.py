"""How bounds on values grow from copy to copy of a repetition, many copies at a time.

While a copy's input stays in a box, its output's norms are at most an affine function of its
input's: `constant + factors · norms`, with factors that are proved for the whole box. So many
copies are an affine recurrence, and sums of powers of its matrix say how far it leads: no number of
copies takes more than its logarithm of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias

from modnorm.ops.edges import Edge, Key, Matrix, Measure, conversion, product, tracked
from modnorm.ops.types import Tensor

SHARP = 1e-12
"""A factor counts where it gives no more than the constant, but for so much rounding."""


class Line(NamedTuple):
    """One norm is at most `constant` plus the sum of others, times factors."""

    constant: float
    factors: Mapping[Key, float]

    def at(self, sizes: Mapping[Key, float]) -> float:
        return self.constant + sum(product(f, sizes[k]) for k, f in self.factors.items())


Affine: TypeAlias = Mapping[Key, Line]


def sizes(x: Sequence[Edge]) -> dict[Key, float]:
    """The upper bounds of some values."""
    return {(i, m): edge.high(m) for i, edge in enumerate(x) for m in edge.tracked}


def of_operation(
    x: Sequence[Edge],
    y: Sequence[Edge],
    gains: Matrix | str,
    at_zero: Mapping[Measure, float] | None,
) -> dict[Key, Line]:
    """The output's norms, for inputs within `x` that give outputs within `y`.

    They are those of a zero input and what `gains` make of the input's, or all that `y` says.
    """
    found: dict[Key, Line] = {}
    entering = sizes(x)
    for key, high in sizes(y).items():
        line = Line(high, {})
        if not isinstance(gains, str) and at_zero is not None:
            sloped = Line(at_zero.get(key[1], 0.0), dict(_best(x, y, gains, key)))
            bounded = all(map(math.isfinite, sloped.factors.values()))
            if bounded and sloped.at(entering) <= high * (1 + SHARP):
                line = sloped
        found[key] = line
    return found


def _best(
    x: Sequence[Edge], y: Sequence[Edge], gains: Matrix, out: Key
) -> Iterator[tuple[Key, float]]:
    """For each slot of the input the measure that says least of one norm of the output."""
    slot, measure = out
    ways: dict[int, list[tuple[float, float, Key]]] = {}
    for (i, source), row in gains.items():
        moves = [
            product(gain, conversion(y[slot].type.shape, m, measure))
            for (j, m), gain in row.items()
            if j == slot
        ]
        if not moves:
            continue
        least = min(moves)
        for kept, share in _shares(x[i].type, source):
            factor = product(least, share)
            size = product(factor, x[i].high(kept))
            ways.setdefault(i, []).append((size, factor, (i, kept)))
    for i in sorted(ways):
        _, factor, key = min(ways[i])
        yield key, factor


@cache
def _shares(type: Tensor, source: Measure) -> tuple[tuple[Measure, float], ...]:
    """What one measure of a value is at most of each that is followed."""
    return tuple((m, conversion(type.shape, m, source)) for m in tracked(type))


def after(first: Affine, second: Affine) -> dict[Key, Line]:
    """`second @ first`."""
    found: dict[Key, Line] = {}
    for key, line in second.items():
        constant, factors = line.constant, dict[Key, float]()
        for middle, factor in line.factors.items():
            inner = first[middle]
            constant += product(factor, inner.constant)
            for source, own in inner.factors.items():
                factors[source] = factors.get(source, 0.0) + product(factor, own)
        found[key] = Line(constant, factors)
    return found


def power(one: Affine, count: int) -> Affine:
    """`count` ≥ 1 copies composed, by squaring."""
    result: Affine | None = None
    while count:
        if count & 1:
            result = one if result is None else after(result, one)
        count >>= 1
        if count:
            one = after(one, one)
    assert result is not None
    return result


@dataclass(frozen=True)
class Stretch:
    """`count` copies: norms that none of their inputs exceeds, and those of the last one's output.

    Where they may be more than they are after the first copy, they rise all the way.
    """

    count: int
    most: Mapping[Key, float]
    end: Mapping[Key, float]


def stretch(
    one: Affine, start: Mapping[Key, float], up: float, down: float, copies: int
) -> Stretch:
    """As many of some copies as keep every norm between 1 - `down` and 1 + `up` times its start.

    `one` is a copy's bound while its input is at most that. After k copies a norm is at most
    s + Σ_{j<k} Lʲ·(d⁺ - d⁻), with the start s, the factors L and the first change d = d⁺ - d⁻; and
    the sum over d⁺ alone only rises, so that it is compared with the room once.
    """
    keys = [key for key, size in start.items() if math.isfinite(size)]
    first = {key: one[key].at(start) for key in keys}
    rise = [max(first[key] - start[key], 0.0) for key in keys]
    fall = [max(start[key] - first[key], 0.0) for key in keys]
    factors = [[one[key].factors.get(k, 0.0) for k in keys] for key in keys]
    powers = [(factors, rise, fall)]  # of 2^b copies: the matrix's power, and both sums
    while 2 ** len(powers) <= copies:
        m, rises, falls = powers[-1]
        powers.append((_times(m, m), _moved(m, rises, rises), _moved(m, falls, falls)))
    done, rise, fall = 0, [0.0] * len(keys), [0.0] * len(keys)
    for b in reversed(range(len(powers))):
        m, rises, falls = powers[b]
        if done + 2**b >= copies:
            continue
        more, less = _moved(m, rise, rises), _moved(m, fall, falls)
        parts = zip(keys, more, less, strict=True)
        if all(r <= up * start[k] and f - r <= down * start[k] for k, r, f in parts):
            done, rise, fall = done + 2**b, more, less
    most = {**start, **{k: start[k] + r for k, r in zip(keys, rise, strict=True)}}
    end = dict(start)
    for i, key in enumerate(keys):  # one more copy, of the last input
        last = {k: max(start[k] + r - f, 0.0) for k, r, f in zip(keys, rise, fall, strict=True)}
        rows = one[key]
        end[key] = rows.constant + sum(
            product(f, last[k]) for k, f in zip(keys, factors[i], strict=True)
        )
    return Stretch(done + 1, most, end)


def _times(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    columns = list(zip(*b, strict=True))
    return [[sum(map(product, row, column)) for column in columns] for row in a]


def _moved(m: list[list[float]], v: list[float], plus: list[float]) -> list[float]:
    """m·v + plus."""
    return [sum(map(product, row, v)) + p for row, p in zip(m, plus, strict=True)]
