"""`Fused`: several weights in one parameter, and `QKV`."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.kernels.weight import Layout
from modnorm.ops.base import Atom, Misfit, Norm, Sharpness, Weighted, argument
from modnorm.ops.headed import HeadedLinear
from modnorm.ops.registry import register
from modnorm.ops.text import copied
from modnorm.ops.types import Real, TupleType, Type

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fused(Weighted):
    """Atoms of one input whose weights stand in one parameter: it gives the tuple of their outputs.

    A model has them as a tuple of parts with names, so that each has a mass, a norm, a target and a
    place in the data flow of its own; `mass` is that of each. What is declared here beside is how
    the parameter is shaped, begins and is used, as an atom's.
    """

    @abstractmethod
    def parts(self) -> Mapping[str, Atom]:
        """The atoms by name, in the order of the outputs; resolved, if this is."""

    @abstractmethod
    def layout(self, part: str, parameter: str = "") -> Layout:
        """Where the parameter, of this name, has the weight of a part."""

    def resolved(self, part: Atom, x: Type) -> tuple[Atom, Type]:
        """A part for an input of a type, and the type of its output; misfits name the whole."""
        try:
            return part.resolve(x)
        except Misfit as misfit:
            raise Misfit(
                misfit.message.replace(f"`{part.name}`", f"`{self.name}`"),
                hint=misfit.hint.replace(f"`{part.name}", f"`{self.name}"),
                argument=misfit.argument,
                code=misfit.code,
            ) from None

    @property
    def norm(self) -> Norm:
        """What there is to say of the norms, for people."""
        each = dict.fromkeys(part.norm.formula for part in self.parts().values())
        return Norm("", f"for each of {', '.join(self.parts())}: {', '.join(each)}")

    @property
    def sensitivity(self) -> Real:
        return sum(part.sensitivity for part in self.parts().values())

    @property
    def certified(self) -> Real | str:
        bounds = [part.certified for part in self.parts().values()]
        why = next((bound for bound in bounds if isinstance(bound, str)), None)
        return why or sum(bound for bound in bounds if not isinstance(bound, str))

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 1.0, 0.0)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        found = []
        for name, part in self.parts().items():
            own = self.layout(name).view(weight).reshape(part.weight_shape)
            found.append(part.reference(x, own))
        return tuple(found)


@register
@dataclass(frozen=True)
class QKV(Fused):
    """Queries, keys and values of attention: (…, seq, in) → three values (…, heads, seq, d).

    It is `(HeadedLinear(out, heads), HeadedLinear(out, heads), HeadedLinear(out, heads))`, computed
    at once: the weights are the rows of one parameter (3·out, in), q's first, then k's and v's.
    `mass` is that of each of the three.
    """

    name = "QKV"
    axes = ("rows", "in_")

    out: int = argument("size")
    heads: int = argument("size")
    in_: int | None = argument("size", inferred=True)

    def parts(self) -> Mapping[str, Atom]:
        part = HeadedLinear(self.out, self.heads, self.in_, mass=self.mass)
        return dict.fromkeys("qkv", part)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        part, out = self.resolved(self.parts()["q"], x)
        assert isinstance(part, HeadedLinear)
        return dataclasses.replace(self, in_=part.in_), TupleType((out,) * 3)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        assert self.in_ is not None, "not resolved"
        return (3 * self.out, self.in_)

    def layout(self, part: str, parameter: str = "") -> Layout:
        shape, start = self.weight_shape, "qkv".index(part) * self.out
        take = ((start, start + self.out), (0, shape[1]))
        return Layout(parameter, shape, shape, take, (0, 1))

    @property
    def init(self) -> str:
        return (
            f"for part in weight.view({3 * self.heads}, -1, in_):  # the matrix of each head\n"
            "    nn.init.orthogonal_(part, gain=math.sqrt(len(part) / in_), generator=generator)"
        )

    @property
    def shown(self) -> str:
        return f"out={self.out}, heads={self.heads}, in={{1}}"

    def helpers(self) -> tuple[str, ...]:
        return (copied("fused_heads"),)

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"fused_heads({x}, {own}.weight, {self.heads}, 3)"
