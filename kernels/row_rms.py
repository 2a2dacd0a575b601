"""The norm of Embed weights."""

from __future__ import annotations

from .plan import Norm


# modnorm: begin
class RowRMS(Norm):
    """The largest RMS of a row of a (count, dim) matrix. Each row is scaled by itself, exactly."""

    name = "row_rms"
    kernel: str | None = "rows"
    order = 2
    alone = (0,)


# modnorm: end
