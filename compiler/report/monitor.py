"""Reads the JSON lines that the monitor of a generated optimizer writes while a model trains.

The first line says what is measured, each further one holds the measures of one step:

    {"modnorm": "monitor", "version": 1, "model": "GPT", "optimizer": "NormedAdam",
     "weights": ["embed.weight", …], "targets": [0.25, …]}
    {"step": 10, "lr": 0.1, "loss": 2.5, "norm": […], "slack": […], "cosine": […], "spent": […]}

Arrays are in the order of `weights`, with null for what is not known. `loss` may be left out;
`lrs` gives the rates by weight where parameter groups differ. Other keys are for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import Literal

from modnorm.report.unusable import Unusable

MEASURES = ("norm", "slack", "cosine", "spent")
EXPECTED = (
    "the first line of a monitor's file begins with "
    '{"modnorm": "monitor", "version": 1, and names the weights'
)
Values = tuple[float | None, ...]


class MonitorError(Unusable):
    """A monitor's file that cannot be used; its text says which, where and why."""

    def __init__(self, path: str, line: int | None, reason: str) -> None:
        place = "" if line is None else f", line {line}"
        super().__init__(f"`{path}`{place}: {reason}")
        self.path, self.line, self.reason = path, line, reason


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One step; tuples have a value for each weight, None where it is not known."""

    step: int  # steps made by then, this one included
    lr: float | None = None  # the largest, where parameter groups differ
    lrs: Values = ()  # of each weight
    loss: float | None = None
    norm: Values  # of the weights after the step, each in its own norm
    slack: Values  # the update's exact norm over lr·target
    cosine: Values  # of the angle between the update and minus the gradient
    spent: Values  # shares of the step: they sum to 1 if every update has its target's size


@dataclass(frozen=True)
class Monitored:
    """What the monitor of one run has recorded."""

    model: str
    optimizer: str
    weights: tuple[str, ...]  # their names, in execution order
    targets: tuple[float, ...]  # of an update of modular norm 1; 0 where a weight is frozen
    rows: tuple[Recorded, ...]  # steps in rising order
    cut: bool  # was the last line incomplete, and left out?


@dataclass(frozen=True)
class _Head:
    """The first line."""

    modnorm: Literal["monitor"]
    version: Literal[1]
    model: str
    optimizer: str
    weights: tuple[str, ...]
    targets: tuple[float, ...]


def read_monitor(path: str | PathLike[str], weights: Iterable[str] | None = None) -> Monitored:
    """The record of a run, from the file that its monitor wrote.

    A last line that is cut off, as by a killed process, is left out. `weights` are the names
    that are expected, in execution order.

    Raises:
        MonitorError: if the file cannot be read, is no such file, or has other weights.
    """
    name = fspath(path)
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise MonitorError(name, None, f"it cannot be read: {reason.lower()}") from None
    from modnorm.report.typed import NoJson, decoded

    number, rows, cut = 1, list[Recorded](), False
    try:
        head = _head(lines[0], weights)
        for number, text in enumerate(lines[1:], 2):
            try:
                row = decoded(text, Recorded)
            except NoJson:
                if number < len(lines):
                    raise
                cut = text != b""
            else:
                rows.append(_sound(row, len(head.weights), rows[-1].step if rows else 0))
    except Unusable as error:
        raise MonitorError(name, number, str(error)) from None
    return Monitored(head.model, head.optimizer, head.weights, head.targets, tuple(rows), cut)


def _head(line: bytes, weights: Iterable[str] | None) -> _Head:
    from modnorm.report.typed import decoded

    try:
        head = decoded(line, _Head)
    except Unusable as error:
        raise Unusable(f"{error}; {EXPECTED}") from None
    _expect("targets", head.targets, len(head.weights))
    if weights is not None and (wrong := _differences(head.weights, tuple(weights))):
        raise Unusable(f"these are the weights of another model: {wrong}")
    return head


def _sound(row: Recorded, count: int, before: int) -> Recorded:
    """A step of so many weights, after another one."""
    if row.step <= before:
        raise Unusable(f"`step` must be a whole number above {before}, not {row.step}")
    row = replace(row, lrs=row.lrs or (row.lr,) * count)
    for key in ("lrs", *MEASURES):
        _expect(key, getattr(row, key), count)
    return row


def _expect(key: str, values: Sequence[object], count: int) -> None:
    if len(values) != count:
        raise Unusable(f"`{key}` has {len(values)} values for {count} weights")


def _differences(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """Where two lists of names differ, in words; nothing if they do not."""
    if found == wanted:
        return ""
    for what, names in (
        ("it has no", [name for name in wanted if name not in set(found)]),
        ("it has", [name for name in found if name not in set(wanted)]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"{what} `{names[0]}`{more}"
    return "it has the same names in another order"
