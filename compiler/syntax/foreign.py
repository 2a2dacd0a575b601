"""What to say about words, signs and characters that are no part of the language."""

from __future__ import annotations

import unicodedata

NAMES = "names are made of the letters A to Z and a to z, digits and `_`"
CHANGING = "nothing changes its value: write the whole expression"
SIGNS = {
    "//": "write `floor(a / b)`; a comment begins with `#`",
    "^": "a power, or n copies of a module, is written `**`",
    "%": "the remainder of a by b is `a - b * floor(a / b)`",
    ";": "statements need no separator: leave it out",
    "->": "a first, then b: `a >> b`",
    "=>": "at least: `>=`; a first, then b: `a >> b`",
    "|>": "a first, then b: `a >> b`",
    "<<": "b first, then a: `a @ b`",
    ":=": "a definition is written with `=`",
    "+=": CHANGING,
    "-=": CHANGING,
    "*=": CHANGING,
    "/=": CHANGING,
    "@=": CHANGING,
    "<>": "write `!=`",
    "===": "write `==`",
    "!==": "write `!=`",
    "&&": "write `and`",
    "||": "write `or`",
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`",
    "~": "write `not`",
    "...": "write what it stands for",
    "{": "there are no blocks: what follows `=` is the definition",
    "}": "there are no blocks: what follows `=` is the definition",
    "?": "write `a if condition else b`",
    "$": "a name is written alone: `d_embed`",
    "`": "a name is written alone, a string in double quotes",
    "\\": "a statement goes on in the next line without a sign",
}
"""Signs of other languages, with what is written here."""

LOOP = "write `f ** 3` for three copies, or `compose(f(i) for i in range(3))`"
OTHER_LANGUAGES = {
    "let": "write `param x = 3` or `def x = …`",
    "var": "write `param x = 3` or `def x = …`",
    "const": "write `param x = 3`",
    "fn": "write `def f(x) = …`",
    "func": "write `def f(x) = …`",
    "function": "write `def f(x) = …`",
    "class": "write `model NAME = …` or `def NAME(d) = …`",
    "module": "write `model NAME = …` or `def NAME(d) = …`",
    "network": "write `model NAME = …`",
    "layer": "write `def NAME(d) = …`",
    "include": "write `import std.NAME`",
    "use": "write `import std.NAME`",
    "return": "there is no `return`: the expression after `=` is the result",
    "for": LOOP,
    "while": LOOP,
    "if": "write `a if condition else b` inside a definition",
}
"""Words that begin a statement elsewhere, with what is written here."""

IN_EXPRESSIONS = {
    "return": "leave it out: the expression after `=` is the result",
    "yield": "leave it out: the expression after `=` is the result",
    "lambda": "write `def f(x) = …`",
    "new": "a module is made by naming it: `Linear(8)`",
    "await": "leave it out",
    "is": "compare with `==`",
    "then": "write `a if condition else b`",
    "elif": "write `a if condition else b if another else c`",
}
"""Words inside expressions of other languages, with what is written here."""

LOOKALIKES = {
    "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"',
    "\u2018": "'", "\u2019": "'", "\u00b4": "'",
    "\u2212": "-", "\u2013": "-", "\u2014": "-",
    "\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u2217": "*",
    "\u00f7": "/", "\u2215": "/",
    "\u2218": "@", "\u2264": "<=", "\u2265": ">=", "\u2260": "!=",
    "\u2192": ">>", "\u00b2": "** 2", "\u00b3": "** 3", "\u221a": "sqrt()",
    "\u00bd": "1/2", "\u2026": "...", "\uff08": "(", "\uff09": ")", "\uff0c": ",",
}  # fmt: skip
"""Characters that look like one of the language's signs, or mean the same, with that sign."""

SPACES = {
    "\u00a0": "a no-break space",
    "\u200b": "a zero-width space",
    "\u2028": "a line separator",
    "\u2029": "a paragraph separator",
    "\u3000": "an ideographic space",
    "\v": "a vertical tab",
}
BYTE_ORDER_MARK = "\ufeff"


def character(text: str, kind: str) -> tuple[str, str]:
    """Message and hint for a token of the kind OPEN_STRING, FOREIGN or UNKNOWN."""
    if kind == "OPEN_STRING":
        return "a string without its closing quote", f"close it with {text[0]} in the same line"
    if text in SIGNS:
        return f"`{text}` is not part of the language", SIGNS[text]
    first = text[0]
    if first in SPACES:
        return f"{SPACES[first]} (U+{ord(first):04X})", "write an ordinary space"
    if first == BYTE_ORDER_MARK:
        return "a byte order mark in the middle of the file", "delete it"
    if first in LOOKALIKES:
        return f"`{first}` is not `{LOOKALIKES[first]}`", f"write `{LOOKALIKES[first]}`"
    if first.isalpha():
        return (
            f"the letter `{first}` cannot be part of a name",
            NAMES,
        )
    if unicodedata.combining(first):
        return f"an accent that stands alone (U+{ord(first):04X})", NAMES
    if first.isprintable():
        return f"the character `{first}` means nothing here", ""
    return f"a character that cannot be seen (U+{ord(first):04X})", "delete it"
