"""`Attention`, the part of it without weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Advice, Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import LARGEST, Bound, Edge, Form, Matrix, Measure
from modnorm.ops.families import magnitude
from modnorm.ops.registry import register
from modnorm.ops.shapes import known
from modnorm.ops.text import as_float, copied, expression, number, parts, times
from modnorm.ops.types import Real, Size, Tensor, TupleType, Type, vectors

if TYPE_CHECKING:
    import torch

BY_WIDTH, BY_ROOT = "1/d", "1/sqrt(d)"
TANH_BEND = math.nextafter(4 / (3 * math.sqrt(3)), 1)
"""The largest second derivative of tanh."""


TYPICAL = Fraction(1, 3)
"""How far attention moves with one of q, k and v where logits are scaled by 1/√d, typically: 0.2 to
0.7, by benchmarks/downstream.py."""


@register
@dataclass(frozen=True)
class Attention(Bond):
    """softmax(scale/d · q kᵀ) v for a tuple (q, k, v) of values (batch, heads, seq, d).

    The logits are scaled by 1/d and not by 1/√d: only so is attention's sensitivity bounded
    whatever d is. It is max(1, |scale|), where a value's norm is the largest RMS of a head's vector
    and q, k and v have norm at most 1. `scale` is a number over d, or `"1/sqrt(d)"`, or `"1/d"`,
    which is 1. Above 1 the bound is far from what happens, and 1/3 is declared, as measured in
    language models at initial weights. The keys' d may differ from the values', and their length
    from the queries'.

    Keys and values may have fewer heads, a divisor g of the queries' h: query head i reads key head
    i // (h/g), as with torch's `enable_gqa`.

    What a query sees: with `causal`, the query at position i the keys up to position i, counted
    from the first of both, as in torch where their lengths differ. With `window = w`, the last w of
    these keys; without `causal`, those at a distance below w. A mask, in (q, k, v, mask) or as
    `mask = pad` with the name of an input, or a module that makes one of (q, k, v), is `bool`
    (true: may be seen) or `float` (added to the logits), of sizes that broadcast to (batch, heads,
    queries, keys). A query that sees no key gives zeros, where plain torch may give nan.

    The logits: with `softcap = c` they are c·tanh(logits / c). Then with `alibi` a multiple of the
    distance of query and key is taken off, by the slope of the head, 2^(-8i/h) for the i-th of h.

    Sources: Ainslie et al. 2023 (arXiv 2305.13245) for groups, Press et al. 2022 (arXiv 2108.12409)
    for `alibi`, Gemma 2 (arXiv 2408.00118) for `softcap`.
    """

    name = "Attention"
    origin = (
        "modula: 1 at scale 1, proved for q, k, v of norm at most 1 per head; a typical value, 1/3,"
        " at larger ones"
    )

    causal: bool = argument("flag", False)
    scale: Real | str = argument("number", 1, choices=(BY_WIDTH, BY_ROOT))
    window: int | None = argument("size", None)
    softcap: Real | None = argument("number", None)
    alibi: bool = argument("flag", False)
    mask: None = argument("member", None, named=True)
    masked: bool = field(default=False, kw_only=True)
    """Whether there is a mask; known once resolved."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        given = _flat(x)
        if _masked_twice(x):
            raise Misfit(
                "`Attention` takes one mask, but gets two: the fourth member of (q, k, v, mask),"
                " and one beside that tuple, which is where `mask = …` puts it",
                hint="leave one of them out: `Attention(mask = m) @ (q, k, v)`",
                code="E402",
            )
        if not isinstance(x, TupleType) or len(given) not in (3, 4):
            what = f"a tuple of {len(given)}" if isinstance(x, TupleType) else "one value"
            raise Misfit(
                f"`Attention` takes a tuple (q, k, v), but its input is {what}: {x}",
                hint="write `Attention @ (q, k, v)`, each `SplitHeads(heads) @ Linear(…)`,"
                " or `(q, k, v, mask)`",
                code="E402",
            )
        q, k, v = (expect_tensor(self.name, m, rank=3) for m in given[:3])
        self._check_sizes(q, k, v)
        if len(given) == 4:
            self._check_mask(given[3], q, k)
        d = known(self.name, q, -1, "the size of a head")
        if self.alibi and not _headed(q):
            raise Misfit(
                f"`alibi` of `Attention` has a slope for each head, but q is {q}, without heads",
                hint="give q, k and v four axes: `SplitHeads(heads) @ Linear(…)`",
                argument="alibi",
            )
        if self.alibi:
            known(self.name, q, -3, "the number of heads, for `alibi`", "alibi")
        if self.softcap is not None and as_float(self.name, "softcap", self.softcap) <= 0:
            raise Misfit(
                "`softcap` of `Attention` must be positive: logits stay between -softcap and"
                " softcap",
                hint="leave it out for logits as they are",
                argument="softcap",
                code="E302",
            )
        scale = _factor(d) if self.scale == BY_ROOT else 1 if self.scale == BY_WIDTH else self.scale
        assert not isinstance(scale, str)
        as_float(self.name, "scale", scale)
        found = dataclasses.replace(self, scale=scale, masked=len(given) == 4)
        return found, vectors((*q.shape[:-1], v.shape[-1]), q.roles[:-1])

    def _check_sizes(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        lead = slice(None, -3 if _headed(q) else -2)
        pairs = [
            (q, k, lead, "the leading axes of q and k"),
            (q, v, lead, "the leading axes of q and v"),
            (q, k, slice(-1, None), "the last axis of q and k"),
            (k, v, slice(-2, -1), "the sequence of k and v"),
        ]
        if _headed(q):
            pairs.append((k, v, slice(-3, -2), "the heads of k and v"))
        for one, other, kept, what in pairs:
            a, b = one.shape[kept], other.shape[kept]
            if a != b:
                shown = " and ".join(_sizes(s) for s in (a, b))
                raise Misfit(
                    f"`Attention` needs {what} to be equal, but they are {shown}:"
                    f" q is {q}, k is {k}, v is {v}"
                )
        h, g = q.shape[-3], k.shape[-3]
        if h != g and not (isinstance(h, int) and isinstance(g, int) and h % g == 0):
            raise Misfit(
                f"`Attention` cannot share {g} heads of keys among {h} heads of queries:"
                f" q is {q}, k is {k}, v is {v}",
                hint="the heads of q have to be a multiple of those of k and v",
            )

    def _check_mask(self, mask: Type, q: Tensor, k: Tensor) -> None:
        wanted = (*q.shape[:-1], k.shape[-2])
        if isinstance(mask, TupleType) or mask.dtype == "int":
            raise Misfit(
                f"the mask of `Attention` is `bool` (true: may be seen) or `float` (added to the"
                f" logits), but it is {mask}",
                hint=f"declare it so: `bool[{', '.join(map(str, wanted))}]`; any size may be 1",
                code="E402",
            )
        fits = 2 <= len(mask.shape) <= len(wanted)
        own = wanted[-len(mask.shape) :] if mask.shape else ()
        if not fits or any(a not in (1, b) for a, b in zip(mask.shape, own, strict=False)):
            *batch, _, _, last = wanted
            ones = ", ".join(map(str, (*batch, 1, 1, last)))
            raise Misfit(
                f"the mask of `Attention` has to broadcast to {_sizes(wanted)}, for each example,"
                f" head, query and key, but it is {mask}",
                hint=f"which keys may be seen is `bool[{ones}]`",
            )

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        q, k = (m.shape[-2] for m in _flat(x)[:2] if isinstance(m, Tensor))
        found = []
        if self.causal and q != k:
            what = f"`causal` attention of {q} queries to {k} keys counts both from the first:"
            what += " query i sees the keys up to i"
            found.append(
                Advice("W618", what, "leave `causal` out where q attends to another value")
            )
        if self.window is not None and all(isinstance(n, int) and n <= self.window for n in (q, k)):
            what = f"a window of {self.window} is all of {q} queries and {k} keys: it does nothing"
            found.append(Advice("W618", what, "leave `window` out, or make it smaller"))
        return tuple(found)

    @property
    def factor(self) -> Real:
        """What the logits are multiplied by, times d."""
        assert not isinstance(self.scale, str), "not resolved"
        return self.scale

    @property
    def sensitivity(self) -> Real:
        return 1 if magnitude(self.factor) <= 1 else TYPICAL

    @property
    def certified(self) -> Real | str:
        return max(1, magnitude(self.factor))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        # Groups change nothing: a key moves several heads, and the largest of them counts. A cap
        # has slope at most 1, what is masked moves nothing, and alibi is constant.
        q, k, v = (edge.high(edge.last) for edge in x[:3])
        if not math.isfinite(q + k + v):
            return "there is no bound on the size of its q, k and v"
        s, last = abs(float(self.factor)), x[2].last
        found = {
            (0, last): {(0, last): s * k * v},
            (1, last): {(0, last): s * q * v},
            (2, last): {(0, last): 1.0},
            (2, LARGEST): {(0, LARGEST): 1.0},
        }
        if _adds(x):
            found[3, LARGEST] = {(0, last): v}
        return found

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        q, k, v = (edge.high(edge.last) for edge in x[:3])
        if not math.isfinite(q + k + v):
            return "there is no bound on the size of its q, k and v"
        s, last, bend = abs(float(self.factor)), x[2].last, self._bend
        measures = (last, last, last, LARGEST)
        pairs = {
            (0, 0): s * s * k * k * v * bend,
            (1, 1): s * s * q * q * v * bend,
            (0, 1): (s + s * s * q * k * bend) * v,
            (0, 2): s * k,
            (1, 2): s * q,
        }
        if _adds(x):
            pairs |= {(0, 3): s * k * v, (1, 3): s * q * v, (2, 3): 1.0, (3, 3): v}
        pairs |= {(j, i): size for (i, j), size in pairs.items()}
        return {
            ((i, measures[i]), (j, measures[j])): {(0, last): size}
            for (i, j), size in pairs.items()
        }

    @property
    def _bend(self) -> float:
        """The second derivative that moves of the logits have: 1, and what the cap adds."""
        return 1.0 if self.softcap is None else 1 + TANH_BEND / float(self.softcap)

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        size = magnitude(self.factor)
        if size <= 1:
            return ()
        width = x[0].type.shape[-1]
        root = math.sqrt(width) if isinstance(width, int) else math.inf
        how = "1/√d_head" if math.isclose(size, root, rel_tol=1e-3) else f"{float(size):.4g}/d_head"
        return (
            Advice(
                "A601",
                f"logits scaled by {how} have sensitivity {float(size):.4g} in queries and keys of"
                f" norm 1; scaled by 1/d_head they have 1, whatever d_head = {width} is",
                "leave `scale` at 1, and let a factor grow with training where it must",
            ),
        )

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        # an average of values, or zero
        return [{m: Bound(0.0, x[2].high(m)) for m in (x[2].last, LARGEST)}]

    @property
    def sharpness(self) -> Sharpness | None:
        s = abs(float(self.factor))
        return Sharpness(0.0, 0.0, s + s * s * self._bend)

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        q, k, v, *mask = (scalars[0],) * 3 + scalars[1:] if len(scalars) == 2 else scalars
        if any(factor != 1 for factor in mask):
            return None
        return dataclasses.replace(self, scale=self.factor * q * k), v

    @property
    def _is_plain(self) -> bool:
        """Whether torch's function says all of it."""
        return not (self.masked or self.window or self.alibi) and self.softcap is None

    def helpers(self) -> tuple[str, ...]:
        if self._is_plain:
            return ()
        needed = ["alibi"] if self.alibi else []
        needed += (
            ["visible", "attend"] if self.softcap is None else ["widened", "visible", "capped"]
        )
        return tuple(map(copied, needed))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        q, k, v, *mask = (*x[0], x[1]) if len(x) == 2 else x
        k, v = (m.repeat_interleave(q.shape[-3] // m.shape[-3], -3) for m in (k, v))
        logits = float(self.factor) / q.shape[-1] * (q @ k.transpose(-2, -1))
        if self.softcap is not None:
            logits = float(self.softcap) * torch.tanh(logits / float(self.softcap))
        distance = torch.arange(q.shape[-2])[:, None] - torch.arange(k.shape[-2])
        if self.alibi:
            logits = logits - torch.stack([s * distance.abs() for s in _slopes(q.shape[-3])])
        seen = torch.ones_like(logits, dtype=torch.bool)
        if self.causal:
            seen = seen & (distance >= 0)
        if self.window is not None:
            seen = seen & (distance.abs() < self.window)
        for m in mask:
            seen = seen & (m if m.dtype == torch.bool else m > -torch.inf)
            logits = logits if m.dtype == torch.bool else logits + m.masked_fill(m == -torch.inf, 0)
        blind = ~seen.any(-1, keepdim=True)
        weights = logits.masked_fill(~(seen | blind), -torch.inf).softmax(-1)
        return weights.masked_fill(blind, 0) @ v

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, TupleType)
        members = parts(x, len(type.members))
        members = (*parts(members[0], 3), members[1]) if len(members) == 2 else members
        q, k, v, *mask = map(expression, members)
        heads, groups = map(_tensor, _flat(type)[:2])
        d = heads.shape[-1]
        assert isinstance(d, int)
        scale = self.factor / d if isinstance(self.factor, float) else Fraction(self.factor) / d
        whole = [f"alibi({', '.join((q, k, *mask))})"] if self.alibi else mask
        seen = [str(self.causal)] if self.causal or self.window is not None else []
        seen += [] if self.window is None else [str(self.window)]
        seen = [*(whole or (["None"] if seen else [])), *seen]
        if self.softcap is not None:
            given = (q, k, v, number(scale), number(self.softcap), *seen)
            return f"capped({', '.join(given)})"
        if seen and scale <= 0:  # torch scales what it has masked: -inf times the scale
            q, scale = times(-1 if scale else 0, q), -scale or 1
        if not self._is_plain:
            return f"attend({', '.join((q, k, v, number(scale), *seen))})"
        how = "is_causal=True, " if self.causal else ""
        how += "enable_gqa=True, " if heads.shape[-3] != groups.shape[-3] else ""
        return f"F.scaled_dot_product_attention({q}, {k}, {v}, {how}scale={number(scale)})"


def _tensor(type: Type) -> Tensor:
    assert isinstance(type, Tensor)
    return type


def _flat(x: Type) -> tuple[Type, ...]:
    """The members of an input; with `mask` it is the pair ((q, k, v), mask)."""
    members = x.members if isinstance(x, TupleType) else (x,)
    match members:
        case (TupleType(members=(_, _, _, *_) as inner), mask):
            return (*inner, mask)
    return members


def _adds(x: Sequence[Edge]) -> bool:
    """Whether there is a mask that is added."""
    return len(x) == 4 and x[3].type.dtype == "float"


def _masked_twice(x: Type) -> bool:
    """Whether it is ((q, k, v, mask), mask)."""
    if not isinstance(x, TupleType) or len(x.members) != 2:
        return False
    return isinstance(x.members[0], TupleType) and len(x.members[0].members) == 4


def _headed(q: Tensor) -> bool:
    """Whether the third last axis counts heads."""
    return len(q.shape) > 3 or q.roles[-3] == "head"


def _factor(d: int) -> Real:
    """√d, exact where it is whole: d times 1/√d."""
    root = math.isqrt(d)
    return root if root * root == d else math.sqrt(d)


def _slopes(heads: int) -> list[float]:
    """The slopes of `alibi`; beside a power of two, every other one of twice as many heads."""
    whole = 2 ** (heads.bit_length() - 1)
    own = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    return own + [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]


def _sizes(sizes: tuple[Size, ...]) -> str:
    return str(sizes[0]) if len(sizes) == 1 else f"({', '.join(map(str, sizes))})"
