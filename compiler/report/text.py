"""The report as text for a terminal. The only place that needs rich."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modnorm.graph.numbers import show
from modnorm.ops.base import Sharpness
from modnorm.passes.certificate import Certificate
from modnorm.passes.program import Program
from modnorm.pipeline import Analysis
from modnorm.report.diagnostics import clean
from modnorm.report.diagnostics import render as render_diagnostics
from modnorm.report.parts import Part, rows
from modnorm.report.terminal import printed
from modnorm.report.words import as_float, exact, plural, short

WIDTH = 80
BAR = 10
"""Columns of a bar that is full."""
PERCENT = 7
SENSITIVITY = "sensitivity"
CERTIFIED = "certified"
NO_BOUND = "–"
TOLERANCE = 1e-9
TARGET = "target"
NO_BREAK = "\u00a0"
"""A space at which no line ends."""
GAP = "  "
SHOWN = 3
"""Reasons that are shown for want of a certificate."""
EIGHTHS = " ▏▎▍▌▋▊▉"


def report(analysis: Analysis, width: int = WIDTH) -> RenderableType:
    """The report as something that rich can show: header, parts, warnings."""
    program = analysis.program
    sections: list[RenderableType] = [_header(program), Text(), _parts(program, width)]
    if analysis.diagnostics:
        found = render_diagnostics(analysis.diagnostics, color=True, width=width, wraps=True)
        sections += [Text(), Text.from_ansi(found.rstrip("\n"))]
    return Group(*sections)


def render(analysis: Analysis, *, width: int = WIDTH, color: bool = False) -> str:
    """The report as a string, with ANSI colours or without."""
    return printed(report(analysis, width), width, color).replace(NO_BREAK, " ")


def _header(program: Program) -> Table:
    table = Table.grid(padding=(0, len(GAP)))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _facts(program):
        table.add_row(label, Text(value, style="bold" if label == "model" else ""))
    return table


def _facts(program: Program) -> Iterator[tuple[str, str]]:
    yield "model", program.name
    yield "source", clean(program.source.name)
    if program.params:
        params = (f"{name} = {clean(show(value))}" for name, value in program.params.items())
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
    return "  ".join(f"{s} {short(v) if math.isfinite(v) else '–'}" for s, v in triple)


def _proved(found: Certificate) -> Iterator[tuple[str, str]]:
    if isinstance(found.sensitivity, float):
        yield "certified", f"{short(found.sensitivity, 6)}, from {found.source} to {found.norm}"
    if found.kappa is not None:
        yield "κ", f"{short(found.kappa, 6)}: an update of norm 1 moves the output by at most this"
        return
    groups: dict[tuple[str, str, str], list[int]] = {}
    for r in found.reasons:
        origin = "" if r.origin is r.span else f" ({clean(str(r.origin))})"
        key = (r.op, clean(r.span.source.name), f"{origin}: {r.text}")
        groups.setdefault(key, []).append(r.span.line)
    label = "κ"
    for (op, file, text), lines in list(groups.items())[:SHOWN]:
        numbers = ", ".join(str(line) for line in sorted(set(lines)))
        yield label, f"{'no bound: ' if label else ''}{op} at {file}:{numbers}{text}"
        label = ""
    if len(groups) > SHOWN:
        yield "", f"and {plural(len(groups) - SHOWN, 'more reason')}"


def _parts(program: Program, width: int) -> Table:
    found = list(rows(program))
    targets = [_target(row.part) for row in found]
    wide = len(SENSITIVITY) + len(CERTIFIED) + max(map(len, (TARGET, *targets)))
    taken = BAR + PERCENT + wide + 4 * len(GAP)
    table = Table(box=None, padding=(0, len(GAP), 0, 0), pad_edge=False, header_style="dim")
    # what is too long is a name, never a number
    table.add_column("part", no_wrap=True, max_width=max(width - taken, len("part")))
    table.add_column("share of mass", no_wrap=True)
    table.add_column(SENSITIVITY, no_wrap=True, justify="right")
    table.add_column(CERTIFIED, no_wrap=True, justify="right")
    table.add_column(TARGET, no_wrap=True)
    whole = as_float(program.mass)
    for row, target in zip(found, targets, strict=True):
        part = row.part
        style = "" if part.targets is None else "bold"
        name = Text.assemble((row.guide, "dim"), (part.title, style))
        certified = Text(
            NO_BOUND if part.certified is None else short(part.certified),
            style="yellow" if _exceeds(part) else "",
        )
        table.add_row(name, _share(part, whole), short(part.sensitivity), certified, target)
    return table


def _exceeds(part: Part) -> bool:
    """Whether the declared sensitivity is not proved."""
    return part.certified is None or part.certified > part.sensitivity * (1 + TOLERANCE)


def _share(part: Part, whole: float) -> Text:
    share = part.mass / whole if whole else 0.0
    eighths = max(round(share * BAR * 8), 1 if share else 0)
    full, rest = divmod(eighths, 8)
    bar = "█" * full + (EIGHTHS[rest] if rest else "")
    percent = f"{share:.1%}" if share >= 0.0005 or not share else "< 0.1%"
    return Text.assemble((f"{bar:<{BAR}}", "cyan"), f"{percent:>{PERCENT}}")


def _target(part: Part) -> str:
    if part.targets is None:
        return ""
    first, last = part.targets
    if last == 0:
        return "0 (frozen)"
    one, other = short(first), short(last)
    return one if one == other else f"{one} … {other}"
