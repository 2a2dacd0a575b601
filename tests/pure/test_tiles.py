"""The cost model that cuts weights into tiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modnorm.kernels.tiles import AT_ONCE, DEVICES, LARGEST, WAVES, choose, power, view

sizes = st.integers(1, 70_000)
shapes = st.one_of(
    st.tuples(sizes),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(1, 64), sizes, sizes),
    st.tuples(sizes, sizes, st.integers(1, 11), st.integers(1, 11)),
)


@given(shapes, st.integers(1, 10**11), st.sampled_from(sorted(DEVICES)))
def test_tiles_fit_the_device(shape: tuple[int, ...], entries: int, device: str) -> None:
    tile = choose(shape, entries, device)
    rows, columns, taps = view(shape)
    assert tile.block == power(tile.block)
    assert tile.columns == power(tile.columns)
    assert tile.rows % tile.block == 0
    assert tile.block <= power(rows)
    at_once = tile.block * tile.columns * power(taps)
    assert at_once <= max(AT_ONCE, DEVICES[device].widest)
    assert tile.columns <= power(columns)
    assert tile.rows * columns * taps <= max(LARGEST, tile.block * columns * taps)


def test_a_large_model_gives_every_processor_some_tiles_of_like_size() -> None:
    layers = [(4096, 4096)] * 64 + [(16384, 4096)] * 32
    entries = sum(a * b for a, b in layers)
    tiles = sum(-(-a // choose((a, b), entries).rows) for a, b in layers)
    assert tiles >= WAVES * DEVICES["sm_90"].processors
    rows = {shape: choose(shape, entries).rows for shape in set(layers)}
    assert min(rows.values()) >= 64  # below 0.4 % of the bytes are parts


def test_a_small_model_is_cut_finely() -> None:
    assert choose((512, 128), 800_000).rows == 64
    assert choose((8, 8), 1000) == (8, 8, 8)


@pytest.mark.parametrize(
    ("shape", "columns"),
    [((64, 8192), 8192), ((64, 8193), 4096), ((64, 256, 3, 3), 256), ((64, 257, 3, 3), 256)],
)
def test_wide_rows_are_walked_through_in_chunks(shape: tuple[int, ...], columns: int) -> None:
    assert choose(shape, 10**9, "sm_90").columns == columns


def test_a_stack_is_cut_as_its_matrices_are() -> None:
    assert view((12, 64, 768)) == (64, 768, 1)
    assert choose((12, 64, 768), 10**8) == choose((64, 768), 10**8)


def test_unknown_devices() -> None:
    with pytest.raises(KeyError):
        choose((8, 8), 64, "sm_10")
