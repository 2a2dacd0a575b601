"""A guard against hanging, by processor time, so that a busy machine does not matter."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 20
"""Seconds of processor time after which something counts as hanging: some four times what the
slowest legal program takes, since machines differ."""


class Hanging(Exception):
    """Something took longer than it ever should."""


@contextmanager
def no_hanging() -> Iterator[None]:
    """Ends what runs for more than `LIMIT` seconds of processor time."""
    if not hasattr(signal, "SIGPROF"):  # Windows
        yield
        return

    def stop(*_: object) -> None:
        raise Hanging

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
