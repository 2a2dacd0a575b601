"""What a sweep says, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from modnorm.report.diagnostics import cells, clean
from modnorm.report.terminal import printed
from modnorm.sweep import tables
from modnorm.sweep.findings import Findings
from modnorm.sweep.tables import Table

WIDTH = 80
GAP = 2
STYLES = {"": "", "good": "green", "warn": "yellow", "bad": "bold red", "dim": "dim"}


def render(findings: Findings, width: int = WIDTH, color: bool = False) -> str:
    """The findings as a string, with ANSI colours or without."""
    return printed(view(findings, width), width, color)


def view(findings: Findings, width: int = WIDTH) -> RenderableType:
    """The findings as something that rich can show."""
    sections: list[RenderableType] = [_header(findings)]
    names = tables.optimizers(findings)
    optima = _fitting([tables.curves(findings, name) for name in names], width)
    for name, table in zip(names, optima, strict=True):
        sections += [Text(), Text(clean(name), "bold"), _table(table)]
    if findings.curves:
        sections += [Text(), Text(tables.SAME, "dim")]
    if findings.drifts:
        sections += [Text(), *map(_table, _fitting([tables.drifts(findings)], width))]
        sections.append(Text(tables.meaning(findings), "dim"))
    if findings.masses:
        sections += [Text(), Text(f"what {tables.mass_names(findings)} to use", "bold")]
        sections.append(_table(tables.masses(findings)))
    sections += _warnings(findings)
    return Group(*sections)


def _header(findings: Findings) -> RichTable:
    table = RichTable.grid(padding=(0, GAP))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in tables.facts(findings):
        table.add_row(label, Text(value, style="bold" if label == "model" else ""))
    return table


def _warnings(findings: Findings) -> Iterator[RenderableType]:
    for warning in findings.warnings:
        yield Text()
        yield Text(f"note: {clean(warning)}", "yellow")


def _fitting(found: list[Table], width: int) -> list[Table]:
    """The tables, all without the same columns that they can spare, if there is no room."""
    spare = [title for title in (found[0].spare if found else ()) if _has(found[0], title)]
    while spare and max(map(_width, found)) > width:
        title = spare.pop(0)
        found = [table.without(title) for table in found]
    return found


def _has(table: Table, title: str) -> bool:
    return title in table.titles or title == tables.BRIEF


def _table(table: Table) -> RichTable:
    shown = RichTable(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    for title in table.titles:
        lines = "\n".join(_lines(title))
        if title in table.numbers:
            shown.add_column(lines, justify="right", no_wrap=True)
        else:
            shown.add_column(lines, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell.text, STYLES[cell.tone]) for cell in row))
    return shown


def _lines(title: str) -> list[str]:
    """A title in lines: what follows a comma gets one of its own."""
    first, comma, rest = title.partition(", ")
    return [first + comma.rstrip(), rest] if comma else [title]


def _width(table: Table) -> int:
    columns = zip(*((cell.text for cell in row) for row in table.rows), strict=True)
    widest = [
        max(*(cells(line) for line in _lines(title)), *map(cells, column), 0)
        for title, column in zip(table.titles, columns, strict=True)
    ]
    return sum(widest) + GAP * (len(widest) - 1)
