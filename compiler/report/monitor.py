"""Reads the JSON lines that the monitor of a generated optimizer writes while a model trains.

The first line says what is measured, each further one holds the measures of one step:

    {"modnorm": "monitor", "version": 1, "model": "GPT", "optimizer": "NormedAdam",
     "weights": ["embed.weight", …], "targets": [0.25, …]}
    {"step": 10, "lr": 0.1, "loss": 2.5, "norm": […], "slack": […], "cosine": […], "spent": […]}

Arrays are in the order of `weights`, with null for what is not known. `loss` may be left out;
`lrs` gives the rates by weight where parameter groups differ. Other keys are for others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import NoReturn

VERSION = 1
MEASURES = ("norm", "slack", "cosine", "spent")
Values = tuple[float | None, ...]


class MonitorError(ValueError):
    """A monitor's file that cannot be used; its text says which, where and why."""

    def __init__(self, path: str, line: int | None, reason: str) -> None:
        place = "" if line is None else f", line {line}"
        super().__init__(f"`{path}`{place}: {reason}")
        self.path, self.line, self.reason = path, line, reason


@dataclass(frozen=True)
class Recorded:
    """One step; tuples have a value for each weight, None where it is not known."""

    step: int  # steps made by then, this one included
    lr: float | None  # the largest, where parameter groups differ
    lrs: Values  # of each weight
    loss: float | None
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
    head = _Line(name, 1, lines[0]).header()
    if weights is not None and (wrong := _differences(head.weights, tuple(weights))):
        raise MonitorError(name, 1, f"these are the weights of another model: {wrong}")
    rows, cut = list[Recorded](), False
    for number, text in enumerate(lines[1:], 2):
        last = number == len(lines)
        if last and not text:
            break
        try:
            line = _Line(name, number, text)
        except MonitorError:
            if not last:
                raise
            cut = True
        else:
            rows.append(line.row(len(head.weights), rows[-1].step if rows else 0))
    return replace(head, rows=tuple(rows), cut=cut)


class _Line:
    """A line of a file, once it is known to be a JSON object."""

    def __init__(self, path: str, number: int, text: bytes) -> None:
        self.path, self.number = path, number
        try:
            self.found = json.loads(text.decode("utf-8"), parse_constant=self.constant)
        except MonitorError:
            raise
        except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
            self.found = None
        if not isinstance(self.found, dict):
            self.wrong("this is no JSON object" + ("" if number > 1 else f"; {EXPECTED}"))

    def wrong(self, reason: str) -> NoReturn:
        raise MonitorError(self.path, self.number, reason)

    def constant(self, word: str) -> NoReturn:
        self.wrong(f"{word} is no JSON: what is not finite is null here")

    def header(self) -> Monitored:
        """The first line."""
        found = self.found
        if found.get("modnorm") != "monitor":
            self.wrong(f"the file is not a monitor's; {EXPECTED}")
        if found.get("version") != VERSION:
            self.wrong(f"version {found.get('version')} of the format; this reads {VERSION}")
        for key in ("model", "optimizer"):
            if not isinstance(found.get(key), str):
                self.wrong(f"`{key}` is missing, or no text")
        names = found.get("weights")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.wrong("`weights` is missing, or no list of names")
        targets = self.values("targets", len(names))
        known = tuple(x for x in targets if x is not None)
        if len(known) < len(targets):
            self.wrong("`targets` has values that are no numbers")
        return Monitored(found["model"], found["optimizer"], tuple(names), known, (), False)

    def row(self, count: int, before: int) -> Recorded:
        """A further line, of so many weights, after such a step."""
        step = self.found.get("step")
        if isinstance(step, bool) or not isinstance(step, int) or step <= before:
            self.wrong(f"`step` must be a whole number above {before}, not {step!r}")
        lr = self.number_in("lr", self.found.get("lr"))
        lrs = self.values("lrs", count) if "lrs" in self.found else (lr,) * count
        loss = self.number_in("loss", self.found.get("loss"))
        return Recorded(step, lr, lrs, loss, *(self.values(key, count) for key in MEASURES))

    def values(self, key: str, count: int) -> Values:
        """An array with a number or null for each weight."""
        found = self.found.get(key)
        if not isinstance(found, list):
            self.wrong(f"`{key}` is missing, or no array")
        if len(found) != count:
            self.wrong(f"`{key}` has {len(found)} values for {count} weights")
        return tuple(self.number_in(key, x) for x in found)

    def number_in(self, key: str, value: object) -> float | None:
        if value is None:
            return None
        try:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                number = float(value)
                if math.isfinite(number):
                    return number
        except OverflowError:
            pass
        self.wrong(f"`{key}` has {value!r:.40} where a number or null belongs")


EXPECTED = (
    "the first line of a monitor's file begins with "
    '{"modnorm": "monitor", "version": 1, and names the weights'
)


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
