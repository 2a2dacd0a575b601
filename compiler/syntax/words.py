"""The language's words and signs as tokens: which begin a statement, which open a bracket."""

from __future__ import annotations

from collections.abc import Sequence

from lark import Token

from modnorm.diagnostics import Source, Span

STATEMENTS = {
    "IMPORT": "import",
    "FROM": "from",
    "PARAM": "param",
    "INPUT": "input",
    "DEF": "def",
    "SHARED": "shared",
    "BOND": "bond",
    "MODEL": "model",
    "RENAME": "rename",
}
"""The keywords that begin a statement."""

FORMS = {
    "IMPORT": 'import std.NAME` or `import "FILE.mod" as NAME',
    "FROM": "from std.NAME import a, b",
    "PARAM": "param NAME = 128",
    "INPUT": "input NAME: int[batch, seq] < vocab",
    "DEF": "def NAME(arguments) = expression",
    "SHARED": "shared NAME = Embed(vocab, d_embed)",
    "BOND": "bond NAME(x) = formula sensitivity 1",
    "MODEL": "model NAME = expression",
    "RENAME": 'rename "WEIGHT" = "TENSOR"',
}
"""How each statement is written."""

OTHER_KEYWORDS = {
    "WHERE": "where",
    "SENSITIVITY": "sensitivity",
    "ASSUME": "assume",
    "FOR": "for",
    "IN": "in",
    "IF": "if",
    "ELSE": "else",
    "OR": "or",
    "AND": "and",
    "NOT": "not",
    "TRUE": "true",
    "FALSE": "false",
    "PYTHON_TRUE": "True",
    "PYTHON_FALSE": "False",
}
KEYWORDS = STATEMENTS | OTHER_KEYWORDS

CLOSES = {"RPAR": "LPAR", "RSQB": "LSQB"}
"""A closing bracket's opening one."""
OPENS = {opening: closing for closing, opening in CLOSES.items()}
SIGNS = {
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "COMMA": ",",
    "COLON": ":",
    "DOT": ".",
    "DEFINE": "=",
    "LESS": "<",
}

NAMES = ("NAME", "AS", "RANGE", "ON")
"""The kinds of token that can be a name anywhere."""

END = "$END"


def cut(text: str, length: int = 60) -> str:
    """A text as it is quoted in a message: nobody reads the 61st character."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def span_of(source: Source, first: Token, last: Token | None = None) -> Span:
    """The span of a token, or from one to another. (lark's types allow a token without a place.)"""
    end = last or first
    return Span(source, first.line or 1, first.column or 1, end.end_line or 1, end.end_column or 1)


def begins_line(tokens: Sequence[Token], index: int) -> bool:
    """Whether a token is the first of its line."""
    return index == 0 or tokens[index].line != tokens[index - 1].end_line


def begins_statement(tokens: Sequence[Token], index: int) -> bool:
    """Whether a token is a keyword at the place where a statement begins.

    A statement's keyword is followed by a name, so `param = 3` inside a call and `def model = …`
    are no new statements, unless they begin a line.
    """
    token = tokens[index]
    if token.type == END:
        return True
    if token.type not in STATEMENTS:
        return False
    if index == 0:
        return True
    if token.type == "IMPORT" and _path_after(tokens, index - 1, "FROM"):
        # `from a import b` may be broken before `import`; `import b.c` is a statement of its own
        after = [t.type for t in tokens[index + 1 : index + 3]]
        return begins_line(tokens, index) and (after[:1] == ["STRING"] or after[1:] == ["DOT"])
    if begins_line(tokens, index):
        return True
    if token.type == "FROM" and _path_after(tokens, index - 1, "IMPORT"):
        return _imports(tokens, index)  # or else it is `import x from y`
    if tokens[index - 1].type in ("DOT", "AS"):
        return False
    return tokens[index + 1].type in (*NAMES, "STRING", END)


def _imports(tokens: Sequence[Token], index: int) -> bool:
    """Whether `from` and a path are followed by `import`."""
    index += 1
    while tokens[index].type in (*NAMES, "DOT", "STRING"):
        index += 1
    return tokens[index].type == "IMPORT" and not begins_statement(tokens, index)


def _path_after(tokens: Sequence[Token], index: int, keyword: str) -> bool:
    """Whether the tokens up to an index are a keyword and a path."""
    if tokens[index].type == "STRING":
        index -= 1
    else:
        while index >= 0 and tokens[index].type in (*NAMES, "DOT"):
            index -= 1
    return index >= 0 and tokens[index].type == keyword
