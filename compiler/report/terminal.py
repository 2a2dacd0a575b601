"""A document as text for a terminal. The only place that draws tables with rich."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from modnorm.report import blocks
from modnorm.report.diagnostics import cells, clean
from modnorm.report.diagnostics import render as render_diagnostics

WIDTH = 80
GAP = 2
STYLES = {
    "": "", "good": "green", "warn": "yellow", "bad": "bold red", "dim": "dim", "strong": "bold"
}  # fmt: skip
BAR = 10
"""Columns of a bar that is full."""
EIGHTHS = " ▏▎▍▌▋▊▉"
LEAST = 4
"""Columns that a cut text has at least."""


def render(document: blocks.Document, *, width: int = WIDTH, color: bool = False) -> str:
    """The document as a string, with ANSI colours or without."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(view(document, width))
    lines = captured.get().replace(blocks.NO_BREAK, " ").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def view(document: blocks.Document, width: int = WIDTH) -> RenderableType:
    """The document as something that rich can show: an empty line between its blocks."""
    shown: list[RenderableType] = []
    for lines in _View(document, width).parts(document.blocks):
        shown += [Text(), *lines] if shown else lines
    return Group(*shown)


class _View:
    """Draws blocks in a width. Tables with the same columns do without the same of them."""

    def __init__(self, document: blocks.Document, width: int) -> None:
        self.width = width
        alike: dict[tuple[str, ...], list[blocks.Table]] = {}
        for table in _tables(document.blocks):
            alike.setdefault(table.titles, []).append(table)
        self.fitted = {
            id(table): fitted
            for tables in alike.values()
            for table, fitted in zip(tables, _fitting(tables, width), strict=True)
        }

    def parts(self, content: Sequence[blocks.Block]) -> Iterator[list[RenderableType]]:
        """What stands together without an empty line."""
        for block in content:
            match block:
                case blocks.Facts():
                    yield [_facts(block)]
                case blocks.Table():
                    yield [_table(self.fitted[id(block)], self.width)]
                case blocks.Text():
                    yield [_text(blocks.as_cell(block.text))]
                case blocks.Notes(items=items, one=one):
                    for item in items:
                        yield [Text(f"{one}: {clean(item)}", STYLES[block.tone])]
                case blocks.Problems(found=found) if found:
                    text = render_diagnostics(found, color=True, width=self.width, wraps=True)
                    yield [Text.from_ansi(text.rstrip("\n"))]
                case blocks.Section(detail=False):
                    title = _title(blocks.as_cell(block.title))
                    lines: list[RenderableType] = [Text(title, "bold")] if title else []
                    yield lines + [line for part in self.parts(block.blocks) for line in part]


def _tables(content: Sequence[blocks.Block]) -> Iterator[blocks.Table]:
    for block in content:
        if isinstance(block, blocks.Table):
            yield block
        elif isinstance(block, blocks.Section) and not block.detail:
            yield from _tables(block.blocks)


def _title(cell: blocks.Cell) -> str:
    return clean(cell.text.replace("`", "") if cell.kind == "marked" else cell.text)


def _text(cell: blocks.Cell) -> Text:
    return Text.assemble((cell.guide, "dim"), (clean(cell.text), STYLES[cell.tone]))


def _facts(facts: blocks.Facts) -> Table:
    table = Table.grid(padding=(0, GAP))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for i, (label, value) in enumerate(facts.rows):
        table.add_row(label, Text(_spaced(blocks.as_cell(value).text), style="" if i else "bold"))
    return table


def _spaced(text: str) -> str:
    return blocks.NO_BREAK.join(map(clean, text.split(blocks.NO_BREAK)))


# --- tables ---------------------------------------------------------------------------------


def _fitting(tables: list[blocks.Table], width: int) -> list[blocks.Table]:
    """The tables, all without the same columns that they can spare, if there is no room."""
    spare = [*tables[0].spare]
    while spare and max(sum(_widths(t)) + GAP * (len(t.titles) - 1) for t in tables) > width:
        title = spare.pop(0)
        if title in (*tables[0].titles, blocks.BRIEF):
            tables = [table.without(title) for table in tables]
    return tables


def _table(table: blocks.Table, width: int) -> Table:
    shown = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    widths = _widths(table) if table.cut else []
    for i, title in enumerate(table.titles):
        lines = "\n".join(_lines(clean(title)))
        if table.cut and title == table.cut:
            taken = sum(widths) - widths[i] + GAP * (len(widths) - 1)
            room = max(width - taken, LEAST)
            shown.add_column(clean(title), no_wrap=True, max_width=room)
        elif title in table.numbers:
            shown.add_column(lines, justify="right", no_wrap=True)
        else:
            shown.add_column(lines, overflow="fold", no_wrap=bool(table.cut))
    for row in table.cells():
        shown.add_row(*map(_cell, row))
    return shown


def _cell(cell: blocks.Cell) -> Text:
    if cell.bar is None:
        return _text(cell)
    eighths = max(round(cell.bar * BAR * 8), 1 if cell.bar else 0)
    full, rest = divmod(eighths, 8)
    bar = "█" * full + (EIGHTHS[rest] if rest else "")
    return Text.assemble((f"{bar:<{BAR}}", "cyan"), f"{cell.text:>7}")


def _lines(title: str) -> list[str]:
    """A title in lines: what follows a comma gets one of its own."""
    first, comma, rest = title.partition(", ")
    return [first + comma.rstrip(), rest] if comma else [title]


def _widths(table: blocks.Table) -> list[int]:
    columns = zip(*table.cells(), strict=True) if table.rows else [()] * len(table.titles)
    return [
        max(*(cells(line) for line in _lines(title)), *(_cell(c).cell_len for c in column), 0)
        for title, column in zip(table.titles, columns, strict=True)
    ]
