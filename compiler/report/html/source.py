"""The source beside what was found in it, as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

from modnorm.diagnostics import Source
from modnorm.graph.modules import Leaf, Scope, Shared, walk
from modnorm.pipeline import Analysis
from modnorm.report.html.pieces import message, visible
from modnorm.syntax.words import KEYWORDS

TAB = 4
TOKEN = re.compile(
    r"(?P<comment>#.*)|(?P<string>\"(?:\\.|[^\"\\])*\"?)|(?P<number>\b\d[\d_.]*(?:[eE]-?\d+)?)"
    r"|(?P<word>[^\W\d]\w*)"
)
WORDS = {*KEYWORDS.values(), "as", "range"}


def sources(analysis: Analysis) -> list[Source]:
    """The model's own file, then those that a part or a finding points at."""
    found = {analysis.program.source.name: analysis.program.source}
    for module in walk(analysis.program.tree):
        if isinstance(module, Leaf | Scope | Shared):
            found.setdefault(module.span.source.name, module.span.source)
    for diagnostic in analysis.diagnostics:
        if diagnostic.span is not None:
            found.setdefault(diagnostic.span.source.name, diagnostic.span.source)
    return list(found.values())


def listing(source: Source, number: int, notes: list[dict[str, Any]]) -> str:
    """A file with a row a line, and under a line what was found there.

    Lines have the ids `L<file>-<line>`.
    """
    by_line: dict[int, list[dict[str, Any]]] = {}
    for note in notes:
        by_line.setdefault(note.get("line") or 0, []).append(note)
    rows = [*map(_note, by_line.get(0, []))]
    lines = source.text.removesuffix("\n").split("\n")
    for at, line in enumerate(lines, 1):
        rows.append(
            f'<div class="line" id="L{number}-{at}"><span class="no" aria-hidden="true">{at}</span>'
            f"<code>{''.join(colored(line.rstrip(chr(13)))) or ' '}</code></div>"
        )
        rows += map(_note, by_line.get(at, []))
    return (
        f'<section class="file" aria-label="{escape(visible(source.name))}">'
        f"<h3>{escape(visible(source.name))}</h3>{''.join(rows)}</section>"
    )


def colored(line: str) -> Iterator[str]:
    """A line as HTML, with its words in the colours of their kind."""
    at = 0
    for token in TOKEN.finditer(line):
        kind = token.lastgroup
        if kind == "word":
            if token[0] not in WORDS:
                continue
            kind = "keyword"
        yield escape(visible(line[at : token.start()]))
        yield f'<span class="{kind}">{escape(visible(token[0]))}</span>'
        at = token.end()
    yield escape(visible(line[at:]))


def _note(note: dict[str, Any]) -> str:
    severity = note["severity"]
    head = f"{severity} {note.get('code', '')}".strip()
    hint = f"<p>{message(note['hint'])}</p>" if note.get("hint") else ""
    return (
        f'<div class="note {escape(severity)}" role="note"><p><b>{escape(head)}</b> '
        f"{message(note['message'])}</p>{hint}</div>"
    )
