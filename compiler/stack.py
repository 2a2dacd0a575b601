"""Room on Python's stack for what walks trees as deep as the compiler's bounds allow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

RECURSION = 20_000
"""Python frames that the bounds on nesting may need."""


@contextmanager
def room() -> Iterator[None]:
    """Room for the deepest nesting that the bounds allow, given back afterwards."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
