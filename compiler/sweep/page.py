"""What a sweep says as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from modnorm.measure.problems import CheckError
from modnorm.report.html import pieces
from modnorm.sweep import plot, tables
from modnorm.sweep.findings import Findings

STYLE = """
main { padding: 16px; max-width: 1280px; margin: 0 auto; }
.panel { display: grid; }
.panel > :not(header) { margin: 0 12px; }
.panel > h1 { padding-top: 8px; }
td:first-child:not(.num) { overflow-wrap: anywhere; min-width: 5.5em; }
.curves { display: flex; flex-wrap: wrap; gap: 8px 16px; }
.curves svg { stroke-linejoin: round; max-width: 100%; height: auto; }
.curves text { fill: var(--text); font-family: inherit !important; }
"""
WITHOUT = 'The pictures of the curves need matplotlib: `pip install "modnorm[plot]"`'

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(findings: Findings) -> str:
    """The page."""
    pictures, without = None, ""
    try:
        pictures = {name: plot.svg(findings, name) for name in tables.optimizers(findings)}
    except CheckError:
        without = f'<p class="dim">{pieces.message(WITHOUT)}</p>'
    document = tables.document(findings, pictures)
    title = pieces.text(document.title)
    facts, *blocks = document.blocks
    about = "".join(pieces.body([facts]))
    runs = ""
    if count := len(findings.sweep.runs):
        table = pieces.table(tables.runs(findings))
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
