"""The norm of a matrix from the sum of the absolute entries to RMS."""

from __future__ import annotations

from .row_rms import RowRMS


# modnorm: begin
class Column(RowRMS):
    """The largest RMS of a column of an (out, in) matrix. Each column is scaled by itself.

    Plain torch moves such weights, on a GPU too.
    """

    name = "column"
    kernel = None
    alone = (1,)


# modnorm: end
