"""Writes files whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def beside(target: str) -> Iterator[tuple[str, BinaryIO]]:
    """A new file in the target's folder, by name and open; it is gone if it stays there."""
    unique = f".modnorm-{os.getpid()}-{os.urandom(6).hex()}"
    temporary = os.path.join(os.path.dirname(target), unique)
    try:
        with open(temporary, "xb") as stream:
            with suppress(FileNotFoundError):  # a new file has what the system gives it
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            yield temporary, stream
    finally:
        with suppress(FileNotFoundError):  # it has taken the target's place, or never was
            os.unlink(temporary)


def fill(stream: BinaryIO, content: bytes) -> None:
    """Write all of a file, down to the disk, and close it."""
    with stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of our own, with the folder that it is in.

    Raises:
        OSError: if it cannot be written; the old one is there then.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with beside(os.fspath(path)) as (temporary, stream):
        fill(stream, content)
        os.replace(temporary, path)
