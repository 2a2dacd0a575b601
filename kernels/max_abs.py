"""The norm of Scale weights."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .plan import Norm
from .schemes import Scheme


# modnorm: begin
class MaxAbs(Norm):
    """The largest entry of a vector (n,), or of all entries, in size."""

    name = "max"
    kernel = "rows_max"
    order = math.inf

    @classmethod
    def dualize(cls, u: Tensor, scheme: Scheme | None = None, work: Any = None) -> Tensor:
        return u.sign() / cls.gain(u.shape[1:])


# modnorm: end
