"""A document as HTML, and the pieces of HTML that pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files

from modnorm.report import blocks
from modnorm.report.diagnostics import clean, glyph

BAR = 60
"""Width of a bar that is full."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Of pages without a script."""
STYLE = """
main { padding: 16px; max-width: 1280px; margin: 0 auto; }
.panel { display: grid; }
.panel > :not(header) { margin: 0 12px; }
.panel > h1 { padding-top: 8px; }
"""
"""Of these too."""


def text(value: str) -> str:
    """A text that HTML shows as it is."""
    return escape(clean(value.replace(blocks.NO_BREAK, " ")))


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


def page(title: str, about: str, parts: Iterable[str], more: str = "") -> str:
    """A page that needs nothing else: no network, no script. `about` and `parts` are HTML, `more`
    is style of its own."""
    title = text(title)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title} · modnorm</title>\n<style>{style()}{STYLE}{more}</style>",
            "</head>\n<body>\n<main>",
            f'<header class="panel"><h1>{title}</h1>{about}</header>',
            *parts,
            "</main>\n</body>\n</html>\n",
        )
    )


def panel(name: str, title: str, inner: str, note: str = "") -> str:
    """A part of a page with a title, all of HTML; `name` is its id."""
    beside = f'<p class="beside">{note}</p>' if note else ""
    return (
        f'<section class="panel" id="{name}" aria-labelledby="{name}-title">'
        f'<header><h2 id="{name}-title">{title}</h2>{beside}</header>{inner}</section>'
    )


def table(shown: blocks.Table) -> str:
    """A table that can be scrolled."""
    kinds = ["num" if title in shown.numbers else "" for title in shown.titles]
    head = "".join(
        f'<th scope="col"{classes(kind)}>{text(title)}</th>'
        for title, kind in zip(shown.titles, kinds, strict=True)
    )
    rows = (
        "".join(
            f"<td{classes(kind, cell.tone)}>{inline(cell)}</td>"
            for cell, kind in zip(row, kinds, strict=True)
        )
        for row in shown.cells()
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    label = f' tabindex="0" role="region" aria-label="{text(shown.name)}"' if shown.name else ""
    return (
        f'<div class="scroll"{label}><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def classes(*names: str) -> str:
    shown = " ".join(filter(None, names))
    return f' class="{shown}"' if shown else ""


def inline(cell: blocks.Cell) -> str:
    if cell.kind == "code":
        shown = f"<code>{text(cell.text)}</code>" if cell.text else ""
    else:
        shown = message(cell.text) if cell.kind == "marked" else text(cell.text)
    if cell.bar is None:
        return shown
    # as SVG, its length needs no style of its own
    bar = f'<rect width="{BAR * cell.bar:.1f}" height="8"/>'
    return f'{shown}<svg class="bar" width="{BAR}" height="8" aria-hidden="true">{bar}</svg>'


def facts(shown: blocks.Facts) -> str:
    """All but the first, which is the page's title."""
    _, *rest = shown.rows
    rows = (f"<dt>{text(label)}</dt><dd>{inline(blocks.as_cell(v))}</dd>" for label, v in rest)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def body(content: Iterable[blocks.Block]) -> Iterator[str]:
    """The blocks, one after the other; sections have the ids `part-0`, `part-1` …"""
    for number, block in enumerate(content):
        match block:
            case blocks.Section():
                inner = "".join(inside(block.blocks))
                yield panel(f"part-{number}", inline(blocks.as_cell(block.title)), inner)
            case blocks.Notes(items=items) if items:
                yield panel(f"part-{number}", text(block.title), listed(block))
            case _:
                yield from inside([block])


def inside(content: Iterable[blocks.Block]) -> Iterator[str]:
    """Blocks in a panel of the page: their sections have smaller titles."""
    for block in content:
        match block:
            case blocks.Facts():
                yield facts(block)
            case blocks.Table():
                yield table(block)
            case blocks.Text(text=said):
                cell = blocks.as_cell(said)
                yield f"<p{classes(cell.tone)}>{inline(cell)}</p>"
            case blocks.Figure():
                yield block.svg
            case blocks.Notes(items=items) if items:
                kind = "error" if block.tone == "bad" else "warning"
                title = f"<p><b>{text(block.title)}</b></p>"
                yield f'<div class="note {kind}" role="note">{title}{listed(block)}</div>'
            case blocks.Problems(found=found) if found:
                raise AssertionError("a page shows what was found beside its source")
            case blocks.Section():
                yield f"<h3>{inline(blocks.as_cell(block.title))}</h3>"
                yield from inside(block.blocks)


def listed(notes: blocks.Notes) -> str:
    items = "".join(f"<li>{message(item)}</li>" for item in notes.items)
    return f"<ul{classes(notes.tone)}>{items}</ul>"
