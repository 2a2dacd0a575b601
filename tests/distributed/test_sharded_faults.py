"""Ranks on which something goes wrong: all of them say so, and none waits for ever."""

from __future__ import annotations

import time
from typing import Any

import pytest
from worlds import PATIENCE, World

NAME = "block.0.attention.q.linear.weight"


@pytest.mark.parametrize("where", ["gradient", "moment"])
@pytest.mark.parametrize("kind", ["NormedAdam", "NormedSGD", "DualizedSGD"])
def test_a_nan_on_one_rank_is_an_error_on_all(world: Any, kind: str, where: str) -> None:
    found = world(3).call("sharded_faults.with_nan", kind, "raise", where)
    said, skipped, moved, finite = found[0]
    assert all(one == found[0] for one in found)
    assert NAME in said
    assert skipped == {}
    assert finite
    assert any(moved) == (where == "moment")  # that is known once others have moved


@pytest.mark.parametrize("where", ["gradient", "moment"])
@pytest.mark.parametrize("kind", ["NormedAdam", "NormedSGD", "DualizedSGD"])
def test_or_left_out_on_all(world: Any, kind: str, where: str) -> None:
    found = world(3).call("sharded_faults.with_nan", kind, "skip", where)
    assert all(one == found[0] for one in found)
    said, skipped, moved, finite = found[0]
    assert said == ""
    assert skipped == {NAME: 1}
    assert moved.count(False) == 1
    assert finite


def test_a_gradient_on_some_ranks_only(world: Any) -> None:
    for said in world(2).call("sharded_faults.with_a_gradient_on_one_rank"):
        assert "a gradient on some ranks only, for linear.weight" in said


def test_a_rank_that_dies_in_a_step_ends_the_others() -> None:
    of, start = World(2), time.monotonic()
    try:
        (_, trace), (_, gone) = of.attempt("sharded_faults.with_a_rank_that_dies")
    finally:
        of.close()
    assert gone == "the process ended"
    assert "RuntimeError" in trace or "DistBackendError" in trace
    assert "sharded.py" in trace
    assert time.monotonic() - start < 3 * PATIENCE  # the start of the processes is in it
