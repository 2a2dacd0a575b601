"""Worlds of one to four ranks, each started once."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import pytest
from torch import distributed
from worlds import World

if not (
    distributed.is_available() and distributed.is_gloo_available() and find_spec("transformers")
):
    collect_ignore_glob = ["test_*"]


@cache
def started(count: int) -> World:
    found = World(count)
    atexit.register(found.close)
    return found


@pytest.fixture
def world() -> Callable[[int], World]:
    """A world of so many ranks, which stays for other tests."""
    return started
