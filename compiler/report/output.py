"""Writes files whole or not at all, and never over one that somebody else made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from modnorm.codegen.signature import is_own
from modnorm.files import beside, fill

FilePath: TypeAlias = "str | os.PathLike[str]"
Read: TypeAlias = "Mapping[str, FilePath | tuple[str, ...] | None]"
"""Files that are read, by the option that names each: that of the option "" is the one that is
compiled, those of the option IMPORTED are what it imports."""
Sources: TypeAlias = "FilePath | Read"
"""Files that must not be replaced: the one that is compiled, or several by option."""
IMPORTED = "import"
COMPILED = "the file that is being compiled"
MOST = 2**28
"""Bytes of a file that may be one of ours."""
FOREIGN = (
    "modnorm did not make it, or it was changed since: give another name, or --force (from Python"
    " force=True) to replace it"
)


class CannotWrite(OSError):
    """A file that cannot be written; its text is a sentence for the user."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot write `{path}`: {reason}")


def write(path: FilePath, text: str | bytes, *, source: Sources = "", force: bool = False) -> None:
    """Write a text to a file, as UTF-8, or bytes as they are.

    The content goes to a new file beside it, which then takes its place: whatever happens on the
    way, the file at `path` is the old one or the new one. Its permissions stay as they were. A
    link keeps pointing where it points; what is no ordinary file (a pipe, `/dev/null`) is written
    to. A file that is there must be empty, or as it was when it was written with what
    `signature.signed` made, unless `force` is true. `source` says what must not be replaced at all.

    Raises:
        CannotWrite: if the file could not be written; nothing has changed then.
    """
    write_all({os.fspath(path): text}, source=source, force=force)


def write_all(
    contents: Mapping[str, str | bytes], *, source: Sources = "", force: bool = False
) -> None:
    """Write several files, each as `write` does; none takes its place before all are made.

    Raises:
        CannotWrite: if one of them could not be written.
    """
    with ExitStack() as made:
        ready: list[tuple[str, bytes, str, str]] = []
        for name, text in contents.items():
            content = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
            with _told(name):
                target, new = _target(name, source, force), ""
                if target:
                    new, stream = made.enter_context(beside(target))
                    fill(stream, content)
                ready.append((name, content, target, new))
        for name, content, target, new in ready:
            with _told(name):
                if target:
                    os.replace(new, target)
                else:
                    with open(name, "wb") as special:
                        special.write(content)


def expect_writable(path: FilePath, *, source: Sources = "", force: bool = False) -> None:
    """Find out whether a file can be written, before the work whose result it shall hold.

    Raises:
        CannotWrite: if it can't.
    """
    name = os.fspath(path)
    with _told(name):
        if target := _target(name, source, force):
            with beside(target) as (_, stream):
                stream.close()


def is_special(path: str) -> bool:
    """Whether there is something that is no ordinary file: a pipe, a device, a folder."""
    try:
        mode = _mode(path)
    except (OSError, ValueError):
        return False
    return mode is not None and not stat.S_ISREG(mode)


def _target(name: str, source: Sources, force: bool) -> str:
    """What to replace, links followed; nothing where there is no ordinary file to write to."""
    if not name:
        raise CannotWrite(name, "the file's name is empty")
    mode = _mode(name)
    target = os.path.realpath(name)
    if mode is not None and stat.S_ISDIR(mode):
        raise CannotWrite(name, "it is a folder")
    if mode is not None and not stat.S_ISREG(mode):
        return ""
    if name.endswith(("/", os.sep)):
        raise CannotWrite(name, "it is the name of a folder")
    if mode is not None:
        if reader := reader_of(target, source if isinstance(source, Mapping) else {"": source}):
            raise CannotWrite(name, f"it is {reader}")
        if not os.access(target, os.W_OK):
            raise CannotWrite(name, "it is write-protected")
        if not force and not _is_free(target):
            raise CannotWrite(name, FOREIGN)
    return target


def reader_of(path: str, read: Read) -> str:
    """Which of the files that are read this one is, in words; nothing if it is none of them."""
    for option, given in read.items():
        for one in given if isinstance(given, tuple) else (given,):
            if one and is_same(path, one):
                if option == IMPORTED:
                    return "a file that the compiled one imports"
                return f"the file that `{option}` reads" if option else COMPILED
    return ""


def _is_free(target: str) -> bool:
    """Whether nothing is lost with a file: it is empty, or can be made again."""
    size = os.path.getsize(target)
    return not size or (size <= MOST and is_own(Path(target).read_bytes()))


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what the system says about a file into a sentence."""
    try:
        yield
    except CannotWrite:
        raise
    except FileNotFoundError:
        folder = Path(name).parent
        here = folder.is_dir()  # of one like /proc
        reason = f"nothing can be made in `{folder}`" if here else f"there is no folder `{folder}`"
        raise CannotWrite(name, reason) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotWrite(name, reason[:1].lower() + reason[1:]) from None


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def is_same(target: str, source: FilePath) -> bool:
    """Whether two names are of one file that is there."""
    try:
        return os.path.samefile(target, source)
    except (OSError, ValueError):
        return False
