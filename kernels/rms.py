"""The norm of Bias weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .plan import Norm, reciprocal


# modnorm: begin
class RMS(Norm):
    """The RMS of a vector (n,), or of all entries."""

    name = "rms"
    kernel = "rows"

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        length = torch.linalg.vector_norm(u, dim=tuple(range(1, u.ndim)), keepdim=True)
        return reciprocal(length / math.sqrt(u[0].numel())) / cls.gain(u.shape[1:]), None


# modnorm: end
