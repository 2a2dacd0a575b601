"""The norm of a matrix from the sum of the absolute entries to RMS."""

from __future__ import annotations

from torch import Tensor

from .row_rms import RowRMS


# modnorm: begin
class Column(RowRMS):
    """The largest RMS of a column of an (out, in) matrix. Each column is scaled by itself.

    Plain torch moves such weights, on a GPU too.
    """

    name = "column"
    kernel = None

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return super().measure(u.mT, x)[0].mT, None


# modnorm: end
