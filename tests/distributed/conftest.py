"""Worlds of one to four ranks, each started once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from torch import distributed
from worlds import World

if not (distributed.is_available() and distributed.is_gloo_available()):
    collect_ignore_glob = ["test_*"]


@pytest.fixture(scope="session")
def world() -> Iterator[Callable[[int], World]]:
    """A world of so many ranks."""
    known = dict[int, World]()

    def of(count: int) -> World:
        if count not in known:
            known[count] = World(count)
        return known[count]

    yield of
    for one in known.values():
        one.close()
