"""Keep README.md, CONTRIBUTING.md and docs/ true: `python tools/docs.py [--check]`.

Two kinds of text in them are made from the sources:

* what stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->` comes from reference.py
  or signatures.py, or, where it is measured, from evidence.py;
* a block fenced as ```` ```console ```` holds commands behind `$ ` and what they print. They run in
  an empty folder that has `examples/` and the files of the page's blocks that name one, such as
  ```` ```mod tiny.mod ```` (blocks are taken in order). A last line `…` says that more is printed.
  ```` ```console torch ```` needs torch.

Without `--check` the pages are written anew; with it, what is out of date is listed, and the exit
code is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MORE = "…"
LIMIT = 300
"""Seconds that a command may take."""

BLOCK = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^<!-- begin: (?P<name>[a-z ]+) -->\n(?P<body>.*?)^<!-- end: (?P=name) -->$",
                     re.MULTILINE | re.DOTALL)  # fmt: skip
TORCH = importlib.util.find_spec("torch") is not None


def pages() -> list[Path]:
    """Every page, the front page first."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, the word behind it, its text and where it is."""

    language: str
    word: str
    text: str
    start: int
    end: int


def blocks(page: str) -> Iterator[Block]:
    for found in BLOCK.finditer(page):
        language, _, word = found["info"].partition(" ")
        yield Block(language, word.strip(), found["body"], found.start("body"), found.end("body"))


def sections(page: str) -> str:
    """The page with its generated sections as they should be."""
    if not SECTION.search(page):
        return page
    import evidence
    import reference
    import signatures

    made = reference.SECTIONS | signatures.SECTIONS | evidence.SECTIONS

    def fresh(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- begin: {name} -->\n{made[name]()}\n<!-- end: {name} -->"

    return SECTION.sub(fresh, page)


def consoles(page: str, *, torch: bool = TORCH) -> str:
    """The page with its console blocks as they should be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        examples = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=examples)
        parts: list[str] = []
        last = 0
        for block in blocks(page):
            if block.language == "console" and (torch or block.word != "torch"):
                parts += [page[last : block.start], replay(block.text, folder)]
                last = block.end
            elif block.language != "console" and block.word:
                place = folder / block.word
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(block.text, encoding="utf-8")
        return "".join([*parts, page[last:]])


def replay(text: str, folder: Path) -> str:
    """A console block with what its commands print now."""
    lines: list[str] = []
    for entry in re.split(r"^(?=\$ )", text, flags=re.MULTILINE):
        if not entry:
            continue
        command, *shown = entry.rstrip("\n").split("\n")
        printed = run(command.removeprefix("$ "), folder)
        if shown and shown[-1] == MORE:
            printed = [*printed[: len(shown) - 1], MORE]
        lines += [command, *printed]
    return "\n".join(lines) + "\n"


PIP = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
PROGRAMS = {
    "modnorm": ("-c", "import sys; from modnorm.cli import main; sys.exit(main())"),
    "python": (),
    "pip install": ("-m", "pip", *PIP, "--target", ".site"),
}
"""What a command stands for: arguments of this Python. Installed packages are for the page only."""


def run(command: str, folder: Path) -> list[str]:
    """The lines that a command prints, as on a terminal of 100 columns without colour.

    Raises:
        ValueError: for a command that is none of `PROGRAMS`.
        RuntimeError: for one that ends in a traceback, which no page should show.
    """
    name = next((name for name in PROGRAMS if command.startswith(f"{name} ")), None)
    if name is None:
        raise ValueError(f"a console block may run {', '.join(PROGRAMS)}, not `{command}`")
    arguments = shlex.split(command.removeprefix(name))
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / ".site")}
    if name == "python" and TORCH and sys.platform == "linux":
        return checked(command, scripts().run(arguments, folder, environment))
    done = subprocess.run(
        [sys.executable, *PROGRAMS[name], *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )
    return checked(command, done.stdout)


def checked(command: str, text: str) -> list[str]:
    """The lines of what a command has printed, unless it has failed."""
    if "Traceback (most recent call last)" in text:
        raise RuntimeError(f"`{command}` failed:\n{text}")
    return [line.rstrip() for line in text.rstrip("\n").split("\n")] if text else []


@cache
def scripts() -> Any:
    """What runs scripts, once for all pages."""
    from warm import Warm

    return Warm(LIMIT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Bring the generated parts of the pages up to date."
    )
    parser.add_argument("--check", action="store_true", help="write nothing, list what is old")
    options = parser.parse_args()
    old = 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        fresh = consoles(sections(text))
        if fresh == text:
            continue
        old += 1
        name = page.relative_to(ROOT)
        if options.check:
            print(f"{name} is out of date: run `make docs`", file=sys.stderr)
        else:
            page.write_text(fresh, encoding="utf-8")
            print(f"{name} written anew")
    return 1 if old and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
