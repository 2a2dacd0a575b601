"""A document as GitHub Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from modnorm.diagnostics import Diagnostic
from modnorm.report import blocks
from modnorm.report.diagnostics import clean, in_order

INDENT = "&emsp;"
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")
"""What has a meaning in Markdown wherever it stands."""
QUOTED = re.compile(r"`([^`]+)`")
BOLD = ("bad", "strong")


def escape(text: str) -> str:
    """A text that Markdown shows as it is."""
    return SPECIAL.sub(r"\\\1", clean(text.replace(blocks.NO_BREAK, " ")))


def code(text: str) -> str:
    """A text as code, also in a cell of a table."""
    text = clean(text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def render(document: blocks.Document) -> str:
    """The document as Markdown; it ends in a newline."""
    content = [f"# {escape(document.title)}", *_blocks(document.blocks)]
    return "\n\n".join(content) + "\n"


def _blocks(content: Iterable[blocks.Block]) -> Iterator[str]:
    for block in content:
        match block:
            case blocks.Facts():
                _, *rest = block.rows
                cells = ((blocks.Cell(label, "strong"), value) for label, value in rest)
                yield table(blocks.Table(("", ""), [*cells]))
            case blocks.Table():
                yield table(block)
            case blocks.Text():
                yield _inline(blocks.as_cell(block.text))
            case blocks.Notes(items=items) if items:
                yield f"## {escape(block.title)}"
                yield "\n".join(f"- {escape(item)}" for item in items)
            case blocks.Problems(found=found) if found:
                yield "## Findings"
                yield "\n".join(map(_problem, in_order(found)))
            case blocks.Section():
                title = blocks.as_cell(block.title)
                if title.text:
                    yield f"## {_inline(title)}"
                yield from _blocks(block.blocks)


def table(shown: blocks.Table) -> str:
    """A table; a parser reads back whole rows, whatever is in the cells."""
    lines = [[escape(title) for title in shown.titles]]
    lines.append(["---:" if title in shown.numbers else "---" for title in shown.titles])
    lines += [[_inline(cell) for cell in row] for row in shown.cells()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(cell: blocks.Cell) -> str:
    if cell.kind == "code":
        text = code(cell.text)
    elif cell.kind == "marked":
        parts = QUOTED.split(cell.text)
        text = "".join(code(part) if i % 2 else escape(part) for i, part in enumerate(parts))
    else:
        text = escape(cell.text)
    bold = "**" if cell.tone in BOLD and text else ""
    return f"{INDENT * cell.depth}{bold}{text}{bold}"


def _problem(problem: Diagnostic) -> str:
    where = escape(str(problem.span)) if problem.span else ""
    head = f"- **{problem.severity} {problem.code}** {where}".rstrip()
    lines = [problem.message, *([problem.hint] if problem.hint else [])]
    message, *hint = (_inline(blocks.Cell(line, kind="marked")) for line in lines)
    return "\n".join([f"{head}: {message}", *(f"  {line}" for line in hint)])
