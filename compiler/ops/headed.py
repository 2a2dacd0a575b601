"""`HeadedLinear`: a matrix for each head."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Atom, Misfit, Norm, Op, argument, expect_tensor
from modnorm.ops.edges import Edge, Matrix, Measure, between
from modnorm.ops.linear import width
from modnorm.ops.matrices import spectral_dual, spectral_size
from modnorm.ops.registry import register
from modnorm.ops.shapes import headed
from modnorm.ops.text import copied
from modnorm.ops.types import Real, Tensor, Type

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class HeadedLinear(Atom):
    """`SplitHeads(heads) @ Linear(out)`, with a norm a head: (…, seq, in) → (…, heads, seq, d).

    The weight is a matrix (d, in) for each head, d = out/heads, and its norm the largest one's. So
    the sensitivity is 1 from the RMS of a token to the largest RMS of a head, where that of
    `SplitHeads` behind a `Linear` is √heads.
    """

    name = "HeadedLinear"
    norm = Norm("spectral", "max over heads of √(in/d)·σ_max", "RMS to the largest RMS of a head")
    axes = ("heads", "d", "in_")
    init = (
        "for i in range(heads):\n"
        "    nn.init.orthogonal_(weight[i], gain=math.sqrt(d / in_), generator=generator)"
    )

    out: int = argument("size")
    heads: int = argument("size")
    in_: int | None = argument("size", inferred=True)

    def along(self, x: Type) -> tuple[int, ...]:
        return (len(x.shape) - 2,) if isinstance(x, Tensor) else ()

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=2)
        found = dataclasses.replace(self, in_=width(self, x, self.in_))
        if self.out % self.heads:
            raise Misfit(
                f"`HeadedLinear` cannot split {self.out} outputs into {self.heads} equal heads",
                hint=f"choose a number of heads that divides {self.out}",
                argument="heads",
            )
        return found, headed(x, self.heads, self.d)

    @property
    def d(self) -> int:
        """The size of a head."""
        return self.out // self.heads

    @property
    def weight_shape(self) -> tuple[int, ...]:
        assert self.in_ is not None, "not resolved"
        return (self.heads, self.d, self.in_)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        rank = len(x[0].type.shape)
        whole, head = Measure(tuple(range(1, rank))), Measure((rank,))
        return between((x[0].last, head, 1.0), (whole, Measure((*whole.axes, rank)), 1.0))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    def helpers(self) -> tuple[str, ...]:
        return (copied("headed"),)

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return spectral_size(weight).amax()

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        return spectral_dual(gradient)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return x.unsqueeze(-3) @ weight.mT

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"headed({x}, {own}.weight)"
