"""Shows diagnostics: as text with the source line and a caret, or as JSON.

The text has the shape that rustc made common. Colour is plain ANSI; whether to use it (a terminal,
`NO_COLOR`) is the caller's decision.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from modnorm.diagnostics import Diagnostic, Label, Source, Span

TAB = 4
WIDTH = 100
MIN_ROOM = 40
MOST = 100
"""Findings shown in full."""

RED, YELLOW, BLUE, CYAN, BOLD = "1;31", "1;33", "1;34", "1;36", "1"
STYLES = {"error": RED, "warning": YELLOW, "advice": CYAN}
COUNTED = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "advice": ("piece of advice", "pieces of advice"),
}


def to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """A diagnostic in a JSON report; columns are 1-based, None without a place.

    `hint` and `file` are there only where there is one.
    """
    span, hint = diagnostic.span, diagnostic.hint
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "line": span.line if span else None,
        "column": span.column if span else None,
        **({"hint": hint} if hint else {}),
        **({"file": span.source.name} if span else {}),
    }


def render(
    diagnostics: Iterable[Diagnostic],
    *,
    color: bool = False,
    width: int = WIDTH,
    wraps: bool = False,
) -> str:
    """All findings as text that ends in a newline, or an empty string where there are none.

    They stand in the order of their files and lines; a last line counts them. Of more than `MOST`,
    errors first, the others are only counted. Source lines longer than `width` are cut around what
    is marked; with `wraps` messages are broken there.
    """
    found = in_order(diagnostics)
    if not found:
        return ""
    renderer = _Renderer(color, width, wraps)
    kept = sorted(range(len(found)), key=lambda i: found[i].severity != "error")[:MOST]
    parts = [renderer.one(found[i]) for i in sorted(kept)]
    numbers: Counter[str] = Counter(diagnostic.severity for diagnostic in found)
    total = ", ".join(
        f"{numbers[severity]} {many if numbers[severity] > 1 else one}"
        for severity, (one, many) in COUNTED.items()
        if numbers[severity]
    )
    if len(found) > MOST:
        total += f"; {MOST} are shown"
    return "\n".join([*parts, renderer.paint(total, BOLD)]) + "\n"


def in_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """By file (in the order in which they are first named), line and column."""
    found = list(diagnostics)
    files = [*dict.fromkeys(d.span.source.name for d in found if d.span)]

    def place(diagnostic: Diagnostic) -> tuple[int, int, int]:
        span = diagnostic.span
        return (files.index(span.source.name), span.line, span.column) if span else (-1, 0, 0)

    return sorted(found, key=place)


class _Renderer:
    def __init__(self, color: bool, width: int, wraps: bool) -> None:
        self.color = color
        self.width = width
        self.wraps = wraps
        self.lines: dict[int, tuple[Source, list[str]]] = {}

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.color and text else text

    def broken(self, text: str, start: int, indent: int) -> list[str]:
        """A text in lines, the first of which begins in column `start`, the others indented."""
        if not self.wraps:
            return [text]
        lines = wrap(
            " " * start + text,
            max(self.width, start + MIN_ROOM),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [lines[0][start:], *lines[1:]] if lines else [text]

    def line(self, source: Source, number: int) -> str:
        """`Source.line`, with the text split once."""
        if id(source) not in self.lines:
            self.lines[id(source)] = source, source.text.split("\n")
        lines = self.lines[id(source)][1]
        return lines[number - 1].rstrip("\r") if 1 <= number <= len(lines) else ""

    def one(self, diagnostic: Diagnostic) -> str:
        style = STYLES[diagnostic.severity]
        what = f"{diagnostic.severity}[{diagnostic.code}]"
        message = self.broken(clean(diagnostic.message), len(what) + 2, 2)
        out = [self.paint(what, style) + self.paint(f": {message[0]}", BOLD)]
        out.extend(self.paint(line, BOLD) for line in message[1:])
        first = Label(diagnostic.span, diagnostic.label) if diagnostic.span else None
        marks = [*([first] if first else []), *diagnostic.others]
        gutter = len(str(max((mark.span.line for mark in marks), default=0)))
        by_file: dict[str, list[Label]] = {}
        for mark in marks:
            by_file.setdefault(mark.span.source.name, []).append(mark)
        bar = self.paint(f"{'':{gutter}} |", BLUE)
        for index, (name, group) in enumerate(by_file.items()):
            arrow = self.paint(f"{'':{gutter}}{':::' if index else '-->'}", BLUE)
            span = group[0].span
            out.append(f"{arrow} {clean(name)}:{span.line}:{span.column}")
            if any(self.line(mark.span.source, mark.span.line).strip() for mark in group):
                out.append(bar)
                out.extend(self.snippet(group, gutter, style, first))
        if diagnostic.hint:
            if marks:
                out.append(bar)
            sign = self.paint(f"{'':{gutter}} = ", BLUE)
            indent = gutter + len(" = help: ")
            hint = self.broken(clean(diagnostic.hint), indent, indent)
            out.append(f"{sign}{self.paint('help', BOLD)}: {hint[0]}")
            out.extend(hint[1:])
        return "\n".join(out) + "\n"

    def snippet(
        self, marks: list[Label], gutter: int, style: str, first: Label | None
    ) -> list[str]:
        """The lines that the marks of one file point at, each with its marks below."""
        out: list[str] = []
        room = max(self.width - gutter - 3, MIN_ROOM)
        todo = sorted(marks, key=lambda m: (m.span.line, m is not first, m.span.column))
        bar = self.paint(f"{'':{gutter}} |", BLUE)
        previous = 0
        while todo:
            number = todo[0].span.line
            if previous and number > previous + 1:
                out.append(self.paint("...", BLUE))
            previous = number
            view = _View.of(self.line(todo[0].span.source, number), todo[0].span, room)
            out.append(f"{self.paint(f'{number:>{gutter}} |', BLUE)} {view.shown}".rstrip())
            # a mark further along a line that was cut gets a view of its own; the first one is in
            # this view even where it lies beyond the line's end
            here = [m for m in todo if m.span.line == number and view.holds(m.span)] or todo[:1]
            todo = [m for m in todo if m not in here]
            for mark in here:
                left, right = view.columns(mark.span)
                sign, paint = ("^", style) if mark is first else ("-", BLUE)
                text = f"{sign * (right - left)} {clean(mark.message)}".rstrip()
                out.append(f"{bar} {' ' * left}{self.paint(text, paint)}")
        return out


# --- how wide things are -------------------------------------------------------------------


def glyph(character: str) -> str:
    """What stands for a character on the screen: control characters are made visible."""
    code = ord(character)
    if character == "\t":
        return " " * TAB
    if 32 <= code < 127:
        return character
    if code < 32:
        return chr(0x2400 + code)
    if code == 127:
        return "\u2421"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"\\u{{{code:x}}}"
    return character


def clean(text: str) -> str:
    """A text in which nothing can move the cursor or turn the writing direction."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(glyph, text.replace("\n", " ").replace("\t", " ")))


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me")
        else 2 if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )  # fmt: skip


@dataclass(frozen=True)
class _View:
    """A source line as shown, whole or cut around a span."""

    shown: str
    first: int
    """The first character shown, counted from 0."""
    starts: tuple[int, ...]
    """The cell where each character shown begins, and last the width."""
    whole: bool

    @classmethod
    def of(cls, text: str, span: Span, room: int) -> _View:
        """The part of a line that fits into a number of cells, with the span's start in it."""
        column = min(span.column - 1, len(text))
        nearest = max(column - room, 0)  # what lies further away cannot be shown
        glyphs: list[str] = []
        starts = [0]
        for character in text[nearest : column + room]:
            tab = " " * (TAB - starts[-1] % TAB)
            glyphs.append(tab if character == "\t" else glyph(character))
            starts.append(starts[-1] + cells(glyphs[-1]))
        if starts[-1] <= room and nearest == 0 and column + room >= len(text):
            return cls("".join(glyphs), 0, tuple(starts), True)
        at = column - nearest
        end = min(at + max(span.end_column - span.column, 1), len(glyphs))
        middle = (starts[at] + min(starts[end], starts[at] + room // 2)) // 2
        wanted = min(max(middle - room // 2, 0), max(starts[-1] - room, 0))
        first = next(i for i, start in enumerate(starts) if start >= wanted)
        last = first
        while last < len(glyphs) and starts[last + 1] - starts[first] <= room:
            last += 1
        shown = glyphs[first:last]
        if nearest + first > 0:
            shown[0] = "…".ljust(cells(shown[0]))
        if nearest + last < len(text):
            shown[-1] = "…".ljust(cells(shown[-1]))
        inside = tuple(start - starts[first] for start in starts[first : last + 1])
        return cls("".join(shown), nearest + first, inside, False)

    def holds(self, span: Span) -> bool:
        """Whether the start of a span on this line is shown."""
        return self.whole or self.first < span.column <= self.first + len(self.starts)

    def columns(self, span: Span) -> tuple[int, int]:
        """The cells that a span covers in its first line, end exclusive, at least one."""
        last = len(self.starts) - 1
        left = min(max(span.column - 1 - self.first, 0), last)
        right = min(max(span.end_column - 1 - self.first, 0), last)
        if span.end_line > span.line:
            right = last
        return self.starts[left], max(self.starts[right], self.starts[left] + 1)
