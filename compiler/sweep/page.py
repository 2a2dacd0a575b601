"""What a sweep says as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from modnorm.measure.problems import CheckError
from modnorm.report.blocks import NONE, Cell, Table, Tone
from modnorm.report.html import pieces
from modnorm.sweep import plot, tables
from modnorm.sweep.findings import Findings, lr_of

STYLE = """
main { padding: 16px; max-width: 1280px; margin: 0 auto; }
.panel { display: grid; }
.panel > :not(header) { margin: 0 12px; }
.panel > h1 { padding-top: 8px; }
td:first-child:not(.num) { overflow-wrap: anywhere; min-width: 7.5em; }
.curves { display: flex; flex-wrap: wrap; gap: 8px 16px; }
.curves svg { stroke-linejoin: round; max-width: 100%; height: auto; }
.curves text { fill: var(--text); font-family: inherit !important; }
"""
WITHOUT = "The pictures of the curves need matplotlib: pip install modnorm[plot]"

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(findings: Findings) -> str:
    """The page."""
    pictures, without = None, ""
    try:
        pictures = {name: plot.svg(findings, name) for name in tables.optimizers(findings)}
    except CheckError:
        without = f'<p class="dim">{WITHOUT}</p>'
    document = tables.document(findings, pictures)
    title = pieces.text(document.title)
    facts, *blocks = document.blocks
    about = "".join(pieces.body([facts]))
    runs = ""
    if count := len(findings.sweep.runs):
        table = pieces.table(runs_table(findings))
        inner = f"<details><summary>all {count:,}</summary>{table}</details>"
        runs = pieces.panel("runs", "Runs", inner)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title} · modnorm</title>\n<style>{pieces.style()}{STYLE}</style>",
            "</head>\n<body>\n<main>",
            f'<header class="panel"><h1>{title}</h1>{about}{without}</header>',
            *pieces.body(blocks),
            runs,
            "</main>\n</body>\n</html>\n",
        )
    )


def runs_table(findings: Findings) -> Table:
    """Every run."""
    runs = findings.sweep.runs
    axes = tuple(dict.fromkeys(name for trial, _ in runs for name, _ in trial.sizes))
    rows = []
    for trial, outcome in runs:
        sizes = dict(trial.sizes)
        bad: Tone = "bad" if outcome.status == "diverged" else ""
        shown = [trial.optimizer, *(_number(sizes.get(axis)) for axis in axes)]
        shown += [f"{trial.log2_lr:.6g}", f"{lr_of(trial.log2_lr):.3g}", f"{trial.seed}"]
        losses = (outcome.first_loss, outcome.train_loss, outcome.held_out_loss, outcome.accuracy)
        rest = [*map(_number, losses), f"{outcome.steps}", f"{outcome.seconds:.1f}"]
        rows.append((*map(Cell, shown), Cell(outcome.status, bad), *map(Cell, rest)))
    titles = ("optimizer", *axes, "log2 lr", "lr", "seed", "status", "first loss", "train",
              "held out", "accuracy", "steps", "seconds")  # fmt: skip
    return Table(titles, tuple(rows), frozenset(titles) - {"optimizer", "status"})


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.6g}"
