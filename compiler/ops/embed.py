"""`Embed`, and `Unembed`, which reads the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import (
    Atom,
    Misfit,
    Norm,
    Op,
    Reader,
    Sharpness,
    argument,
    expect_tensor,
)
from modnorm.ops.edges import LARGEST, ONE_HOT, Edge, Matrix, Measure, between
from modnorm.ops.registry import register
from modnorm.ops.shapes import known
from modnorm.ops.text import copied
from modnorm.ops.types import Real, Type, vectors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows(Atom):
    """A weight of rows, each of which is measured by itself."""

    norm = Norm("row_rms", "max over rows of RMS(row)")
    axes = ("count", "dim")
    init = (
        "nn.init.normal_(weight, generator=generator)\n"
        "weight /= weight.square().mean(dim=1, keepdim=True).sqrt()"
    )

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.square().mean(dim=1).sqrt().amax()

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        rms = gradient.square().mean(dim=1, keepdim=True).sqrt()
        return gradient / rms.masked_fill(rms == 0, 1)


@register
@dataclass(frozen=True)
class Embed(Rows):
    """Rows of a table: int[…] → (…, dim).

    An entry x gives row x of `count` rows of `dim` numbers. A row has RMS 1, where modula's
    PyTorch release multiplies rows of length 1 by √dim.
    """

    name = "Embed"

    count: int = argument("size")
    dim: int = argument("size")

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, dtype="int")
        if isinstance(x.bound, int) and x.bound > self.count:
            raise Misfit(
                f"`Embed` has {self.count} rows but its input goes up to {x.bound} (exclusive)",
                hint=f"give it {x.bound} rows: `Embed({x.bound}, {self.dim})`",
                argument="count",
            )
        return self, vectors((*x.shape, self.dim), x.roles)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.count, self.dim)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return between((ONE_HOT, Measure((len(x[0].type.shape),)), 1.0))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return weight[x]

    @property
    def layer(self) -> tuple[str, str]:
        return "nn.Embedding", "count, dim"

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"looked_up({x}, {own}.weight, {own}.name)"

    def helpers(self) -> tuple[str, ...]:
        return (copied("looked_up"),)


@register
@dataclass(frozen=True)
class Unembed(Reader):
    """y = x Eᵀ / dim: scores against the rows E of a shared `Embed`: (…, dim) → (…, count).

    The factor 1/dim makes the readout's norm the Embed's own, so that one norm and one target serve
    both uses of the weight. It is the norm from RMS to the largest score.
    """

    name = "Unembed"

    sensitivity = 1
    certified = 1
    sharpness = Sharpness(0.0, 1.0, 0.0)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=1)
        width = known(self.name, x, -1, "the size of the last axis")
        if width != self.dim:
            raise Misfit(
                f"`Unembed` reads rows of {self.dim} numbers but its input has {width}",
                hint=f"bring the input to {self.dim} with `Linear({self.dim})`",
                argument="embed",
            )
        return self, vectors((*x.shape[:-1], self.count), x.roles[:-1])

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return between((x[0].last, LARGEST, 1.0))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return x @ weight.T / self.dim

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"F.linear({x} / {self.dim}, {own}.weight)"
