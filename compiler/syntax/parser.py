"""Text to syntax tree, with every independent mistake of a file found in one run.

The tokens are fed to lark's LALR parser one by one. Where one does not fit, `mistakes` says why,
and reading goes on at the next statement. Nothing recurses: the depth of an expression is checked
afterwards, before any later stage walks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from threading import Lock
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedToken

from modnorm.diagnostics import Diagnostic, Diagnostics, Source, Span
from modnorm.syntax import tree
from modnorm.syntax.build import Builder
from modnorm.syntax.depth import MAX_NESTING, nested, too_deep
from modnorm.syntax.failure import Failure
from modnorm.syntax.mistakes import explain
from modnorm.syntax.tables import build
from modnorm.syntax.words import (
    CLOSES,
    END,
    NAMES,
    OPENS,
    begins_line,
    begins_statement,
    cut,
    span_of,
)

MAX_CHARACTERS = 1_000_000
"""Characters of a text."""
MAX_TOKENS = 40_000
"""Words, numbers and signs of a file."""
MAX_MISTAKES = 50
"""Syntax mistakes shown of a file."""

IMPORTS = (tree.ImportModule, tree.ImportNames)


@cache
def _front() -> tuple[Lark, Builder, Lock]:
    """The parser, its callbacks, and the lock that lets one thread at a time use them."""
    builder = Builder()
    return build(builder), builder, Lock()


def parse(source: Source, diagnostics: Diagnostics) -> tree.File | None:
    """The tree of a file, or None with at least one error added to `diagnostics`."""
    file, whole = parse_partly(source, diagnostics)
    return file if whole else None


def parse_partly(source: Source, diagnostics: Diagnostics) -> tuple[tree.File, bool]:
    """The statements that could be read, and whether these are all."""
    found = Diagnostics()
    kept: list[tree.Statement] = []
    broken: list[tree.Broken] = []
    tokens = _tokens(source, found)
    is_cut = not tokens
    for first, last in _statements(tokens):
        before = len(found.errors)
        statement, failed = _read(source, tokens, first, last, "statement", found)
        if first < failed < last and begins_line(tokens, failed):
            # a line that begins with no keyword: what stands before it may be whole
            within = Diagnostics()
            whole, _ = _read(source, tokens, first, failed, "statement", within)
            if whole is not None:
                if within.errors:  # it is read, with mistakes of its own
                    broken.append(tree.Broken(_defined(tokens, first, failed), False))
                    found.extend(within)
                else:
                    kept.append(whole)
                first = failed
        good = len(found.errors) == before
        if statement is not None and (good or isinstance(statement, IMPORTS)):
            kept.append(statement)
        if good:
            continue
        broken.append(tree.Broken(_defined(tokens, first, last), _is_input(tokens, first, last)))
        if len(broken) == MAX_MISTAKES:
            message = f"more than {MAX_MISTAKES} mistakes: the rest of the file is not shown"
            found.add(Diagnostic("E102", message, span_of(source, tokens[last])))
            is_cut = True
            break
    diagnostics.extend(found)
    return tree.File(source, tuple(kept), tuple(broken), is_cut), not found.errors


def parse_expression(text: str, what: str) -> tree.Expr:
    """The expression of an option; `what` names its source, as in `-p d_embed=512`.

    Raises `ModnormError` with the mistakes found.
    """
    found = Diagnostics()
    source = Source(what, text)
    if not text.partition("#")[0].strip():
        message = "a value is missing"
        found.add(Diagnostic("E102", message, Span(source, 1, 1, 1, 1)))
    tokens = [] if found.errors else _tokens(source, found)
    expression: tree.Expr | None = None
    if tokens:
        expression, _ = _read(source, tokens, 0, len(tokens) - 1, "expression", found)
    found.check()
    assert expression is not None
    return expression


def _tokens(source: Source, diagnostics: Diagnostics) -> list[Token]:
    """A source's tokens, with one more for its end; none where it is empty or too large."""
    start = Span(source, 1, 1, 1, 1)
    if len(source.text) > MAX_CHARACTERS:
        message = f"the file is longer than {MAX_CHARACTERS:,} characters"
        diagnostics.add(Diagnostic("E101", message, start))
        return []
    parser = _front()[0].parse_interactive(source.text, start="statement")
    stream: Iterator[Token] = parser.lexer_thread.lex(parser.parser_state)  # type: ignore[no-untyped-call]
    tokens = list(islice(stream, MAX_TOKENS + 1))
    if len(tokens) > MAX_TOKENS:
        message = f"the file has more than {MAX_TOKENS:,} words and signs"
        diagnostics.add(Diagnostic("E101", message, start))
        return []
    if not tokens:
        message = "the file holds only comments" if source.text.strip() else "the file is empty"
        hint = "a file defines a model, `model NAME = …`, or what other files import"
        diagnostics.add(Diagnostic("E102", message, start, hint=hint))
        return []
    return [*tokens, _end(tokens[-1])]


def _statements(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Where each statement begins and ends; what stands before the first keyword is one, too."""
    first = 0
    for index in range(1, len(tokens)):
        if begins_statement(tokens, index):
            yield first, index
            first = index


def _defined(tokens: Sequence[Token], first: int, last: int) -> frozenset[str]:
    """What a statement that could not be read seems to define.

    That is its name, what stands before a `=`, and the second of two names in a row, since another
    statement with its keyword misspelt may be part of this one; of an import it is every name.
    """
    found: set[str] = set()
    is_import = tokens[first].type in ("IMPORT", "FROM")
    opened: list[int] = []
    for index in range(first, last):
        token, after = tokens[index], tokens[index + 1].type
        if token.type == "LPAR":
            opened.append(index)
        elif token.type == "RPAR" and opened:
            before = tokens[max(opened.pop() - 1, first)]
            if after == "DEFINE":
                found.add(str(before))
        elif token.type in NAMES:
            second = index == first + 1 or (index > first and tokens[index - 1].type == "NAME")
            if is_import or second or after == "DEFINE":
                found.add(str(token))
    return frozenset(found)


def _is_input(tokens: Sequence[Token], first: int, last: int) -> bool:
    """Whether a statement that could not be read may declare an input: only there is a `:`."""
    return any(token.type in ("INPUT", "COLON") for token in tokens[first:last])


def _read(
    source: Source, tokens: Sequence[Token], first: int, last: int, start: str, found: Diagnostics
) -> tuple[Any, int]:
    """What tokens reduce to by a start rule, and the token at which reading ended.

    None, with its mistake added, if there was one.
    """
    lark, builder, lock = _front()
    with lock:
        builder.source, builder.problems = source, []
        result, problem, at = _feed(lark, source, tokens, first, last, start)
        found.extend(builder.problems)
    problem = problem or too_deep(result)
    if problem is None:
        return result, last
    found.add(problem)
    return None, at


def _feed(
    lark: Lark, source: Source, tokens: Sequence[Token], first: int, last: int, start: str
) -> tuple[Any, Diagnostic | None, int]:
    parser = lark.parse_interactive(start=start)
    depth = 0
    for index in range(first, last):
        token = tokens[index]
        try:
            parser.feed_token(token)
        except UnexpectedToken:
            return None, _explain(lark, source, tokens, first, index, start), index
        if token.type in OPENS:
            depth += 1
            if depth > MAX_NESTING:
                return None, nested(span_of(source, token)), last
        elif token.type in CLOSES:
            depth -= 1
    try:
        return parser.feed_eof(), None, last  # type: ignore[no-untyped-call]
    except UnexpectedToken:
        return None, _explain(lark, source, tokens, first, last, start), last


def _explain(
    lark: Lark, source: Source, tokens: Sequence[Token], first: int, at: int, start: str
) -> Diagnostic:
    # Before lark gives up it reduces as far as it can, and forgets what else would have been
    # right: read up to the token once more.
    parser = lark.parse_interactive(start=start)
    for token in tokens[first:at]:
        parser.feed_token(token)
    accepts = frozenset(parser.accepts())  # type: ignore[no-untyped-call]
    shown = [*tokens]
    for index in range(max(at - 2, 0), min(at + 2, len(tokens))):
        shown[index] = Token.new_borrow_pos(tokens[index].type, cut(tokens[index]), tokens[index])
    return explain(Failure(source, shown, first, at, accepts, start))


def _end(last: Token) -> Token:
    """The token that ends the input, right after the last one."""
    line, column, place = last.end_line, last.end_column, last.end_pos
    return Token(END, "", place, line, column, line, column, place)
