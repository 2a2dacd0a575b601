"""Tells what an optimizer made of a gradient, by what could have been made of it.

An update is compared with the orthogonal factor of the gradient under every way to read it as
matrices, with its sign, with its rows or columns at one length, and with the gradient itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from modnorm.kernels.weight import Weight

Kind = Literal[
    "still", "orthogonalised", "elementwise", "rows", "columns", "proportional", "other"
]  # fmt: skip
ALIKE = 0.95
"""The least cosine of an update and the orthogonal factor: five steps of Newton and Schulz, in
bfloat16, are at 0.98 of it."""
EXACT = 0.9995
"""The least cosine where nothing is approximated but by rounding."""
BLOCKS = (2, 3, 4)
"""Equal blocks that fused matrices are cut into."""
MOST_BLOCKS = 64
"""Where an optimizer cuts rows is looked for in units of which there are no more."""


def dot(a: Tensor, b: Tensor) -> float:
    return float(a.flatten() @ b.flatten())


def cosine(a: Tensor, b: Tensor) -> float:
    lengths = float(a.norm() * b.norm())
    return dot(a, b) / lengths if lengths > 0 else 0.0


def orthogonal(x: Tensor) -> Tensor:
    """UVᵀ of the singular value decomposition UΣVᵀ of each matrix in a stack, (…, m, n)."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonal(x.mT).mT
    values, vectors = torch.linalg.eigh(x @ x.mT)
    floor = values[..., -1:].clamp_min(torch.finfo(x.dtype).tiny) * 1e-14
    root = values.clamp_min(0).add(floor).rsqrt()
    found: Tensor = (vectors * root.unsqueeze(-2)) @ (vectors.mT @ x)
    return found


def as_one(x: Tensor) -> Tensor:
    return orthogonal(x.flatten(1)).view_as(x)


def each(x: Tensor) -> Tensor:
    return orthogonal(x.flatten(2)).view_as(x)


def taps(x: Tensor) -> Tensor:
    back = orthogonal(x.flatten(2).movedim(2, 0)).movedim(0, 2)
    return back.reshape(x.shape)


def last(x: Tensor) -> Tensor:
    return orthogonal(x.flatten(0, -2)).view_as(x)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"whole": as_one, "each": each, "taps": taps}
"""Ways to orthogonalise a weight of several axes: its rows and all else; for each index of its
first axis by itself; for each of those behind its second."""


@dataclass(frozen=True)
class Reading:
    """A way to read a tensor as matrices.

    key: "whole", "each" (index of the first axis), "taps", "last" (axis against all others),
        "sides" (the last two axes), "rows" or "columns" (in blocks); with "pieces " before it, of
        each logical weight by itself. name: in words. factor: the orthogonal factors of a tensor's
        matrices, in its shape.
    """

    key: str
    name: str
    factor: Callable[[Tensor], Tensor]


def product(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def readings(shape: tuple[int, ...], held: Sequence[Weight] = ()) -> Iterator[Reading]:
    """Ways to read a parameter of a shape, those of the logical weights that it holds first."""
    if held and held[0].layout is not None:
        for key, form in FORMS.items():
            if all(len(w.shape) >= (2 if key == "whole" else 3) for w in held):
                yield Reading(f"pieces {key}", by_pieces(held), partial(within, held, form))
    if len(shape) < 2:
        return
    rows, rest = shape[0], math.prod(shape[1:])
    yield Reading("whole", f"one matrix of {product((rows, rest))}", as_one)
    if len(shape) > 2:
        inner, behind = shape[1], rest // shape[1]
        yield Reading("each", f"{rows} matrices of {product((inner, behind))}", each)
        yield Reading("taps", f"{behind} matrices of {product((rows, inner))}", taps)
        yield Reading(
            "last", f"one matrix of {product((rows * rest // shape[-1], shape[-1]))}", last
        )
    if len(shape) > 3:
        count = math.prod(shape[:-2])
        yield Reading("sides", f"{count} matrices of {product(shape[-2:])}", orthogonal)
    for axis in range(2):
        for count in BLOCKS:
            if shape[axis] % count == 0 and shape[axis] > count:
                yield blocks([shape[axis] // count] * count, axis)


def by_pieces(held: Sequence[Weight]) -> str:
    if len(held) == 1:
        return f"one matrix of {product(held[0].shape)}"
    return f"each of its {len(held)} weights by itself"


def within(held: Sequence[Weight], form: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a form makes of each logical weight in a tensor, in its place."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for w in held:
        place = w.part(out)
        place.copy_(form(w.cut(x)).reshape(place.shape))
    return out


def blocks(sizes: Sequence[int], axis: int = 0) -> Reading:
    """A tensor cut along an axis, the first or the second, each part a matrix."""
    what = "columns" if axis else "rows"
    equal = "equal " if len(set(sizes)) == 1 else ""
    name = f"{len(sizes)} {equal}blocks of {what} ({', '.join(map(str, sizes))})"

    def factor(x: Tensor) -> Tensor:
        parts = torch.split(x, list(sizes), axis)
        return torch.cat([as_one(part) for part in parts], axis)

    return Reading(what, name, factor)


@dataclass(frozen=True)
class Update:
    """What was made of a gradient.

    reading: the matrices that were orthogonalised, if any. scale: the factor of their orthogonal
        factors, which have singular values 1.
    """

    kind: Kind
    reading: Reading | None = None
    scale: float = 0.0


def told(
    gradient: Tensor, update: Tensor, held: Sequence[Weight], fixed: bool,
    known: Iterable[Reading] | None = None,
) -> Update:  # fmt: skip
    """What an update is, of a gradient of the same shape; both of float64.

    held: the logical weights in the parameter, if they are known. fixed: whether a gradient twice
    as large gives the same update. known: readings that are looked at, instead of all there are.
    """
    if not update.any():
        return Update("still")
    matrix = gradient.ndim > 1
    if cosine(gradient, update) > EXACT:
        narrow = matrix and min(len(gradient), gradient[0].numel()) == 1
        if not (fixed and narrow):  # such a matrix's orthogonal factor is itself, at length 1
            return Update("proportional")
    if cosine(gradient.sign(), update) > EXACT:
        return Update("elementwise")
    if matrix:
        for axis, kind in ((1, "rows"), (0, "columns")):
            at = gradient.flatten(1)
            at = (at / at.norm(dim=axis, keepdim=True)).view_as(gradient)
            if min(gradient.flatten(1).shape) > 1 and cosine(at, update) > EXACT:
                return Update(kind)  # type: ignore[arg-type]
    if known is not None:
        return factor(gradient, update, known) or Update("other")
    return factor(gradient, update, readings(tuple(gradient.shape), held)) or found_blocks(
        gradient, update, held
    )


def factor(gradient: Tensor, update: Tensor, known: Iterable[Reading]) -> Update | None:
    """An update as the orthogonal factor of a gradient under the reading that fits best."""
    best: tuple[float, Update | None] = (ALIKE, None)
    for reading in known:
        unit = reading.factor(gradient)
        if (own := cosine(unit, update)) > best[0] + 1e-4:  # the first of those that are the same
            scale = float((unit * update).sum() / (unit * unit).sum())
            best = own, Update("orthogonalised", reading, scale)
    return best[1]


def found_blocks(gradient: Tensor, update: Tensor, held: Sequence[Weight]) -> Update:
    """An update whose rows are orthogonalised in blocks of sizes that nobody told.

    Each block is the longest one that fits, from where the one before it ended.
    """
    shape = gradient.shape
    ends = {w.layout.take[axis] for w in held if w.layout for axis in range(len(w.layout.take))}
    unit = math.gcd(shape[0], *(e for pair in ends for e in pair if 0 < e < shape[0]))
    if len(held) < 2 or len(shape) != 2 or not unit or shape[0] // unit > MOST_BLOCKS:
        return Update("other")
    sizes: list[int] = []
    while (start := sum(sizes)) < shape[0]:
        for end in range(shape[0], start, -unit):
            own = cosine(orthogonal(gradient[start:end]), update[start:end])
            if own > ALIKE:
                break
        else:
            return Update("other")
        sizes.append(end - start)
    return factor(gradient, update, [blocks(sizes)]) or Update("other")
