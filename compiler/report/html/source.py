"""The source beside what was found in it, as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from modnorm.diagnostics import Source
from modnorm.graph.modules import Leaf, Scope, Shared, walk
from modnorm.pipeline import Analysis
from modnorm.report.diagnostics import in_order
from modnorm.report.html.pieces import message, visible
from modnorm.report.model import certified
from modnorm.syntax.words import KEYWORDS

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


def listing(source: Source, number: int, analysis: Analysis) -> str:
    """A file with a row a line, and under a line what was found there.

    Lines have the ids `L<file>-<line>`.
    """
    notes: dict[int, list[str]] = {}
    for at, note in _notes(source.name, analysis):
        notes.setdefault(at, []).append(note)
    rows = notes.get(0, [])
    lines = source.text.removesuffix("\n").split("\n")
    for at, line in enumerate(lines, 1):
        rows.append(
            f'<div class="line" id="L{number}-{at}"><span class="no" aria-hidden="true">{at}</span>'
            f"<code>{''.join(colored(line.rstrip(chr(13)))) or ' '}</code></div>"
        )
        rows += notes.get(at, [])
    name = escape(visible(source.name))
    return f'<section class="file" aria-label="{name}"><h3>{name}</h3>{"".join(rows)}</section>'


def _notes(name: str, analysis: Analysis) -> Iterator[tuple[int, str]]:
    """What was found in a file, by lines: diagnostics, and where the certificate ends."""
    program = analysis.program
    said: list[tuple[int, str]] = []
    for found in in_order(analysis.diagnostics):
        file = found.span.source.name if found.span else program.source.name
        if file == name:
            said.append((found.span.line if found.span else 0, found.message))
            yield said[-1][0], _note(found.severity, found.code, found.message, found.hint)
    for reason in certified(program).reasons:
        line = reason.span.line
        known = any(line == at and reason.text in message for at, message in said)
        if reason.span.source.name == name and not known:
            said.append((line, reason.text))
            yield line, _note("no bound", "", reason.text)


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


def _note(severity: str, code: str, said: str, hint: str = "") -> str:
    more = f"<p>{message(hint)}</p>" if hint else ""
    head = f"{severity} {code}".strip()
    return (
        f'<div class="note {severity}" role="note"><p><b>{head}</b> {message(said)}</p>{more}</div>'
    )
