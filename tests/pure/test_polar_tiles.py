"""The cost model behind the tiles of the kernels for polar factors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modnorm.kernels.polar_tiles import DEVICE_CLASSES, SMALL, tiles

devices = st.sampled_from(sorted(DEVICE_CLASSES))
sizes = st.integers(1, 20000)


@given(sizes, sizes, devices, st.sampled_from([2, 4]), st.integers(1, 500))
def test_tiles_fit_and_are_powers_of_two(n, m, device, itemsize, count):
    n, m = sorted((n, m))
    chosen = tiles(n, m, device, itemsize, count)
    for tile in filter(None, chosen):
        sides = (tile.rows, tile.columns, tile.depth)
        assert all(side >= 16 and side & (side - 1) == 0 for side in sides)
        slices = tile.stages * (tile.rows + tile.columns) * tile.depth * itemsize
        assert slices <= DEVICE_CLASSES[device].shared
        assert tile.rows * tile.columns <= tile.warps * 32 * 64  # 64 of 255 registers for the sum
    assert chosen.gram.rows == chosen.gram.columns
    assert chosen.small is None or n <= SMALL


@pytest.mark.parametrize("device", sorted(DEVICE_CLASSES))
def test_many_small_matrices_have_one_program_each_and_large_ones_many(device):
    for n in (1, 16, 32, 64):
        assert bool(tiles(n, n, device, 2, 100).small) == DEVICE_CLASSES[device].ordered
    assert tiles(4096, 4096, device).small is None
    assert tiles(64, 1 << 16, device).small is None  # one processor would work for all others
    for itemsize in (2, 4):
        large = tiles(8192, 8192, device, itemsize)
        assert min(large.gram.rows, large.multiply.rows) >= 64
        assert large.multiply.columns == 128


def test_an_unknown_device_is_an_error():
    with pytest.raises(KeyError):
        tiles(4, 4, "sm_1")
