"""The report as a document: facts, parts, weights, the certificate, and what was found."""

from __future__ import annotations

import math
from collections.abc import Iterator

from modnorm.graph.numbers import show
from modnorm.ops.base import Sharpness
from modnorm.passes.certificate import Certificate
from modnorm.passes.program import Program, Weight
from modnorm.pipeline import Analysis
from modnorm.report.blocks import (
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
from modnorm.report.facts import constant, number, percent
from modnorm.report.nodes import pattern, targets
from modnorm.report.parts import Part, Row, rows
from modnorm.report.words import as_float, exact, plural, short

TOLERANCE = 1e-9
SHOWN = 3
"""Reasons that are shown for want of a certificate."""


def document(analysis: Analysis) -> Document:
    """The report; weights and certificate are details, which a terminal leaves to `explain`."""
    program = analysis.program
    blocks: list[Block] = [
        Facts([*_facts(program)]),
        table_of(PARTS, rows(program), cut="part"),
        Section("Weights", [table_of(WEIGHTS, program.weights)], detail=True),
    ]
    if program.certificate is not None and program.certificate.weights:
        proved = [*_certificate(program, program.certificate)]
        blocks.append(Section("Certificate", proved, detail=True))
    blocks.append(Problems(analysis.diagnostics, program.source.name))
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
    copies = sum(weight.copies for weight in program.weights)
    yield "size", f"{plural(copies, 'weight')}, {plural(program.entries, 'parameter')}"
    yield "mass", exact(program.mass)
    yield "sensitivity", exact(program.sensitivity)
    if program.certificate is not None:
        yield from _proved(program.certificate)
    sharpness = program.sharpness[program.tree.id]
    label = "sharpness"
    if sharpness is not None:
        yield label, f"{_triple(sharpness)}  declared"
        label = ""
    proved = program.certificate and program.certificate.sharpness
    if proved and math.isfinite(proved.alpha):
        yield label, f"{_triple(proved)}  certified"
    if (loss := program.smoothness) is not None:
        known = {"σ": loss.sigma, "τ": loss.tau, "λ": loss.smoothness}
        text = "  ".join(f"{sign} {short(v)}" for sign, v in known.items() if v is not None)
        kind = "certified" if loss.certified else "declared"
        reason = f"no λ: {loss.reason}" if loss.reason else kind
        yield loss.loss, "  ".join(filter(None, (text, reason)))


def _triple(found: Sharpness) -> str:
    triple = zip("αβγ", (found.alpha, found.beta, found.gamma), strict=True)
    return "  ".join(f"{s} {short(v) if math.isfinite(v) else NONE}" for s, v in triple)


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


def _name(row: Row) -> Cell:
    tone: Tone = "" if row.part.targets is None else "strong"
    return Cell(row.part.title, tone, guide=row.guide, depth=row.level)


def _proof(part: Part) -> Cell:
    """The certified sensitivity; marked where the declared one is not proved."""
    proved = part.certified is not None and part.certified <= part.sensitivity * (1 + TOLERANCE)
    return Cell(number(part.certified), "" if proved else "warn")


def between(targets: tuple[float, float]) -> str:
    """The targets of the first and the last copy, once where they are the same."""
    if targets[1] == 0:
        return "0 (frozen)"
    first, last = map(short, targets)
    return first if first == last else f"{first} … {last}"


# A column more is a line more: what it says is shown in a terminal and in Markdown.
PARTS: tuple[Column[Row], ...] = (
    Column("part", _name),
    Column("share of mass", lambda row: Cell(percent(row.share), bar=row.share)),
    Column("sensitivity", lambda row: short(row.part.sensitivity), number=True),
    Column("certified", lambda row: _proof(row.part), number=True),
    Column("target", lambda row: between(row.part.targets) if row.part.targets else ""),
)
WEIGHTS: tuple[Column[Weight], ...] = (
    Column("weight", lambda w: Cell(f"`{pattern(w.path)}` {w.op.label}", kind="marked")),
    Column("copies", lambda w: f"{w.copies:,}", number=True),
    Column("shape", lambda w: " × ".join(map(str, w.op.weight_shape))),
    Column("mass", lambda w: short(as_float(w.mass) * w.copies), number=True),
    Column("target", lambda w: between(targets(w)), number=True),
    Column("line", lambda w: str(w.span)),
)


def _certificate(program: Program, found: Certificate) -> Iterator[Block]:
    if found.kappa is not None:
        kappa = short(found.kappa, 6)
        yield Text(f"κ = {kappa}: an update of modular norm 1 moves the output by at most {kappa}.")
    else:
        yield Text("There is no bound, for these reasons:")
    for reason in found.reasons:
        yield Text(Cell(str(reason), kind="marked"))
    titles = ("weight", "copies", "input at most", "certified downstream", "part of κ")
    rows: list[tuple[str | Cell, ...]] = [
        (
            Cell(pattern(weight.path), kind="code"),
            f"{weight.copies:,}",
            *(short(x) if math.isfinite(x) else NONE for x in (b.high, b.downstream, b.kappa)),
        )
        for weight in program.weights
        if (b := found.weights.get(weight.path)) is not None
    ]
    yield Table(titles, rows, frozenset(titles[1:]))
