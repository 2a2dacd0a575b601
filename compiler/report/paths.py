"""Finds the parts of a report by path."""

from __future__ import annotations

import re
from collections.abc import Iterable

from modnorm.report.nodes import Node

INDEX = re.compile(r"\d+|\{\d*\}|\*")
"""A segment of a path that numbers copies."""


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
