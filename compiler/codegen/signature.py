"""The mark that a written file bears, and by which one is known again that nobody has changed.

It is a line of its own, as a comment or a key of the format, with a checksum over the rest of the
file; in a PNG it is a chunk of text.
"""

from __future__ import annotations

import hashlib
import re
import zlib

WORDS = b"made by modnorm, sha256 "
DIGITS = 32
"""Of the checksum, in hexadecimal."""
AROUND = {
    "python": (b"# ", b""),
    "text": (b"", b""),
    "json": (b'  "signature": "', b'",'),
    "markdown": (b"<!-- ", b" -->"),
    "html": (b"<!-- ", b" -->"),
    "svg": (b"<!-- ", b" -->"),
    "dot": (b"// ", b""),
    "pdf": (b"% ", b""),
}
"""What stands before and behind the words, by the format."""
LINE = re.compile(
    rb'^(?:# |<!-- |// |%% |  "signature": ")?%s([0-9a-f]{%d})(?: -->|",)?\r?\n' % (WORDS, DIGITS),
    re.MULTILINE,
)
PNG = b"\x89PNG\r\n\x1a\n"
PNG_END = 12
"""Bytes of the chunk that ends a PNG."""


def signed(made: str | bytes, form: str) -> bytes:
    """The content of a file in a format, with its mark. Text becomes UTF-8."""
    content = made if isinstance(made, bytes) else made.encode("utf-8", "backslashreplace")
    if form == "png":
        return _at(content, len(content) - PNG_END, _chunk(content))
    if form in ("text", "markdown") or not content.endswith(b"\n"):
        content += b"\n"
    before, behind = AROUND[form]
    places = {"python": 0, "json": content.find(b"\n") + 1, "pdf": content.rfind(b"startxref")}
    line = before + WORDS + _digest(content) + behind + b"\n"
    return _at(content, places.get(form, len(content)), line)


def is_own(content: bytes) -> bool:
    """Whether `signed` made this, and nothing but ends of lines was changed since."""
    if content.startswith(PNG):
        end = len(content) - PNG_END
        return content == signed(content[: end - len(_chunk(b""))] + content[end:], "png")
    lines = list(LINE.finditer(content))  # a text may quote one: the mark is the first or the last
    return any(
        _digest(content[: line.start()] + content[line.end() :]) == line[1]
        for line in lines[:1] + lines[-1:]
    )


def _digest(content: bytes) -> bytes:
    """The checksum; what git does to ends of lines is no change."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()[:DIGITS].encode()


def _chunk(content: bytes) -> bytes:
    text = b"tEXtComment\0" + WORDS + _digest(content)
    check = zlib.crc32(text).to_bytes(4, "big")
    return (len(text) - len(b"tEXt")).to_bytes(4, "big") + text + check


def _at(content: bytes, place: int, mark: bytes) -> bytes:
    return content[:place] + mark + content[place:]
