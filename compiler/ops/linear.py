"""`Linear`, a matrix without bias, in a norm of choice, and `Readout`."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modnorm.ops.base import Advice, Atom, Misfit, Norm, Op, amount, argument, expect_tensor
from modnorm.ops.edges import LARGEST, Edge, Measure, between
from modnorm.ops.edges import Matrix as Gains
from modnorm.ops.matrices import CHOICES, SPECTRAL, MatrixNorm
from modnorm.ops.registry import register
from modnorm.ops.shapes import is_routed, mend_in, of_experts
from modnorm.ops.text import copied, expression, parts
from modnorm.ops.types import Real, Tensor, Type, vectors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MatrixAtom(Atom):
    """y = x Wᵀ over the last axis, for a weight (out, in) in one of the norms of a matrix."""

    axes: ClassVar[tuple[str, ...]] = ("out", "in_")

    out: int = argument("size")
    in_: int | None = argument("size", inferred=True)

    @property
    @abstractmethod
    def choice(self) -> MatrixNorm:
        """The norm with its duality map."""

    @property
    def norm(self) -> Norm:
        return self.choice.norm

    @property
    def init(self) -> str:
        return self.choice.init

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.label, x, rank=1)
        found = dataclasses.replace(self, in_=width(self, x, self.in_))
        return found, vectors((*x.shape[:-1], self.out), x.roles[:-1], x.roles[-1])

    @property
    def weight_shape(self) -> tuple[int, ...]:
        assert self.in_ is not None, "not resolved"
        return (self.out, self.in_)

    @property
    def certified(self) -> Real | str:
        if self.choice.into == "rms":
            return 1
        return self.in_ or "it is the number of inputs, which is not known here"

    def gains(self, x: Sequence[Edge], type: Type) -> Gains | str:
        """In every norm that takes in whole rows, and in the two that the choice is about."""
        (edge,) = x
        last = edge.last
        bound = 1.0 if self.choice.into == "rms" else float(self.weight_shape[1])
        rows = [(m, m, bound) for m in edge.tracked if last.axes[0] in m.axes]
        source = last if self.choice.into == "rms" else Measure(last.axes, True)
        target = last if self.choice.out == "rms" else LARGEST
        return between(*rows, (source, target, 1.0))

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        size = x[0].high(Measure(x[0].last.axes, True))
        if self.choice.into == "rms" or size <= 1 + 1e-9:
            return ()
        return (
            Advice(
                "A603",
                f'norm "{self.choice.norm.name}" is for inputs whose absolute entries sum to 1;'
                f" here they sum to up to {size:.4g}, which grows with the width",
                'put a `Softmax` before it, or take `norm = "spectral"`',
            ),
        )

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return self.choice.size(weight)

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        return self.choice.dual(gradient)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return x @ weight.T

    @property
    def layer(self) -> tuple[str, str]:
        return "nn.Linear", "in_, out, bias=False"

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"F.linear({x}, {own}.weight)"


def width(op: Op, x: Tensor, given: int | None) -> int:
    """The size of the last axis, or a Misfit where it is not known or not the one given."""
    size = x.shape[-1]
    if not isinstance(size, int):
        mean = f"make a vector of it first: `{op.label}(…) @ Flatten @ AdaptiveAvgPool`"
        raise Misfit(
            f"`{op.label}` needs a fixed input size, but the last axis of {x} is `{size}`",
            hint=mean if x.is_image else "give the size a number in the `input` declaration",
        )
    if given is not None and given != size:
        message = f"`{op.label}` expects {amount(given, 'input')} but gets {size}"
        raise Misfit(message, hint=mend_in(op, size), argument="in")
    return size


@register
@dataclass(frozen=True)
class Linear(MatrixAtom):
    """y = x Wᵀ over the last axis, without bias; `Linear(8) >> Bias` adds one.

    The scale √(out/in) is in the weight, and not in the forward pass as in modula's PyTorch
    release; the two are the same after scaling weights by it.

    `norm` chooses the norm in which the weight is measured, moved and dualized, and so the norms of
    values between which its sensitivity is 1. From RMS to RMS, `"column"` is certified for the
    number of inputs only.
    """

    name = "Linear"

    norm_: str = argument("choice", SPECTRAL, choices=tuple(CHOICES), named=True)

    @property
    def choice(self) -> MatrixNorm:
        return CHOICES[self.norm_]

    def stacked(self, count: int) -> Op | None:
        if self.norm_ != SPECTRAL:
            return None
        begins = {"mass": self.mass, "init_": self.init_, "std": self.std}
        return ExpertLinear(self.out, self.in_, experts=count, **begins)


@register
@dataclass(frozen=True)
class ExpertLinear(MatrixAtom):
    """`Linear` with a matrix for each expert: (…, experts, in) → (…, experts, out).

    The weight is measured by the largest of its matrices, so that it counts as one.
    """

    name = "ExpertLinear"
    label = "Linear"
    internal = True
    norm = Norm("spectral", "max over experts of √(in/out)·σ_max", "RMS to RMS")
    axes = ("experts", "out", "in_")
    init = (
        "for matrix in weight:\n"
        "    nn.init.orthogonal_(matrix, gain=math.sqrt(out / in_), generator=generator)"
    )
    layer = ("nn.Module", "")

    experts: int = argument("size", 1, named=True)

    @property
    def choice(self) -> MatrixNorm:
        return CHOICES[SPECTRAL]

    def resolve(self, x: Type) -> tuple[Self, Type]:
        return super().resolve(of_experts(self, x, self.experts))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.experts, *super().weight_shape)

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return super().weight_norm(weight).amax()

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return (weight @ x.unsqueeze(-1)).squeeze(-1)

    def emit(self, x: Any, type: Type, own: str) -> str:
        if is_routed(type):
            rows, sizes = map(expression, parts(x, 2))
            return f"of_each(F.linear, {rows}, {sizes}, {own}.weight)"
        return f'torch.einsum("...ei,eoi->...eo", {x}, {own}.weight)'

    def helpers(self) -> tuple[str, ...]:
        return (copied("of_each"),)


@register
@dataclass(frozen=True)
class Readout(MatrixAtom):
    """`Linear` with norm `"row"`: (…, in) → (…, out) scores, from RMS to the largest score.

    Every row has a length of its own, at most 1/√in, however many rows there are; so the constants
    of a cross-entropy behind it do not grow with `out`.
    """

    name = "Readout"

    @property
    def choice(self) -> MatrixNorm:
        return CHOICES["row"]
