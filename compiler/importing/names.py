"""Which tensors of a checkpoint the weights of a compiled model are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modnorm.graph.renames import Recipe
from modnorm.importing.problems import ImportFailed
from modnorm.importing.structure import Built
from modnorm.importing.text import wrapped
from modnorm.importing.tree import Expr, Repeat, Word, children
from modnorm.importing.weights import text_of

INDEX = re.compile(r"(?<![^.\"])\d+(?![^.\"])")
"""A part of a name that is a number."""


@dataclass(frozen=True)
class Renames:
    """`made`: by name of a tensor of the compiled model, its recipe. `text`: as statements."""

    made: Mapping[str, Recipe]
    text: str


def renames(built: Built, weights: Sequence[str]) -> Renames:
    """What the tensors of a compiled model are made of, by its weights in order of execution."""
    found: list[Recipe] = []
    buffers: list[tuple[int, str, Recipe]] = []
    for word in _Order(built).words(built.body):
        found += word.weights
        buffers += [(len(found) - 1, name, recipe) for name, recipe in word.buffers]
    if len(weights) != len(found):
        raise ImportFailed(
            f"{len(found)} weights were written down, but the text has {len(weights)}: this is a"
            " mistake of modnorm's"
        )
    pairs = dict(zip(weights, found, strict=True))
    for number, name, recipe in buffers:
        before = weights[number].rsplit(".", 2)[0]
        pairs[f"{before}.batch_standardize.{name}"] = recipe
    return Renames(pairs, written(pairs))


class _Order:
    """Words in order of execution, each shared one once, where it is first mentioned."""

    def __init__(self, built: Built) -> None:
        self.built, self.seen = built, set[str]()

    def words(self, expr: Expr) -> Iterator[Word]:
        if isinstance(expr, Word):
            if not expr.shared:
                yield expr
            elif expr.text not in self.seen:
                self.seen.add(expr.text)
                yield from self.words(self.built.shared[expr.text])
            return
        if isinstance(expr, Repeat):  # what is shared stands before it
            for word in shared_in(expr.part):
                yield from self.words(word)
        for child in children(expr):
            yield from self.words(child)


def shared_in(expr: Expr) -> Iterator[Word]:
    if isinstance(expr, Word):
        if expr.shared:
            yield expr
        return
    for child in (expr.part,) if isinstance(expr, Repeat) else children(expr):
        yield from shared_in(child)


def written(pairs: Mapping[str, Recipe]) -> str:
    """Statements, one for all copies of a weight where their names allow it."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, recipe in pairs.items():
        text = text_of(recipe)
        if text != f'"{name}"':
            groups.setdefault(INDEX.sub("*", name), []).append((name, text))
    lines = []
    for pattern, group in groups.items():
        folded = fold(group) if len(group) > 1 else None
        rows = [(pattern, folded)] if folded is not None else group
        lines += [wrapped(f'rename "{name}" = {text}', "    ") for name, text in rows]
    return "".join(f"{line}\n" for line in lines)


def fold(group: Sequence[tuple[str, str]]) -> str | None:
    """One recipe for all copies, with `*` in the place of their numbers; None if there is none."""
    indices = [INDEX.findall(name) for name, _ in group]
    numbers = [INDEX.findall(text) for _, text in group]
    if len({INDEX.sub("*", text) for _, text in group}) > 1:
        return None
    varies = [len(set(column)) > 1 for column in zip(*numbers, strict=True)]
    starred = [[n for n, v in zip(own, varies, strict=True) if v] for own in numbers]
    count = len(indices[0])
    if not count or any(len(own) % count for own in starred):
        return None
    if any(own != index * (len(own) // count) for own, index in zip(starred, indices, strict=True)):
        return None
    kept = iter(varies)
    return INDEX.sub(lambda m: "*" if next(kept) else m[0], group[0][1])
