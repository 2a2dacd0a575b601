"""What a syntax error says.

`explain` is given the token that the parser could not take, with everything before it and what
would have been right there, and returns the diagnostic. The rules are tried in order, the most
telling first; each looks at one kind of mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from modnorm.diagnostics import Diagnostic, Label, did_you_mean
from modnorm.syntax.failure import Failure, described, shown
from modnorm.syntax.foreign import IN_EXPRESSIONS, LOOP, OTHER_LANGUAGES, character
from modnorm.syntax.words import (
    CLOSES,
    END,
    FORMS,
    KEYWORDS,
    NAMES,
    OPENS,
    SIGNS,
    STATEMENTS,
    begins_line,
)

COMPARISONS = frozenset({"EQUAL", "UNEQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"})
FOREIGN = ("OPEN_STRING", "FOREIGN", "UNKNOWN")
BOOLEANS = ("TRUE", "FALSE", "PYTHON_TRUE", "PYTHON_FALSE")
OPENING = ("NAME", "AS", "RANGE", "ON", "NUMBER", "STRING", "NOT", *BOOLEANS)
"""What begins an expression and cannot go on with one."""
OPERATORS = COMPARISONS | {"PLUS", "MINUS", "STAR", "SLASH", "AT", "POWER", "THEN", "AND", "OR"}

Rule = Callable[[Failure], Diagnostic | None]


def explain(failure: Failure) -> Diagnostic:
    """Why the token does not fit, and what to write instead."""
    for rule in RULES:
        if (found := rule(failure)) is not None:
            return found
    kinds = failure.accepts - {END}
    if "NAME" in kinds:
        kinds -= {"AS", "RANGE", "ON"}
    *others, last = sorted(map(described, kinds)) or [""]
    hint = f"expected {', '.join(others)} or {last}" if others else f"expected {last}"
    if len(others) > 4:
        hint = ""
    return failure.error(f"unexpected {shown(failure)}", span=failure.place(), hint=hint)


# --- the rules -----------------------------------------------------------------------------


def characters(f: Failure) -> Diagnostic | None:
    """Signs and characters that are no part of the language."""
    if f.token.type not in FOREIGN:
        return None
    if str(f.token) == ":=" and "DEFINE" in f.accepts:
        return f.error("`:=` is written `=`", label="write `=`")
    if str(f.token) == "->" and f.keyword == "DEF" and "DEFINE" in f.accepts:
        return f.error(
            "a definition declares no result type",
            hint="sizes are inferred: write `def f(x) = expression`",
        )
    message, hint = character(str(f.token), f.token.type)
    span = f.span(f.at)
    if f.token.type == "UNKNOWN" and f.token[0].isalpha():
        # show the whole word of which the letter is a part
        line = f.source.line(span.line)
        word = next(m for m in re.finditer(r"\w+", line) if m.end() >= span.column)
        span = replace(span, column=word.start() + 1, end_column=word.end() + 1)
    return f.error(message, span=span, hint=hint)


def no_keyword(f: Failure) -> Diagnostic | None:
    """A statement that begins with something else than its keyword."""
    if f.start != "statement" or f.ends or f.opening is not None:
        return None
    index = f.at
    if f.before is not None and f.accepts in ({"DEFINE"}, {"DEFINE", "LPAR"}):
        # `where a = b` has taken the first name of a statement whose keyword is misspelt
        index -= 1
        if not f.where or f.tokens[index - 1].type == "WHERE":
            return None
    elif f.before is not None and END not in f.accepts:
        return None
    word = f.tokens[index]
    if not begins_line(f.tokens, index) or word.type in (*CLOSES, *OPERATORS, *FOREIGN):
        return None
    span, text = f.span(index), str(word)
    after = f.tokens[index + 1].type
    if word.type in NAMES and after in ("DEFINE", "LPAR", "COLON"):
        form = {
            "DEFINE": f"`param {text} = …` for a constant, `def {text} = …` for anything else",
            "LPAR": f"`def {text}(…) = …` for a definition",
            "COLON": f"`input {text}: float[batch]` for an input, `def {text} = …` otherwise",
        }
        hint = OTHER_LANGUAGES.get(text) or f"write {form[after]}"
        return f.error("a statement begins with a keyword", span=span, hint=hint)
    if word.type in ("FOR", "IF") and index == f.at and END in f.accepts:
        message = f"a statement cannot begin with `{text}`"
        return f.error(message, span=span, hint=OTHER_LANGUAGES[text])
    if f.before is not None and word.type in KEYWORDS and index == f.at:
        return None  # `where`, `else`: a word out of place, not a statement
    hint = OTHER_LANGUAGES.get(text) or f"statements begin with {', '.join(STATEMENTS.values())}"
    if word.type == "STRING":
        hint = "a comment begins with `#`"
    if f.before is not None and (near := did_you_mean(text, ("where", "sensitivity"))):
        return f.error(f"`{text}` has no meaning here", span=span, hint=near)
    hint = did_you_mean(text, STATEMENTS.values()) or hint
    return f.error(f"a statement cannot begin with `{text}`", span=span, hint=hint)


def brackets(f: Failure) -> Diagnostic | None:
    """A bracket that is never closed, or closes nothing."""
    here, opening = f.token.type, f.opening
    if here in CLOSES:
        if opening is None:
            return f.error(f"`{f.token}` closes nothing", label="no bracket is open here")
        if f.tokens[opening].type != CLOSES[here]:
            bracket = f.tokens[opening]
            right = SIGNS[OPENS[bracket.type]]
            return f.error(
                f"`{bracket}` is closed by `{right}`, not by `{f.token}`",
                label=f"expected `{right}`",
                others=(Label(f.span(opening), "opened here"),),
            )
        return None
    if opening is None:
        return None
    next_line = begins_line(f.tokens, f.at) and f.tokens[f.at].type in NAMES and f.complete
    if f.ends or here in ("WHERE", "SENSITIVITY") or next_line:
        bracket = f.tokens[opening]
        right = SIGNS[OPENS[bracket.type]]
        return f.error(
            f"`{bracket}` is never closed",
            span=f.after() if f.ends or begins_line(f.tokens, f.at) else f.span(f.at),
            label=f"expected `{right}`",
            others=(Label(f.span(opening), "opened here"),),
        )
    return None


def keyword_as_name(f: Failure) -> Diagnostic | None:
    here = f.token
    if here.type not in KEYWORDS or f.ends:
        return None
    wants_name = "NAME" in f.accepts and not f.complete
    if not wants_name or here.type in ("WHERE", "SENSITIVITY", *OPERATORS):
        return None
    if here.type == "IN" and f.before is not None and f.before.type == "FOR":
        return None
    if "NUMBER" in f.accepts and here.type not in STATEMENTS:
        return None
    return f.error(
        f"`{here}` is a word of the language and cannot be a name",
        hint=f"choose another name, such as `{here}_`",
    )


def imports(f: Failure) -> Diagnostic | None:
    here, before = f.token.type, f.before
    if f.keyword not in ("IMPORT", "FROM") or before is None:
        return None
    if before.type == "DOT":
        return f.error("a module's name ends in `.`", span=f.place(), label="a name is missing")
    if f.keyword == "IMPORT":
        if here == "COMMA":
            return f.error("one `import` brings in one module", hint="write one `import` for each")
        if here == "FROM" and not f.ends:
            return f.error(
                "an import names its module first",
                hint="write `from std.mlp import mlp`",
            )
        if here in NAMES and "AS" in f.accepts:
            return f.error(f"`as` is missing before `{f.token}`", hint=f"write `{FORMS['IMPORT']}`")
        if before.type == "IMPORT":
            return f.error(
                "an import names a module or a file",
                span=f.place(),
                hint=f"write `{FORMS['IMPORT']}`",
            )
    elif here == "STAR":
        return f.error(
            "names are imported one by one",
            hint="write `from std.mlp import mlp, norm`, or `import std.mlp` for all of them as "
            "`mlp.norm`",
        )
    elif here == "AS" and "IMPORT" in f.accepts and END not in f.accepts:
        return f.error("`as` comes after the imported name", hint=f"write `{FORMS['FROM']} as c`")
    elif here in NAMES and before.type in NAMES:
        return f.error(
            f"`,` is missing between `{before}` and `{f.token}`", hint=f"write `{FORMS['FROM']}`"
        )
    elif "IMPORT" in f.accepts and END not in f.accepts and here != "AS":
        return f.error(
            "`import` is missing", span=f.place(), hint="write `from std.mlp import mlp, norm`"
        )
    elif here == "LPAR":
        return f.error("imported names stand without brackets", hint=f"write `{FORMS['FROM']}`")
    return None


def inputs(f: Failure) -> Diagnostic | None:
    if f.keyword != "INPUT" or f.before is None:
        return None
    place, hint = f.place(), f"write `{FORMS['INPUT']}`"
    if "COLON" in f.accepts:
        return f.error("an input declares its type after `:`", span=place, hint=hint)
    if "LSQB" in f.accepts:
        return f.error("an input declares its sizes in `[ ]`", span=place, hint=hint)
    if f.token.type == "RSQB" and f.before.type == "LSQB":
        return f.error(
            "an input has at least one size", hint="the first size is the batch: `float[batch]`"
        )
    if f.before.type == "COLON":
        return f.error("an input's type is `int`, `float` or `bool`", span=place, hint=hint)
    if f.opening is None and f.token.type in ("LESS_EQUAL", "GREATER", "GREATER_EQUAL"):
        return f.error(
            f"an input's bound is written with `<`, not with `{f.token}`",
            hint="`int[batch, seq] < vocab`: every entry is below vocab",
        )
    if f.accepts == {"LESS", END} and f.token.type in ("NUMBER", *NAMES):
        return f.error(f"`<` is missing before `{f.token}`", label="expected `<`", hint=hint)
    if f.opening is None and f.token.type == "DEFINE":
        return f.error("an input has no value", hint="a constant is written `param x = 3`")
    return None


def definition(f: Failure) -> Diagnostic | None:
    """The `=` of a statement, or what stands before it."""
    here, before = f.token, f.before
    if f.keyword == "BOND" and f.accepts == {"LPAR"}:
        return f.error(
            "a bond names its input", span=f.place(), hint=f"write `bond {before}(x) = …`"
        )
    if "DEFINE" not in f.accepts or f.complete or before is None:
        return None
    if f.opening is not None and "COMMA" in f.accepts:
        return _formals(f, str(before))
    if here.type == "EQUAL":
        return f.error("a definition is written with one `=`", label="write `=`")
    if here.type == "COLON":
        return f.error(
            "a definition is written with `=`, not with `:`",
            label="write `=`",
            hint="there is no block and no `return`: the expression after `=` is the result",
        )
    if here.type == "DOT":
        return f.error("a name that is defined has no dots", hint="write `_` instead")
    if f.keyword in ("PARAM", "SHARED", "MODEL") and f.at == f.first + 2 and here.type == "LPAR":
        what = {"PARAM": "a param", "SHARED": "a shared module", "MODEL": "a model"}
        return f.error(
            f"{what[f.keyword]} takes no arguments",
            hint=f"write `def {before}(…) = …` for a definition with arguments",
        )
    if f.keyword == "DEF" and f.at == f.first + 2 and here.type in NAMES:
        return f.error("arguments stand in brackets", hint=f"write `def {before}({here}, …) = …`")
    # `where a = b c` has read c as the next binding's name
    if (
        f.at > f.first + 2
        and f.opening is None
        and before.type in NAMES
        and f.tokens[f.at - 2].type != "WHERE"
        and not begins_line(f.tokens, f.at - 1)
    ):
        return side_by_side(f, f.at - 1)
    return f.error(f"`=` is missing after `{before}`", span=f.place(), label="expected `=`")


def _formals(f: Failure, before: str) -> Diagnostic | None:
    """Inside the brackets of `def f(a, b = 3)`."""
    if f.token.type == "COLON":
        return f.error("an argument declares no type", hint="leave it out: sizes are inferred")
    if f.token.type in NAMES:
        return f.error(f"`,` is missing between `{before}` and `{f.token}`", label="expected `,`")
    if f.token.type in ("NUMBER", "STRING"):
        return f.error(f"`=` is missing after `{before}`", label="expected `=`")
    return None


def foreign_words(f: Failure) -> Diagnostic | None:
    """`return x`, `a is b`, `lambda x: y`."""
    if f.complete and f.token.type in (*OPENING, "COLON"):
        return foreign_word(f, f.at)
    return None


def foreign_word(f: Failure, index: int) -> Diagnostic | None:
    """A word of other languages, here or right before, that is no name of a definition."""
    for at in (index - 1, index):
        if (word := str(f.tokens[at])) in IN_EXPRESSIONS and at > f.first + 1:
            hint = IN_EXPRESSIONS[word]
            return f.error(f"there is no `{word}`", span=f.span(at), hint=hint)
    return None


def side_by_side(f: Failure, index: int) -> Diagnostic:
    """Two expressions without anything between them."""
    word = str(f.tokens[index])
    if word == "as":
        return f.error("`as` belongs to imports only", span=f.span(index))
    if word == "on":
        hint = "`bond NAME(x) = formula on [0, 1] sensitivity 1`"
        return f.error("`on` belongs to a bond's formula", span=f.span(index), hint=hint)
    if found := foreign_word(f, index):
        return found
    if f.tokens[index].type in NAMES and f.opening is None:
        words = ("where", "sensitivity", "else", "and", "not", "for")
        if near := did_you_mean(word, words):
            return f.error(f"`{word}` has no meaning here", span=f.span(index), hint=near)
    return f.error(
        f"an operator is missing between `{f.tokens[index - 1]}` and `{f.tokens[index]}`",
        span=f.span(index),
        hint="modules are joined with `@` or `>>`, numbers with `*`",
    )


def assumption(f: Failure) -> Diagnostic | None:
    """`assume sensitivity number: module`, without a part of it or without its brackets."""
    here, before, form = f.token, f.before, "assume sensitivity 1: f"
    if before is None or f.ends:
        return None
    if here.type == "ASSUME" and "NUMBER" in f.accepts and not f.complete:
        return f.error(
            "`assume` goes on as far as it can, so it stands in brackets here",
            hint=f"write `{before} ({form})`",
        )
    if f.accepts == {"SENSITIVITY"} and before.type == "ASSUME":
        message = "`sensitivity` is missing after `assume`"
        return f.error(message, span=f.place(), hint=f"write `{form}`")
    if before.type == "SENSITIVITY" and here.type == "DEFINE":
        form = form if f.tokens[f.at - 2].type == "ASSUME" else "sensitivity 1"
        return f.error("no `=` stands behind `sensitivity`", hint=f"write `{form}`")
    if f.complete and "COLON" in f.accepts and here.type in (*OPENING, "DEFINE"):
        return f.error(
            f"`:` is missing before `{here}`",
            label="expected `:`",
            hint=f"the sensitivity that is assumed ends with it: `{form}`",
        )
    return None


def expression_missing(f: Failure) -> Diagnostic | None:
    here, before = f.token, f.before
    if "NUMBER" not in f.accepts or before is None:
        return None
    if here.type == "RPAR" and before.type == "LPAR":
        if f.callee == "range":
            return f.error("`range` needs a number", hint="write `range(n)`")
        return f.error("empty brackets", hint="a module that changes nothing is `Identity`")
    if here.type == "LSQB":
        return f.error(
            "a list is written in round brackets", hint="a tuple of modules: `(a, b, c)`"
        )
    if here.type == "COMMA":
        return f.error("an expression is missing before `,`", label="expected an expression")
    if here.type == "FOR":
        return f.error("there is no `for` loop", hint=LOOP)
    if here.type == "IF":
        return f.error("the condition stands in the middle", hint="write `a if condition else b`")
    hint = ""
    if here.type == "WHERE":
        hint = "`where` comes after the expression: `a @ b where a = …`"
    label = "expected an expression"
    if not f.ends and not begins_line(f.tokens, f.at):
        label += f", found `{here}`"
    message = f"an expression is missing after `{before}`"
    return f.error(message, span=f.place(), label=label, hint=hint)


def name_missing(f: Failure) -> Diagnostic | None:
    if "NAME" not in f.accepts or f.complete or f.before is None:
        return None
    what = f"after `{f.before}`"
    hint = ""
    if f.before.type == "WHERE":
        hint = "write `where name = expression`"
    elif f.keyword in ("IMPORT", "FROM") or f.at == f.first + 1:
        hint = f"write `{FORMS[f.keyword]}`"
    return f.error(
        f"a name is missing {what}",
        span=f.place(),
        label="expected a name",
        hint=hint if f.opening is None else "",
    )


def two_numbers(f: Failure) -> Diagnostic | None:
    """`3x`, `0x10`, `1.2.3`."""
    before = f.before
    if before is None or before.type != "NUMBER" or before.end_pos != f.token.start_pos:
        return None
    if f.token.type not in (*NAMES, "NUMBER", *KEYWORDS):
        return None
    text = f"{before}{f.token}"
    hint = "numbers are written like 3, 0.5 or 1e-12"
    if before == "0" and f.token[0] in "xXbBoO":
        hint = "numbers are written in decimal"
    elif f.token.type in NAMES and before.isdigit() and f.token[0] not in "eEjJ":
        hint = f"a product is written `{before} * {f.token}`; a name begins with a letter"
    return f.error(
        f"`{text}` is neither a number nor a name",
        span=f.span(f.at - 1).to(f.span(f.at)),
        hint=hint,
    )


def conditional(f: Failure) -> Diagnostic | None:
    if f.complete and "ELSE" in f.accepts and f.token.type == "DEFINE":
        return f.error("a condition compares with `==`, not with `=`", label="write `==`")
    if f.complete and "ELSE" in f.accepts and "IF" not in f.accepts:
        return f.error(
            "`if` without `else`",
            span=f.place(),
            label="expected `else`",
            hint="write `a if condition else b`",
        )
    if f.complete and f.token.type == "ELSE":
        return f.error("`else` without `if`", hint="write `a if condition else b`")
    return None


def sensitivity(f: Failure) -> Diagnostic | None:
    if f.keyword != "BOND" or "SENSITIVITY" not in f.accepts or f.opening is not None:
        return None
    if f.ends:
        return f.error(
            "a bond declares its sensitivity",
            span=f.place(),
            label="expected `sensitivity`",
            hint="write `sensitivity 1` for a formula whose slope is at most 1",
        )
    if f.token.type == "WHERE":
        return f.error("a bond has no `where`", hint="write the formula as one expression")
    return None


def domain(f: Failure) -> Diagnostic | None:
    """`on [low, high]` behind a bond's formula."""
    if f.keyword != "BOND" or f.ends:
        return None
    form = "`on [0, 1]`: from where to where values go"
    if f.before is not None and f.before.type == "ON" and f.accepts == {"LSQB"}:
        return f.error("a range stands in `[ ]`", span=f.place(), hint=form)
    inside = f.opening is not None and f.tokens[f.opening].type == "LSQB"
    few = "COMMA" in f.accepts and f.token.type in (*CLOSES, *OPENING)
    if inside and f.complete and (few or f.token.type == "COMMA"):
        return f.error("a range has two ends", span=f.place(), hint=form)
    return None


def after_expression(f: Failure) -> Diagnostic | None:
    """Something that cannot follow a whole expression."""
    here, before = f.token, f.before
    if not f.complete or before is None:
        return None
    kind = here.type
    opening = f.opening
    if kind == "DEFINE":
        if opening is None or not f.callee:
            return f.error(
                "`=` cannot follow an expression",
                hint="compare with `==`; name a part of the expression with `where name = …`",
            )
        return f.error(
            "only a name can stand before `=` in a call", hint="arguments: `f(2, mass = 3)`"
        )
    if kind in OPENING:
        if kind == "NUMBER" and here.startswith(".") and before.end_pos == here.start_pos:
            return f.error("`.` is followed by a name", label="expected a name")
        if opening is not None and (f.callee or f.tokens[opening].type == "LSQB"):
            return f.error(
                f"`,` or an operator is missing between `{before}` and `{here}`",
                label="expected `,`",
            )
        return side_by_side(f, f.at)
    if kind == "LPAR":
        if before.type in CLOSES:
            return f.error("only a name can be called", hint="join modules with `@`: `f(a) @ g(b)`")
        return side_by_side(f, f.at)
    if kind in STATEMENTS:
        return f.error(
            f"`{here}` begins a statement, but no name follows", hint=f"write `{FORMS[kind]}`"
        )
    rule = AFTER.get(kind)
    return rule(f) if rule else None


def _picked(f: Failure) -> str:
    """How the member is taken that an index was written for."""
    inside, *end = f.tokens[f.at + 1 : f.at + 3]
    if inside.type not in ("STRING", "NUMBER") or [one.type for one in end] != ["RSQB"]:
        return "one member of a tuple is taken by `Select(i) @ …`"
    whole = f"{f.before}" if f.before is not None and f.before.type in NAMES else "…"
    return f"one member of a tuple is taken by `Select({inside}) @ {whole}`"


def _named_with_colon(f: Failure) -> Diagnostic | None:
    """`(mean: f)`: a name in brackets, with the wrong sign behind it."""
    opening = f.opening
    if opening is None or f.before is None or f.before.type != "NAME":
        return None
    if f.tokens[opening].type != "LPAR" or f.tokens[f.at - 2].type not in ("LPAR", "COMMA"):
        return None
    what = "an argument" if f.callee else "a member"
    return f.error(
        f"the name of {what} stands before `=`, not before `:`", hint=f"write `{f.before} = …`"
    )


AFTER: dict[str, Rule] = {
    "LSQB": lambda f: f.error("there is no indexing", hint=_picked(f)),
    "DOT": lambda f: f.error(
        "`.` stands between two names only", hint="a module's name: `transformer.block(d)`"
    ),
    "COMMA": lambda f: f.error(
        "a tuple stands in brackets", hint="write `(a, b)`: each gets the same input"
    ),
    "COLON": lambda f: (
        _named_with_colon(f)
        or f.error("`:` belongs to an input's type only", hint=f"`{FORMS['INPUT']}`")
    ),
    "FOR": lambda f: f.error("`for` stands in `compose` only", hint=LOOP),
    "IN": lambda f: f.error("there is no `in` in expressions", hint="compare with `==` and `or`"),
    "WHERE": lambda f: (
        f.error("a second `where`", hint="one `where` takes them all: `where a = …  b = …`")
        if f.where
        else f.error(
            "`where` belongs to def, shared and model",
            hint="a name for several statements is written with `def`",
        )
    ),
    "SENSITIVITY": lambda f: f.error(
        "`sensitivity` belongs to a bond",
        hint=f"`{FORMS['BOND']}`; of another module `assume sensitivity 1: f` says it",
    ),
}
"""What to say where a token of this kind follows a whole expression."""


def loops(f: Failure) -> Diagnostic | None:
    """`compose(f(i) for i in range(n))`, with a part missing."""
    if f.before is None:
        return None
    if f.accepts == {"IN"} or (f.before.type == "IN" and f.accepts == {"RANGE"}):
        return f.error(
            "a `for` counts through a `range`", span=f.place(), hint="`for i in range(n)`"
        )
    return None


RULES: Sequence[Rule] = (
    no_keyword,
    characters,
    two_numbers,
    domain,
    brackets,
    keyword_as_name,
    loops,
    imports,
    inputs,
    definition,
    assumption,
    expression_missing,
    foreign_words,
    conditional,
    sensitivity,
    after_expression,
    name_missing,
)
