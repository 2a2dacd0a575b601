"""`Mean`, and pooling of images: `AvgPool`, `MaxPool`, `AdaptiveAvgPool`."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from modnorm.ops.base import LINEAR, Advice, Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import LARGEST, Edge, Matrix, Measure, between
from modnorm.ops.families import LinearBond
from modnorm.ops.registry import register
from modnorm.ops.shapes import Axes, axes, image, image_of, indices, mistaken, windows_along
from modnorm.ops.types import Real, Size, Tensor, Type, quotient

if TYPE_CHECKING:
    import torch


@register
@dataclass(frozen=True)
class Mean(LinearBond):
    """The mean along an axis or a tuple of axes, which are gone in the output.

    With `keepdim` they stay, with size 1, so that the mean broadcasts against the input.
    """

    name = "Mean"

    dim: Axes = argument("axes")
    keepdim: bool = argument("flag", False)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = expect_tensor(self.name, x)
        dim = axes(self.name, self.dim, x)
        gone = indices(dim, len(x.shape))
        left = [
            (1 if axis in gone else size, role)
            for axis, (size, role) in enumerate(zip(x.shape, x.roles, strict=True))
            if self.keepdim or axis not in gone
        ]
        shape, roles = tuple(size for size, _ in left), tuple(role for _, role in left)
        return dataclasses.replace(self, dim=dim), Tensor("float", shape, None, roles)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        rank = len(x[0].type.shape)
        gone = indices(self.dim, rank)
        kept = [axis for axis in range(rank) if self.keepdim or axis not in gone]
        pairs = []
        for measure in x[0].tracked:  # a mean is at most the RMS, and at most the largest
            left = (kept.index(axis) for axis in measure.axes if axis not in gone)
            pairs.append((measure, Measure(tuple(left)), 1.0))
        return between(*pairs)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        for axis in reversed(indices(self.dim, x.ndim)):
            size = x.shape[axis]
            x = x.sum(axis) / size
            x = x.unsqueeze(axis) if self.keepdim else x
        return x

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"{x}.mean(dim={self.dim}{', keepdim=True' if self.keepdim else ''})"


class Window(NamedTuple):
    """The pixels from `start` up to `stop` along an axis, each with the same weight in a mean."""

    start: int
    stop: int
    weight: float


PIXEL, WHOLE = Measure((1,)), Measure((1, 2, 3))
"""The RMS over channels of the largest pixel, and that over all of an image."""
ADAPTIVE = "`AdaptiveAvgPool(size)` is the adaptive one: it averages an image to size × size pixels"


@dataclass(frozen=True)
class Pool(Bond):
    """Windows of `kernel` × `kernel` pixels of an image (batch, channels, h, w), `stride` apart."""

    call: ClassVar[str]
    """The torch function."""

    kernel: int = argument("size")
    stride: int | None = argument("size", inferred=True)
    padding: int = argument("index", 0)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = image(self.name, x)
        if 2 * self.padding > self.kernel:
            raise Misfit(
                f"`{self.name}` pads by {self.padding} pixels on each side, more than half of its"
                f" {self.kernel}: a window could lie outside of the image",
                argument="padding",
                code="E302",
            )
        found = dataclasses.replace(
            self, stride=self.kernel if self.stride is None else self.stride
        )
        _, channels, *sides = x.shape
        small = next((s for s in sides if found._count(s) == 0), None)
        if small is not None:
            raise Misfit(
                f"`{self.name}` takes windows of {self.kernel} × {self.kernel} pixels, more than"
                f" its input {x} has",
                hint=self.instead,
                argument="kernel",
            )
        return found, image_of(x, channels, *map(found._count, sides))

    @property
    def step(self) -> int:
        """How far windows are apart."""
        return self.kernel if self.stride is None else self.stride

    def _count(self, size: Size) -> Size:
        return windows_along(size, self.kernel, self.step, self.padding)

    def _windows(self, size: int) -> Iterator[Window]:
        """The windows along an axis, without what is padding."""
        for i in range(max(0, (size + 2 * self.padding - self.kernel) // self.step + 1)):
            start = i * self.step - self.padding
            yield Window(max(start, 0), min(start + self.kernel, size), 1 / self.kernel)

    def _shrinking(self, size: Size) -> float:
        """How many pixels there are for each window along an axis, at most."""
        if isinstance(size, int):
            return size / len(list(self._windows(size)))
        if self.step == self.kernel and not self.padding and quotient(size, self.kernel):
            return self.kernel
        return self.step + max(0, self.kernel - 1 - 2 * self.padding)

    @property
    def sensitivity(self) -> Real:
        return 1

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        found = mistaken(self, x)
        if self.kernel > 1 or self.step > 1:
            return found
        what = f"`{self.name}` of windows of one pixel gives back its input"
        return (*found, Advice("W609", what, self.instead or "leave it out"))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, scalars[0]) if scalars[0] > 0 else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch.nn.functional as F

        x = F.pad(x, (self.padding,) * 4, value=self.outside)
        for axis in (2, 3):
            x = x.unfold(axis, self.kernel, self.step)
        return self._pooled(x)

    outside: ClassVar[float]
    """What stands around an image that is padded."""

    @abstractmethod
    def _pooled(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows (…, kernel, kernel) as a number each."""

    def emit(self, x: Any, type: Type, own: str) -> str:
        stride = f", stride={self.step}" if self.step != self.kernel else ""
        padding = f", padding={self.padding}" if self.padding else ""
        return f"{self.call}({x}, {self.kernel}{stride}{padding})"


@register
@dataclass(frozen=True)
class AvgPool(Pool):
    """The mean of each `kernel` × `kernel` window of an image (batch, channels, h, w).

    Windows are `stride` apart, by default `kernel`, so that they do not overlap; what is left at
    the edges is dropped. `padding` zeros stand around the image, and count in the mean, as in
    torch. The sensitivity 1 is in the norm that takes the largest pixel; measured by the RMS over
    all pixels, overlapping windows may exceed it slightly.
    """

    name = "AvgPool"
    call = "F.avg_pool2d"
    instead = ADAPTIVE
    outside = 0.0

    @property
    def certified(self) -> Real | str:
        return 1

    @property
    def sharpness(self) -> Sharpness | None:
        return LINEAR

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        whole = math.prod(map(self._stretch, type.shape[2:]))
        return between((PIXEL, PIXEL, 1.0), (LARGEST, LARGEST, 1.0), (WHOLE, WHOLE, whole))

    def _stretch(self, size: Size) -> float:
        """The gain along an axis, from the RMS over it to the RMS over it."""
        shrinking = self._shrinking(size)
        if isinstance(size, int) and (self.step < self.kernel or self.padding):
            return averaging(tuple(self._windows(size)), size) * math.sqrt(shrinking)
        # a pixel is in so many windows at most, with weight 1/kernel each
        return math.sqrt(shrinking * -(-self.kernel // self.step) / self.kernel)

    def _pooled(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.mean((-2, -1))


@register
@dataclass(frozen=True)
class MaxPool(Pool):
    """The largest entry of each `kernel` × `kernel` window of an image (batch, channels, h, w).

    Windows are `stride` apart, by default `kernel`, so that they do not overlap; what is left at
    the edges is dropped, and `padding` is never the largest. Declared 1, which holds for the
    largest entry; in the RMS over channels, different channels may pick different pixels, which
    costs up to `kernel`.
    """

    name = "MaxPool"
    call = "F.max_pool2d"
    origin = "typical value; not in modula"
    outside = -math.inf

    @property
    def certified(self) -> Real | str:
        return self.kernel

    @property
    def sharpness(self) -> Sharpness | None:
        return None

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        whole = math.sqrt(math.prod(self._shrinking(s) * self._shared(s) for s in type.shape[2:]))
        return between(
            (PIXEL, PIXEL, float(self.kernel)), (LARGEST, LARGEST, 1.0), (WHOLE, WHOLE, whole)
        )

    def _shared(self, size: Size) -> int:
        """How many windows along an axis a pixel is in, at most: it may be the largest of each."""
        most = -(-self.kernel // self.step)
        if isinstance(size, int):
            windows = list(self._windows(size))
            near = [windows[max(0, i + 1 - most) : i + 1] for i in range(len(windows))]
            return max(
                sum(u.stop > w.start for u in seen) for w, seen in zip(windows, near, strict=True)
            )
        return most

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        k = self.kernel
        if k == 1:
            return ()
        return (
            Advice(
                "A604",
                f"the largest of {k} × {k} pixels has sensitivity {k} in the RMS over channels,"
                " and 1 only in the largest entry",
                f"average instead: `AvgPool({k})`, or `Conv2D` with a stride, have 1",
            ),
        )

    def _pooled(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.amax((-2, -1))


@register
@dataclass(frozen=True)
class AdaptiveAvgPool(LinearBond):
    """Averages over windows that cover an image (batch, channels, h, w): `size` × `size` of them.

    Where `size` does not divide h and w the windows overlap, as in torch's adaptive pooling. The
    sensitivity 1 is in the norm that takes the largest pixel; measured by the RMS over all pixels,
    overlapping windows exceed it: 1.125 from 3 × 3 to 2 × 2, 1.147 from 8 × 8 to 5 × 5.
    """

    name = "AdaptiveAvgPool"

    size: int = argument("size", 1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = image(self.name, x)
        return self, image_of(x, x.shape[1], self.size, self.size)

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        assert isinstance(x, Tensor)
        found = mistaken(self, x)
        if not any(isinstance(s, int) and s < self.size for s in x.shape[2:]):
            return found
        what = (
            f"`{self.name}` makes {self.size} × {self.size} pixels of {x.shape[2]} × {x.shape[3]}:"
            " it repeats pixels"
        )
        hint = "for windows of that many pixels write `AvgPool(kernel)`"
        return (*found, Advice("W610", what, hint))

    def _windows(self, size: int) -> Iterator[Window]:
        for i in range(self.size):
            start, stop = i * size // self.size, -(-(i + 1) * size // self.size)
            yield Window(start, stop, 1 / (stop - start))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        sides = type.shape[2:]
        pairs = [(PIXEL, PIXEL, 1.0), (LARGEST, LARGEST, 1.0)]
        if all(quotient(size, self.size) is not None for size in sides):
            pairs.append((WHOLE, WHOLE, 1.0))
        elif all(isinstance(size, int) for size in sides):
            known = [size for size in sides if isinstance(size, int)]
            stretches = (
                averaging(tuple(self._windows(n)), n) * math.sqrt(n / self.size) for n in known
            )
            pairs.append((WHOLE, WHOLE, math.prod(stretches)))
        return between(*pairs)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        for axis in (2, 3):
            windows = [
                x.narrow(axis, w.start, w.stop - w.start).mean(axis)
                for w in self._windows(x.shape[axis])
            ]
            x = torch.stack(windows, axis)
        return x

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"F.adaptive_avg_pool2d({x}, {self.size})"


STEPS = 200
CLOSE = 1e-6


@cache
def averaging(windows: tuple[Window, ...], size: int) -> float:
    """An upper bound on the largest singular value of the map from `size` pixels to window means.

    With A that map and v > 0, the largest eigenvalue of AᵀA is at most the largest (AᵀA v)ᵢ / vᵢ
    (Collatz–Wielandt); repeating v ← AᵀA v brings that down to the eigenvalue itself.
    """
    v, bound = [1.0] * size, math.inf
    for _ in range(STEPS):
        sums = [0.0]
        for value in v:
            sums.append(sums[-1] + value)
        steps = [0.0] * (size + 1)
        for start, stop, weight in windows:
            mean = weight * weight * (sums[stop] - sums[start])
            steps[start] += mean
            steps[stop] -= mean
        new, total = [], 0.0
        for step in steps[:-1]:
            total += step
            new.append(max(total, 0.0))
        ratio = max(b / a for a, b in zip(v, new, strict=True))
        bound = min(bound, ratio)
        # the eigenvalue is at least this, Rayleigh's quotient
        reached = sum(a * b for a, b in zip(v, new, strict=True)) / sum(a * a for a in v)
        if bound <= reached * (1 + CLOSE):
            break
        # where the eigenvector is 0, what is left stays positive
        v = [b / ratio if b > CLOSE else a for a, b in zip(v, new, strict=True)]
    return math.sqrt(bound) * (1 + CLOSE)
