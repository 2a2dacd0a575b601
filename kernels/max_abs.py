"""The norm of Scale weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .plan import Norm, reciprocal
from .schemes import Scheme


# modnorm: begin
class MaxAbs(Norm):
    """The largest entry of a vector (n,), or of all entries, in size."""

    name = "max"
    kernel = "rows_max"

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        largest = u.abs().amax(tuple(range(1, u.ndim)), keepdim=True)
        return reciprocal(largest) / cls.gain(u.shape[1:]), None

    @classmethod
    def dualize(cls, u: Tensor, scheme: Scheme | None = None, work: Any = None) -> Tensor:
        return u.sign() / cls.gain(u.shape[1:])


# modnorm: end
