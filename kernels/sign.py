"""The norm of a matrix by its largest entry, whose duality map is the sign."""

from __future__ import annotations

from .max_abs import MaxAbs


# modnorm: begin
class Sign(MaxAbs):
    """in·(the largest entry, in size) of an (out, in) matrix (Pethick et al. 2025, Scion)."""

    name = "sign"
    kernel = "whole_max"

    @classmethod
    def gain(cls, shape: tuple[int, ...]) -> int:
        return shape[1]


# modnorm: end
