"""Reads what `modnorm check --format json` writes, and finds the parts of a report by path."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any

from modnorm.report.nodes import Node
from modnorm.report.unusable import Unusable

EXPECTED = "it is not what `modnorm check --format json` writes"
INDEX = re.compile(r"\d+|\{\d*\}|\*")
"""A segment of a path that numbers copies."""


@dataclass(frozen=True)
class Measured:
    """One module: a bound declared and one certified beside what was measured."""

    path: str
    name: str
    kind: str
    norm: str
    low: float | None
    high: float | None
    declared: float | None
    certified: float | None
    measured: float | None
    verdict: str
    certified_at_norms: float | None = None


@dataclass(frozen=True)
class MeasuredWeight:
    """One weight: its norm over its ball, target, and how far its update alone moves the output."""

    weight: str
    norm: float | None
    target: float | None
    change: float | None


@dataclass(frozen=True)
class Scaling:
    """How a part's activations, or their changes, grow with a param: exponent and verdict."""

    param: str
    path: str
    quantity: str
    slope: float | None
    verdict: str


@dataclass(frozen=True)
class Checked:
    """What `check` found out about a model; `scalings` only where it varied a param.

    `kappa_at_norms` and `sensitivity_at_norms` are certified for weights of a checkpoint's norms.
    """

    model: str
    kappa: float | None
    measured_kappa: float | None
    modules: tuple[Measured, ...]
    weights: tuple[MeasuredWeight, ...]
    scalings: tuple[Scaling, ...]
    violations: tuple[str, ...]
    params: Mapping[str, object] = field(default_factory=dict)
    kappa_at_norms: float | None = None
    sensitivity_at_norms: float | None = None


def read_check(path: str | PathLike[str]) -> Checked:
    """The measurements in a file.

    Raises:
        Unusable: if the file cannot be read, or has something else in it.
    """
    name = fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except UnicodeDecodeError:
        raise Unusable(f"cannot use `{name}` as measurements: it is no UTF-8 text") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise Unusable(f"cannot use `{name}` as measurements: no JSON at {where}") from None
    except RecursionError:
        raise Unusable(f"cannot use `{name}` as measurements: nested too deeply") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name, a number too long
        reason = getattr(error, "strerror", None) or str(error)
        raise Unusable(
            f"cannot use `{name}` as measurements: {reason[:1].lower() + reason[1:]}"
        ) from None
    return checked(found, name)


def checked(found: object, name: str = "findings") -> Checked:
    """The measurements in what `modnorm check` found, as JSON has it.

    Raises:
        Unusable: if it is something else.
    """
    return _Reader(name).checked(found)


@dataclass(frozen=True)
class _Reader:
    name: str

    def wrong(self, reason: str) -> Unusable:
        return Unusable(f"cannot use `{self.name}` as measurements: {reason}")

    def checked(self, found: object) -> Checked:
        if not isinstance(found, dict) or not isinstance(found.get("modules"), list):
            raise self.wrong(f"`modules` is missing, or no list; {EXPECTED}")
        return Checked(
            self.text(found, "model", "the file"),
            self.number(found, "kappa", "the file"),
            self.number(found, "measured_kappa", "the file"),
            tuple(self.module(i, entry) for i, entry in enumerate(found["modules"])),
            tuple(self.weight(w, at) for w, at in self.entries(found, "weights", "weights")),
            tuple(self.scalings(found.get("coordinates"))),
            tuple(map(_violation, self.listed(found, "violations", "the file"))),
            self.params(found.get("params")),
            self.number(found, "kappa_at_norms", "the file"),
            self.number(found, "sensitivity_at_norms", "the file"),
        )

    def params(self, found: object) -> dict[str, object]:
        """The params of the model that was measured; they may be left out."""
        if found is not None and not isinstance(found, dict):
            raise self.wrong("`params` of the file is no object")
        return found or {}

    def listed(self, found: Mapping[str, Any], key: str, where: str) -> list[Any]:
        """A list that may be left out."""
        value = found.get(key)
        if value is not None and not isinstance(value, list):
            raise self.wrong(f"`{key}` of {where} is no list")
        return value or []

    def entries(
        self, found: Mapping[str, Any], key: str, where: str
    ) -> Iterator[tuple[dict[str, Any], str]]:
        """The objects of a list that may be left out, each with its place in words."""
        for i, entry in enumerate(self.listed(found, key, where)):
            if not isinstance(entry, dict):
                raise self.wrong(f"{where}[{i}] is no object")
            yield entry, f"{where}[{i}]"

    def weight(self, entry: dict[str, Any], where: str) -> MeasuredWeight:
        numbers = (self.number(entry, key, where) for key in ("norm", "target", "change"))
        return MeasuredWeight(self.text(entry, "weight", where), *numbers)

    def scalings(self, found: object) -> Iterator[Scaling]:
        """The lines that were fitted against each param that was varied."""
        if found is None:
            return
        if not isinstance(found, dict):
            raise self.wrong("`coordinates` is no object")
        for varied, where in self.entries(found, "params", "coordinates"):
            param = self.text(varied, "param", where)
            for entry, at in self.entries(varied, "modules", f"{where}.modules"):
                yield Scaling(
                    param,
                    self.text(entry, "path", at),
                    self.text(entry, "quantity", at),
                    self.number(entry, "slope", at),
                    self.text(entry, "verdict", at),
                )

    def module(self, index: int, entry: object) -> Measured:
        where = f"modules[{index}]"
        if not isinstance(entry, dict):
            raise self.wrong(f"{where} is no object")
        bounds = entry.get("input")
        if bounds is None:
            bounds = {}
        if not isinstance(bounds, dict):
            raise self.wrong(f"`input` of {where} is no object with `low` and `high`")
        return Measured(
            self.text(entry, "path", where),
            self.text(entry, "name", where, ""),
            self.text(entry, "kind", where, ""),
            self.text(entry, "norm", where, ""),
            self.number(bounds, "low", f"`input` of {where}"),
            self.number(bounds, "high", f"`input` of {where}"),
            self.number(entry, "declared", where),
            self.number(entry, "certified", where),
            self.number(entry, "measured", where),
            self.text(entry, "verdict", where),
            self.number(entry, "certified_at_norms", where),
        )

    def text(
        self, entry: Mapping[str, Any], key: str, where: str, otherwise: str | None = None
    ) -> str:
        value = entry.get(key)
        if value is None and otherwise is not None:
            return otherwise
        if not isinstance(value, str):
            raise self.wrong(f"`{key}` of {where} is missing, or no text")
        return value

    def number(self, entry: Mapping[str, Any], key: str, where: str) -> float | None:
        """A number; None where there is none, or, as for a bound that is not known, a text."""
        value = entry.get(key)
        if value is None or isinstance(value, str):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(f"`{key}` of {where} is {value!r:.40}, no number")
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None


def _violation(entry: object) -> str:
    if isinstance(entry, dict):
        text = entry.get("message") or entry.get("path")
        return str(text) if text else json.dumps(entry, ensure_ascii=False)
    return str(entry)


# --- paths ---------------------------------------------------------------------------------


class Finder:
    """Finds the part that a path belongs to, be it that of one copy or that of all."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.known: dict[tuple[str, ...], list[Node]] = {}
        self.turns: dict[str, int] = {}
        for node in nodes:
            self.known.setdefault(_general(node.path), []).append(node)

    def weight(self, name: str) -> Node | None:
        """The atom of a weight's name."""
        return self.nearest(name.removesuffix(".weight"), ("atom",))

    def module(self, path: str, kind: str = "") -> Node | None:
        """The part at a path; several operations there are taken in their order."""
        found = self.candidates(path)
        if kind:
            found = [node for node in found if node.kind == kind] or found
        if not found:
            return None
        turn = self.turns[path] = self.turns.get(path, -1) + 1
        return found[min(turn, len(found) - 1)]

    def nearest(self, path: str, kinds: tuple[str, ...]) -> Node | None:
        found = [node for node in self.candidates(path) if node.kind in kinds]
        return found[0] if found else None

    def candidates(self, path: str) -> list[Node]:
        """The parts whose path this may be: of the last run that begins before its copies."""
        found = self.known.get(_general(path), [])
        indices = _indices(path)
        fitting = [n for n in found if all(a <= b for a, b in _pairs(n.path, indices))]
        if not fitting:
            return found
        latest = max(_indices(node.path) for node in fitting)
        return [node for node in fitting if _indices(node.path) == latest]


def _pairs(path: str, indices: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(_indices(path), indices, strict=False))


def _general(path: str) -> tuple[str, ...]:
    return tuple("*" if INDEX.fullmatch(part) else part for part in path.split("."))


def _indices(path: str) -> tuple[int, ...]:
    """The numbers of copies in a path; those of all copies count as 0."""
    found = [part.strip("{}*") for part in path.split(".") if INDEX.fullmatch(part)]
    return tuple(int(part[:18]) if part else 0 for part in found)
