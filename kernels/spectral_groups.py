"""The norm of stacks of matrices of which only some add up: of convolutions in groups."""

from __future__ import annotations

from .spectral_taps import SpectralTaps


# modnorm: begin
class SpectralGroups(SpectralTaps):
    """n·√(in/out)·(the largest σ_max of a matrix) of a weight (out, in, groups, n).

    The n matrices of a group meet in a value, those of two groups never do: they are the taps of a
    kernel for each group of channels, or those that reach one pixel of a transposed convolution.
    """

    name = "spectral_groups"
    kernel: str | None = None  # those of a GPU take all matrices of a weight to meet

    @classmethod
    def meeting(cls, shape: tuple[int, ...]) -> int:
        return shape[-1]


# modnorm: end
