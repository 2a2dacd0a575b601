"""The report as a document: facts, parts, weights, the certificate, and what was found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isclose

from modnorm.graph.numbers import show
from modnorm.graph.paths import pattern
from modnorm.ops.base import Sharpness
from modnorm.ops.types import is_named
from modnorm.passes.certificate import Certificate, Smoothness, WeightBound
from modnorm.passes.program import Program, Weight
from modnorm.passes.sensitivity import power
from modnorm.pipeline import Analysis
from modnorm.report.blocks import (
    BRIEF,
    NO_BREAK,
    NONE,
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Problems,
    Section,
    Table,
    Text,
    Tone,
    table_of,
)
from modnorm.report.model import UNNAMED, Part, assumptions, described, targets
from modnorm.report.words import (
    as_float,
    between,
    constant,
    exact,
    number,
    percent,
    plural,
    short,
    sizes,
)
from modnorm.stack import room

TOLERANCE = 1e-9
SHOWN = 3
"""Reasons that are shown for want of a certificate."""


def document(analysis: Analysis) -> Document:
    """The report; weights and certificate are details, which a terminal leaves to `explain`."""
    program = analysis.program
    blocks: list[Block] = [
        Facts([*_facts(program)]),
        table_of(PARTS, rows(program), spare=(BRIEF,), cut="part"),
        Section("Weights", [table_of(WEIGHTS, program.weights)], detail=True),
    ]
    if program.certificate is not None and program.certificate.weights:
        proved = [*_certificate(program, program.certificate)]
        blocks.append(Section("Certificate", proved, detail=True))
    blocks.append(Problems(analysis.diagnostics))
    return Document(program.name, blocks)


def _facts(program: Program) -> Iterator[tuple[str, str]]:
    yield "model", program.name
    yield "source", program.source.name
    if program.params:
        params = (
            f"{name} = {constant(value) if isinstance(value, str) else show(value)}"
            for name, value in program.params.items()
        )
        yield "params", ", ".join(param.replace(" ", NO_BREAK) for param in params)
    if is_named(output := program.types[program.tree.id][1]):
        yield "output", str(output)
    copies = sum(weight.copies for weight in program.weights)
    yield "size", f"{plural(copies, 'weight')}, {plural(program.entries, 'parameter')}"
    yield "mass", exact(program.mass)
    yield "sensitivity", exact(program.sensitivity)
    if program.certificate is not None:
        for i, found in enumerate(assumptions(program)):
            yield "" if i else "assumed", str(found)
        yield from _proved(program.certificate)
    proved = program.certificate and program.certificate.sharpness
    label = "sharpness"
    if (declared := program.sharpness[program.tree.id]) is not None:
        yield label, f"{sharpness(declared)}  declared"
        label = ""
    if proved and math.isfinite(proved.alpha):
        yield label, f"{sharpness(proved)}  certified"
    if (loss := program.smoothness) is not None:
        kind = "" if loss.reason else "certified" if loss.certified else "declared"
        yield loss.loss, "  ".join(filter(None, (smoothness(loss), kind)))


def sharpness(found: Sharpness, digits: int = 4) -> str:
    triple = zip("αβγ", (found.alpha, found.beta, found.gamma), strict=True)
    return "  ".join(f"{sign} {_known(value, digits)}" for sign, value in triple)


def smoothness(loss: Smoothness) -> str:
    """The constants of a loss behind a model, or why there is none."""
    known = {"σ": loss.sigma, "τ": loss.tau, "λ": loss.smoothness}
    found = [f"{sign} {short(value)}" for sign, value in known.items() if value is not None]
    return "  ".join([*found, *([f"no λ: {loss.reason}"] if loss.reason else [])])


def _known(value: float, digits: int = 4) -> str:
    return short(value, digits) if math.isfinite(value) else NONE


def _proved(found: Certificate) -> Iterator[tuple[str, str]]:
    if isinstance(found.sensitivity, float):
        yield "certified", f"{short(found.sensitivity, 6)}, from {found.source} to {found.norm}"
    if found.kappa is not None:
        yield "κ", f"{short(found.kappa, 6)}: an update of norm 1 moves the output by at most this"
        return
    groups: dict[tuple[str, str, str], list[int]] = {}
    for r in found.reasons:
        origin = "" if r.origin is r.span else f" ({r.origin})"
        key = (r.op, r.span.source.name, f"{origin}: {r.text}")
        groups.setdefault(key, []).append(r.span.line)
    label = "κ"
    for (op, file, text), lines in list(groups.items())[:SHOWN]:
        numbers = ", ".join(str(line) for line in sorted(set(lines)))
        yield label, f"{'no bound: ' if label else ''}{op} at {file}:{numbers}{text}"
        label = ""
    if len(groups) > SHOWN:
        yield "", f"and {plural(len(groups) - SHOWN, 'more reason')}"


# --- parts -----------------------------------------------------------------------------------

INDENT = 3
DRAWN = 8
"""Levels that are drawn; before a part deeper than that stands the number of its level."""


@dataclass(frozen=True)
class Row:
    """A part, a weight, or a run of a repetition with all its copies, and the rows in it.

    `guide` is what is drawn before it, at its `level`.
    """

    part: Part
    name: str
    certified: float | None
    inner: tuple[Row, ...]
    guide: str = ""
    level: int = 0

    @property
    def copies(self) -> int:
        return self.part.count * self.part.run

    @property
    def title(self) -> str:
        return f"{self.name} × {self.copies:,}" if self.copies > 1 else self.name

    @property
    def sensitivity(self) -> float | None:
        one = self.part.sensitivity
        return one if one is None else as_float(power(one, self.part.run))

    def is_alike(self, other: Row) -> bool:
        """Whether two parts have the same mass and the same sensitivity."""
        alike = _is_close(self.sensitivity, other.sensitivity)
        return alike and isclose(self.part.mass, other.part.mass)


def rows(program: Program) -> Iterator[Row]:
    """The model and its parts, in execution order.

    Parts without weights are left out where their sensitivity is 1. Where a part holds one other
    part and nothing else that matters, the two are one row with both names.
    """
    model = described(program).parts[0]
    with room():
        root = _row(model)
    stack = [(root, "")]
    while stack:
        row, below = stack.pop()
        yield row
        inner = []
        for part in row.inner:
            branch, under = ("└─ ", "   ") if part is row.inner[-1] else ("├─ ", "│  ")
            guide = below + branch
            if row.level >= DRAWN:
                guide = under = f"{row.level + 1:>{INDENT * DRAWN}} "
            inner.append((replace(part, guide=guide, level=row.level + 1), below + under))
        stack += reversed(inner)


def _row(part: Part) -> Row:
    inner = []
    for row in map(_row, part.parts(_is_bare)):
        if row.copies == 1 and len(row.inner) == 1 and row.is_alike(row.inner[0]):
            (only,) = row.inner
            row = replace(only, name=f"{row.name}.{only.name}", certified=row.certified)
        if row.inner or row.part.weight or not _is_close(row.sensitivity, 1):
            inner.append(row)
    named = part.kind in ("def", "where")  # of several by the same name, each has a path
    name = part.path.rpartition(".")[2] if named else part.name
    return Row(part, name, part.certified, tuple(inner))


def _is_bare(part: Part) -> bool:
    """Whether a position has no row: what has no name, operations without weights.

    Copies with a name are in the row of their repetition, others in that of their run.
    """
    if part.kind == "repeat":
        return not part.inner[0].inner[0].is_copy
    if part.kind == "copies":
        return not part.is_run and part.inner[0].is_copy
    return part.is_copy or part.kind in (*UNNAMED, "bond")


def _is_close(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and isclose(one, other)


# --- columns ---------------------------------------------------------------------------------


def _name(row: Row) -> Cell:
    tone: Tone = "strong" if row.part.weight else ""
    return Cell(row.title, tone, guide=row.guide, depth=row.level)


def _proof(row: Row) -> Cell:
    """The certified sensitivity; marked where the declared one is not proved."""
    declared = row.sensitivity or 0.0
    proved = row.certified is not None and row.certified <= declared * (1 + TOLERANCE)
    return Cell(number(row.certified), "" if proved else "warn")


def shown_target(weight: Weight | None) -> str:
    """The targets of the first and the last copy."""
    if weight is None:
        return ""
    return between(*targets(weight)) if weight.target else "0 (frozen)"


def _share(share: float) -> Cell:
    text = percent(share)
    return Cell(text, bar=share, brief=f"{text:>6}")


# A column more is a line more: what it says is shown in a terminal and in Markdown.
PARTS: tuple[Column[Row], ...] = (
    Column("part", _name),
    Column("share of mass", lambda row: _share(row.part.share)),
    Column("sensitivity", lambda row: number(row.sensitivity), number=True),
    Column("certified", _proof, number=True),
    Column("target", lambda row: shown_target(row.part.weight)),
)
WEIGHTS: tuple[Column[Weight], ...] = (
    Column("weight", lambda w: Cell(f"`{pattern(w.path)}` {w.op.label}", kind="marked")),
    Column("copies", lambda w: f"{w.copies:,}", number=True),
    Column("shape", lambda w: sizes(w.op.weight_shape)),
    Column("mass", lambda w: short(as_float(w.mass) * w.copies), number=True),
    Column("target", shown_target, number=True),
    Column("line", lambda w: str(w.span)),
)
PROVED: tuple[Column[tuple[Weight, WeightBound, float]], ...] = (
    Column("weight", lambda row: Cell(pattern(row[0].path), kind="code")),
    Column("copies", lambda row: f"{row[0].copies:,}", number=True),
    Column("input at most", lambda row: _known(row[1].high), number=True),
    Column("certified downstream", lambda row: _known(row[1].downstream), number=True),
    Column("part of κ", lambda row: Cell(_known(row[1].kappa), bar=row[2]), number=True),
)


def _certificate(program: Program, found: Certificate) -> Iterator[Block]:
    if found.kappa is not None:
        kappa = short(found.kappa, 6)
        yield Text(f"κ = {kappa}: an update of modular norm 1 moves the output by at most {kappa}.")
    else:
        yield Text("There is no bound, for these reasons:")
    for reason in found.reasons:
        yield Text(Cell(str(reason), kind="marked"))
    yield proved_weights(program, found)


def proved_weights(program: Program, found: Certificate) -> Table:
    """What is proved of each weight; bars are parts of the largest part of κ."""
    known = [(w, found.weights[w.path]) for w in program.weights if w.path in found.weights]
    largest = max((b.kappa for _, b in known if math.isfinite(b.kappa)), default=0.0)
    shares = [b.kappa / largest if largest and math.isfinite(b.kappa) else 0.0 for _, b in known]
    rows = [(*pair, share) for pair, share in zip(known, shares, strict=True)]
    return table_of(PROVED, rows, name="the parts of κ")
