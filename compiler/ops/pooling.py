"""`Mean`; of images and signals `AvgPool`, `MaxPool`, `AdaptiveAvgPool` and `Upsample`."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from modnorm.ops.base import LINEAR, Advice, Bond, Misfit, Op, argument, expect_tensor
from modnorm.ops.edges import LARGEST, Edge, Matrix, Measure, between, whole
from modnorm.ops.families import LinearBond, root
from modnorm.ops.registry import register
from modnorm.ops.shapes import (
    GRIDS,
    Axes,
    Window,
    along_sides,
    axes,
    by_sides,
    image,
    image_of,
    indices,
    mistaken,
    plain,
    windows_along,
)
from modnorm.ops.types import Real, Size, Tensor, Type, product, quotient

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


class Span(NamedTuple):
    """The pixels from `start` up to `stop` along an axis, each with the same weight in a mean."""

    start: int
    stop: int
    weight: float


PIXEL = Measure((1,))
"""The RMS over channels of the largest pixel."""
ADAPTIVE = "`AdaptiveAvgPool(size)` is the adaptive one: it averages an image to size × size pixels"


@dataclass(frozen=True)
class Pool(Bond):
    """Windows of `kernel` × `kernel` pixels of an image (batch, channels, h, w), or of `kernel`
    places of a signal (batch, channels, length), `stride` apart.
    """

    call: ClassVar[str]
    """The torch function, but for the number of axes."""

    kernel: Window = argument("window")
    stride: Window | None = argument("window", inferred=True)
    padding: Window = argument("margin", 0)
    places: int = field(default=2, kw_only=True)
    """How many axes of pixels there are, once it is known."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = image(self.name, x)
        places, grid = len(x.shape) - 2, GRIDS[len(x.shape) - 2]
        stride = self.kernel if self.stride is None else self.stride
        found = dataclasses.replace(self, stride=stride, places=places)
        for kernel, padding in zip(found.sides("kernel"), found.sides("padding"), strict=True):
            if 2 * padding > kernel:
                raise Misfit(
                    f"`{self.name}` pads by {padding} {grid.pixels} on each side, more than half of"
                    f" its {kernel}: a window could lie outside of the {grid.name[:-1]}",
                    argument="padding",
                    code="E302",
                )
        found.sides("stride")
        sides = tuple(map(found._count, range(places), x.shape[2:]))
        if 0 in sides:
            windows = by_sides(found.sides("kernel"))
            raise Misfit(
                f"`{self.name}` takes windows of {windows} {grid.pixels}, more than"
                f" its input {x} has",
                hint=self.instead,
                argument="kernel",
            )
        return found, image_of(x, x.shape[1], *sides)

    def sides(self, name: str) -> tuple[int, ...]:
        """An argument along each axis of pixels."""
        value = getattr(self, name)
        return along_sides(self.name, name, self.kernel if value is None else value, self.places)

    def _along(self, axis: int) -> tuple[int, int, int]:
        """The window's size, how far windows are apart, and the padding, along an axis."""
        kernel, step, padding = (self.sides(n)[axis] for n in ("kernel", "stride", "padding"))
        return kernel, step, padding

    def _count(self, axis: int, size: Size) -> Size:
        kernel, step, padding = self._along(axis)
        return windows_along(size, kernel, step, 2 * padding)

    def _windows(self, axis: int, size: int) -> Iterator[Span]:
        """The windows along an axis, without what is padding."""
        kernel, step, padding = self._along(axis)
        for i in range(max(0, (size + 2 * padding - kernel) // step + 1)):
            start = i * step - padding
            yield Span(max(start, 0), min(start + kernel, size), 1 / kernel)

    def _shrinking(self, axis: int, size: Size) -> float:
        """How many pixels there are for each window along an axis, at most."""
        kernel, step, padding = self._along(axis)
        if isinstance(size, int):
            return size / len(list(self._windows(axis, size)))
        if step == kernel and not padding and quotient(size, kernel):
            return kernel
        return step + max(0, kernel - 1 - 2 * padding)

    @property
    def sensitivity(self) -> Real:
        return 1

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        found = mistaken(self, x)
        stride = self.kernel if self.stride is None else self.stride
        if any(plain(n) != 1 for n in (_several(self.kernel), _several(stride))):
            return found
        what = f"`{self.name}` of windows of one pixel gives back its input"
        return (*found, Advice("W609", what, self.instead or "leave it out"))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, scalars[0]) if scalars[0] > 0 else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch.nn.functional as F

        around = [p for p in reversed(self.sides("padding")) for _ in range(2)]
        x = F.pad(x, around, value=self.outside)
        for axis in range(self.places):
            kernel, step, _ = self._along(axis)
            x = x.unfold(2 + axis, kernel, step)
        return self._pooled(x.flatten(2 + self.places))

    outside: ClassVar[float]
    """What stands around an image that is padded."""

    @abstractmethod
    def _pooled(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows (…, pixels) as a number each."""

    def emit(self, x: Any, type: Type, own: str) -> str:
        kernel, step, padding = (plain(self.sides(n)) for n in ("kernel", "stride", "padding"))
        options = f", stride={step}" if step != kernel else ""
        options += f", padding={padding}" if padding else ""
        return f"{self.call}{self.places}d({x}, {kernel}{options})"


def _several(value: Window) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


@register
@dataclass(frozen=True)
class AvgPool(Pool):
    """The mean of each `kernel` × `kernel` window of an image (batch, channels, h, w), or of each
    `kernel` places of a signal (batch, channels, length).

    Windows are `stride` apart, by default `kernel`, so that they do not overlap; what is left at
    the edges is dropped. `padding` zeros stand around the image, and count in the mean, as in
    torch. The sensitivity 1 is in the norm that takes the largest pixel; measured by the RMS over
    all pixels, overlapping windows may exceed it slightly.
    """

    name = "AvgPool"
    call = "F.avg_pool"
    instead = ADAPTIVE
    outside = 0.0

    certified = 1
    sharpness = LINEAR

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        stretch = math.prod(map(self._stretch, range(self.places), type.shape[2:]))
        everything = whole(type)
        return between(
            (PIXEL, PIXEL, 1.0), (LARGEST, LARGEST, 1.0), (everything, everything, stretch)
        )

    def _stretch(self, axis: int, size: Size) -> float:
        """The gain along an axis, from the RMS over it to the RMS over it."""
        kernel, step, padding = self._along(axis)
        shrinking = self._shrinking(axis, size)
        if isinstance(size, int) and (step < kernel or padding):
            return averaging(tuple(self._windows(axis, size)), size) * math.sqrt(shrinking)
        # a pixel is in so many windows at most, with weight 1/kernel each
        return math.sqrt(shrinking * -(-kernel // step) / kernel)

    def _pooled(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.mean(-1)


@register
@dataclass(frozen=True)
class MaxPool(Pool):
    """The largest entry of each `kernel` × `kernel` window of an image (batch, channels, h, w), or
    of each `kernel` places of a signal (batch, channels, length).

    Windows are `stride` apart, by default `kernel`, so that they do not overlap; what is left at
    the edges is dropped, and `padding` is never the largest. Declared 1, which holds for the
    largest entry; in the RMS over channels, different channels may pick different pixels, which
    costs up to the root of a window's pixels.
    """

    name = "MaxPool"
    call = "F.max_pool"
    origin = "typical value; not in modula"
    outside = -math.inf

    sharpness = None

    @property
    def certified(self) -> Real | str:
        return root(math.prod(self.sides("kernel")))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        seen = math.prod(
            self._shrinking(axis, size) * self._shared(axis, size)
            for axis, size in enumerate(type.shape[2:])
        )
        everything, pixels = whole(type), math.prod(self.sides("kernel"))
        return between(
            (PIXEL, PIXEL, math.sqrt(pixels)),
            (LARGEST, LARGEST, 1.0),
            (everything, everything, math.sqrt(seen)),
        )

    def _shared(self, axis: int, size: Size) -> int:
        """How many windows along an axis a pixel is in, at most: it may be the largest of each."""
        kernel, step, _ = self._along(axis)
        most = -(-kernel // step)
        if isinstance(size, int):
            windows = list(self._windows(axis, size))
            near = [windows[max(0, i + 1 - most) : i + 1] for i in range(len(windows))]
            return max(
                sum(u.stop > w.start for u in seen) for w, seen in zip(windows, near, strict=True)
            )
        return most

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        k, pixels, bound = self.sides("kernel"), GRIDS[self.places].pixels, self.certified
        if bound == 1 or isinstance(bound, str):
            return ()
        return (
            Advice(
                "A604",
                f"the largest of {by_sides(k)} {pixels} has sensitivity {bound:.4g} in the RMS over"
                " channels, and 1 only in the largest entry",
                f"average instead: `AvgPool({self.kernel})`, or `Conv{self.places}D` with a stride,"
                " have 1",
            ),
        )

    def _pooled(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.amax(-1)


@register
@dataclass(frozen=True)
class AdaptiveAvgPool(LinearBond):
    """Averages over windows that cover an image (batch, channels, h, w): `size` × `size` of them;
    or a signal (batch, channels, length): `size` of them.

    Where `size` does not divide h and w the windows overlap, as in torch's adaptive pooling. The
    sensitivity 1 is in the norm that takes the largest pixel; measured by the RMS over all pixels,
    overlapping windows exceed it: 1.125 from 3 × 3 to 2 × 2, 1.147 from 8 × 8 to 5 × 5.
    """

    name = "AdaptiveAvgPool"

    size: Window = argument("window", 1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = image(self.name, x)
        return self, image_of(x, x.shape[1], *self._sizes(len(x.shape) - 2))

    def _sizes(self, places: int) -> tuple[int, ...]:
        return along_sides(self.name, "size", self.size, places)

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        assert isinstance(x, Tensor)
        found, places = mistaken(self, x), len(x.shape) - 2
        sides, sizes, pixels = x.shape[2:], self._sizes(places), GRIDS[places].pixels
        if not any(isinstance(s, int) and s < n for s, n in zip(sides, sizes, strict=True)):
            return found
        what = (
            f"`{self.name}` makes {by_sides(sizes)} {pixels} of {by_sides(sides)}:"
            f" it repeats {pixels}"
        )
        hint = f"for windows of that many {pixels} write `AvgPool(kernel)`"
        return (*found, Advice("W610", what, hint))

    @staticmethod
    def _windows(size: int, count: int) -> Iterator[Span]:
        for i in range(count):
            start, stop = i * size // count, -(-(i + 1) * size // count)
            yield Span(start, stop, 1 / (stop - start))

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        sides = list(zip(type.shape[2:], self._sizes(len(type.shape) - 2), strict=True))
        pairs, everything = [(PIXEL, PIXEL, 1.0), (LARGEST, LARGEST, 1.0)], whole(type)
        if all(quotient(size, count) is not None for size, count in sides):
            pairs.append((everything, everything, 1.0))
        elif all(isinstance(size, int) for size, _ in sides):
            stretches = (
                averaging(tuple(self._windows(n, count)), n) * math.sqrt(n / count)
                for n, count in sides
                if isinstance(n, int)
            )
            pairs.append((everything, everything, math.prod(stretches)))
        return between(*pairs)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        for axis, count in enumerate(self._sizes(x.ndim - 2), 2):
            windows = [
                x.narrow(axis, w.start, w.stop - w.start).mean(axis)
                for w in self._windows(x.shape[axis], count)
            ]
            x = torch.stack(windows, axis)
        return x

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, Tensor)
        places = len(type.shape) - 2
        return f"F.adaptive_avg_pool{places}d({x}, {plain(self._sizes(places))})"


@register
@dataclass(frozen=True)
class Upsample(LinearBond):
    """Repeats each pixel of an image (batch, channels, h, w) `factor` × `factor` times, or each
    place of a signal (batch, channels, length) `factor` times: torch.nn.Upsample, `"nearest"`.
    """

    name = "Upsample"

    factor: Window = argument("window")

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = image(self.name, x)
        factors = self._factors(len(x.shape) - 2)
        sides = (product(pair) for pair in zip(x.shape[2:], factors, strict=True))
        return self, image_of(x, x.shape[1], *sides)

    def _factors(self, places: int) -> tuple[int, ...]:
        return along_sides(self.name, "factor", self.factor, places)

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        found = mistaken(self, x)
        if not self.is_identity:
            return found
        return (*found, Advice("W609", f"`{self.name}` by 1 gives back its input", "leave it out"))

    @property
    def is_identity(self) -> bool:
        return plain(_several(self.factor)) == 1

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        # no pixel changes, and each is there as often as the others
        return between(*((m, m, 1.0) for m in dict.fromkeys((PIXEL, LARGEST, whole(type)))))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        for axis, factor in enumerate(self._factors(x.ndim - 2), 2):
            x = x.repeat_interleave(factor, axis)
        return x

    def emit(self, x: Any, type: Type, own: str) -> str:
        assert isinstance(type, Tensor)
        return f"F.interpolate({x}, scale_factor={plain(self._factors(len(type.shape) - 2))})"


STEPS = 200
CLOSE = 1e-6


@cache
def averaging(windows: tuple[Span, ...], size: int) -> float:
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
