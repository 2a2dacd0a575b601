"""Mutated programs through the whole of `modnorm compile`: a whole output file, or none and why.

`MODNORM_LONG=1` runs thirty times as many.
"""

from __future__ import annotations

import ast
import os
import random
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from limits import no_hanging

from modnorm.cli import cli
from modnorm.diagnostics import ModnormError
from modnorm.ops import registry
from modnorm.pipeline import analyse
from modnorm.report.diagnostics import render, to_json

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("MODNORM_LONG") == "1"
ROUNDS = 20_000 if LONG else 600
GROUPS = 10
BEFORE = "# what stood here before\n"

EXAMPLES = {file.stem: file.read_text("utf-8") for file in (ROOT / "examples").glob("*.mod")}
LIBRARY = {file.stem: file.read_text("utf-8") for file in (ROOT / "grammar/std").glob("*.mod")}
USES = {
    "nn": "input x: float[b, 8]\nmodel M = mlp(8, 2, 8) @ residual(ScaledReLU, 2) @ LayerNorm",
    "transformer": "input x: int[b, s] < 9\n"
    "model M = block(8, 2, 3) ** 3 @ rotary(8, 2) @ embedding(9, 4, 8)",
    "modula": "input x: float[b, 1, 8, 8]\nmodel M = ResMLP(8, 2, 2, 64, 3)",
}
BASES = [*EXAMPLES.values(), *(f"{LIBRARY[name]}\n{use}\n" for name, use in USES.items())]
TOKEN = re.compile(r"\s+|#[^\n]*|[A-Za-z_]\w*|[0-9.]+|\*\*|>>|[<>=!]=|.")
NUMBERS = (
    *("0", "-1", "1/3", "1e300", "10**30", "2**31", "1", "2", "3", "0.5", "-1/3", "1e-300", "64"),
    *("2**31-1", "10**400", "1/10**400", "sqrt(2)", "sqrt(-1)", "log2(0)", "1000", "100000", "1/0"),
)
OPERATORS = ("@", ">>", "+", "-", "*", "/", "**", "<", "==", "and", "or", "not", "if", "else", "=")
NAMES = (
    *registry.builtin(),
    *(
        "x",
        "f",
        "self",
        "class",
        "lambda",
        "forward",
        "train",
        "weight",
        "torch",
        "F",
        "i",
        "print",
    ),
    *("tare", "compose", "range", "for", "in", "where", "def", "shared", "param", "input", "model"),
    *("true", "false", '"a"', "tokens", "s", "LayerNorm", "std.nn", "nn.LayerNorm", "vocab"),
)
SIGNS = tuple("()[],:.#\"'\n\t\0é“\u202e")


def mutate(rng: random.Random) -> bytes:
    """A file with one change or several."""
    tokens = TOKEN.findall(rng.choice(BASES))
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 5, 20))):
        place = rng.randrange(len(tokens))
        what = rng.randrange(10)
        if what == 0:
            other = rng.randrange(len(tokens))
            tokens[place], tokens[other] = tokens[other], tokens[place]
        elif what == 1:
            del tokens[place : place + rng.choice((1, 1, 2, 5))]
        elif what == 2:
            tokens[place:place] = tokens[place : place + rng.randrange(1, 30)]
        elif what == 3:
            tokens.insert(place, f" {rng.choice(OPERATORS)} ")
        elif what in (4, 5):
            _replace(tokens, rng, r"[0-9.]+", NUMBERS)
        elif what in (6, 7):
            _replace(tokens, rng, r"[A-Za-z_]\w*", (*NAMES, *_words(tokens)))
        elif what == 8:
            other_tokens = TOKEN.findall(rng.choice(BASES))
            start = rng.randrange(len(other_tokens))
            tokens[place:place] = other_tokens[start : start + rng.randrange(1, 60)]
        else:
            tokens.insert(place, rng.choice((*SIGNS, *NAMES, *NUMBERS)))
        tokens = tokens or ["\n"]
    text = "".join(tokens)
    if rng.random() < 0.1:
        lines = text.split("\n")
        rng.shuffle(lines)
        text = "\n".join(lines)
    content = bytearray(text.encode())
    if rng.random() < 0.1:
        for _ in range(rng.randrange(1, 5)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _words(tokens: list[str]) -> list[str]:
    return [token for token in tokens if token[:1].isalpha()]


def _replace(tokens: list[str], rng: random.Random, pattern: str, choices: tuple[str, ...]) -> None:
    """Put something of the same kind, or not, in place of a word or number."""
    places = [i for i, token in enumerate(tokens) if re.fullmatch(pattern, token)]
    if places:
        tokens[rng.choice(places)] = rng.choice(choices)


def options(rng: random.Random) -> list[str]:
    """Now and then a param is set, sensibly or not."""
    params: dict[str, str] = {}
    while rng.random() < 0.15:
        name = rng.choice(("d_embed", "heads", "blocks", "width", "vocab", "context", "nothing"))
        params[name] = rng.choice((*NUMBERS, *NAMES, *SIGNS, "", "8"))
    found = [part for name, value in params.items() for part in ("-p", f"{name}={value}")]
    if rng.random() < 0.05:
        found += ["--model", rng.choice(("GPT", "M", "Nothing", "", "é"))]
    return found


def compile_file(source: Path, arguments: list[str]) -> Result:
    """Run `modnorm compile` on a file beside an output that exists already."""
    output = source.with_suffix(".py")
    output.write_text(BEFORE, "utf-8")
    with no_hanging():
        result = CliRunner().invoke(
            cli, ["compile", str(source), "-o", str(output), "--force", *arguments]
        )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1)
    written = output.read_text("utf-8")
    if result.exit_code:
        assert written == BEFORE
        assert "error" in result.stderr
    else:
        assert written != BEFORE
        assert "class " in written
        ast.parse(written)
    assert sorted(source.parent.iterdir()) == sorted((source, output))
    return result


@pytest.mark.parametrize("group", range(GROUPS))
def test_mutated_files(group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    rng = random.Random(group)
    source = tmp_path / "main.mod"
    whole = 0
    for _ in range(ROUNDS // GROUPS):
        content, arguments = mutate(rng), options(rng)
        source.write_bytes(content)
        try:
            whole += not compile_file(source, arguments).exit_code
        except BaseException:
            print(content.decode(errors="backslashreplace"), arguments)
            raise
    assert whole, "some files should survive their mutations"


def test_every_finding_is_shown(tmp_path: Path) -> None:
    """Each diagnostic has a place in its file, and its JSON and its text can be written."""
    rng = random.Random(99)
    source = tmp_path / "main.mod"
    seen: set[str] = set()
    for _ in range(ROUNDS // 10):
        source.write_bytes(mutate(rng))
        try:
            found = analyse(source).diagnostics
        except ModnormError as error:
            found = error.diagnostics
        for problem in found:
            seen.add(problem.code)
            assert problem.message
            for span in (problem.span, *(label.span for label in problem.others)):
                if span is not None:
                    lines = span.source.text.split("\n")
                    assert 1 <= span.line <= span.end_line <= len(lines)
                    assert 1 <= span.column <= len(lines[span.line - 1]) + 1
            assert to_json(problem)["code"] == problem.code
        render(found).encode()
    assert len(seen) > 10


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_line_may_be_missing(name: str, tmp_path: Path) -> None:
    lines = EXAMPLES[name].split("\n")
    source = tmp_path / "main.mod"
    for index in range(len(lines)):
        source.write_text("\n".join([*lines[:index], *lines[index + 1 :]]), "utf-8")
        compile_file(source, [])
