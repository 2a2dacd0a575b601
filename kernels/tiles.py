"""How the weights of a model are cut into tiles, one for each program on a GPU: a cost model.

No torch here: the compiler asks, and writes the answers into the generated file as TILES.

What a step costs is bytes. A matrix's tile of r rows × n entries moves 36·r·n bytes of weights and
moments, and beyond those n entries of its part of Uᵀ(Ux), written once and read once: 8·n bytes, so
a part r/36 as dear as the rest would be 8/(36·r). Long tiles are cheap; but all processors of the
device have to have work, several tiles each, or they wait for the last one. Hence:

* `block` rows at once hold about 4096 entries, 16 for each thread: enough loads under way to hide
  the memory's latency, and few enough to stay in registers (six numbers an entry; 16-bit weights
  take half as many rows, since conversions need registers too).
* a row wider than `Device.widest` (a convolution's: 4096, counted with the idle lanes that powers
  of two bring) is walked through in chunks of 4096 entries, and read from the cache once more.
* `rows` leaves `WAVES` tiles for every processor, if the model is large enough, but a tile has at
  least 2 blocks and at most 2^18 entries.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

WAVES = 8
"""Tiles for each processor, if the model has so many: the last ones then cost 1/16 on average."""
AT_ONCE = 4096
"""Entries that a program holds at once."""
LARGEST = 1 << 18
"""Entries of a tile."""


class Device(NamedTuple):
    """What the cost model knows of a class of devices."""

    name: str  # of one of them
    processors: int  # streaming multiprocessors or compute units
    widest: int  # entries of a row that stay in registers
    warps: int  # for each program; 64 lanes each on AMD


DEVICES = {
    "sm_80": Device("A100", 108, 8192, 8),
    "sm_90": Device("H100, H200", 132, 8192, 8),
    "sm_100": Device("B200", 148, 8192, 8),
    "gfx942": Device("MI300X", 304, 4096, 4),
}
DEFAULT = "sm_90"


# modnorm: begin
class Tile(NamedTuple):
    """How a program on a GPU walks through a weight, seen as rows × taps × columns."""

    rows: int  # that one program takes,
    block: int  # of them at once,
    columns: int  # and of these at once: powers of two both


def power(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def view(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns and taps of a weight, or of one matrix of a stack. A vector is one row."""
    shape = shape[1:] if len(shape) == 3 else shape
    return (shape[0], shape[1], prod(shape[2:])) if len(shape) > 1 else (1, shape[0], 1)


# modnorm: end
def choose(shape: tuple[int, ...], entries: int, device: str = DEFAULT) -> Tile:
    """The tile for a weight of this shape in a model with so many entries.

    Shapes are (n,), (rows, columns), (matrices, rows, columns) or (rows, columns, high, wide).
    Raises KeyError for a device that is no key of DEVICES.
    """
    kind = DEVICES[device]
    height, width, taps = view(shape)
    padded = power(width) * power(taps)
    fits = padded <= (kind.widest if taps == 1 else AT_ONCE)
    columns = power(width) if fits else max(1, AT_ONCE // power(taps))
    block = min(power(height), max(1, AT_ONCE // (columns * power(taps))))
    fair = entries // (WAVES * kind.processors)
    rows = min(LARGEST, max(fair, 2 * AT_ONCE)) // (width * taps)
    blocks = min(rows // block, -(-height // block))
    return Tile(max(1, blocks) * block, block, columns)
