"""The norm of Embed weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .plan import Norm, reciprocal


# modnorm: begin
class RowRMS(Norm):
    """The largest RMS of a row of a (count, dim) matrix. Each row is scaled by itself, exactly."""

    name = "row_rms"
    kernel: str | None = "rows"

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        length = torch.linalg.vector_norm(u, dim=2, keepdim=True)
        return reciprocal(length / math.sqrt(u.shape[2])) / cls.gain(u.shape[1:]), None


# modnorm: end
