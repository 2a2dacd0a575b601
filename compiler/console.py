"""What is printed: the one place where text leaves for a terminal.

Names of files, and texts in them, may hold signs that a terminal obeys: that move the cursor,
colour what follows, or turn the direction of writing. Here they become signs that are only shown.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

COLOR = re.compile(r"(\x1b\[[\d;]*m)")
"""What renderers paint with."""
LONGEST = 36
"""Characters beside a progress bar."""


def sentence(text: str) -> str:
    """A text, whatever names are in it, as one line that can be printed anywhere."""
    from modnorm.report.diagnostics import clean

    return f"{clean(text)}\n"


def tell(text: str) -> None:
    """Print a sentence to stderr."""
    say(sentence(text))


def say(text: str) -> None:
    """Print lines to stderr."""
    if sys.stderr is not None:
        sys.stderr.write(harmless(text, is_colored(sys.stderr)))
        sys.stderr.flush()


def quiet() -> None:
    """Leave nothing that would fail to be written at exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show(text: str) -> None:
    """Print lines to standard output, in signs that it can show."""
    from modnorm.report.words import encodable

    if sys.stdout is not None:
        text = harmless(text, is_colored(sys.stdout))
        _put(encodable(text, sys.stdout.encoding), sys.stdout.encoding)


def emit(text: str) -> None:
    """Write a file's text to standard output: source text and JSON are UTF-8 wherever they go.

    On a terminal it is shown as lines are; elsewhere it is the file to the letter.
    """
    if sys.stdout is not None:
        _put(harmless(text) if sys.stdout.isatty() else text, "utf-8")


def harmless(text: str, colored: bool = False) -> str:
    """Lines in which nothing but, where asked for, a colour is obeyed by a terminal."""
    from modnorm.report.diagnostics import clean

    pieces = COLOR.split(text) if colored else [text]
    pieces[::2] = ["\n".join(map(clean, piece.split("\n"))) for piece in pieces[::2]]
    return "".join(pieces)


def is_colored(stream: IO[str] | None) -> bool:
    """Whether to colour what goes to a stream: a terminal, unless `NO_COLOR` is set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream is not None and stream.isatty()


def _put(text: str, encoding: str | None) -> None:
    from modnorm.report.output import CannotWrite

    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(encoding or "ascii", "backslashreplace"))
        sys.stdout.buffer.flush()
    except OSError as error:
        # nothing may be left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CannotWrite("standard output", (error.strerror or str(error)).lower()) from None


@contextmanager
def bar(show: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr: a function that is told how many of how many things are done, and
    what is done now."""
    if not show:
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")

        def update(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what[-LONGEST:])

        yield update
