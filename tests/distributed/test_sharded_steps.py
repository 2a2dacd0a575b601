"""Weights that ranks share end where they end in one process."""

from __future__ import annotations

from typing import Any

import pytest

MODELS = ("gpt", "rescnn", "mixtral", "llama", "gpt2")
# DualizedSGD in float32 tells nothing here: one process whose weights are changed by half of their
# last bit ends up to 0.1 away, since the map lifts what is small in a gradient, rounding too.
KINDS = (("NormedAdam", "float32"), ("NormedSGD", "float32"), ("DualizedSGD", "float64"))
PLACED = [
    *(("rows", count) for count in (1, 2, 3, 4)),
    *(("columns", 2), ("copies", 4)),
]


@pytest.mark.parametrize(("form", "count"), PLACED)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_sharded_weights_end_where_whole_ones_do(
    world: Any, form: str, count: int, name: str, kind: str, dtype: str
) -> None:
    for worst in world(count).call("sharded_cases.compare", name, kind, form, dtype):
        assert worst <= 1e-5


@pytest.mark.parametrize(("form", "count"), [("tensor", 2), ("both", 4), ("ddp", 2)])
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_those_of_other_wrappers_too(
    world: Any, form: str, count: int, kind: str, dtype: str
) -> None:
    for worst in world(count).call("sharded_cases.compare", "llama", kind, form, dtype):
        assert worst <= 1e-5


@pytest.mark.parametrize(("form", "count"), [("rows", 3), ("last", 4), ("copies", 4)])
@pytest.mark.parametrize("name", MODELS)
def test_the_map_in_float32(world: Any, form: str, count: int, name: str) -> None:
    for worst in world(count).call("sharded_cases.given", name, "DualizedSGD", form):
        assert worst <= 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["NormedAdam", "NormedSGD"])
def test_uneven_columns(world: Any, name: str, kind: str) -> None:
    """With widths of 24 over 4 ranks, heads and taps are cut wherever it falls."""
    for worst in world(4).call("sharded_cases.given", name, kind, "last"):
        assert worst <= 1e-5
