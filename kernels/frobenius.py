"""The Frobenius norm of a matrix, which is at least its spectral norm."""

from __future__ import annotations

from .rms import RMS


# modnorm: begin
class Frobenius(RMS):
    """√(in/out)·(the Frobenius norm) of an (out, in) matrix: in times the RMS of its entries."""

    name = "frobenius"
    kernel = "whole"

    @classmethod
    def gain(cls, shape: tuple[int, ...]) -> int:
        return shape[1]


# modnorm: end
