"""A token that did not fit, with what the rules of `mistakes` ask about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lark import Token

from modnorm.diagnostics import Diagnostic, Label, Source, Span
from modnorm.syntax.words import (
    CLOSES,
    END,
    KEYWORDS,
    NAMES,
    OPENS,
    SIGNS,
    STATEMENTS,
    begins_line,
    begins_statement,
    span_of,
)


@dataclass(frozen=True)
class Failure:
    """A token that did not fit.

    `tokens` are the whole file's, the last one its end; `first` is where the statement begins,
    `at` the token at fault, `accepts` what the parser could have taken there.
    """

    source: Source
    tokens: Sequence[Token]
    first: int
    at: int
    accepts: frozenset[str]
    start: str

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    @property
    def before(self) -> Token | None:
        """The token before, as far as it belongs to the same statement."""
        return self.tokens[self.at - 1] if self.at > self.first else None

    @property
    def keyword(self) -> str:
        """The type of the statement's keyword, or an empty string."""
        kind = self.tokens[self.first].type
        return kind if kind in STATEMENTS and self.at > self.first else ""

    @property
    def ends(self) -> bool:
        """Whether the statement ends too early: the next one begins here, or the file ends."""
        return self.token.type == END or (
            self.start == "statement" and begins_statement(self.tokens, self.at)
        )

    @property
    def complete(self) -> bool:
        """Whether what was read so far ends with a whole expression."""
        return "AT" in self.accepts

    @cached_property
    def opening(self) -> int | None:
        """The innermost bracket that is still open."""
        stack = []
        for index in range(self.first, self.at):
            kind = self.tokens[index].type
            if kind in OPENS:
                stack.append(index)
            elif kind in CLOSES and stack:
                stack.pop()
        return stack[-1] if stack else None

    @cached_property
    def where(self) -> bool:
        """Whether the statement has come to its `where`."""
        return any(token.type == "WHERE" for token in self.tokens[self.first : self.at])

    @property
    def callee(self) -> str:
        """The name before the innermost open bracket, or an empty string."""
        opening = self.opening
        if opening is None or opening == 0 or self.tokens[opening - 1].type not in NAMES:
            return ""
        return str(self.tokens[opening - 1])

    def span(self, index: int) -> Span:
        return span_of(self.source, self.tokens[index])

    def after(self) -> Span:
        """The place right after the token before."""
        if self.at == 0:
            return self.span(0)
        end = self.span(self.at - 1)
        return Span(self.source, end.end_line, end.end_column, end.end_line, end.end_column)

    def place(self) -> Span:
        """Where something is missing: at the token, or at the end of the line before it."""
        if self.ends or begins_line(self.tokens, self.at):
            return self.after()
        return self.span(self.at)

    def error(
        self,
        message: str,
        *,
        span: Span | None = None,
        label: str = "",
        hint: str = "",
        others: tuple[Label, ...] = (),
    ) -> Diagnostic:
        return Diagnostic("E102", message, span or self.span(self.at), label, others, hint)


def shown(failure: Failure) -> str:
    """The token at fault, in words."""
    token = failure.token
    if token.type == END:
        return "end of the file" if failure.start == "statement" else "end"
    if failure.ends:
        return f"`{token}`, which begins the next statement"
    return f"`{token}`"


def described(kind: str) -> str:
    """A kind of token, in words."""
    if kind == "NAME":
        return "a name"
    if kind in ("STRING", "NUMBER"):
        return f"a {kind.lower()}"
    return f"`{SIGNS.get(kind) or KEYWORDS.get(kind) or kind.lower()}`"
