"""`Product`: gating; `MatMul`: products of matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import permutations
from operator import mul
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Advice, Bond, Misfit, Op, Sharpness, amount, expect_tensor
from modnorm.ops.edges import (
    LARGEST,
    Bound,
    Edge,
    Form,
    Key,
    Matrix,
    Measure,
    product,
    tracked,
)
from modnorm.ops.joins import stretched
from modnorm.ops.registry import register
from modnorm.ops.shapes import joined, members, mixed
from modnorm.ops.text import copied, expression, parts
from modnorm.ops.types import Real, Role, Symbol, Tensor, TupleType, Type

if TYPE_CHECKING:
    import torch


BOUNDED = "bound the entries before it, as `Product @ (Tanh @ a, Tanh @ b)` does"


@register
@dataclass(frozen=True)
class Product(Bond):
    """y = x₁·x₂·…, entry by entry; sizes that differ stretch from 1 as in torch: gating.

    The operator `a * b` of two modules stands for it.

    Declared 1, what members of spread-out entries have. The worst case is the largest entry of the
    other members, which for members of RMS 1 may be √width: bound entries first, as
    `Product @ (Tanh @ a, Tanh @ b)` does, and it is 1.
    """

    name = "Product"
    by_vector = True
    origin = "typical value; not in modula"

    sensitivity = 1
    certified = "it is the largest entry of the other members, which may be √width"
    sharpness = Sharpness(0.0, 0.0, 1.0)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        tensors = members(self.name, x, "of values to multiply")
        if not tensors:
            raise Misfit("`Product` has nothing to multiply: its input is an empty tuple")
        return self, joined(self.name, tensors)

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return {
            (i, own): {(0, m): _others(x, i)}
            for i, edge in enumerate(x)
            for m, own in measures(x, edge).items()
        }

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        found: dict[Measure, Bound] = {}
        for i, edge in enumerate(x):
            for m, own in measures(x, edge).items():
                high = product(edge.high(own), _others(x, i))
                found[m] = Bound(0.0, min(high, found[m].high) if m in found else high)
        return [found]

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        """One of two moves counts by its largest entry."""
        found: dict[tuple[Key, Key], dict[Key, float]] = {}
        for i, j in permutations(range(len(x)), 2):
            others = reduce(
                product, (e.high(LARGEST) for k, e in enumerate(x) if k not in (i, j)), 1.0
            )
            for m, own in measures(x, x[j]).items():
                found.setdefault(((i, LARGEST), (j, own)), {})[0, m] = others
            for m, own in measures(x, x[i]).items():
                found.setdefault(((i, own), (j, LARGEST)), {})[0, m] = others
        return found

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        most = max(_others(x, i) for i in range(len(x)))
        if most <= 1 + 1e-9:
            return ()
        if math.isinf(most):
            what = "the bound of a product is the largest entry of its other members, and none is"
            return (Advice("A603", f"{what} known of them", BOUNDED),)
        return (
            Advice(
                "A603",
                f"the bound of a product is the largest entry of its other members, here up to"
                f" {most:.4g}: it grows with the width",
                BOUNDED,
            ),
        )

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, reduce(mul, scalars)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return reduce(mul, x)

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, TupleType)
        return " * ".join(parts(x, len(type.members)))


def measures(x: Sequence[Edge], edge: Edge) -> dict[Measure, Measure]:
    """Measures of values joined entry by entry, each with what it is of one of them."""
    out = joined("Product", [e.type for e in x])
    pairs = ((m, stretched(m, edge.type, out)) for m in tracked(out))
    return {m: own for m, own in pairs if own is not None}


def _others(x: Sequence[Edge], i: int) -> float:
    """The largest entry of the product of all members but one."""
    return reduce(product, (edge.high(LARGEST) for j, edge in enumerate(x) if j != i), 1.0)


@register
@dataclass(frozen=True)
class Lerp(Bond):
    """y = start + weight·(end - start), entry by entry, of a tuple (start, end, weight): a gate.

    As torch.lerp; sizes that differ stretch from 1. For a weight between 0 and 1, such as that of a
    `Sigmoid`, it is a mean of the two. Declared 1, what it has in either then.
    """

    name = "Lerp"
    by_vector = True
    origin = "typical value, for weights between 0 and 1"

    sensitivity = 1
    certified = "it depends on the size of the weight, and on that of the other members"
    sharpness = None

    def resolve(self, x: Type) -> tuple[Self, Type]:
        tensors = members(self.name, x, "of a start, an end and a weight")
        if len(tensors) != 3:
            raise Misfit(
                f"`Lerp` takes a tuple of a start, an end and a weight, but its input has"
                f" {amount(len(tensors), 'member')}: {x}",
                hint="write `Lerp @ (a, b, Sigmoid @ w)`",
                code="E402",
            )
        return self, joined(self.name, tensors)

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def _factors(self, x: Sequence[Edge]) -> tuple[float, float, float]:
        """How far an entry of the output moves with that of each member."""
        start, end, weight = (edge.high(LARGEST) for edge in x)
        return 1 + weight, weight, start + end

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return {
            (i, own): {(0, m): factor}
            for i, (edge, factor) in enumerate(zip(x, self._factors(x), strict=True))
            for m, own in measures(x, edge).items()
        }

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        highs: dict[Measure, list[float]] = {}
        for edge, factor in zip(x[:2], self._factors(x), strict=False):
            for m, own in measures(x, edge).items():
                highs.setdefault(m, []).append(product(factor, edge.high(own)))
        return [{m: Bound(0.0, sum(both)) for m, both in highs.items() if len(both) == 2}]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        start, end, share = x
        return (1 - share) * start + share * end

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"gated({', '.join(map(expression, parts(x, 3)))})"

    def helpers(self) -> tuple[str, ...]:
        return (copied("gated"),)


@register
@dataclass(frozen=True)
class MatMul(Bond):
    """y = a b for a tuple of two: (…, n, k) and (…, k, m) → (…, n, m), over the last two axes.

    Leading axes are equal, or stretch from 1, as in torch.matmul. An entry is a sum of k products,
    so for members of RMS 1 the sensitivity is k, where k is known when the model is compiled:
    `1/k * MatMul @ (a, b)` has 1, as the logits of `Attention` have. Where k is free, such as
    `seq`, 1 is declared, which holds where the rows of a sum to 1 in size, as those of a `Softmax`.
    """

    name = "MatMul"
    origin = "k, the number of terms; 1 where it is free, as for rows that sum to 1"

    terms: int = field(default=1, kw_only=True)
    """How many products an entry is the sum of, where that is known."""

    certified = "it is k times the size of the other member, for sums of k products"

    def resolve(self, x: Type) -> tuple[Self, Type]:
        what = "of two values to multiply"
        tensors = members(self.name, x, what)
        if len(tensors) != 2:
            raise Misfit(
                f"`MatMul` takes a tuple {what}, but its input has"
                f" {amount(len(tensors), 'member')}: {x}",
                hint="write `MatMul @ (a, b)`",
                code="E402",
            )
        a, b = (expect_tensor(self.name, t, rank=2) for t in tensors)
        k = a.shape[-1]
        if k != b.shape[-2]:
            fits = k == b.shape[-1]
            raise Misfit(
                f"`MatMul` multiplies (…, n, k) and (…, k, m), but its input has {a} and {b}:"
                f" their sizes {k} and {b.shape[-2]} clash",
                hint="turn the second one over: `MatMul @ (a, Transpose @ b)`" if fits else "",
            )
        one, other = (Tensor("float", t.shape[:-2], None, t.roles[:-2]) for t in (a, b))
        lead = joined(self.name, (one, other))
        return dataclasses.replace(self, terms=k if isinstance(k, int) else 1), Tensor(
            "float", (*lead.shape, a.shape[-2], b.shape[-1]), None, (*lead.roles, *_ends(a, b))
        )

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        assert isinstance(x, TupleType)
        b = x.members[1]
        assert isinstance(b, Tensor)
        return mixed(self.label, b, 0) if len(b.shape) == 2 else ()

    @property
    def sensitivity(self) -> Real:
        return self.terms

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, float(self.terms))

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def _ways(self, x: Sequence[Edge]) -> list[tuple[Measure, Measure, Measure, float]]:
        """Bounds ‖ab‖ ≤ c·‖a‖·‖b‖: measures of a, of b, of the output, and c.

        A row of the output is the rows of b by those of a, each time Cauchy's inequality or the sum
        of a row's entries.
        """
        a, b = (len(edge.type.shape) for edge in x)
        out, k = max(a, b), x[0].type.shape[-1]
        whole = Measure((out - 2, out - 1))
        row, column = Measure((a - 1,)), Measure((b - 2,))
        total = Measure((a - 1,), True)
        found = [
            (total, Measure((b - 1,)), Measure((out - 1,)), 1.0),
            (total, LARGEST, LARGEST, 1.0),
        ]
        if isinstance(k, int):
            found += [
                (row, Measure((b - 2, b - 1)), Measure((out - 1,)), float(k)),
                (Measure((a - 2, a - 1)), Measure((b - 2, b - 1)), whole, float(k)),
                (row, column, LARGEST, float(k)),
            ]
        return found

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        found: dict[Key, dict[Key, float]] = {}
        for m, n, out, c in self._ways(x):
            for key, gain in (
                ((0, m), product(c, x[1].high(n))),
                ((1, n), product(c, x[0].high(m))),
            ):
                if math.isfinite(gain):
                    row = found.setdefault(key, {})
                    row[0, out] = min(gain, row.get((0, out), math.inf))
        if {i for i, _ in found} == {0, 1}:
            return found
        k = x[0].type.shape[-1]
        what = f"each entry is a sum of `{k}` products, a number that is known only at run time"
        return what if isinstance(k, Symbol) else "there is no bound on the size of its members"

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        found: dict[Measure, Bound] = {}
        for m, n, out, c in self._ways(x):
            high = product(c, product(x[0].high(m), x[1].high(n)))
            found[out] = Bound(0.0, min(high, found[out].high) if out in found else high)
        return [found]

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        found: dict[tuple[Key, Key], dict[Key, float]] = {}
        for m, n, out, c in self._ways(x):
            found.setdefault(((0, m), (1, n)), {})[0, out] = c
            found.setdefault(((1, n), (0, m)), {})[0, out] = c
        return found

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, reduce(mul, scalars)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        a, b = x
        return (a[..., None] * b[..., None, :, :]).sum(-2)

    def emit(self, x: Any, type: Type, own: str) -> str:
        a, b = map(expression, parts(x, 2))
        return f"torch.matmul({a}, {b})"


def _ends(a: Tensor, b: Tensor) -> tuple[Role, Role]:
    """The roles of the rows of a and the columns of b; entries of a vector, if nothing else is."""
    rows, columns = a.roles[-2], b.roles[-1]
    return (rows, columns if "channel" in (rows, columns) else "channel")
