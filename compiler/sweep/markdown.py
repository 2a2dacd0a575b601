"""What a sweep says, as GitHub Markdown."""

from __future__ import annotations

from modnorm.report.markdown import code, escape, table
from modnorm.sweep import tables
from modnorm.sweep.findings import Findings
from modnorm.sweep.tables import Table


def render(findings: Findings) -> str:
    """The findings as Markdown: facts, optima by optimizer, drifts, masses, notes."""
    head, *rest = tables.facts(findings)
    sections = [
        [f"# Learning-rate transfer of {escape(head[1])}"],
        table(("", ""), ((f"**{escape(name)}**", escape(value)) for name, value in rest)),
    ]
    if findings.drifts:
        sections += [["## Drift"], _table(tables.drifts(findings))]
        sections.append([escape(tables.meaning(findings)) + "."])
    for optimizer in tables.optimizers(findings):
        sections += [[f"## {code(optimizer)}"], _table(tables.curves(findings, optimizer))]
    if findings.curves:
        sections.append([escape(tables.SAME) + "."])
    if findings.masses:
        sections += [[f"## What {code(tables.mass_names(findings))} to use"]]
        sections.append(_table(tables.masses(findings)))
    if findings.warnings:
        sections += [["## Notes"], [f"- {escape(warning)}" for warning in findings.warnings]]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _table(shown: Table) -> list[str]:
    titles = (f"{escape(t)}:" if t in shown.numbers else escape(t) for t in shown.titles)
    marks = {"bad": "**", "good": ""}
    rows = (
        (f"{marks.get(cell.tone, '')}{escape(cell.text)}{marks.get(cell.tone, '')}" for cell in row)
        for row in shown.rows
    )
    return table(titles, rows)
