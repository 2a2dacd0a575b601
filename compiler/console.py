"""What the commands print."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Print to stderr."""
    if sys.stderr is not None:
        sys.stderr.write(text)
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
    """Print to standard output, in signs that it can show."""
    from modnorm.report.words import encodable

    if sys.stdout is not None:
        emit(encodable(text, sys.stdout.encoding), sys.stdout.encoding)


def emit(text: str, encoding: str | None = "utf-8") -> None:
    """Write a text to standard output; source text and JSON are UTF-8 whatever the terminal is."""
    if sys.stdout is None:
        return
    from modnorm.report.output import CannotWrite

    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(encoding or "ascii", "backslashreplace"))
        sys.stdout.buffer.flush()
    except OSError as error:
        # nothing may be left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CannotWrite("standard output", (error.strerror or str(error)).lower()) from None
