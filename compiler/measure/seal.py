"""A checksum at the end of a file of torch.save, which readers of such files pass over.

It is the comment of the zip archive that torch.save writes.
"""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO

MARK = b"modnorm checkpoint, sha256 "
"""Begins the comment; the checksum of all before it follows, in hexadecimal digits."""
DIGITS = 64
SIZE = len(MARK) + DIGITS
END, END_SIZE = b"PK\x05\x06", 22
"""Of the record that ends an archive; its last two bytes are the comment's length."""
LENGTH = SIZE.to_bytes(2, "little")


class Broken(Exception):
    """What a file holds is not what was written."""

    def __init__(self) -> None:
        super().__init__("its checksum is not that of what it holds")


def add_seal(file: BinaryIO) -> None:
    """Give a file, open for reading and writing, its checksum; torch.save has just written it."""
    file.seek(-len(LENGTH), os.SEEK_END)
    file.write(LENGTH)
    digest = _digest(file, file.tell())
    file.seek(0, os.SEEK_END)
    file.write(MARK + digest)


def is_sealed(file: BinaryIO) -> bool:
    """Whether a file has a checksum, which is right then.

    Raises:
        Broken: if it is wrong.
    """
    file.seek(0, os.SEEK_END)
    end = max(file.tell() - SIZE, 0)
    file.seek(max(end - END_SIZE, 0))
    tail = file.read()
    record, seal = tail[:-SIZE], tail[-SIZE:]
    announced = record.startswith(END) and record.endswith(LENGTH)
    if not announced and not seal.startswith(MARK):
        return False
    if seal != MARK + _digest(file, end):
        raise Broken
    return True


def _digest(file: BinaryIO, size: int) -> bytes:
    """The checksum of a file's first bytes."""
    found = hashlib.sha256()
    file.seek(0)
    while size and (part := file.read(min(size, 2**20))):
        found.update(part)
        size -= len(part)
    return found.hexdigest().encode()
