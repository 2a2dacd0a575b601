"""`Experts`: a mixture of experts, and the axis along which they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import (
    Advice,
    Bond,
    Misfit,
    Op,
    Sharpness,
    amount,
    argument,
    expect_tensor,
)
from modnorm.ops.edges import (
    LARGEST,
    Bound,
    Edge,
    Form,
    Key,
    Matrix,
    Measure,
    each_measure,
    product,
    tracked,
)
from modnorm.ops.families import LinearBond, ratio_root
from modnorm.ops.joins import Select
from modnorm.ops.registry import register
from modnorm.ops.shapes import of_experts
from modnorm.ops.text import copied, expression, parts
from modnorm.ops.types import Real, Size, Tensor, TupleType, Type, vectors
from modnorm.ops.types import product as sizes_product

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Scored(LinearBond):
    """A tuple (x, scores) of (…, d) and (…, experts), as it is."""

    name = "Scored"
    label = "Experts"
    internal = True
    is_identity = True

    count: int = argument("size")

    def resolve(self, x: Type) -> tuple[Self, Type]:
        value, scores = _pair(x, self.count)
        _check_places(scores, value, value.shape[:-1])
        return self, x

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return each_measure(x)

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [dict(edge.bounds) for edge in x]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        return x

    def emit(self, x: Any, type: Type, own: str) -> str:
        return expression(x)


@register
@dataclass(frozen=True)
class Member(Select):
    """One of x and the scores, which different operations read: what comes to both is one value."""

    name = "Member"
    label = "Experts"
    internal = True
    by_vector = False
    picks_apart = True


def _pair(x: Type, count: int) -> tuple[Tensor, Tensor]:
    """What comes to experts, or from them, and a score for each of them."""
    if not isinstance(x, TupleType) or len(x.members) != 2:
        what = f"a tuple of {len(x.members)}" if isinstance(x, TupleType) else "one value"
        raise Misfit(
            f"`Experts` takes a tuple (x, scores), but its input is {what}: {x}",
            hint="give it a score for each expert beside x:"
            f" `Experts(…) @ (Identity, Readout({count}))`",
            code="E402",
        )
    value, scores = (expect_tensor("Experts", member, rank=1) for member in x.members)
    if scores.shape[-1] != count:
        raise Misfit(
            f"`Experts` has {amount(count, 'expert')}, but the scores are {scores}",
            hint=f"let the router end with `Readout({count})`",
            argument="count",
        )
    return value, scores


def _check_places(scores: Tensor, value: Tensor, lead: tuple[Size, ...]) -> None:
    if scores.shape[:-1] != lead:
        raise Misfit(
            f"`Experts` needs scores for each vector, but x is {value} and the scores are {scores}",
            hint="let the router keep all axes but the last",
        )


@register
@dataclass(frozen=True)
class Spread(LinearBond):
    """The same vector for each expert: (…, d) → (…, experts, d)."""

    name = "Spread"
    label = "Experts"
    internal = True
    fans_out = True

    experts: int = argument("size")

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.label, x, rank=1)
        lead = ("other",) if len(x.shape) > 1 else ()
        shape = (*x.shape[:-1], self.experts, x.shape[-1])
        return self, vectors(shape, (*x.roles[:-1], "other"), *lead)

    def _pairs(self, edge: Edge, type: Type) -> list[tuple[Measure, Measure]]:
        """Measures of the input, and what they are of the output: those of each expert."""
        out, place = tracked(self._out(type)), len(edge.type.shape) - 1
        moved = {m: Measure(tuple(a + (a == place) for a in m.axes)) for m in edge.tracked}
        return [
            (m, like)
            for m, of in moved.items()
            for like in (of, Measure(tuple(sorted({*of.axes, place}))))
            if like in out
        ]

    def _out(self, type: Type) -> Tensor:
        out = self.resolve(type)[1]
        assert isinstance(out, Tensor)
        return out

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        found: dict[Key, dict[Key, float]] = {}
        for measure, like in self._pairs(x[0], type):
            found.setdefault((0, measure), {})[0, like] = 1.0
        return found

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        pairs = self._pairs(x[0], type)
        return [{like: Bound(x[0].low(m), x[0].high(m)) for m, like in pairs}]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        return torch.stack((x,) * self.experts, -2)

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, Tensor)
        stretched = "-1, " * (len(type.shape) - 1)
        return f"{x}.unsqueeze(-2).expand({stretched}{self.experts}, -1)"


@register
@dataclass(frozen=True)
class Experts(Bond):
    """A mixture of `count` experts, each a copy of `module` with weights of its own: for a tuple
    (x, scores) of (…, d) and (…, count), Σ gate·expert(x) over the `top` experts of the largest
    scores.

    `Experts(f, 8, 2) @ (Identity, Readout(8))` is a usual layer, whose router is a `Readout`. The
    gates are the softmax of the chosen scores, which sum to 1 (Mixtral); with `normalize = false`
    they are those of the softmax of all scores (Switch, Qwen). All are chosen unless `top` says
    otherwise.

    A weight of `module` becomes one weight with a matrix, or a vector, for each expert: it is
    measured by the largest, and has one mass and one target. `module` consists of what works on
    each vector by itself: `Linear`, `Bias`, `Scale`, functions of entries, products, sums,
    normalizations along the last axis, `Dropout`.

    Where some are chosen, the others are not computed: vectors are sorted by expert, which reads
    the choices from the device. Under torch.compile and torch.export, where no size may depend on
    data, and where `module` has a repetition, all are computed, and most gates are 0.

    Declared 1, for experts of outputs and scores of entries within 1. That is proved where all are
    chosen: the gates are a convex combination, and where scores move by at most 1, the gates move
    by at most 1 in sum. Where some are chosen, the output jumps where two scores are equal.

    Sources: Shazeer et al. 2017 (arXiv 1701.06538), Fedus et al. 2021 (arXiv 2101.03961), Jiang et
    al. 2024 (arXiv 2401.04088).
    """

    name = "Experts"
    origin = "1 from the largest score and the largest expert; proved where all are chosen"

    module_: Any = argument("module")
    count: int = argument("size")
    top: int | None = argument("size", None)
    normalize: bool = argument("flag", True)

    sensitivity = 1

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if self.chosen > self.count:
            raise Misfit(
                f"`Experts` cannot choose {self.chosen} of {amount(self.count, 'expert')}",
                hint="`top` is how many of the `count` experts each vector goes to",
                argument="top",
                code="E302",
            )
        y, scores = _pair(x, self.count)
        y = of_experts(self, y, self.count)
        _check_places(scores, y, y.shape[:-2])
        return self, vectors((*y.shape[:-2], y.shape[-1]), y.roles[:-2])

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        if self.count > 1:
            return ()
        return (Advice("W609", "`Experts` of one expert has nothing to choose", "leave it out"),)

    @property
    def chosen(self) -> int:
        """How many experts a vector goes to."""
        return self.count if self.top is None else self.top

    @property
    def certified(self) -> Real | str:
        """From the RMS of scores, in which they are spoken of, the largest is up to √count."""
        if self.chosen < self.count:
            return "which experts are chosen jumps where two scores are equal"
        return max(1, ratio_root(Fraction(self.count, 2)))

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 0.0, 1.0) if self.chosen == self.count else None

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def _measures(self, x: Sequence[Edge]) -> list[tuple[Measure, Measure]]:
        """Measures of what the experts give in which the largest expert counts, and of the sum."""
        last = x[0].last
        return [(last, Measure((last.axes[0] - 1,))), (LARGEST, LARGEST)]

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        if isinstance(self.certified, str):
            return self.certified
        found: dict[Key, dict[Key, float]] = {}
        half = float(ratio_root(Fraction(self.count, 2)))
        for own, out in self._measures(x):
            found[0, own] = {(0, out): 1.0}
            for measure, gain in ((LARGEST, 1.0), (x[1].last, half)):
                found.setdefault((1, measure), {})[0, out] = product(gain, x[0].high(own))
        return found

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        return [{out: Bound(0.0, x[0].high(own)) for own, out in self._measures(x)}]

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        if isinstance(self.certified, str):
            return self.certified
        found: dict[tuple[Key, Key], dict[Key, float]] = {}
        score = (1, LARGEST)
        for own, out in self._measures(x):
            found[(0, own), score] = found[score, (0, own)] = {(0, out): 1.0}
            found.setdefault((score, score), {})[0, out] = x[0].high(own)
        return found

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        value, scores = scalars
        return (self, value) if scores == 1 else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        y, scores = x
        shares, _ = _shares(scores, self.chosen, self.normalize)
        return (shares.unsqueeze(-1) * y).sum(-2)

    def emit(self, x: Any, type: Type, own: str) -> str:
        y, scores = map(expression, parts(x, 2))
        how = "" if self.chosen == self.count else f", {self.chosen}"
        how += "" if self.normalize or not how else ", normalize=False"
        return f'torch.einsum("...e,...ed->...d", gates({scores}{how}).to({y}.dtype), {y})'

    def routed(self, x: Type) -> tuple[Op, tuple[Op, ...], Op] | None:
        if self.chosen == self.count:
            return None
        begun = Routed(self.count, self.chosen, self.normalize)
        return begun, tuple(map(Select, range(4))), Unrouted()

    def helpers(self) -> tuple[str, ...]:
        some = () if self.chosen == self.count else (copied("choices"),)
        return (copied("widened"), *some, copied("gates"))


def _shares(scores: Any, top: int, normalize: bool) -> tuple[Any, Any]:
    """What each expert counts, 0 where it is not chosen; and where it is."""
    import torch

    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1]).expand_as(order)
    chosen = torch.zeros_like(order).scatter(-1, order, places) < top
    gates = (scores - scores.amax(-1, keepdim=True)).exp()
    whole = gates.sum(-1, keepdim=True)
    gates = gates * chosen
    return gates / (gates.sum(-1, keepdim=True) if normalize else whole), chosen


@dataclass(frozen=True)
class Routed(Bond):
    """(x, scores) to the vectors that each expert gets, one expert's after the other's; how many
    those are; which ones of x; and their gates."""

    name = "Routed"
    label = "Experts"
    internal = True

    count: int
    top: int
    normalize: bool

    sensitivity = 1
    certified = "which experts are chosen jumps where two scores are equal"
    sharpness = None

    def resolve(self, x: Type) -> tuple[Self, Type]:
        value, _ = _pair(x, self.count)
        rows = sizes_product((*value.shape[:-1], self.top))
        vectors_ = vectors((rows, value.shape[-1]), ("other",))
        places, shares = (Tensor(dtype, (rows,)) for dtype in ("int", "float"))
        return self, TupleType((vectors_, Tensor("int", (self.count,)), places, shares))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        value, scores = x
        shares, chosen = _shares(scores.reshape(-1, self.count), self.top, self.normalize)
        expert, places = chosen.mT.nonzero(as_tuple=True)
        rows = value.reshape(-1, value.shape[-1])[places]
        return rows, chosen.sum(0), places, shares[places, expert]

    def emit(self, x: Any, type: Type, own: str) -> str:
        how = "" if self.normalize else ", normalize=False"
        return f"routed({', '.join(map(expression, parts(x, 2)))}, {self.top}{how})"

    def helpers(self) -> tuple[str, ...]:
        return (copied("widened"), copied("choices"), copied("routed"))


@dataclass(frozen=True)
class Unrouted(LinearBond):
    """What experts made of the vectors that they got, summed for each vector by its gates."""

    name = "Unrouted"
    label = "Experts"
    internal = True

    def resolve(self, x: Type) -> tuple[Self, Type]:
        assert isinstance(x, TupleType)
        y, value = x.members[:2]
        assert isinstance(y, Tensor)
        assert isinstance(value, Tensor)
        return self, vectors((*value.shape[:-1], y.shape[-1]), value.roles[:-1])

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        y, value, places, shares = x
        sums = y.new_zeros(value.shape[:-1].numel(), y.shape[-1])
        return sums.index_add(0, places, shares[:, None] * y).view(*value.shape[:-1], -1)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"unrouted({', '.join(map(expression, parts(x, 4)))})"

    def helpers(self) -> tuple[str, ...]:
        return (copied("unrouted"),)
