"""The norm of a matrix from RMS to the largest entry: that of a readout."""

from __future__ import annotations

from .row_rms import RowRMS


# modnorm: begin
class Row(RowRMS):
    """in·(the largest RMS of a row) of an (out, in) matrix. Each row is scaled by itself."""

    name = "row"

    @classmethod
    def gain(cls, shape: tuple[int, ...]) -> int:
        return shape[1]


# modnorm: end
