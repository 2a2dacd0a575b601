"""`Linear`: a matrix, without bias."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Atom, Misfit, Norm, Op, amount, argument, expect_tensor
from modnorm.ops.registry import register
from modnorm.ops.text import copied
from modnorm.ops.types import Real, Tensor, Type

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Linear(Atom):
    """y = x Wᵀ over the last axis, without bias; `Linear(8) >> Bias` adds one.

    The scale √(out/in) is in the weight, and not in the forward pass as in modula's PyTorch
    release; the two are the same after scaling weights by it.
    """

    name = "Linear"
    norm = Norm("spectral", "√(in/out)·σ_max")
    axes = ("out", "in_")
    init = "nn.init.orthogonal_(weight, gain=math.sqrt(out / in_), generator=generator)"

    out: int = argument("size")
    in_: int | None = argument("size", inferred=True)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x, rank=1)
        *lead, width = x.shape
        if not isinstance(width, int):
            raise Misfit(
                f"`Linear` needs a fixed input size, but the last axis of {x} is `{width}`",
                hint="give the size a number in the `input` declaration",
            )
        if self.in_ is not None and self.in_ != width:
            raise Misfit(
                f"`Linear` expects {amount(self.in_, 'input')} but gets {width}", argument="in"
            )
        return dataclasses.replace(self, in_=width), Tensor("float", (*lead, self.out))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        assert self.in_ is not None, "not resolved"
        return (self.out, self.in_)

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    def helpers(self) -> tuple[str, ...]:
        return (copied("mkl_is_slow"), copied("linear"))

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        out, in_ = weight.shape
        scale = (in_ / out) ** 0.5
        result: torch.Tensor = scale * torch.linalg.matrix_norm(weight, 2)
        return result

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        import torch

        out, in_ = gradient.shape
        u, _, vt = torch.linalg.svd(gradient, full_matrices=False)
        scale = (out / in_) ** 0.5
        result: torch.Tensor = scale * (u @ vt)
        return result

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        assert weight is not None
        return x @ weight.T

    def emit(self, x: Any, type: Type) -> str:
        return f"linear({x}, {{weight}})"
