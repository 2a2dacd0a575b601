"""What to do about a sweep that does not tell all it was asked: sentences for its reader."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modnorm.report.words import plural
from modnorm.sweep.curves import Curve, labels

if TYPE_CHECKING:
    from modnorm.sweep.findings import Findings

FURTHER = 3
"""Doublings that are advised past an end of the learning rates."""
SHOWN = 3
"""Curves that are named in one sentence."""


def power(log2: float) -> str:
    """A learning rate as a power of two: `2^-2`, `2^-2.3`."""
    rounded = round(log2, 2) + 0.0
    return f"2^{rounded:g}"


def place(optimizer: str, sizes: str) -> str:
    """A curve in words."""
    return f"{optimizer} at {sizes}" if sizes else optimizer


def warnings(findings: Findings) -> Iterator[str]:
    """What is missing, cut off or left out."""
    missing = findings.sweep.missing
    if missing:
        verb = "is" if missing == 1 else "are"
        yield f"{plural(missing, 'run')} {verb} missing: the same command goes on with them"
    for optimizer in dict.fromkeys(one.optimizer for one in findings.curves):
        own = findings.of(optimizer)
        for edge in ("low", "high"):
            if cut := [one for one in own if one.edge == edge]:
                yield _edge(optimizer, cut, edge == "low")
        for problem in dict.fromkeys(one.problem for one in own if not one.edge):
            if problem:
                alike = [one for one in own if one.problem == problem]
                yield f"{_named(optimizer, alike)}: no optimum, as {problem}"
        if uneven := [one for one in own if one.left_out]:
            left = sum(one.left_out for one in uneven)
            yield (
                f"{_named(optimizer, uneven)}: not every seed has a run at every learning rate;"
                f" {plural(left, 'run')} left out of the fit"
            )
    yield from _drifts(findings)


def _drifts(findings: Findings) -> Iterator[str]:
    seen: set[str] = set()
    for drift in findings.drifts:
        if drift.value is None:
            yield f"{drift.optimizer}, {drift.axis}: no drift, as {drift.reason}"
            continue
        if drift.left_out and drift.optimizer not in seen:
            seen.add(drift.optimizer)
            yield (
                f"{drift.optimizer}: its drifts leave out {plural(drift.left_out, 'curve')} without"
                " an optimum, and may be larger"
            )
        if drift.error is None:
            yield (
                f"{drift.optimizer}, {drift.axis}: without an error of the drift there is no"
                " verdict: add seeds (--seeds) or sizes (--vary)"
            )


def _edge(optimizer: str, cut: list[Curve], low: bool) -> str:
    rates = [point.log2_lr for one in cut for point in one.points]
    end = min(rates) if low else max(rates)
    whole = math.ceil(end) if low else math.floor(end)
    past = whole - FURTHER if low else whole + FURTHER
    first, last = sorted((past, whole))
    what = "lowest" if low else "highest"
    return (
        f"{_named(optimizer, cut)}: the best learning rate is the {what} that was tried; the"
        f" optimum lies beyond, so add {power(first)}..{power(last)} to --lr, or raise --extend"
    )


def _named(optimizer: str, curves: list[Curve]) -> str:
    names = [labels(one.sizes) for one in curves]
    shown = "; ".join(name for name in names[:SHOWN] if name)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return place(optimizer, shown + more)
