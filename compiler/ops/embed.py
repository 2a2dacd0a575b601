"""`Embed` and `EmbeddingBag`, and `Unembed`, which reads the same rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from modnorm.ops.types import Real, Tensor, Type, vectors

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


@dataclass(frozen=True)
class Table(Rows):
    """Rows that are looked up by integers."""

    count: int = argument("size")
    dim: int = argument("size")

    def _indices(self, x: Type, rank: int = 0) -> Tensor:
        """The input, whose integers have to be those of rows."""
        x = expect_tensor(self.name, x, rank=rank, dtype="int")
        if isinstance(x.bound, int) and x.bound > self.count:
            raise Misfit(
                f"`{self.name}` has {self.count} rows but its input goes up to {x.bound}"
                " (exclusive)",
                hint=f"give it {x.bound} rows: `{self.name}({x.bound}, {self.dim})`",
                argument="count",
            )
        return x

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.count, self.dim)


@register
@dataclass(frozen=True)
class Embed(Table):
    """Rows of a table: int[…] → (…, dim).

    An entry x gives row x of `count` rows of `dim` numbers. A row has RMS 1, where modula's
    PyTorch release multiplies rows of length 1 by √dim.
    """

    name = "Embed"

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = self._indices(x)
        return self, vectors((*x.shape, self.dim), x.roles)

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
class EmbeddingBag(Table):
    """The mean of rows of a table: int[…, bag] → (…, dim).

    The entries along the last axis are a bag: each is a row of `count`. With `mode = "sum"` rows
    are added up. Entries that are `padding_idx` are left out, and a bag without others gives zero.

    A row has RMS 1, as one of `Embed`. Of a sum of n rows the sensitivity is n, where bags have a
    size that is known; a weight's target is that of a mean still, and `n * EmbeddingBag(count,
    dim)` has one for sums.
    """

    name = "EmbeddingBag"
    origin = "1 for a mean; for a sum the number of rows, where that is known, and else 1"

    mode: str = argument("choice", "mean", choices=("mean", "sum"))
    padding_idx: int | None = argument("index", None)
    terms: int | None = field(default=None, kw_only=True)
    """How many rows are added up, once that is known."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = self._indices(x, rank=1)
        if self.padding_idx is not None and self.padding_idx >= self.count:
            raise Misfit(
                f"`padding_idx` of `EmbeddingBag` is {self.padding_idx}, but its rows are 0 to"
                f" {self.count - 1}",
                hint="it is the integer that is left out of bags, one of those of rows",
                argument="padding_idx",
            )
        bag = x.shape[-1]
        known = bag if self.mode == "sum" and isinstance(bag, int) else None
        return dataclasses.replace(self, terms=known), vectors(
            (*x.shape[:-1], self.dim), x.roles[:-1]
        )

    @property
    def sensitivity(self) -> Real:
        return self.terms or 1

    @property
    def certified(self) -> Real | str:
        if self.mode == "sum" and self.terms is None:
            return "it is the number of rows in a bag, which is not known here"
        return self.sensitivity

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        if isinstance(self.certified, str):
            return self.certified
        return between((ONE_HOT, Measure((len(x[0].type.shape) - 1,)), float(self.certified)))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        left_out = -1 if self.padding_idx is None else self.padding_idx
        kept = (x != left_out).to(weight.dtype).unsqueeze(-1)
        total = (weight[x] * kept).sum(-2)
        return total / kept.sum(-2).clamp_min(1) if self.mode == "mean" else total

    @property
    def layer(self) -> tuple[str, str]:
        return "nn.EmbeddingBag", f'count, dim, mode="{self.mode}", padding_idx={self.padding_idx}'

    def emit(self, x: Any, type: Type, own: str) -> str:
        how = f', "{self.mode}", {self.padding_idx}'
        how = how if self.padding_idx is not None else how.removesuffix(", None")
        return f"bagged({x}, {own}.weight, {own}.name{how})"

    def helpers(self) -> tuple[str, ...]:
        return (copied("looked_up"), copied("bagged"))


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
