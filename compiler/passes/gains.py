"""The arithmetic of certified bounds: matrices of gains between measures of values.

A matrix says how far each tensor of an output moves, in each of its measures, when a tensor of the
input moves by 1 in one of its own. Measures of one tensor are alternatives, of which the best
counts; tensors of a tuple are summed. A measure that has no row or entry follows from those that
have one by the constants between measures. Every rule here keeps bounds bounds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from modnorm.ops.edges import (
    Key,
    Matrix,
    Measure,
    conversion,
    lower,
    moved,
    product,
    summed,
    tracked,
)
from modnorm.ops.types import Tensor

Vector: TypeAlias = Mapping[Key, float]
"""How far the model's output moves when a tensor moves by 1 in a measure."""
Types: TypeAlias = Sequence[Tensor]
Row = TypeVar("Row", bound=Hashable)
DOUBLINGS = 12
"""A power is squared so often, at most, to see whether it fades."""
FADED = 1 / 64
"""What is left then hardly counts."""


def identity(types: Types) -> Matrix:
    """Nothing happens to any of the tensors."""
    return {(j, m): {(j, m): 1.0} for j, type in enumerate(types) for m in tracked(type)}


def row_at(matrix: Matrix, key: Key, types: Types) -> dict[Key, float]:
    """The row for any measure of an input tensor; empty where the tensor has no influence."""
    slot, measure = key
    best: dict[Key, float] = {}
    for (i, other), row in matrix.items():
        if i == slot:
            lower(best, row, conversion(types[slot].shape, measure, other))
    return best


def after(
    first: Mapping[Row, Mapping[Key, float]], second: Matrix, types: Types, out: Types
) -> dict[Row, dict[Key, float]]:
    """`second @ first`, row by row, whatever the rows are of.

    `types` are those of the tensors between the two, `out` those at the end.
    """
    found: dict[Row, dict[Key, float]] = {}
    for key, row in first.items():
        parts: dict[int, dict[Key, float]] = {}
        for middle, gain in _entering(row, second, types).items():
            lower(parts.setdefault(middle[0], {}), second[middle], gain)
        found[key] = summed(list(parts.values()), out) if parts else {}
    return found


def _entering(row: Mapping[Key, float], matrix: Matrix, types: Types) -> dict[Key, float]:
    """How far each row's tensor and measure of `matrix` moves, for outputs of one row."""
    by_slot: dict[int, list[tuple[Measure, float]]] = {}
    for (j, measure), gain in row.items():
        by_slot.setdefault(j, []).append((measure, gain))
    found: dict[Key, float] = {}
    for slot, measure in matrix:
        known = by_slot.get(slot)
        if known:
            shape = types[slot].shape
            found[slot, measure] = min(
                product(gain, conversion(shape, m, measure)) for m, gain in known
            )
    return found


def adjoint(matrix: Matrix, vector: Vector, types: Types) -> dict[Key, float]:
    """The vector at an input, from that at the output, whose tensors have `types`."""
    found: dict[Key, float] = {}
    for key, row in matrix.items():
        parts: dict[int, float] = {}
        for out, gain in row.items():
            value = product(gain, at(vector, out, types))
            if value < parts.get(out[0], math.inf) or out[0] not in parts:
                parts[out[0]] = value
        found[key] = sum(parts.values())
    return found


def at(vector: Vector, key: Key, types: Types) -> float:
    """The entry of a vector for any measure of a tensor; 0 where the tensor has no influence."""
    slot, measure = key
    shape = types[slot].shape
    ways = [
        product(value, conversion(shape, measure, other))
        for (i, other), value in vector.items()
        if i == slot
    ]
    return min(ways, default=0.0)


def beside(parts: Sequence[Matrix], counts: Sequence[int], types: Types) -> Matrix:
    """Modules side by side: `counts` are the tensors that each gives, `types` the input's."""
    keys = dict.fromkeys(key for part in parts for key in part)
    found: dict[Key, dict[Key, float]] = {key: {} for key in keys}
    start = 0
    for part, count in zip(parts, counts, strict=True):
        for key in keys:
            for (j, measure), gain in row_at(part, key, types).items():
                found[key][start + j, measure] = gain
        start += count
    return found


def plus(a: Matrix, b: Matrix, into: Types, out: Types, scale: float = 1.0) -> Matrix:
    """A matrix that bounds the sum of what `a` and `scale` times what `b` let through."""
    found: dict[Key, dict[Key, float]] = {}
    for key in dict.fromkeys((*a, *b)):
        one, other = row_at(a, key, into), row_at(b, key, into)
        found[key] = {
            k: moved(one, k, out) + product(scale, moved(other, k, out))
            for k in dict.fromkeys((*one, *other))
        }
    return found


def power(matrix: Matrix, count: int, types: Types) -> Matrix:
    """`count` ≥ 1 copies composed, by squaring."""
    result: Matrix | None = None
    square = matrix
    while count:
        if count & 1:
            result = square if result is None else after(result, square, types, types)
        count >>= 1
        if count:
            square = after(square, square, types, types)
    assert result is not None
    return result


def series(matrix: Matrix, count: int, scale: float, types: Types) -> Matrix:
    """A bound on Σ scaleʲ·matrixʲ for j from 0 to count - 1, by doubling."""
    one = identity(types)
    total: Matrix = one  # of `done` terms
    jump, done = after(one, matrix, types, types), 1
    for bit in bin(count)[3:]:
        total = plus(total, after(total, jump, types, types), types, types, _raised(scale, done))
        jump, done = after(jump, jump, types, types), 2 * done
        if bit == "1":
            total = plus(one, after(total, matrix, types, types), types, types, scale)
            jump, done = after(jump, matrix, types, types), done + 1
    return total


def endless(matrix: Matrix, types: Types, keys: Sequence[Key]) -> Matrix | None:
    """A bound on the sum of all powers of a matrix, in one measure of each tensor; None where none
    was found.

    If the n-th power is at most c < 1 in the sum of those measures, the sum of all is that of the
    first n, S, and what S makes of moves of at most c + c² + … in all.
    """
    n, power = 1, matrix
    for _ in range(DOUBLINGS):
        rows = [row_at(power, key, types) for key in keys]
        most = max(sum(moved(row, key, types) for key in keys) for row in rows)
        if most <= FADED:
            break
        n, power = 2 * n, after(power, power, types, types)
    if not most < 1:
        return None
    some = series(matrix, n, 1.0, types)
    rows = [row_at(some, key, types) for key in keys]
    outs = dict.fromkeys(out for row in rows for out in row)
    worst = {out: max(moved(row, out, types) for row in rows) for out in outs}
    rest = most / (1 - most)
    return {
        key: {out: moved(row, out, types) + product(rest, worst[out]) for out in outs}
        for key, row in zip(keys, rows, strict=True)
    }


def _raised(a: float, n: int) -> float:
    try:
        return a**n
    except OverflowError:
        return math.inf
