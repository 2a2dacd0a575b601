"""`Conv2D`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import Advice, Atom, Misfit, Norm, Op, amount, argument
from modnorm.ops.edges import Edge, Matrix, Measure, between
from modnorm.ops.registry import register
from modnorm.ops.shapes import image, image_of, known, mend_in, mistaken, windows_along
from modnorm.ops.types import Real, Size, Symbol, Tensor, Type

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Conv2D(Atom):
    """Convolution of images (batch, in, h, w) with `kernel` × `kernel` taps, without bias.

    The norm takes the largest tap's spectral norm, kernel² times; with it the sensitivity is 1 in
    the norm of the largest pixel, whatever the stride.
    """

    name = "Conv2D"
    norm = Norm("spectral_taps", "kernel²·√(in/out)·max over taps of σ_max")
    axes = ("out", "in_", "kernel", "kernel")
    init = (
        "for i in range(kernel):\n"
        "    for j in range(kernel):\n"
        "        nn.init.orthogonal_(weight[:, :, i, j], generator=generator)\n"
        "weight *= math.sqrt(out / in_) / kernel**2"
    )

    out: int = argument("size")
    in_: int | None = argument("size", inferred=True)
    kernel: int = argument("size", 3)
    stride: int = argument("size", 1)
    padding: int = argument("index", 1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = image(self.name, x)
        channels = known(self.name, x, 1, "the number of channels")
        if self.in_ is not None and self.in_ != channels:
            raise Misfit(
                f"`Conv2D` expects images of {amount(self.in_, 'channel')} but gets {channels}",
                hint=mend_in(self, channels),
                argument="in",
            )
        sides = (self._size(side, x) for side in x.shape[2:])
        return dataclasses.replace(self, in_=channels), image_of(x, self.out, *sides)

    def _size(self, size: Size, x: Tensor) -> Size:
        out = windows_along(size, self.kernel, self.stride, self.padding)
        if out == 0:
            raise Misfit(
                f"`Conv2D` has {self.kernel} × {self.kernel} taps, more than its input {x}"
                f" has pixels with a padding of {self.padding}",
                hint="make `kernel` smaller or `padding` larger",
                argument="kernel",
            )
        return out

    @property
    def weight_shape(self) -> tuple[int, ...]:
        assert self.in_ is not None, "not resolved"
        return (self.out, self.in_, self.kernel, self.kernel)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        pixel, whole = Measure((1,)), Measure((1, 2, 3))
        return between((pixel, pixel, 1.0), (whole, whole, self.spread(type)))

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        return mistaken(self, x)

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        if self.stride <= self.kernel:
            return ()
        k, s = self.kernel, self.stride
        return (
            Advice(
                "A605",
                f"{k} × {k} taps with stride {s} read some pixels and leave out others: in the RMS"
                f" over whole images the sensitivity is {self.spread(type):.4g}",
                f"use `kernel = {s}`, or average before it: `Conv2D(…, kernel = {k}) @ AvgPool(…)`",
            ),
        )

    def spread(self, type: Type) -> float:
        """The sensitivity in the RMS over whole images.

        Taps at the same place modulo the stride read the same pixels: with n_r of them along an
        axis, ‖y‖₂ ≤ √(Σ n_r²)/kernel·‖x‖₂ for that axis, in an image of fewer or more pixels.
        """
        assert isinstance(type, Tensor)
        k, s = self.kernel, self.stride
        taps = sum(len(range(r, k, s)) ** 2 for r in range(s))
        total = taps / k**2
        for size in type.shape[2:]:
            if isinstance(size, Symbol):
                if 2 * self.padding < k - 1:
                    return math.inf
                total *= s**0.5  # at least size/s pixels are left
            else:
                out = self._size(size, type)
                assert isinstance(out, int)
                total *= (size / out) ** 0.5
        return total

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        out, in_, kernel, _ = weight.shape
        sigma = torch.linalg.matrix_norm(weight.permute(2, 3, 0, 1), 2)
        scale = kernel**2 * (in_ / out) ** 0.5
        result: torch.Tensor = scale * sigma.amax()
        return result

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        import torch

        out, in_, kernel, _ = gradient.shape
        u, _, vt = torch.linalg.svd(gradient.permute(2, 3, 0, 1), full_matrices=False)
        scale = (out / in_) ** 0.5 / kernel**2
        result: torch.Tensor = scale * (u @ vt).permute(2, 3, 0, 1)
        return result

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch.nn.functional as F

        assert weight is not None
        b, _, h, w = x.shape
        k, p, s = self.kernel, self.padding, self.stride
        patches = F.unfold(x, k, padding=p, stride=s)
        height, width = (h + 2 * p - k) // s + 1, (w + 2 * p - k) // s + 1
        return (weight.flatten(1) @ patches).view(b, self.out, height, width)

    def emit(self, x: Any, type: Type, own: str) -> str:
        stride = f", stride={self.stride}" if self.stride != 1 else ""
        padding = f", padding={self.padding}" if self.padding else ""
        return f"F.conv2d({x}, {own}.weight{stride}{padding})"
