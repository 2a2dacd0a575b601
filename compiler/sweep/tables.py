"""What a sweep says, as a document with its tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from modnorm.report.blocks import (
    BRIEF,
    NONE,
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Figure,
    Notes,
    Section,
    Table,
    Text,
    Tone,
    table_of,
)
from modnorm.report.diagnostics import clean
from modnorm.report.words import plural, short
from modnorm.sweep import fits
from modnorm.sweep.findings import (
    Curve,
    Drift,
    Findings,
    Loss,
    Recommendation,
    is_mass,
    labels,
    lr_of,
    volume,
)
from modnorm.sweep.records import Sizes, Trial

Sized = Curve | Recommendation | Trial
"""What sizes belong to."""

SAME = (
    "same lr: the loss at the learning rate that is best for the smallest model, and by how much"
    " it is above that at the size's own best"
)
"""What two columns mean."""


def document(
    findings: Findings, pictures: Mapping[str, str] | None = None, verdicts_first: bool = True
) -> Document:
    """Facts, what to use, drifts, masses, the optima by optimizer, and notes.

    `pictures` are those of optimizers. A terminal shows last what is to be seen first.
    """
    about = Text(Cell(SAME, "dim"))
    optima: list[Block] = []
    for name in optimizers(findings):
        figure = [Figure(pictures[name])] if pictures else []
        title = Cell(name, kind="code")
        optima.append(Section(title, [*figure, curves(findings, name)]))
    optima += [about] if optima else []
    verdicts: list[Block] = []
    if any(one.best is not None for one in findings.curves):
        verdicts.append(Section("What learning rate to use", [rates(findings)]))
    if findings.drifts:
        meant = Text(Cell(meaning(findings), "dim"))
        verdicts.append(Section("Drift", [drifts(findings), meant]))
    if findings.masses:
        title = Cell(f"What `{mass_names(findings)}` to use", kind="marked")
        verdicts.append(Section(title, [masses(findings)]))
    parts = [*verdicts, *optima] if verdicts_first else [*optima, *verdicts]
    return Document(
        f"Learning-rate transfer of {findings.sweep.model}",
        [Facts([*facts(findings)]), *parts, Notes(findings.warnings)],
    )


# --- facts ----------------------------------------------------------------------------------


def facts(findings: Findings) -> Iterator[tuple[str, str]]:
    """What was run, in words: label and value."""
    sweep, settings = findings.sweep, findings.sweep.settings
    yield "model", clean(sweep.model)
    yield "source", clean(sweep.source)
    if sweep.params:
        yield "params", ", ".join(f"{clean(k)} = {_value(v)}" for k, v in sweep.params.items())
    for name, values in sweep.vary.items():
        yield "varied", f"{clean(name)} = {', '.join(short(value) for value in values)}"
    context = f", context {settings.context}" if settings.context is not None else ""
    yield "data", clean(settings.data)
    yield (
        "training",
        f"{plural(settings.steps, 'step')} of batch {settings.batch}{context}, learning rate"
        f" {settings.schedule}; {plural(len(sweep.seeds), 'seed')}",
    )
    diverged = sum(outcome.status == "diverged" for _, outcome in sweep.runs)
    missing = f", {sweep.missing:,} missing" if sweep.missing else ""
    yield "runs", f"{len(sweep.runs):,}, {diverged:,} of them diverged{missing}"
    tail = plural(min(settings.tail, settings.steps), "step")
    yield "losses", (
        f"train: mean of the last {tail}; the best learning rate is that with the lowest"
        f" {METRIC[findings.metric]}"
    )  # fmt: skip
    if sweep.versions:
        yield "versions", ", ".join(f"{k} {clean(v)}" for k, v in sweep.versions.items())


METRIC = {"train": "training loss", "held_out": "held-out loss"}


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else clean(str(value))


# --- curves ---------------------------------------------------------------------------------


def curves(findings: Findings, optimizer: str) -> Table:
    """An optimizer's optima, a row a curve."""
    own = findings.of(optimizer)
    columns: list[Column[Curve]] = [
        *(Column(name, partial(_size, axis=name), True) for name in axes(own)),
        Column("log2 lr", _optimum, True),
        Column("lr", lambda c: NONE if c.best is None else short(lr_of(c.best), 3), True),
        Column("train", lambda c: loss(c.train), True),
        Column("held out", lambda c: loss(c.held_out), True),
        Column("train, same lr", lambda c: _same(c, c.train), True),
        Column("held out, same lr", lambda c: _same(c, c.held_out), True),
        Column(
            "diverged", lambda c: Cell(f"{c.diverged}/{c.runs}", "" if c.diverged else "dim"), True
        ),
    ]
    return replace(table_of(columns, own), spare=SPARE)


SPARE = ("lr", "train, same lr", BRIEF, "diverged", "held out")


def axes(found: Iterable[Sized]) -> list[str]:
    """What is varied among some things."""
    return list(dict.fromkeys(name for one in found for name, _ in one.sizes))


def _size(one: Sized, axis: str) -> str:
    value = dict(one.sizes).get(axis)
    return NONE if value is None else f"{value:.6g}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, and without one if it is 0 as shown."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def number(value: float | None, error: float | None, sign: bool = False) -> str:
    """A number with its error, of two decimals: `-1.95 ± 0.06`."""
    if value is None:
        return NONE
    shown = signed(value) if sign else f"{round(value, 2) + 0.0:.2f}"
    return shown if error is None else f"{shown} ± {error:.2f}"


def loss(found: Loss) -> str:
    """A loss with its error, of three decimals or more: `2.098 ± 0.003`."""
    if found.best is None:
        return NONE
    digits = 3 if abs(found.best) >= 0.1 else 5
    error = f" ± {found.error:.{digits}f}" if found.error is not None else ""
    return f"{found.best:.{digits}f}{error}"


def percent(value: float) -> str:
    """A part of 1 with its sign: `+0.4%`."""
    return f"{signed(100 * value, 1 if abs(value) < 1 else 0)}%"


def _optimum(one: Curve) -> Cell:
    if one.best is not None:
        return Cell(number(one.best, one.error))
    if one.edge is not None and one.points:
        ends = [point.log2_lr for point in one.points]
        beyond = f"< {min(ends):.2f}" if one.edge == "low" else f"> {max(ends):.2f}"
        return Cell(beyond, "warn")
    return Cell("none", "warn")


GOOD, BAD = 0.02, 0.1
"""Losses up to the first part above the best are good, from the second on bad."""


def _same(one: Curve, found: Loss) -> Cell:
    if found.at_smallest is None or found.excess is None:
        return Cell(NONE, "dim")
    tone: Tone = "good" if found.excess <= GOOD else "warn" if found.excess < BAD else "bad"
    least = "≥" if one.edge and found is one.metric else ""  # the other's best may be anywhere
    digits = 3 if abs(found.at_smallest) >= 0.1 else 5
    above = f"{least}{percent(found.excess)}"
    return Cell(f"{found.at_smallest:.{digits}f} {above}", tone, above)


# --- drifts ---------------------------------------------------------------------------------

TONES: dict[str, Tone] = {"transfers": "good", "drifts": "bad", "unclear": "warn"}


def drifts(findings: Findings) -> Table:
    """Every drift with its verdict."""
    columns: list[Column[Drift]] = [
        Column("optimizer", lambda one: clean(one.optimizer)),
        Column("per doubling of", lambda one: one.axis),
        Column("drift of log2 lr", lambda one: number(one.value, one.error, True), True),
        Column("verdict", lambda one: Cell(one.verdict, TONES[one.verdict])),
        Column("remark", lambda one: Cell(_remark(one), "dim")),
    ]
    made = replace(table_of(columns, findings.drifts), spare=("remark",))
    return made if any(map(_remark, findings.drifts)) else made.without("remark")


def _remark(one: Drift) -> str:
    parts = [one.reason] if one.reason else []
    if one.masses:
        parts.append(f"at {labels(one.masses)}")
    if one.left_out:
        parts.append(f"{one.left_out} of {one.curves + one.left_out} curves left out")
    return ", ".join(parts)


def meaning(findings: Findings) -> str:
    """What the verdicts mean."""
    return (
        f"transfers: a drift of at most {findings.tolerance:g} a doubling, by 2 errors; drifts:"
        " more than that, by 2 errors; unclear: neither"
    )


# --- rates ----------------------------------------------------------------------------------


def rates(findings: Findings) -> Table:
    """The learning rate to train with: one for all sizes, or that of the largest tried."""
    rows: list[tuple[str | Cell, ...]] = []
    for name in optimizers(findings):
        masses = findings.advised(name)
        own = [c for c in findings.of(name) if c.best is not None and set(masses) <= set(c.sizes)]
        if not own:
            rows.append((name, NONE, Cell("no best rate was found", "warn")))
            continue
        largest = max(own, key=lambda one: volume(one.sizes))
        verdicts = {drift.verdict for drift in findings.drifts if drift.optimizer == name}
        if verdicts == {"transfers"}:
            best = fits.mean([one.best for one in own if one.best is not None])
            where = Cell("at every size", "good")
        else:
            best = largest.best or 0.0
            why = "it drifts" if "drifts" in verdicts else "transfer is unclear"
            at = f"at {labels(largest.scales)}" if largest.scales else "here"
            where = Cell(f"{at}: {why}" if verdicts else at, "warn" if verdicts else "")
        at_masses = f", {labels(masses)}" if masses else ""
        rows.append((name, f"lr = {lr_of(best):.2g}{at_masses}", where))
    return Table(("optimizer", "use", "where"), rows)


# --- masses ---------------------------------------------------------------------------------


def masses(findings: Findings) -> Table:
    """The recommended mass at each size."""
    columns: list[Column[Recommendation]] = [
        Column("optimizer", lambda one: clean(one.optimizer)),
        *(Column(name, partial(_size, axis=name), True) for name in axes(findings.masses)),
        Column("best mass", lambda one: Cell(_masses(one.masses), "good")),
        Column("loss", lambda one: loss(Loss(one.loss, one.error)), True),
        Column("as good", lambda one: "; ".join(map(_masses, one.as_good)) or NONE),
        Column("the smallest's", _transfers),
    ]
    return table_of(columns, findings.masses)


def _masses(sizes: Sizes) -> str:
    if len(sizes) == 1:
        return f"{sizes[0][1]:.6g}"
    return labels(sizes)


def _transfers(one: Recommendation) -> Cell:
    if one.transfers is None:
        return Cell(NONE, "dim")
    if one.transfers:
        return Cell("as good here", "good")
    return Cell(f"{percent(one.excess or 0.0)} here", "warn")


# --- runs -----------------------------------------------------------------------------------


def runs(findings: Findings) -> Table:
    """Every run."""
    names = axes(trial for trial, _ in findings.sweep.runs)
    rows: list[tuple[str | Cell, ...]] = []
    for trial, outcome in findings.sweep.runs:
        bad: Tone = "bad" if outcome.status == "diverged" else ""
        sizes = [_size(trial, axis) for axis in names]
        rate = (f"{trial.log2_lr:.6g}", f"{lr_of(trial.log2_lr):.3g}")
        given = (outcome.first_loss, outcome.train_loss, outcome.held_out_loss, outcome.accuracy)
        losses = [NONE if value is None else f"{value:.6g}" for value in given]
        rest = (*losses, f"{outcome.steps}", f"{outcome.seconds:.1f}")
        given_by = (trial.optimizer, *sizes, *rate, f"{trial.seed}")
        rows.append((*given_by, Cell(outcome.status, bad), *rest))
    titles = ("optimizer", *names, "log2 lr", "lr", "seed", "status", "first loss", "train",
              "held out", "accuracy", "steps", "seconds")  # fmt: skip
    return Table(titles, rows, frozenset(titles) - {"optimizer", "status"})


# --- names ----------------------------------------------------------------------------------


def mass_names(findings: Findings) -> str:
    """The masses that were varied."""
    return ", ".join(filter(is_mass, axes(findings.curves)))


def optimizers(findings: Findings) -> list[str]:
    """Those with runs, in the order of the sweep."""
    return list(dict.fromkeys(one.optimizer for one in findings.curves))


def identifier(text: str) -> str:
    """A text as part of an element's id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "x"
