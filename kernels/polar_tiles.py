"""The tiles that the kernels for polar factors use, by a cost model. No torch here."""

from __future__ import annotations

from functools import cache
from math import ceil
from typing import NamedTuple

from .tiles import DEVICES


# modnorm: begin
class PolarTile(NamedTuple):
    """A program's share of a product and how it is compiled."""

    rows: int
    columns: int
    depth: int  # how much of the inner dimension it takes at a time
    warps: int
    stages: int = 2  # how many such slices are on their way to shared memory at once


class PolarTiles(NamedTuple):
    """The tiles for a stack of matrices of one shape."""

    small: PolarTile | None  # for one program a matrix, where that is faster than the others
    gram: PolarTile
    multiply: PolarTile
    update: PolarTile  # for the product that moves the parameters


# modnorm: end
class DeviceClass(NamedTuple):
    """What the cost model knows of a device; per clock and processor (SM, CU) where not said."""

    processors: int
    shared: int  # bytes of shared memory that one program can have
    flops: dict[int, int]  # operations, by the entries' size in bytes
    bandwidth: int  # bytes from the second-level cache
    stages: int
    ordered: bool  # does Triton's barrier order what a program writes to global memory?


# On gfx942 it waits for shared memory only, so `polar_small` could read what is not yet written.
# From the makers' data sheets (A100, H100 SXM, B200, MI300X); 4 bytes: products in full float32.
DEVICE_CLASSES = {
    "sm_80": DeviceClass(DEVICES["sm_80"].processors, 163 << 10, {2: 2048, 4: 128}, 40, 4, True),
    "sm_90": DeviceClass(DEVICES["sm_90"].processors, 227 << 10, {2: 4096, 4: 256}, 40, 4, True),
    "sm_100": DeviceClass(DEVICES["sm_100"].processors, 227 << 10, {2: 8192, 4: 256}, 48, 4, True),
    "gfx942": DeviceClass(DEVICES["gfx942"].processors, 64 << 10, {2: 2048, 4: 256}, 48, 2, False),
}
LAUNCH = 4000  # clocks from one kernel to the next in a CUDA graph, about 2 µs
LATENCY = 1000  # clocks until the first numbers of a tile arrive
SLICE = 60  # clocks for addresses and barriers, for each slice
RESIDENT = 2  # programs at once on a processor; `staged` leaves them the shared memory
SMALL = 128  # the largest short side for which one program a matrix is considered

# rows, columns, depth, warps: none of them spills registers on sm_90 in the kernels named.
SQUARES = {
    2: (PolarTile(32, 32, 64, 4), PolarTile(64, 64, 64, 4), PolarTile(128, 128, 64, 8)),
    4: (PolarTile(32, 32, 32, 4), PolarTile(64, 64, 16, 4), PolarTile(128, 128, 16, 8)),
}
OBLONGS = {
    2: (
        PolarTile(32, 64, 64, 4),
        PolarTile(64, 64, 64, 4),
        PolarTile(64, 128, 64, 8),
        PolarTile(128, 128, 64, 8),
    ),
    4: (
        PolarTile(32, 32, 32, 4),
        PolarTile(64, 64, 16, 4),
        PolarTile(64, 128, 16, 8),
        PolarTile(128, 128, 16, 8),
    ),
}
UPDATES = {
    2: (PolarTile(32, 64, 64, 4), PolarTile(64, 64, 64, 4), PolarTile(128, 64, 64, 8)),
    4: (PolarTile(32, 32, 32, 4), PolarTile(64, 64, 16, 8), PolarTile(128, 64, 16, 8)),
}
SMALLS = {
    2: (PolarTile(16, 16, 32, 1), PolarTile(32, 32, 32, 2), PolarTile(64, 64, 32, 4)),
    4: (PolarTile(16, 16, 16, 2), PolarTile(32, 32, 32, 2, 4), PolarTile(64, 64, 16, 8, 4)),
}


def staged(tile: PolarTile, device: DeviceClass, itemsize: int) -> PolarTile:
    """The tile with as many stages as let two programs into shared memory at once, but two."""
    fit = device.shared // (2 * (tile.rows + tile.columns) * tile.depth * itemsize)
    return tile._replace(stages=max(2, min(device.stages, fit)))


def lasts(tile: PolarTile, device: DeviceClass, itemsize: int, depth: int, programs: int) -> float:
    """Clocks for a tile of each of so many programs: waves of the larger of arithmetic and traffic.

    Of the RESIDENT programs on a processor one computes while the others wait.
    """
    work = 2 * tile.rows * tile.columns * tile.depth / device.flops[itemsize]
    traffic = (tile.rows + tile.columns) * tile.depth * itemsize / device.bandwidth
    waves = ceil(programs / device.processors)
    busy = ceil(depth / tile.depth) * (SLICE + max(work, traffic))
    return waves * busy + ceil(waves / RESIDENT) * LATENCY


def area(tile: PolarTile, n: int, m: int | None = None) -> int:
    """How many tiles an n×m matrix has, or the lower triangle of an n×n one."""
    side = ceil(n / tile.rows)
    return side * (side + 1) // 2 if m is None else side * ceil(m / tile.columns)


@cache
def tiles(
    n: int, m: int, device_class: str, itemsize: int = 2, count: int = 1, steps: int = 5
) -> PolarTiles:
    """The tiles for `count` matrices n×m, n ≤ m, whose entries have `itemsize` bytes.

    They are those for which `lasts` gives least, but a kernel lasts at least LAUNCH. One program a
    matrix (`small`) makes one tile after the other, in one launch.

    Raises KeyError for a device class that DEVICE_CLASSES does not have.
    """
    device = DEVICE_CLASSES[device_class]

    def launch(tile: PolarTile, parts: int, depth: int) -> float:
        return max(LAUNCH, lasts(tile, device, itemsize, depth, parts * count))

    def grams(tile: PolarTile) -> float:
        return launch(tile, area(tile, n), m) + launch(tile, area(tile, n), n)

    def products(tile: PolarTile) -> float:
        return launch(tile, area(tile, n, m), n)

    def serial(tile: PolarTile) -> float:
        a, b = (lasts(tile, device, itemsize, depth, count) for depth in (n, m))
        return area(tile, n) * (a + b) + area(tile, n, m) * a

    gram = min(SQUARES[itemsize], key=grams)
    multiply = min(OBLONGS[itemsize], key=products)
    update = min(UPDATES[itemsize], key=products)
    small = min(SMALLS[itemsize], key=serial)
    tiled = steps * (grams(gram) + products(multiply))
    alone = device.ordered and n <= SMALL and steps * serial(small) < tiled
    rest = (staged(tile, device, itemsize) for tile in (gram, multiply, update))
    return PolarTiles(small if alone else None, *rest)
