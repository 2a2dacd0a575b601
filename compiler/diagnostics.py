"""Diagnostics as data: what is wrong, where, and how to mend it.

Every stage reports through a `Diagnostic` and never prints. Rendering is elsewhere
(`modnorm.report.diagnostics`), so that one finding can be shown in a terminal, as JSON, or beside
the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from heapq import nsmallest
from typing import Literal

Severity = Literal["error", "warning", "advice"]
SEVERITIES: dict[str, Severity] = {"E": "error", "W": "warning", "A": "advice"}
"""By the first letter of a code."""


@dataclass(frozen=True)
class Source:
    """One file's text. `name` is the path as the user would write it.

    `library` says that the file came with modnorm: nobody mends a mistake there.
    """

    name: str
    text: str = field(repr=False)
    library: bool = field(default=False, repr=False)

    def line(self, number: int) -> str:
        """The text of a 1-based line, without its line end."""
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if 1 <= number <= len(lines) else ""


@dataclass(frozen=True)
class Span:
    """A stretch of a source: 1-based lines and columns, the end column exclusive."""

    source: Source = field(repr=False)
    line: int
    column: int
    end_line: int
    end_column: int

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of the other."""
        return Span(self.source, self.line, self.column, other.end_line, other.end_column)

    def text(self, most: int) -> str:
        """The text itself, or `…` where it is longer than that or goes over several lines."""
        line = self.source.line(self.line)[self.column - 1 : self.end_column - 1]
        return line if self.end_line == self.line and len(line) <= most else "…"

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}"


@dataclass(frozen=True)
class Label:
    """A second place that a diagnostic points at, with what is to be seen there."""

    span: Span
    message: str


@dataclass(frozen=True)
class Diagnostic:
    """One finding.

    `code` is a key of `CODES`. `span` is None only where no file is at fault (an option, say);
    `label` is what stands under the caret.
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    others: tuple[Label, ...] = ()
    hint: str = ""

    @property
    def severity(self) -> Severity:
        return SEVERITIES[self.code[0]]


class ModnormError(Exception):
    """Raised where work cannot go on: carries every diagnostic found so far."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(str(d.message) for d in self.diagnostics))


class InternalError(Exception):
    """A mistake of ours, found before it did harm; its text is a sentence for the user."""


MAX_LABELS = 4
"""Further places kept of one finding."""


class Diagnostics:
    """Collects findings in the order of discovery.

    The same finding is kept once, with the further places of each time that it was made. One about
    a line of the library shows the user's own line that led there first.
    """

    def __init__(self) -> None:
        self._found: dict[Diagnostic, Diagnostic] = {}
        self.mention: Callable[[Span], Span | None] = lambda span: None
        """The user's own place from which a place of the library was reached, where it is known."""

    def add(self, diagnostic: Diagnostic, mention: Span | None = None) -> None:
        """Keep a finding; `mention` is what `self.mention` would say, where it is known better."""
        if diagnostic.span is not None and diagnostic.span.source.library:
            diagnostic = own_first(diagnostic, mention or self.mention(diagnostic.span))
        key = replace(diagnostic, others=())
        known = self._found.get(key)
        if known is not None and len(known.others) < MAX_LABELS:
            others = dict.fromkeys((*known.others, *diagnostic.others))
            diagnostic = replace(known, others=tuple(others)[:MAX_LABELS])
        elif known is not None:
            return
        self._found[key] = diagnostic

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        for diagnostic in diagnostics:
            self.add(diagnostic)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self._found.values())

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self if d.severity == "error")

    def check(self) -> None:
        """Raise `ModnormError` with all findings if one of them is an error."""
        if self.errors:
            raise ModnormError(self)


def own_first(diagnostic: Diagnostic, mention: Span | None) -> Diagnostic:
    """A finding about a place of the library, with the user's own mention of it as its place."""
    if mention is None or diagnostic.span is None:
        return diagnostic
    here = Label(diagnostic.span, diagnostic.label or "it stands here")
    label = next((o.message for o in diagnostic.others if o.span == mention), "")
    others = (o for o in diagnostic.others if o.span not in (mention, here.span))
    return replace(diagnostic, span=mention, label=label, others=(here, *others))


MAX_NAME = 60
MAX_KNOWN = 500
"""Names are compared up to this length, with so many of the most similar length."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"did you mean `x`?"` for the closest known name, or an empty string."""
    if len(name) > MAX_NAME:
        return ""
    known = list(known)
    if len(known) > MAX_KNOWN:
        known = nsmallest(MAX_KNOWN, known, key=lambda other: abs(len(other) - len(name)))
    folded = {k.lower(): k for k in known if k != name}
    near = name.lower()
    close = get_close_matches(near, folded, n=1, cutoff=0.65) or [
        k
        for k in folded
        if min(len(k), len(near)) > 2 and (near.startswith(k) or k.startswith(near))
    ]
    return f"did you mean `{folded[close[0]]}`?" if close else ""


CODES: dict[str, str] = {
    # files and syntax
    "E101": "a file cannot be read",
    "E102": "syntax",
    "E103": "a number or a name out of bounds",
    "E104": "nested too deeply",
    # names and imports
    "E201": "an unknown name",
    "E202": "a name defined twice",
    "E203": "an import that cannot be found",
    "E204": "an import cycle",
    "E205": "a definition in terms of itself",
    "E206": "no model, or not the one asked for",
    "E207": "no such parameter",
    "E208": "an import from outside the root",
    # values
    "E301": "wrong arguments",
    "E302": "a value of the wrong kind",
    "E303": "arithmetic that has no result",
    "E304": "a size or count that is not a positive integer",
    "E305": "more than the compiler's bounds allow",
    "E306": "a module that is multiplied by 0, or ignored",
    "E307": "a mass that cannot be",
    "E308": "Unembed without a shared Embed",
    "E309": "a bond whose formula breaks its declared sensitivity",
    "E310": "a rename that cannot be",
    # shapes
    "E401": "sizes that do not fit",
    "E402": "a value of the wrong shape or type",
    "E403": "a repetition that changes the shape",
    "E404": "an input declared wrongly",
    # the modular norm
    "E501": "a sensitivity that is zero or not finite",
    # warnings
    "W601": "never used",
    "W602": "a frozen weight",
    "W603": "a residual branch whose sensitivity is not 1",
    "W604": "sensitivity that grows with depth",
    "W605": "a name changed in the generated code",
    "W606": "examples of a batch that are mixed",
    "W607": "a value that is taken for an image",
    "W608": "pixels left in the output",
    "W609": "an operation that changes nothing",
    "W610": "pooling that enlarges",
    "W611": "targets that are far apart",
    "W612": "a bond whose sensitivity could not be checked",
    "W613": "buffers that several uses share, or that mass 0 does not freeze",
    "W614": "a weight that nothing depends on",
    "W615": "weights that will hardly move",
    "W616": "an input that the model does not read",
    "W618": "attention that sees other keys than may be meant",
    # advice: only in reports
    "A601": "attention whose logits grow with the size of a head",
    "A602": "heads without a norm of their own",
    "A603": "a bound that grows with the width",
    "A604": "pooling that takes the largest",
    "A605": "a convolution that leaves pixels out",
    "A606": "a cross-entropy behind a readout in the RMS norm",
    "A607": "division by a size that may be 0",
    "A608": "a sensitivity that is not proved",
}
"""Every code with its title. Codes that start with W are warnings, with A advice."""
