"""Paths of what is repeated: the one place that knows how they are written.

A path is names joined by dots. A *template* stands for the paths of all copies: for each repetition
around it has `{k}`, where k is the number of the first copy, and behind that perhaps a suffix that
keeps siblings apart. `block.{0}.mlp.linear` is `block.7.mlp.linear` for the eighth copy.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

INDEX = re.compile(r"\{(\d+)\}")
COPY = re.compile(r"\{(\d+)\}(\w*)")


class Copy(NamedTuple):
    """The last part of a copy's path: the number of the first one, and the suffix."""

    start: int
    suffix: str


def template(path: str, start: int, suffix: str = "") -> str:
    """The template of copies that stand at a path, `""` for the model itself."""
    last = f"{{{start}}}{suffix}"
    return f"{path}.{last}" if path else last


def last_copy(path: str) -> Copy | None:
    """What a template ends in, if it is a copy's own; None for what has a name."""
    match = COPY.fullmatch(path.rpartition(".")[2])
    return Copy(int(match[1]), match[2]) if match else None


def depth(path: str) -> int:
    """How many repetitions are around what has this template."""
    return path.count("{")


def instance(path: str, indices: tuple[int, ...]) -> str:
    """The path of one copy: each `{k}` replaced by k plus the next index."""
    first, rest = _pieces(path)
    pairs = zip(rest, indices[: len(rest)], strict=True)
    return first + "".join([f"{start + index}{text}" for (start, text), index in pairs])


def first(path: str) -> str:
    """The path of the first copy of all."""
    return instance(path, (0,) * depth(path))


def starred(path: str) -> str:
    """The template with `*` for each index."""
    return INDEX.sub("*", path)


def pattern(path: str) -> str:
    """The path of a part with a `*` for the index of a copy; `explain` takes such ones.

    In a repetition of several runs the index of a run's first copy stands for those in it.
    """
    return path.replace("{0}", "*").replace("{", "").replace("}", "")


def indices(path: str, one: str) -> tuple[int, ...]:
    """Which copy has a path: an index from 0 for each repetition around it, outermost first."""
    head, rest = _pieces(path)
    found = re.fullmatch(r"(\d+)".join(map(re.escape, (head, *(text for _, text in rest)))), one)
    assert found is not None, (path, one)
    return tuple(int(k) - start for k, (start, _) in zip(found.groups(), rest, strict=True))


@lru_cache(maxsize=1024)
def _pieces(path: str) -> tuple[str, list[tuple[int, str]]]:
    """What stands before the first `{k}`, and for each of them k with what stands behind it."""
    head, *rest = INDEX.split(path)
    return head, list(zip(map(int, rest[::2]), rest[1::2], strict=True))
