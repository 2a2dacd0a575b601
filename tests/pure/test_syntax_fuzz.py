"""Mutations of a realistic file: whatever is written, the answer is diagnostics.

`MODNORM_LONG=1` runs many more.
"""

from __future__ import annotations

import os
import random
import re
import string
from pathlib import Path

import pytest

from modnorm.diagnostics import CODES, Diagnostics, Source
from modnorm.report.diagnostics import render, to_json
from modnorm.syntax import foreign
from modnorm.syntax.loader import load_text
from modnorm.syntax.parser import parse
from modnorm.syntax.words import KEYWORDS, STATEMENTS

GPT = (Path(__file__).parent / "realistic.mod").read_text(encoding="utf-8")
LONG = os.environ.get("MODNORM_LONG") == "1"
ROUNDS = 20_000 if LONG else 400
TOKENS = re.findall(r"\s+|[A-Za-z_]\w*|[0-9.]+|\*\*|>>|.", GPT)
PIECES = [
    *KEYWORDS.values(),
    *foreign.SIGNS,
    *"()[]@*/+-,.:=<>\"'#\t\n\0é“\u00a0\u202e\udc80",
    *("==", "<=", "!=", "**", ">>", "as", "range", "compose", "tare", "lambda", "std"),
    *("3", "1e9999", "1_", "0x1", "3d", ".", "x", "'a.mod'", '"'),
]


def mutate(rng: random.Random) -> str:
    tokens = list(TOKENS)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 30))):
        place = rng.randrange(len(tokens))
        what = rng.randrange(5)
        if what == 0:
            tokens[place] = ""
        elif what == 1:
            tokens.insert(place, rng.choice(PIECES))
        elif what == 2:
            tokens[place] = rng.choice(PIECES)
        elif what == 3:
            other = rng.randrange(len(tokens))
            tokens[place], tokens[other] = tokens[other], tokens[place]
        else:
            tokens[place:place] = tokens[place : place + rng.randrange(20)]
    text = "".join(tokens)
    if rng.random() < 0.3:
        content = bytearray(text.encode(errors="surrogatepass"))
        for _ in range(rng.randrange(1, 5)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        text = content.decode(errors="surrogateescape")
    return text


def check(text: str) -> None:
    found = Diagnostics()
    source = Source("test.mod", text)
    file = parse(source, found)
    assert (file is None) == bool(found.errors)
    lines = text.split("\n")
    for problem in found:
        assert problem.code in CODES
        assert problem.message
        assert problem.span is not None
        for span in (problem.span, *(label.span for label in problem.others)):
            assert 1 <= span.line <= span.end_line <= len(lines)
            assert 1 <= span.column <= len(lines[span.line - 1]) + 1
            assert (span.line, span.column) <= (span.end_line, span.end_column)
        assert to_json(problem)["line"] == problem.span.line
    shown = render(found)
    assert bool(shown) == bool(list(found))
    shown.encode()


@pytest.mark.parametrize("seed", range(8))
def test_mutations(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(ROUNDS // 8):
        text = mutate(rng)
        try:
            check(text)
        except Exception:
            print(repr(text))
            raise


def test_noise() -> None:
    rng = random.Random(0)
    letters = string.printable + "é“模\u202e\udc80"
    for _ in range(ROUNDS // 4):
        check("".join(rng.choice(letters) for _ in range(rng.randrange(200))))
        check(" ".join(rng.choice(PIECES) for _ in range(rng.randrange(60))))


def test_imports_of_mutations() -> None:
    rng = random.Random(1)
    for _ in range(ROUNDS // 10):
        files = {"a.mod": mutate(rng), "b.mod": mutate(rng)}
        found = Diagnostics()
        load_text('import "a.mod" import "b.mod"\n' + mutate(rng), "main.mod", found, others=files)
        render(found).encode()


def test_every_prefix() -> None:
    """A file is wrong in some way at every moment while it is typed."""
    step = 1 if LONG else 5
    for end in range(0, len(GPT), step):
        check(GPT[:end])


def test_one_mistake_is_told_once() -> None:
    """Without one token, a file has one mistake, or a few; not a cascade."""
    counts = []
    for index, token in enumerate(TOKENS):
        if token.isspace() or token in STATEMENTS.values():
            continue
        found = Diagnostics()
        parse(Source("test.mod", "".join([*TOKENS[:index], *TOKENS[index + 1 :]])), found)
        counts.append(len(list(found)))
    assert max(counts) <= 2
    assert sum(counts) / len(counts) < 1
