"""What a sweep says as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from modnorm.measure.problems import CheckError
from modnorm.report.html import pieces
from modnorm.sweep import plot, tables
from modnorm.sweep.findings import Findings

STYLE = """
td:first-child:not(.num) { overflow-wrap: anywhere; min-width: 5.5em; }
.curves { display: flex; flex-wrap: wrap; gap: 8px 16px; }
.curves svg { stroke-linejoin: round; max-width: 100%; height: auto; }
.curves text { fill: var(--text); font-family: inherit !important; }
"""
WITHOUT = 'The pictures of the curves need matplotlib: `pip install "modnorm[plot]"`'


def render(findings: Findings) -> str:
    """The page."""
    pictures, without = None, ""
    try:
        pictures = {name: plot.svg(findings, name) for name in tables.optimizers(findings)}
    except CheckError:
        without = f'<p class="dim">{pieces.message(WITHOUT)}</p>'
    document = tables.document(findings, pictures)
    title, (facts, *blocks) = document.title, document.blocks
    about = "".join(pieces.body([facts]))
    runs = ""
    if count := len(findings.sweep.runs):
        table = pieces.table(tables.runs(findings))
        inner = f"<details><summary>all {count:,}</summary>{table}</details>"
        runs = pieces.panel("runs", "Runs", inner)
    return pieces.page(title, about + without, [*pieces.body(blocks), runs], STYLE)
