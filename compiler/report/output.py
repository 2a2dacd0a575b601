"""Writes a file whole or not at all."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


class CannotWrite(OSError):
    """A file that cannot be written; its text is a sentence for the user."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot write `{path}`: {reason}")


def write(
    path: str | os.PathLike[str], text: str | bytes, *, source: str | os.PathLike[str] = ""
) -> None:
    """Write a text to a file, as UTF-8, or bytes as they are.

    The content goes to a new file beside it, which then takes its place: whatever happens on the
    way, the file at `path` is the old one or the new one. A link keeps pointing where it points;
    what is no ordinary file (a pipe, `/dev/null`) is written to. `source` is a file that must not
    be replaced.

    Raises:
        CannotWrite: if the file could not be written; nothing has changed then.
    """
    name = os.fspath(path)
    content = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
    if not name:
        raise CannotWrite(name, "the file's name is empty")
    try:
        mode = _mode(name)
        target = os.path.realpath(name)
        if mode is None or stat.S_ISREG(mode):
            if name.endswith(("/", os.sep)):
                raise CannotWrite(name, "it is the name of a folder")
            if source and mode is not None and _same(target, source):
                raise CannotWrite(name, "it is the file that is being compiled")
            if mode is not None and not os.access(target, os.W_OK):
                raise CannotWrite(name, "it is write-protected")
            _replace(target, content)
        elif stat.S_ISDIR(mode):
            raise CannotWrite(name, "it is a folder")
        else:
            with open(name, "wb") as stream:
                stream.write(content)
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


def _same(target: str, source: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(target, source)
    except OSError:
        return False


def _replace(target: str, content: bytes) -> None:
    """Put a new file with the content in the target's place; the new file is gone if that fails."""
    unique = f".modnorm-{os.getpid()}-{os.urandom(6).hex()}"
    temporary = os.path.join(os.path.dirname(target), unique)
    try:
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        with suppress(FileNotFoundError):  # it has taken the target's place, or never was
            os.unlink(temporary)
