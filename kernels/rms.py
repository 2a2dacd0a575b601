"""The norm of Bias weights."""

from __future__ import annotations

from .plan import Norm


# modnorm: begin
class RMS(Norm):
    """The RMS of a vector (n,), or of all entries."""

    name = "rms"
    kernel = "rows"
    order = 2


# modnorm: end
