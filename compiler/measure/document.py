"""What was measured, as a document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from modnorm.graph.numbers import show
from modnorm.measure.coordinates import FLAT, SURE
from modnorm.report.blocks import (
    NONE,
    Block,
    Cell,
    Document,
    Facts,
    Notes,
    Section,
    Table,
    Text,
    Tone,
)
from modnorm.report.checked import Extent, Findings, ScalingFinding, Training, WeightFinding
from modnorm.report.words import plural, short

MOST_WEIGHTS = 10
"""Weights that are shown, those with the largest norms."""
ABOUT = 1e-6
"""Numbers closer than this, relatively, are shown as the same."""

MARKS: dict[str, tuple[str, Tone, str]] = {
    "violated": ("!", "bad", "violated: more than is certified"),
    "outside the ball": (
        "~",
        "warn",
        "more than is certified, with weights outside of their balls: no contradiction",
    ),
    "above declared": (
        "+",
        "warn",
        "above declared: a declared sensitivity is a typical one, and no bound",
    ),
}
"""Sign, tone and meaning of verdicts that are more than `ok`."""


def document(findings: Findings) -> Document:
    """Facts, parts, weights, the coordinate check, notes, and what is violated."""
    blocks: list[Block] = [Facts([*_facts(findings)]), *_modules(findings)]
    if findings.weights:
        blocks.append(Section("", [*_weights(findings.weights)]))
    if findings.coordinates is not None:
        blocks += _training(findings.coordinates)
    blocks.append(Notes(findings.notes))
    blocks.append(Notes(findings.violations, "violated", "What is violated", "bad"))
    return Document(f"What was measured of {findings.model}", blocks)


def _facts(findings: Findings) -> Iterator[tuple[str, str]]:
    yield "model", findings.model
    yield "source", findings.source
    if findings.params:
        shown = {
            name: f"{value:.6g}" if isinstance(value, float) else show(value)
            for name, value in findings.params.items()
        }
        yield "params", _pairs(shown)
    yield "weights", findings.checkpoint or f"fresh, seed {findings.seed}"
    sizes = _pairs(findings.sizes)
    yield "data", f"{findings.data}, seed {findings.seed}{': ' if sizes else ''}{sizes}"
    kappa = findings.kappa
    yield "κ", (
        f"{short(kappa)} certified" if kappa is not None
        else f"no bound: {findings.kappa_reason}"
    )  # fmt: skip
    if findings.checkpoint is not None:
        kappa, sensitivity = findings.kappa_at_norms, findings.sensitivity_at_norms
        known = "no bound" if kappa is None else f"{short(kappa)} certified"
        through = "" if sensitivity is None else f", sensitivity {short(sensitivity)}"
        yield "at norms", f"{known}{through}: for weights of the norms measured"
    yield (
        "measured",
        (
            f"{_number(findings.measured_kappa, 4)} by the steepest update found,"
            f" {_number(findings.random_kappa, 4)} by a random one"
        ),
    )


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else short(value, digits)


# --- parts ----------------------------------------------------------------------------------


def _modules(findings: Findings) -> Iterator[Block]:
    """All but the bonds that have nothing to say: measured and within what is declared."""
    trained = findings.checkpoint is not None
    extra = ("at norms",) if trained else ()
    titles = ("input", "declared", "certified", *extra, "measured", "here")
    rows: list[tuple[str | Cell, ...]] = []
    for m in findings.modules:
        if m.kind == "bond" and m.verdict in ("ok", "not measured"):
            continue
        mark, tone, _ = MARKS.get(m.verdict, ("", "", ""))
        title = m.path.rpartition(".")[2] if m.kind == "atom" else m.name
        bold: Tone = "strong" if m.kind == "atom" else ""
        name = Cell(title, bold, guide="  " * m.depth, depth=m.depth)
        at_norms = (_number(m.certified_at_norms),) if trained else ()
        bounds = (_number(m.declared), _number(m.certified), *at_norms)
        found = (Cell(_number(m.measured), tone), _number(m.here))
        rows.append((name, Cell(mark, tone), _extent(m.input), *bounds, *found))
    yield Table(("part", "", *titles), rows, frozenset(titles), cut="part")
    about = []
    if hidden := len(findings.modules) - len(rows):
        said = f"{plural(hidden, 'bond')} not shown: at most as steep as declared"
        about.append(Text(Cell(said, "dim")))
    marked = {m.verdict for m in findings.modules}
    about += [
        Text(Cell(f" {meaning}", "dim", guide=mark))
        for verdict, (mark, _, meaning) in MARKS.items()
        if verdict in marked
    ]
    if about:
        yield Section("", about)


def _extent(met: Extent) -> str:
    if met.low is None or met.high is None:
        return NONE
    low, high = short(met.low, 3), short(met.high, 3)
    same = math.isclose(met.low, met.high, rel_tol=ABOUT) or low == high
    return high if same else f"{low} … {high}"


# --- weights --------------------------------------------------------------------------------


def _weights(weights: Sequence[WeightFinding]) -> Iterator[Block]:
    titles = ["norm", "target", "change of output"]
    if bounded := any(w.bound is not None for w in weights):
        titles.append("certified")
    rows: list[tuple[str | Cell, ...]] = []
    for w in weights[:MOST_WEIGHTS]:
        norm = Cell(f"{_number(w.norm)} of 1", "warn" if (w.norm or 0.0) > 1 + ABOUT else "")
        cells = (norm, _number(w.target), _number(w.change))
        # a weight's part of κ; that of copies is for all of them
        together = f" for {w.copies}" if w.bound is not None and w.copies > 1 else ""
        bound = (f"{_number(w.bound)}{together}",) if bounded else ()
        rows.append((w.weight.removesuffix(".weight"), *cells, *bound))
    yield Table(("weight", *titles), rows, frozenset(titles), cut="weight")
    if rest := len(weights) - len(rows):
        least = f"{_number(weights[len(rows)].norm)} at most"
        yield Text(Cell(f"{plural(rest, 'more weight')}, of norm {least}", "dim"))


# --- the coordinate check -------------------------------------------------------------------

TONES: dict[str, Tone] = {"grows": "bad", "shrinks": "warn", "unclear": "warn"}


def _training(training: Training) -> Iterator[Block]:
    yield Text(
        f"coordinate check: {plural(training.steps, 'step')} of {training.optimizer} at lr"
        f" {short(training.lr)}, {plural(training.seeds, 'seed')}, {training.loss}"
    )
    for param in training.params:
        part = f"{param.param} = {', '.join(short(size) for size in param.sizes)}"
        rows = [
            (path, _fit(found["activation"]), _fit(found["change"]))
            for path, found in param.distinct().items()
        ]
        yield Table((part, "activation", "its change"), rows, cut=part)
    meant = (
        "exponents of RMS over the param, with standard errors;"
        f" flat: at most {FLAT:g}, grows or shrinks: more by {SURE:g} errors"
    )
    yield Text(Cell(meant, "dim"))


def _fit(found: ScalingFinding) -> Cell:
    tone = TONES.get(found.verdict, "")
    if found.slope is None or found.error is None:
        return Cell(found.verdict, tone)
    slope = round(found.slope, 2) + 0.0  # no -0.00
    return Cell(f"{slope:+.2f} ({found.error:.2f}) {found.verdict}", tone)
