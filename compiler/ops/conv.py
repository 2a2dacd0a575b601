"""Convolutions: `Conv1D`, `Conv2D`, and `ConvTranspose1D` and `ConvTranspose2D`."""

from __future__ import annotations

import dataclasses
import math
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modnorm.kernels.weight import Layout
from modnorm.ops.base import Advice, Atom, Misfit, Norm, Op, amount, argument
from modnorm.ops.edges import LARGEST, Edge, Matrix, Measure, between, whole
from modnorm.ops.matrices import spectral_dual, spectral_size
from modnorm.ops.registry import register
from modnorm.ops.shapes import (
    GRIDS,
    Window,
    along_sides,
    by_sides,
    channels_of,
    image,
    image_of,
    mend_in,
    mistaken,
    plain,
    scaled_size,
    windows_along,
)
from modnorm.ops.types import Real, Size, Symbol, Tensor, Type

if TYPE_CHECKING:
    import torch

PIXEL = Measure((1,))
"""The RMS over the channels of the largest pixel."""
Pads = tuple[tuple[int, int], ...]
"""How many pixels are put before each axis, and behind it."""


@dataclass(frozen=True)
class Kernel(Atom):
    """A kernel of taps, each of them a matrix from channels to channels; there is no bias.

    Some taps meet in a pixel of the output, `meeting` at most: with n of them the norm is
    n·√(in/out) times the largest spectral norm of a tap. Then with R the largest pixel's RMS over
    channels, a pixel of the output is at most Σ σ_max·√(in/out)·R ≤ R. With groups a tap is block
    diagonal, and its spectral norm the largest of its blocks'.
    """

    places: ClassVar[int]
    """How many axes of pixels there are."""
    call: ClassVar[str]
    """The torch function."""
    kind: ClassVar[str]
    """The class of torch.nn."""
    begins_orthogonal = True  # a sign is, where a tap is one number
    other: ClassVar[str] = ""
    """What takes values of another number of axes, for a hint."""

    out: int = argument("size")
    in_: int | None = argument("size", inferred=True)
    kernel: Window = argument("window", 3)
    stride: Window = argument("window", 1)
    padding: Window | str = argument("margin", 1)

    def resolve(self, x: Type) -> tuple[Self, Type]:
        x = image(self.name, x, (self.places,), self.other)
        channels = channels_of(self.name, x)
        if self.in_ is not None and self.in_ != channels:
            what = f"expects {GRIDS[self.places].name} of {amount(self.in_, 'channel')}"
            raise Misfit(
                f"`{self.name}` {what} but gets {channels}",
                hint=mend_in(self, channels),
                argument="in",
            )
        found = dataclasses.replace(self, in_=channels)
        found.check()
        sides = tuple(map(found.size_along, range(self.places), x.shape[2:]))
        if 0 in sides:
            raise found.too_small(x)
        return found, image_of(x, self.out, *sides)

    def check(self) -> None:
        """Raise a Misfit where arguments do not fit each other."""
        self.sides("kernel"), self.sides("stride"), self.pads()

    @abstractmethod
    def too_small(self, x: Tensor) -> Misfit:
        """What is wrong with an input of which nothing is left in the output."""

    @abstractmethod
    def size_along(self, axis: int, size: Size) -> Size:
        """The size of the output along an axis of pixels, counted from 0."""

    def sides(self, name: str) -> tuple[int, ...]:
        """An argument along each axis of pixels."""
        return along_sides(self.name, name, getattr(self, name), self.places)

    def pads(self) -> Pads:
        return tuple((p, p) for p in self.sides("padding"))

    @property
    def taps(self) -> int:
        return math.prod(self.sides("kernel"))

    @property
    def written(self) -> str:
        """The kernel's size, in the names of the weight's axes."""
        names = self.axes[2:]
        return names[0] if len(set(names)) == 1 else f"({', '.join(names)})"

    @property
    def printed(self) -> str:
        """The kernel's size in a format of the weight's."""
        return "{2}" if isinstance(plain(self.sides("kernel")), int) else "({2}, {3})"

    @property
    def blocks(self) -> int:
        """Into how many groups channels fall that have nothing to do with each other."""
        return 1

    @property
    def inputs(self) -> int:
        """The channels that a channel of the output is made of."""
        assert self.in_ is not None, "not resolved"
        return self.in_ // self.blocks

    # -- the modular norm --------------------------------------------------------------------

    @property
    @abstractmethod
    def meeting(self) -> int:
        """How many taps meet in a pixel, at most, as the norm counts them."""

    @abstractmethod
    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as a stack of matrices (…, out, in), one for each tap and group."""

    @abstractmethod
    def stored(self, matrices: torch.Tensor) -> torch.Tensor:
        """Such a stack as the weight."""

    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        return self.meeting * spectral_size(self.matrices(weight)).amax()

    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        return self.stored(spectral_dual(self.matrices(gradient)) / self.meeting)

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        assert isinstance(type, Tensor)
        everything = whole(type)
        pairs = [(PIXEL, PIXEL, 1.0), (everything, everything, self.spread(type))]
        if self.blocks > 1:  # rows have the norm √(out/in)/n at most, and in entries
            pairs.append((LARGEST, LARGEST, math.sqrt(self.out / self.blocks)))
        return between(*pairs)

    def spread(self, type: Tensor) -> float:
        """The sensitivity in the RMS over whole images."""
        return math.prod(self.stretch(axis, size) for axis, size in enumerate(type.shape[2:]))

    @abstractmethod
    def stretch(self, axis: int, size: Size) -> float:
        """That along an axis of pixels."""

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        return mistaken(self, x)

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return self, scalars[0]

    # -- running -----------------------------------------------------------------------------

    def convolved(self, x: Any, kernel: Any, step: Sequence[int], apart: Sequence[int]) -> Any:
        """The sums over windows of a padded value, for a weight (groups, out, in, *taps)."""
        import torch

        groups, sides = kernel.shape[0], kernel.shape[3:]
        for axis, (k, s, d) in enumerate(zip(sides, step, apart, strict=True)):
            x = x.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
        places = x.shape[2 : 2 + len(sides)]
        x = x.reshape(x.shape[0], groups, -1, math.prod(places), math.prod(sides))
        y = torch.einsum("bgipk,goik->bgop", x, kernel.flatten(3))
        return y.reshape(x.shape[0], self.out, *places)

    def options(self, **given: Window) -> str:
        """Arguments of the torch function that are not at its defaults."""
        usual = {"padding": 0, "output_padding": 0}
        return "".join(f", {k}={v}" for k, v in given.items() if v != usual.get(k, 1))


@dataclass(frozen=True)
class Convolution(Kernel):
    """The taps read pixels of the input, `dilation` apart, of windows `stride` apart."""

    padding: Window | str = argument("margin", 1, choices=("same",))
    dilation: Window = argument("window", 1)
    groups: int = argument("size", 1)

    def check(self) -> None:
        super().check()
        self.sides("dilation")
        assert self.in_ is not None
        if self.in_ % self.groups or self.out % self.groups:
            raise Misfit(
                f"`{self.name}` cannot cut {self.in_} channels, and {self.out} of the output, into"
                f" {amount(self.groups, 'equal group')}",
                hint="`groups` divides both numbers of channels",
                argument="groups",
            )

    def pads(self) -> Pads:
        if not isinstance(self.padding, str):
            return super().pads()
        room = [d * (k - 1) for k, d in zip(self.sides("kernel"), self.sides("dilation"),
                                            strict=True)]  # fmt: skip
        if self.padding == "causal":
            return tuple((r, 0) for r in room)
        if max(self.sides("stride")) > 1:
            raise Misfit(
                f'`{self.name}` with `padding = "same"` has as many {GRIDS[self.places].pixels}'
                f" before it as behind it, which a stride of {self.stride} leaves out",
                hint="give `padding` as a number, or leave `stride` out",
                argument="padding",
                code="E302",
            )
        return tuple((r // 2, r - r // 2) for r in room)

    def extent(self, axis: int) -> int:
        """From the first tap to the last, along an axis of pixels."""
        return self.sides("dilation")[axis] * (self.sides("kernel")[axis] - 1) + 1

    def size_along(self, axis: int, size: Size) -> Size:
        padding = sum(self.pads()[axis])
        return windows_along(size, self.extent(axis), self.sides("stride")[axis], padding)

    def too_small(self, x: Tensor) -> Misfit:
        pixels, kernel = GRIDS[self.places].pixels, by_sides(self.sides("kernel"))
        apart = f" over {by_sides([*map(self.extent, range(self.places))])} {pixels}"
        return Misfit(
            f"`{self.name}` has {kernel} taps{apart if self.dilation != 1 else ''}, more than its"
            f" input {x} has {pixels} with a padding of {self.padding}",
            hint="make `kernel` smaller or `padding` larger",
            argument="kernel",
        )

    @property
    def blocks(self) -> int:
        return self.groups

    @property
    def norm(self) -> Norm:
        count = "kernel" if self.places == 1 else "kernel²"
        if not isinstance(self.kernel, int):
            count = f"{self.taps}"
        if self.groups == 1:
            return Norm("spectral_taps", f"{count}·√(in/out)·max over taps of σ_max")
        if self.groups == self.in_ == self.out:
            return Norm("spectral_groups", f"{count}·max |w|")
        return Norm("spectral_groups", f"{count}·√(in/out)·max over taps and groups of σ_max")

    @property
    def axes(self) -> tuple[str, ...]:
        kernel = self.sides("kernel")
        return (
            "out",
            "in_",
            *(("high", "wide") if len(set(kernel)) > 1 else ("kernel",) * len(kernel)),
        )

    @property
    def init(self) -> str:
        groups, taps = self.groups, self.taps
        if groups == self.in_ == self.out:
            return (
                "weight.bernoulli_(0.5, generator=generator)\n"
                f"weight.mul_(2).sub_(1).div_({taps})  # a sign for each tap"
            )
        if groups > 1:
            return (
                f"for part in weight.view({groups}, -1, in_, {taps}):  # of a group\n"
                f"    for i in range({taps}):\n"
                "        nn.init.orthogonal_(part[..., i], generator=generator)\n"
                f"weight *= math.sqrt(out / ({groups} * in_)) / {taps}"
            )
        kernel, sides = self.axes[2:], "ij"[: self.places]
        loops = [f"{'    ' * n}for {i} in range({k}):" for n, (i, k) in
                 enumerate(zip(sides, kernel, strict=True))]  # fmt: skip
        count = f"kernel**{self.places}" if len({*kernel}) < self.places else " / ".join(kernel)
        return "\n".join(
            [
                *loops,
                f"{'    ' * self.places}nn.init.orthogonal_(weight[:, :, {', '.join(sides)}],"
                " generator=generator)",
                f"weight *= math.sqrt(out / in_) / {count}",
            ]
        )

    @property
    def shown(self) -> str:
        into = "{1}" if self.groups == 1 else str(self.in_)
        shown = self.with_settings(**{"out": "{0}", "in": into, "kernel": self.printed})
        return shown if self.groups > 1 else re.sub(r"{\d}", "{}", shown)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out, self.inputs, *self.sides("kernel"))

    @property
    def measured_shape(self) -> tuple[int, ...]:
        if self.groups > 1:
            return (self.out // self.groups, self.inputs, self.groups, self.taps)
        return self.weight_shape if self.places == 2 else (self.out, self.inputs, 1, self.taps)

    def layout(self, parameter: str = "") -> Layout | None:
        """As a convolution of height 1, and as taps of all groups."""
        shape, kernel = self.weight_shape, self.sides("kernel")
        if self.groups > 1:
            split = (self.groups, self.out // self.groups, self.inputs, *kernel)
            order = (1, 2, 0, *range(3, len(split)))
        elif self.places == 1:
            split, order = (self.out, self.inputs, 1, *kernel), (0, 1, 2, 3)
        else:
            return None
        return Layout(parameter, shape, split, tuple((0, size) for size in split), order)

    @property
    def meeting(self) -> int:
        return self.taps

    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(self.groups, -1, self.inputs, self.taps).movedim(-1, 0)

    def stored(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices.movedim(0, -1).reshape(self.weight_shape)

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        assert isinstance(type, Tensor)
        kernel, stride, apart = map(self.sides, ("kernel", "stride", "dilation"))
        pixels, name = GRIDS[self.places].pixels, GRIDS[self.places].name
        if all(overlap(*one)[1] for one in zip(kernel, stride, apart, strict=True)):
            return ()
        use = "use" if apart == (1,) * self.places else "leave `dilation` out and use"
        return (
            Advice(
                "A605",
                f"a kernel of {by_sides(kernel)} with stride {self.stride} reads some {pixels} and"
                f" leaves out others: in the RMS over whole {name} the sensitivity is"
                f" {self.spread(type):.4g}",
                f"{use} `kernel = {self.stride}`, or average before it:"
                f" `{self.name}(…, kernel = {self.kernel}) @ AvgPool(…)`",
            ),
        )

    def stretch(self, axis: int, size: Size) -> float:
        """The sensitivity in the RMS over an axis.

        Taps at the same place modulo the stride read the same pixels: with n_r of them,
        ‖y‖₂ ≤ √(Σ n_r²)/kernel·‖x‖₂, for an axis of fewer or more pixels.
        """
        k, s, d = (self.sides(name)[axis] for name in ("kernel", "stride", "dilation"))
        total = math.sqrt(overlap(k, s, d)[0]) / k
        if isinstance(size, Symbol):
            if sum(self.pads()[axis]) < self.extent(axis) - 1:
                return math.inf
            return total * math.sqrt(s)  # at least size/s pixels are left
        out = self.size_along(axis, size)
        assert isinstance(out, int)
        return total * math.sqrt(size / out)

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch.nn.functional as F

        assert weight is not None
        kernel = weight.reshape(self.groups, -1, *weight.shape[1:])
        padded = F.pad(x, [p for pair in reversed(self.pads()) for p in pair])
        return self.convolved(padded, kernel, self.sides("stride"), self.sides("dilation"))

    @property
    def layer(self) -> tuple[str, str]:
        if any(before != behind for before, behind in self.pads()):
            return super().layer  # what is put around is no argument of torch's
        channels = "in_" if self.groups == 1 else f"in_ * {self.groups}"
        sides = self.options(
            stride=plain(self.sides("stride")), padding=plain([p for p, _ in self.pads()]),
            dilation=plain(self.sides("dilation")), groups=self.groups,
        )  # fmt: skip
        return self.kind, f"{channels}, out, {self.written}{sides}, bias=False"

    def emit(self, x: Any, type: Type, own: str) -> str:
        pads = self.pads()
        padding: Window = plain([before for before, _ in pads])
        if any(before != behind for before, behind in pads):
            around = ", ".join(str(p) for pair in reversed(pads) for p in pair)
            x, padding = f"F.pad({x}, ({around}))", 0
        options = self.options(
            stride=plain(self.sides("stride")), padding=padding,
            dilation=plain(self.sides("dilation")), groups=self.groups,
        )  # fmt: skip
        return f"{self.call}({x}, {own}.weight{options})"


def overlap(kernel: int, stride: int, apart: int = 1) -> tuple[int, bool]:
    """Σ n², with n taps at each place modulo the stride, and whether there is one at every place.

    Taps `apart` go through stride/gcd(stride, apart) places in turn.
    """
    round_ = stride // math.gcd(stride, apart)
    full, left = divmod(kernel, round_)
    squares = left * (full + 1) ** 2 + (round_ - left) * full**2
    return squares, full > 0 and round_ == stride


@register
@dataclass(frozen=True)
class Conv1D(Convolution):
    """Convolution of signals (batch, in, length) with `kernel` taps, without bias: torch.nn.Conv1d.

    The norm takes the largest tap's spectral norm, kernel times; with it the sensitivity is 1 in
    the norm of the largest place, whatever the stride. Of `groups` of channels each has a kernel of
    its own, and the largest counts. `padding` may be `"same"`, or `"causal"`: all before the
    signal, so that no place sees a later one.
    """

    name = "Conv1D"
    places = 1
    call = "F.conv1d"
    kind = "nn.Conv1d"
    other = "`Conv2D` takes images (batch, channels, height, width)"

    padding: Window | str = argument("margin", 1, choices=("same", "causal"))


@register
@dataclass(frozen=True)
class Conv2D(Convolution):
    """Convolution of images (batch, in, h, w) with `kernel` × `kernel` taps, without bias.

    The norm takes the largest tap's spectral norm, kernel² times; with it the sensitivity is 1 in
    the norm of the largest pixel, whatever the stride. Of `groups` of channels each has a kernel of
    its own, and the largest counts. `kernel`, `stride`, `padding` and `dilation` may be pairs, such
    as `(3, 5)`, and `padding` may be `"same"`.
    """

    name = "Conv2D"
    places = 2
    call = "F.conv2d"
    kind = "nn.Conv2d"
    other = "`Conv1D` takes signals (batch, channels, length)"


@dataclass(frozen=True)
class Transposed(Kernel):
    """The taps lay pixels of the input over those of the output, `stride` apart."""

    output_padding: Window = argument("margin", 0)

    def check(self) -> None:
        super().check()
        more = zip(self.sides("output_padding"), self.sides("stride"), strict=True)
        if any(p >= s for p, s in more):
            raise Misfit(
                f"`output_padding` of `{self.name}` must be smaller than `stride`, and it is"
                f" {self.output_padding} for a stride of {self.stride}",
                argument="output_padding",
                code="E302",
            )

    def size_along(self, axis: int, size: Size) -> Size:
        return scaled_size(size, self.sides("stride")[axis], self.added(axis))

    def added(self, axis: int) -> int:
        """By how much the output is larger than `stride` times the input."""
        names = ("kernel", "stride", "output_padding")
        k, s, more = (self.sides(name)[axis] for name in names)
        return k - s + more - sum(self.pads()[axis])

    def too_small(self, x: Tensor) -> Misfit:
        return Misfit(
            f"`{self.name}` of {by_sides(self.sides('kernel'))} taps leaves nothing of its input"
            f" {x} with a padding of {self.padding}",
            hint=f"make `padding` smaller: so many {GRIDS[self.places].pixels} are cut off at each"
            " side",
            argument="padding",
        )

    norm = Norm("spectral_groups", "n·√(in/out)·max over taps of σ_max, n taps meet in a pixel")

    @property
    def axes(self) -> tuple[str, ...]:
        kernel = self.sides("kernel")
        square = len(set(kernel)) == 1
        return ("in_", "out", *(("kernel",) * len(kernel) if square else ("high", "wide")))

    @property
    def init(self) -> str:
        sides = "ij"[: self.places]
        loops = [f"{'    ' * n}for {i} in range({k}):" for n, (i, k) in
                 enumerate(zip(sides, self.axes[2:], strict=True))]  # fmt: skip
        each = f"weight[:, :, {', '.join(sides)}], generator=generator)"
        scale = "weight *= math.sqrt(out / in_)" + f" / {self.meeting}" * (self.meeting > 1)
        return "\n".join([*loops, f"{'    ' * self.places}nn.init.orthogonal_({each}", scale])

    @property
    def shown(self) -> str:
        return self.with_settings(**{"out": "{1}", "in": "{0}", "kernel": self.printed})

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.inputs, self.out, *self.sides("kernel"))

    @property
    def measured_shape(self) -> tuple[int, ...]:
        return (self.out, self.inputs, self.taps // self.meeting, self.meeting)

    def layout(self, parameter: str = "") -> Layout | None:
        """As a transposed convolution of height 1, where there is one axis of pixels."""
        shape, kernel = self.weight_shape, self.sides("kernel")
        split = (self.inputs, self.out, *(1,) * (2 - self.places), *kernel)
        return Layout(parameter, shape, split, tuple((0, size) for size in split), (1, 0, 2, 3))

    def _meeting(self, axis: int) -> tuple[int, int]:
        """How many taps meet along an axis, and how many the norm counts."""
        k, s = self.sides("kernel")[axis], self.sides("stride")[axis]
        most = -(-k // s)
        divisors = {d for n in range(1, math.isqrt(k) + 1) if k % n == 0 for d in (n, k // n)}
        return most, min(d for d in divisors if d >= most)

    @property
    def meeting(self) -> int:
        return math.prod(self._meeting(axis)[1] for axis in range(self.places))

    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.transpose(0, 1).movedim((0, 1), (-2, -1))

    def stored(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices.movedim((-2, -1), (0, 1)).transpose(0, 1)

    def stretch(self, axis: int, size: Size) -> float:
        """The sensitivity in the RMS over an axis.

        A pixel of the output at place r modulo the stride has the n_r taps there; so
        ‖y‖₂² ≤ Σ n_r²·‖x‖₂²/n², over more pixels.
        """
        k, s = self.sides("kernel")[axis], self.sides("stride")[axis]
        total = math.sqrt(overlap(k, s)[0]) / self._meeting(axis)[1]
        added = self.added(axis)
        if isinstance(size, Symbol):
            if added >= 0:
                return total / math.sqrt(s)
            size = -((added - 1) // s)  # the smallest of which anything is left
        return total * math.sqrt(size / (s * size + added))

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        """As a convolution of the pixels `stride` apart, zeros between them, by the taps turned."""
        import torch.nn.functional as F

        assert weight is not None
        around: list[int] = []
        for axis in range(self.places):
            k, s, more, (before, behind) = (
                *(self.sides(name)[axis] for name in ("kernel", "stride", "output_padding")),
                self.pads()[axis],
            )
            x = x.movedim(2 + axis, -1)
            x = F.pad(x.unsqueeze(-1), (0, s - 1)).flatten(-2)[..., : s * (x.shape[-1] - 1) + 1]
            x = x.movedim(-1, 2 + axis)
            around = [k - 1 - before, k - 1 - behind + more, *around]
        turned = weight.transpose(0, 1).flip(tuple(range(2, weight.ndim))).unsqueeze(0)
        once = (1,) * self.places
        return self.convolved(F.pad(x, around), turned, once, once)

    @property
    def layer(self) -> tuple[str, str]:
        names = ("stride", "padding", "output_padding")
        sides = self.options(**{name: plain(self.sides(name)) for name in names})
        return self.kind, f"in_, out, {self.written}{sides}, bias=False"

    def emit(self, x: Any, type: Type, own: str) -> str:
        names = ("stride", "padding", "output_padding")
        options = self.options(**{name: plain(self.sides(name)) for name in names})
        return f"{self.call}({x}, {own}.weight{options})"


@register
@dataclass(frozen=True)
class ConvTranspose1D(Transposed):
    """Transposed convolution of signals (batch, in, length), without bias.

    As torch.nn.ConvTranspose1d, and as `ConvTranspose2D` along one axis: n = ⌈kernel/stride⌉ taps
    meet in a place at most, and with the norm the sensitivity is 1 in that of the largest place.
    """

    name = "ConvTranspose1D"
    places = 1
    call = "F.conv_transpose1d"
    kind = "nn.ConvTranspose1d"
    other = "`ConvTranspose2D` takes images (batch, channels, height, width)"


@register
@dataclass(frozen=True)
class ConvTranspose2D(Transposed):
    """Transposed convolution of images (batch, in, h, w), without bias: torch.nn.ConvTranspose2d.

    Each pixel is laid over `kernel` × `kernel` pixels, `stride` apart, and what falls on one is
    added up; `padding` pixels are cut off at each side, `output_padding` left at the end. Of the
    taps n = ⌈kernel/stride⌉² meet in a pixel at most. The norm takes the largest tap's spectral
    norm n times, where along an axis n divides the kernel, and else the next larger divisor; with
    it the sensitivity is 1 in the norm of the largest pixel.
    """

    name = "ConvTranspose2D"
    places = 2
    call = "F.conv_transpose2d"
    kind = "nn.ConvTranspose2d"
    other = "`ConvTranspose1D` takes signals (batch, channels, length)"
