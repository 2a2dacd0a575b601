"""What was measured, as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modnorm.graph.numbers import show
from modnorm.measure.fits import FLAT, SURE
from modnorm.report.checked import (
    Coordinates,
    Findings,
    ModuleFinding,
    ScalingFinding,
    Training,
    WeightFinding,
)
from modnorm.report.diagnostics import clean
from modnorm.report.terminal import printed
from modnorm.report.words import plural, short

WIDTH = 80
GAP = 2
MOST_WEIGHTS = 10
"""Weights that are shown, those with the largest norms."""
ABOUT = 1e-6
"""Numbers closer than this, relatively, are shown as the same."""

MARKS = {
    "violated": ("!", "bold red", "violated: more than is certified"),
    "outside the ball": (
        "~",
        "yellow",
        "more than is certified, with weights outside of their balls: no contradiction",
    ),
    "above declared": (
        "+",
        "yellow",
        "above declared: a declared sensitivity is a typical one, and no bound",
    ),
}
"""Sign, style and meaning of verdicts that are more than `ok`."""


def render(findings: Findings, *, width: int = WIDTH, color: bool = False) -> str:
    """The findings as a string, with ANSI colours or without."""
    return printed(view(findings, width), width, color)


def view(findings: Findings, width: int = WIDTH) -> RenderableType:
    """The findings as something that rich can show."""
    sections: list[RenderableType] = [_header(findings), Text(), *_modules(findings, width)]
    if findings.weights:
        sections += [Text(), *_weights(findings.weights, width)]
    if findings.coordinates is not None:
        sections += [Text(), *_training(findings.coordinates, width)]
    for note in findings.notes:
        sections += [Text(), Text(f"note: {clean(note)}", "yellow")]
    for violation in findings.violations:
        sections += [Text(), Text(f"violated: {clean(violation)}", "bold red")]
    return Group(*sections)


def _header(findings: Findings) -> Table:
    table = Table.grid(padding=(0, GAP))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _facts(findings):
        table.add_row(label, Text(value, style="bold" if label == "model" else ""))
    return table


def _facts(findings: Findings) -> Iterator[tuple[str, str]]:
    yield "model", findings.model
    yield "source", clean(findings.source)
    if findings.params:
        shown = (f"{k} = {clean(_constant(v))}" for k, v in findings.params.items())
        yield "params", ", ".join(shown)
    yield "weights", clean(findings.checkpoint or f"fresh, seed {findings.seed}")
    sizes = ", ".join(f"{name} = {size}" for name, size in findings.sizes.items())
    seed = f", seed {findings.seed}"
    yield "data", f"{clean(findings.data)}{seed}{': ' if sizes else ''}{sizes}"
    kappa = findings.kappa
    yield "κ", (
        f"{short(kappa)} certified" if kappa is not None
        else f"no bound: {clean(findings.kappa_reason)}"
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


def _modules(findings: Findings, width: int) -> Iterator[RenderableType]:
    shown = [m for m in findings.modules if not _is_plain(m)]
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    trained = findings.checkpoint is not None
    extra = ("at norms",) if trained else ()
    numbers = ("input", "declared", "certified", *extra, "measured", "here")
    rows = [(_extent(m), *(_number(v) for v in _values(m, trained))) for m in shown]
    taken = sum(
        max(len(title), *(len(row[i]) for row in rows)) + GAP for i, title in enumerate(numbers)
    )
    table.add_column("part", no_wrap=True, max_width=max(width - taken - 1 - GAP, 12))
    table.add_column("", no_wrap=True)
    for title in numbers:
        table.add_column(title, no_wrap=True, justify="right")
    for module, row in zip(shown, rows, strict=True):
        mark, style, _ = MARKS.get(module.verdict, ("", "", ""))
        bold = "bold" if module.kind == "atom" else ""
        name = Text("  " * module.depth + _title(module), bold)
        *before, measured, here = row
        table.add_row(name, Text(mark, style), *before, Text(measured, style), here)
    yield table
    hidden = len(findings.modules) - len(shown)
    marked = {m.verdict for m in findings.modules} & MARKS.keys()
    if hidden or marked:
        yield Text()
    if hidden:
        yield Text(f"{plural(hidden, 'bond')} not shown: at most as steep as declared", "dim")
    for verdict, (mark, style, meaning) in MARKS.items():
        if verdict in marked:
            yield Text.assemble((mark, style), (f" {meaning}", "dim"))


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
    return "–" if value is None else short(value, digits)


def _extent(module: ModuleFinding) -> str:
    low, high = module.input.low, module.input.high
    if low is None or high is None:
        return "–"
    same = math.isclose(low, high, rel_tol=ABOUT) or short(low, 3) == short(high, 3)
    return short(high, 3) if same else f"{short(low, 3)} … {short(high, 3)}"


# --- weights --------------------------------------------------------------------------------


def _weights(weights: Sequence[WeightFinding], width: int) -> Iterator[RenderableType]:
    shown = [
        (
            w.weight.removesuffix(".weight"),
            f"{_number(w.norm)} of 1",
            _number(w.target),
            _number(w.change),
            _bound(w),
        )
        for w in weights[:MOST_WEIGHTS]
    ]
    titles = ["norm", "target", "change of output", "certified"]
    if all(w.bound is None for w in weights):
        titles.pop()
    taken = sum(
        max(len(t), *(len(row[i + 1]) for row in shown)) + GAP for i, t in enumerate(titles)
    )
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("weight", no_wrap=True, max_width=width - taken)
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right")
    for weight, row in zip(weights, shown, strict=False):
        style = "yellow" if (weight.norm or 0.0) > 1 + ABOUT else ""
        table.add_row(row[0], Text(row[1], style), *row[2 : 1 + len(titles)])
    yield table
    if len(weights) > len(shown):
        rest = f"{plural(len(weights) - len(shown), 'more weight')}, of norm"
        yield Text(f"{rest} {_number(weights[len(shown)].norm)} at most", "dim")


def _bound(weight: WeightFinding) -> str:
    """A weight's part of κ; that of copies is for all of them."""
    together = f" for {weight.copies}" if weight.bound is not None and weight.copies > 1 else ""
    return f"{_number(weight.bound)}{together}"


# --- the coordinate check -------------------------------------------------------------------


def _training(training: Training, width: int) -> Iterator[RenderableType]:
    yield Text(
        f"coordinate check: {plural(training.steps, 'step')} of {training.optimizer} at lr"
        f" {short(training.lr)}, {plural(training.seeds, 'seed')}, {training.loss}"
    )
    for param in training.params:
        yield Text()
        yield _param(param, width)
    yield Text()
    yield Text(
        "exponents of RMS over the param, with standard errors;"
        f" flat: at most {FLAT:g}, grows or shrinks: more by {SURE:g} errors",
        "dim",
    )


STYLES = {"grows": "bold red", "shrinks": "yellow", "unclear": "yellow"}


def _param(param: Coordinates, width: int) -> RenderableType:
    sizes = ", ".join(short(size) for size in param.sizes)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    columns = ("activation", "its change")
    table.add_column(f"{param.param} = {sizes}", max_width=max(width - 48, 20), no_wrap=True)
    for title in columns:
        table.add_column(title, no_wrap=True)
    for path, found in param.distinct().items():
        table.add_row(path, _fit(found["activation"]), _fit(found["change"]))
    return table


def _fit(found: ScalingFinding) -> Text:
    style = STYLES.get(found.verdict, "")
    if found.slope is None or found.error is None:
        return Text(found.verdict, style)
    slope = round(found.slope, 2) + 0.0  # no -0.00
    return Text(f"{slope:+.2f} ({found.error:.2f}) {found.verdict}", style)
