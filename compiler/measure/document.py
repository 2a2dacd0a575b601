"""What was measured, as a document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from modnorm.graph.numbers import show
from modnorm.measure.fits import FLAT, SURE
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
from modnorm.report.checked import (
    Coordinates,
    Findings,
    ModuleFinding,
    ScalingFinding,
    Training,
    WeightFinding,
)
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
        shown = (f"{k} = {_constant(v)}" for k, v in findings.params.items())
        yield "params", ", ".join(shown)
    yield "weights", findings.checkpoint or f"fresh, seed {findings.seed}"
    sizes = ", ".join(f"{name} = {size}" for name, size in findings.sizes.items())
    seed = f", seed {findings.seed}"
    yield "data", f"{findings.data}{seed}{': ' if sizes else ''}{sizes}"
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


def _constant(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else show(value)


# --- parts ----------------------------------------------------------------------------------


def _modules(findings: Findings) -> Iterator[Block]:
    shown = [m for m in findings.modules if not _is_plain(m)]
    trained = findings.checkpoint is not None
    extra = ("at norms",) if trained else ()
    numbers = ("input", "declared", "certified", *extra, "measured", "here")
    rows: list[tuple[str | Cell, ...]] = []
    for module in shown:
        mark, tone, _ = MARKS.get(module.verdict, ("", "", ""))
        bold: Tone = "strong" if module.kind == "atom" else ""
        guide = "  " * module.depth
        name = Cell(_title(module), bold, guide=guide, depth=module.depth)
        *before, measured, here = map(_number, _values(module, trained))
        values: Sequence[str | Cell] = (_extent(module), *before, Cell(measured, tone), here)
        rows.append((name, Cell(mark, tone), *values))
    yield Table(("part", "", *numbers), rows, frozenset(numbers), cut="part")
    about = []
    if hidden := len(findings.modules) - len(shown):
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


def _is_plain(module: ModuleFinding) -> bool:
    """Whether a bond has nothing to say: measured and within what is declared."""
    return module.kind == "bond" and module.verdict in ("ok", "not measured")


def _title(module: ModuleFinding) -> str:
    if module.kind == "atom":
        return module.path.rpartition(".")[2]
    return module.name


def _values(module: ModuleFinding, trained: bool) -> tuple[float | None, ...]:
    at_norms = (module.certified_at_norms,) if trained else ()
    return module.declared, module.certified, *at_norms, module.measured, module.here


def _number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else short(value, digits)


def _extent(module: ModuleFinding) -> str:
    low, high = module.input.low, module.input.high
    if low is None or high is None:
        return NONE
    same = math.isclose(low, high, rel_tol=ABOUT) or short(low, 3) == short(high, 3)
    return short(high, 3) if same else f"{short(low, 3)} … {short(high, 3)}"


# --- weights --------------------------------------------------------------------------------


def _weights(weights: Sequence[WeightFinding]) -> Iterator[Block]:
    titles = ["norm", "target", "change of output"]
    bounded = any(w.bound is not None for w in weights)
    rows: list[tuple[str | Cell, ...]] = []
    for w in weights[:MOST_WEIGHTS]:
        tone: Tone = "warn" if (w.norm or 0.0) > 1 + ABOUT else ""
        cells = (Cell(f"{_number(w.norm)} of 1", tone), _number(w.target), _number(w.change))
        rows.append((w.weight.removesuffix(".weight"), *cells, *([_bound(w)] * bounded)))
    titles += ["certified"] * bounded
    yield Table(("weight", *titles), rows, frozenset(titles), cut="weight")
    if rest := len(weights) - len(rows):
        least = f"{_number(weights[len(rows)].norm)} at most"
        yield Text(Cell(f"{plural(rest, 'more weight')}, of norm {least}", "dim"))


def _bound(weight: WeightFinding) -> str:
    """A weight's part of κ; that of copies is for all of them."""
    together = f" for {weight.copies}" if weight.bound is not None and weight.copies > 1 else ""
    return f"{_number(weight.bound)}{together}"


# --- the coordinate check -------------------------------------------------------------------


def _training(training: Training) -> Iterator[Block]:
    yield Text(
        f"coordinate check: {plural(training.steps, 'step')} of {training.optimizer} at lr"
        f" {short(training.lr)}, {plural(training.seeds, 'seed')}, {training.loss}"
    )
    yield from map(_param, training.params)
    meant = (
        "exponents of RMS over the param, with standard errors;"
        f" flat: at most {FLAT:g}, grows or shrinks: more by {SURE:g} errors"
    )
    yield Text(Cell(meant, "dim"))


TONES: dict[str, Tone] = {"grows": "bad", "shrinks": "warn", "unclear": "warn"}


def _param(param: Coordinates) -> Table:
    part = f"{param.param} = {', '.join(short(size) for size in param.sizes)}"
    rows = [
        (path, _fit(found["activation"]), _fit(found["change"]))
        for path, found in param.distinct().items()
    ]
    return Table((part, "activation", "its change"), rows, cut=part)


def _fit(found: ScalingFinding) -> Cell:
    tone = TONES.get(found.verdict, "")
    if found.slope is None or found.error is None:
        return Cell(found.verdict, tone)
    slope = round(found.slope, 2) + 0.0  # no -0.00
    return Cell(f"{slope:+.2f} ({found.error:.2f}) {found.verdict}", tone)
