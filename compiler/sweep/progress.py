"""How far a sweep is, and what remains: a line on stderr, where that is a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from modnorm.report.diagnostics import clean
from modnorm.sweep.plan import Curve
from modnorm.sweep.records import Outcome


@dataclass
class Estimate:
    """Seconds that runs take, learned from those that are over: alike ones first, else by cost."""

    _by_curve: dict[tuple[str, object], tuple[Curve, float, int]] = field(default_factory=dict)

    def learn(self, curve: Curve, outcome: Outcome) -> None:
        name = curve.optimizer, curve.sizes
        _, seconds, count = self._by_curve.get(name, (curve, 0.0, 0))
        self._by_curve[name] = curve, seconds + outcome.seconds, count + 1

    def seconds(self, curve: Curve) -> float | None:
        """Of one run of a curve; None as long as nothing is known."""
        known = self._by_curve.get((curve.optimizer, curve.sizes))
        if known is None and self._by_curve:
            known = min(
                self._by_curve.values(),
                key=lambda other: (
                    abs(math.log(other[0].cost / curve.cost)),
                    other[0].optimizer != curve.optimizer,
                ),
            )
        if known is None:
            return None
        like, seconds, count = known
        return seconds / count * curve.cost / like.cost

    def remaining(self, runs: Sequence[Curve], size: int) -> float | None:
        """Seconds until these runs are over, so many at once."""
        each = [self.seconds(curve) for curve in runs]
        if None in each:
            return None
        return sum(s for s in each if s is not None) / max(1, min(size, len(runs) or 1))


class Watch:
    """Is told what happens in a sweep; shows nothing."""

    def state(
        self, done: int, total: int, diverged: int, remaining: float | None, what: str
    ) -> None:
        """So many of so many runs are over; seconds remain; the last one that was begun."""


class Bar(Watch):
    """A progress bar."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self.progress = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task("", total=None, left="")
        self.at = time.monotonic()

    def state(
        self, done: int, total: int, diverged: int, remaining: float | None, what: str
    ) -> None:
        left = "" if remaining is None else f"{spoken(remaining)} left"
        if diverged:
            left += f"{', ' if left else ''}{diverged} diverged"
        self.progress.update(
            self.task, completed=done, total=total, left=left, description=clean(what[-40:])
        )


def spoken(seconds: float) -> str:
    """About how long that is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def watching(show: bool) -> Iterator[Watch]:
    """What to tell of a sweep's progress."""
    if not show:
        yield Watch()
        return
    bar = Bar()
    with bar.progress:
        yield bar
