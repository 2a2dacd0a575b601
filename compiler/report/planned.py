"""The report on a plan of a model that was written in PyTorch, and explanations of its targets.

A plan is what `modnorm.adopt(…).plan` is, or the file that its `save` wrote. It says less than a
`.mod` file: what it cannot say is None in JSON, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from modnorm.diagnostics import ModnormError
from modnorm.kernels import schemes
from modnorm.kernels.weight import Weight
from modnorm.report.blocks import Block, Cell, Column, Document, Facts, Section, table_of
from modnorm.report.diagnostics import clean
from modnorm.report.explain import FROZEN, Factor, move, named, scheme, several, unknown, worked
from modnorm.report.unusable import Unusable
from modnorm.report.words import (
    between,
    from_here,
    kind_of,
    listed,
    number,
    percent,
    plural,
    short,
    sizes,
)

FORMATS = ("text", "json", "markdown", "html")
"""Those that a plan can be shown in: it has no tree of modules to draw."""
UNKNOWN = {
    "sensitivity": "a plan has what is downstream of each weight, and no value for the whole model",
    "certified_sensitivity": "nothing is proved of operations of torch",
    "kappa": "nothing is proved of operations of torch",
    "sharpness": "no file describes the model, so that nothing is known of curvature",
    "certificate": "nothing is proved of operations of torch",
    "tree": "a plan is a list of weights, not of the modules around them",
}
"""What a report on a `.mod` file has and one on a plan has not, and why."""


@dataclass(frozen=True)
class Planned:
    """The weights of a plan in execution order, the name of the model, and the file, if any."""

    model: str
    weights: tuple[Weight, ...]
    source: str | None = None

    @property
    def mass(self) -> float:
        return math.fsum(w.mass for w in self.weights)

    def share(self, w: Weight) -> float:
        return w.mass / self.mass if self.mass else 0.0

    def downstream(self, w: Weight) -> float | None:
        """Not known of what has no mass, whose target is 0 in any case."""
        return self.share(w) / w.target if w.target else None


# --- as JSON ---------------------------------------------------------------------------------


def as_json(plan: Planned) -> dict[str, Any]:
    """The report as objects that `json` can write, with the keys of that on a `.mod` file.

    `unknown` says why what a plan does not know is None. An atom's `sensitivity` says whether the
    one downstream is "declared" or "measured"; `place` is where it is first used.
    """
    return {
        "model": plan.model,
        "source": plan.source,
        "params": {},
        "mass": plan.mass,
        **dict.fromkeys(UNKNOWN),
        "weights": sum(math.prod(w.shape) for w in plan.weights),
        "unknown": UNKNOWN,
        "diagnostics": [],
        "atoms": [
            {
                "path": w.name.removesuffix(".weight"),
                "op": w.atom,
                "weight": w.name,
                **({} if w.layout is None else {"parameter": w.layout.parameter}),
                "shape": list(w.shape),
                "mass": w.mass,
                "share": plan.share(w),
                "downstream_sensitivity": plan.downstream(w),
                "target": w.target,
                "norm": w.norm,
                "role": w.role,
                "sensitivity": w.sensitivity,
                "place": w.place,
            }
            for w in plan.weights
        ],
    }


# --- as a document ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Weights that differ in the numbers of layers only."""

    plan: Planned
    many: Sequence[Weight]

    @property
    def first(self) -> Weight:
        return self.many[0]

    @property
    def share(self) -> float:
        return math.fsum(map(self.plan.share, self.many))

    @property
    def name(self) -> str:
        return self.first.name if len(self.many) == 1 else kind_of(self.first.name)

    @property
    def targets(self) -> str:
        found = sorted(w.target for w in self.many)
        return between(found[0], found[-1]) if found[-1] else "0 (frozen)"

    @property
    def downstream(self) -> str:
        found = sorted(s for w in self.many if (s := self.plan.downstream(w)) is not None)
        return between(found[0], found[-1]) if found else number(None)


def _share(row: Row) -> Cell:
    text = percent(row.share)
    return Cell(text, bar=row.share, brief=f"{text:>6}")


KINDS: tuple[Column[Row], ...] = (
    Column("weight", lambda row: Cell(row.name, kind="code")),
    Column("", lambda row: f"{len(row.many):,}", number=True),
    Column("role", lambda row: row.first.role),
    Column("norm", lambda row: row.first.norm),
    Column("share", lambda row: percent(row.share), number=True),
    Column("sensitivity", lambda row: row.downstream, number=True),
    Column("target", lambda row: row.targets, number=True),
)
SPARE = ("sensitivity", "norm", "share")
EACH: tuple[Column[Row], ...] = (
    Column("weight", lambda row: Cell(row.name, kind="code")),
    Column("role", lambda row: row.first.role),
    Column("shape", lambda row: sizes(row.first.shape)),
    Column("norm", lambda row: row.first.norm),
    Column("mass", lambda row: number(row.first.mass), number=True),
    Column("share of mass", _share),
    Column("sensitivity", lambda row: row.downstream, number=True),
    Column("by", lambda row: row.first.sensitivity),
    Column("target", lambda row: row.targets, number=True),
    Column("used in", lambda row: from_here(row.first.place)),
)


def kinds(plan: Planned) -> Iterator[Row]:
    """Weights that are called, shaped and used alike, together."""

    def kind(w: Weight) -> tuple[object, ...]:
        return kind_of(w.name), w.role, w.norm, w.shape, w.sensitivity

    order: dict[object, int] = {}
    for w in plan.weights:
        order.setdefault(kind(w), len(order))
    for _, many in groupby(sorted(plan.weights, key=lambda w: order[kind(w)]), kind):
        yield Row(plan, list(many))


def document(plan: Planned) -> Document:
    """Kinds of weights; each by itself is a detail, which a terminal leaves to `explain`."""
    entries = sum(math.prod(w.shape) for w in plan.weights)
    facts: list[tuple[str, str | Cell]] = [("model", plan.model)]
    if plan.source is not None:
        facts.append(("source", plan.source))
    how = [w.sensitivity for w in plan.weights]
    said = (f"{how.count(one):,} {one}" for one in dict.fromkeys(how) if one)
    facts += [
        ("size", f"{plural(len(plan.weights), 'weight')}, {plural(entries, 'parameter')}"),
        ("mass", number(plan.mass, 6)),
        ("sensitivities", ", ".join(said) or "not said"),
        ("κ", f"no bound: {UNKNOWN['kappa']}"),
    ]
    blocks: list[Block] = [
        Facts(facts),
        table_of(KINDS, kinds(plan), spare=SPARE, name="kinds of weights"),
        Section("Weights", [table_of(EACH, (Row(plan, [w]) for w in plan.weights))], detail=True),
    ]
    return Document(plan.model, blocks)


def render(plan: Planned, form: str, *, width: int = 80, color: bool = False) -> str:
    """The report on a plan in a format; it ends in a newline.

    Raises:
        Unusable: for a format that cannot show a plan.
    """
    if form not in FORMATS:
        raise Unusable(f"a plan is shown as {', '.join(FORMATS)}, not as {form}: it has no graph")
    if form == "json":
        return listed(as_json(plan))
    whole = document(plan)
    if form == "html":
        from modnorm.report.html import pieces

        facts, *rest = whole.blocks
        return pieces.page(whole.title, "".join(pieces.body([facts])), pieces.body(rest))
    if form == "markdown":
        from modnorm.report import markdown

        return markdown.render(whole)
    from modnorm.report import terminal

    return terminal.render(whole, width=width, color=color)


# --- explanations ----------------------------------------------------------------------------


def explanation(plan: Planned, wanted: str) -> str:
    """How the target of the weight that `wanted` names comes about; a list where it names several.

    `wanted` is a name with or without `.weight`, a part of it from dot to dot, or a pattern.

    Raises:
        ModnormError: if it names no weight.
    """
    found = meant(plan, wanted)
    if not found:
        raise ModnormError([unknown(plan.model, [*map(path, plan.weights)], wanted)])
    if len(found) > 1:
        return several([(short(w.target), w.name) for w in found], len(found), wanted)
    return "\n".join(_lines(plan, found[0])) + "\n"


def path(w: Weight) -> str:
    return w.name.removesuffix(".weight")


def meant(plan: Planned, wanted: str) -> list[Weight]:
    """The weights that a name, a part of one or a pattern means."""
    return named(plan.weights, path, wanted)


HOW = {
    "declared": "as the operations behind it declare it",
    "measured": "measured, by random cotangents",
}
"""What is said of a sensitivity."""


def _lines(plan: Planned, w: Weight) -> Iterator[str]:
    yield w.name
    yield f"{w.role or w.atom}, {sizes(w.shape)}, norm {w.norm}"
    if w.layout is not None:
        yield f"a part of {w.layout.parameter}"
    if w.place:
        yield f"used in {clean(from_here(w.place))}"
    yield ""
    mass, share = Factor(w.mass, "mass"), plan.share(w)
    yield from worked("share", "/", [mass, Factor(plan.mass, f"mass of {plan.model}")], share)
    downstream = plan.downstream(w)
    if downstream is None:
        yield FROZEN
        return
    what = "sensitivity downstream" + (f", {HOW[w.sensitivity]}" if w.sensitivity in HOW else "")
    terms = [Factor(share, "share"), Factor(downstream, what)]
    yield from worked("target", "/", terms, w.target)
    yield from move(w.target, w.norm)
    if w.norm in schemes.MATRICES:
        yield from scheme(w.shape)


# --- for Python ------------------------------------------------------------------------------


class PlanReport:
    """The report on a plan; it shows itself when printed, and in a notebook."""

    def __init__(self, plan: Planned, format: str = "text") -> None:
        self.plan, self.format, self._text = plan, format, render(plan, format)

    @property
    def json(self) -> dict[str, Any]:
        """The report as a dict with the keys of the JSON report."""
        return as_json(self.plan)

    def __str__(self) -> str:
        return self._text.rstrip("\n")

    def __repr__(self) -> str:
        return f"<the report on {self.plan.model} as HTML>" if self.format == "html" else str(self)

    def _repr_html_(self) -> str | None:
        """For a notebook: the page in a frame, unless another format was asked for."""
        if self.format not in ("text", "html"):
            return None
        from modnorm.report.html import frame

        return frame(render(self.plan, "html"))
