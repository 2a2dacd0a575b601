"""What computes otherwise in training: Dropout, DropPath, and what keeps statistics of batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modnorm.ops.base import Advice, Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import Edge, Form, Matrix, each_measure
from modnorm.ops.families import LinearBond
from modnorm.ops.registry import register
from modnorm.ops.shapes import each, entries, map_each, one_axis
from modnorm.ops.text import as_float, copied, expression, number
from modnorm.ops.types import Real, Tensor, Type

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Dropping(LinearBond):
    """What is left out in training at random, and else divided by the part that is left."""

    draws = True
    origin = "1, as in `eval()`; in training the mean output is the input"
    dropped: ClassVar[str]
    """What is dropped, for messages."""

    p: Real = argument("number")

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if not 0 <= as_float(self.name, "p", self.p) < 1:
            raise Misfit(
                f"`p` of `{self.name}` must be at least 0 and below 1, so that something is left",
                hint=f"it is the share of {self.dropped} that are dropped: `{self.name}(0.1)` drops"
                " one in ten",
                argument="p",
                code="E302",
            )
        return self, each(self.name, x, self._one)

    def _one(self, x: Tensor) -> Tensor:
        return x

    @property
    def certified(self) -> Real | str:
        bound = 1 / (1 - self.p)
        return int(bound) if bound == int(bound) else bound

    @property
    def is_identity(self) -> bool:
        return self.p == 0

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return each_measure(x, float(1 / (1 - self.p)))

    def module(self) -> str:
        return f"nn.{self.name}({number(self.p)})"

    def reference(self, x: Any, weight: Any = None) -> Any:
        return x

    def emit(self, x: Any, type: Type, own: str) -> str:
        return expression(map_each(lambda e: f"{own}({e})", x))


@register
@dataclass(frozen=True)
class Dropout(Dropping):
    """In training each entry is 0 with probability p, else divided by 1 - p; in `eval()` y = x.

    It takes one value, or each member of a tuple. Every use draws its own numbers, from torch's
    default generator. In training the largest entry may grow by 1/(1 - p), which is certified.

    Source: Srivastava et al. 2014 (JMLR 15).
    """

    name = "Dropout"
    by_vector = True
    dropped = "entries"

    p: Real = argument("number", Fraction(1, 2))


@register
@dataclass(frozen=True)
class DropPath(Dropping):
    """Stochastic depth: in training each example, along the first axis, is all 0 with probability
    p, else divided by 1 - p; in `eval()` y = x. It is for the branch of a residual block:
    `Identity + DropPath(0.1) @ f`.

    It takes one value, or each member of a tuple. Every use draws its own numbers, from torch's
    default generator. In training an example may grow by 1/(1 - p), which is certified. It is
    torchvision's `StochasticDepth(p, "row")`.

    Source: Huang et al. 2016 (arXiv 1603.09382).
    """

    name = "DropPath"
    dropped = "examples"

    p: Real = argument("number", Fraction(1, 10))

    def _one(self, x: Tensor) -> Tensor:
        return expect_tensor(self.name, x, rank=1)

    def helpers(self) -> tuple[str, ...]:
        return (copied(self.name),)

    def module(self) -> str:
        return f"{self.name}({number(self.p)})"


@dataclass(frozen=True)
class ChannelStatistics(Op):
    """What keeps a number for each channel: along the last axis, or axis 1 of an image."""

    size: int | None = argument("size", inferred=True)
    at: int | None = field(default=None, kw_only=True)
    """The axis of the channels, once it is known."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=2)
        at = x.channels if self.at is None else self.at % len(x.shape)
        size = entries(self.name, x, at, self.size)
        return dataclasses.replace(self, size=size, at=one_axis(at, len(x.shape))), x

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        assert self.size is not None, "not resolved"
        return (self.size,)

    def beside(self, buffer: torch.Tensor, rank: int) -> torch.Tensor:
        """A number for each channel as it stands beside a value of so many axes."""
        assert self.at is not None, "not resolved"
        return buffer.reshape([-1 if i == self.at % rank else 1 for i in range(rank)])


@dataclass(frozen=True)
class RunningStatistics(ChannelStatistics):
    """What keeps means of the batches that it has seen, each new one with the same share."""

    momentum: Real = argument("number", Fraction(1, 10))

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if not 0 < as_float(self.name, "momentum", self.momentum) <= 1:
            raise Misfit(
                f"`momentum` of `{self.name}` must be above 0 and at most 1",
                hint="it is the share of a new batch's mean in the running mean, such as 0.1",
                argument="momentum",
                code="E302",
            )
        return super().resolve(x)

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return None  # the buffers are of the input as it is

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{own}({x})"


@register
@dataclass(frozen=True)
class BatchMeanSubtract(RunningStatistics, LinearBond):
    """y = x - mean(x), for each channel over all other axes, the batch among them; in `eval()`
    y = x - running_mean. Channels are along the last axis, or axis 1 of an image.

    `running_mean` is a buffer that begins at 0: training moves it towards the batch's mean by the
    share `momentum`. This is BatchNorm without its division and its affine map. Examples of a batch
    move each other's outputs, so the certified sensitivity is 2.
    """

    name = "BatchMeanSubtract"
    buffers = ("running_mean",)
    origin = "1, as of one example among many, and as in `eval()`"

    certified = 2

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        # y is x minus an average of x with its entries moved around along axes, which keeps every
        # measure. So is it in eval(), where |x - running_mean| ≤ 2·high by `kept_by`.
        return each_measure(x, 2.0)

    def kept_by(self, x: Sequence[Edge], buffers: Mapping[str, torch.Tensor]) -> bool:
        (edge,) = x
        mean = self.beside(buffers["running_mean"].double(), len(edge.type.shape))
        return all(float(m.of(mean)) <= edge.high(m) * (1 + 1e-6) for m in edge.tracked)

    def module(self) -> str:
        return f"BatchMeanSubtract({self.size}, {number(self.momentum)}, {self.at}, **factory)"

    def reference(self, x: Any, weight: Any = None) -> Any:
        return x if weight is None else x - self.beside(weight["running_mean"], x.ndim)

    def helpers(self) -> tuple[str, ...]:
        return (copied("widened"), copied("BatchMeanSubtract"))


@register
@dataclass(frozen=True)
class BatchStandardize(RunningStatistics, Bond):
    """y = (x - mean(x)) / √(var(x) + eps), for each channel over all other axes, the batch among
    them; in `eval()` by running_mean and running_var. Channels are along the last axis, or axis 1
    of an image.

    This is torch.nn.BatchNorm1d and 2d without gain and bias, which `BatchNorm` has: the buffers
    begin at 0 and 1, and training moves them towards the batch's mean and unbiased variance by the
    share `momentum`. Examples of a batch move each other's outputs, by any amount where a batch is
    nearly constant, so there is no certificate.
    """

    name = "BatchStandardize"
    buffers = ("running_mean", "running_var")
    origin = "1, which holds in `eval()` where running_var is at least 1"

    eps: Real = argument("number", Fraction(1, 10**5))

    sensitivity = 1
    certified = "it divides by the deviation of a batch, which may be as small as 0"
    sharpness = Sharpness(0.0, 0.0, 1.1548)  # 2/√3, rounded up, for a batch of deviation 1

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if as_float(self.name, "eps", self.eps) < 0:
            raise Misfit(
                f"`eps` of `{self.name}` must be at least 0: it is added to a variance",
                argument="eps",
                code="E302",
            )
        return super().resolve(x)

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        reason = self.certified
        assert isinstance(reason, str)
        return reason

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        what = f"`{self.name}` has no bound: {self.certified}"
        hint = "what normalises each example by itself has one, with a large `eps`:"
        hint += " `GroupStandardize(1, eps = 0.01)` has 10"
        return (Advice("A607", what, hint),)

    def module(self) -> str:
        numbers = f"{number(self.momentum)}, {number(self.eps)}"
        return f"BatchStandardize({self.size}, {numbers}, {self.at}, **factory)"

    def reference(self, x: Any, weight: Any = None) -> Any:
        mean = 0.0 if weight is None else self.beside(weight["running_mean"], x.ndim)
        var = x.new_ones(1) if weight is None else self.beside(weight["running_var"], x.ndim)
        return (x - mean) / (var + float(self.eps)).sqrt()

    def helpers(self) -> tuple[str, ...]:
        return (copied("BatchStandardize"),)
