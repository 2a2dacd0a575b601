"""A document as HTML, and the pieces of HTML that pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files

from modnorm.report.blocks import (
    NO_BREAK,
    Block,
    Cell,
    Facts,
    Figure,
    Notes,
    Problems,
    Section,
    Table,
    Text,
    as_cell,
)
from modnorm.report.diagnostics import clean, glyph


def text(value: str) -> str:
    """A text that HTML shows as it is."""
    return escape(clean(value.replace(NO_BREAK, " ")))


def visible(value: str) -> str:
    return value if value.isascii() and value.isprintable() else "".join(map(glyph, value))


def message(value: str) -> str:
    """A message: what stands between backquotes is code."""
    parts = visible(value.replace("\n", " ")).split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if i % 2 and i < len(parts) - 1 else escape(part)
        for i, part in enumerate(parts)
    )


def style() -> str:
    """The style of all pages."""
    return files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def panel(name: str, title: str, inner: str, note: str = "") -> str:
    """A part of a page with a title, all of HTML; `name` is its id."""
    beside = f'<p class="beside">{note}</p>' if note else ""
    return (
        f'<section class="panel" id="{name}" aria-labelledby="{name}-title">'
        f'<header><h2 id="{name}-title">{title}</h2>{beside}</header>{inner}</section>'
    )


def table(shown: Table, name: str = "") -> str:
    """A table that can be scrolled; `name` says what it is of."""
    rows = [[inline(cell) for cell in row] for row in shown.cells()]
    tones = [[cell.tone for cell in row] for row in shown.cells()]
    return grid(shown.titles, rows, [t in shown.numbers for t in shown.titles], name, tones)


def grid(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Sequence[bool],
    name: str = "",
    tones: Iterable[Sequence[str]] | None = None,
) -> str:
    """A table whose cells are HTML."""
    kinds = ["num" if number else "" for number in numbers]
    head = "".join(
        f'<th scope="col"{classes(kind)}>{text(title)}</th>'
        for title, kind in zip(titles, kinds, strict=True)
    )
    rows = list(rows)
    plain = [""] * len(kinds)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{classes(kind, tone)}>{cell}</td>"
            for cell, kind, tone in zip(row, kinds, own, strict=True)
        )
        + "</tr>"
        for row, own in zip(rows, tones or [plain] * len(rows), strict=True)
    )
    label = f' tabindex="0" role="region" aria-label="{text(name)}"' if name else ""
    return (
        f'<div class="scroll"{label}><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def classes(*names: str) -> str:
    shown = " ".join(filter(None, names))
    return f' class="{shown}"' if shown else ""


def inline(cell: Cell) -> str:
    if cell.kind == "code":
        return f"<code>{text(cell.text)}</code>" if cell.text else ""
    return message(cell.text) if cell.kind == "marked" else text(cell.text)


def facts(shown: Facts) -> str:
    """All but the first, which is the page's title."""
    _, *rest = shown.rows
    rows = (f"<dt>{text(label)}</dt><dd>{inline(as_cell(v))}</dd>" for label, v in rest)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def body(blocks: Iterable[Block]) -> Iterator[str]:
    """The blocks, one after the other; sections have the ids `part-0`, `part-1` …"""
    for number, block in enumerate(blocks):
        match block:
            case Facts():
                yield facts(block)
            case Table():
                yield table(block)
            case Text(text=said):
                cell = as_cell(said)
                yield f"<p{classes(cell.tone)}>{inline(cell)}</p>"
            case Figure():
                yield block.svg
            case Notes(items=items) if items:
                listed = "".join(f"<li>{text(item)}</li>" for item in items)
                inner = f"<ul{classes(block.tone)}>{listed}</ul>"
                yield panel(f"part-{number}", text(block.title), inner)
            case Problems(found=found) if found:
                raise AssertionError("a page shows what was found beside its source")
            case Section():
                inner = "".join(body(block.blocks))
                yield panel(f"part-{number}", inline(as_cell(block.title)), inner)
