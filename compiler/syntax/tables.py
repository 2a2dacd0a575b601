"""The parse tables: built from `mod.lark` once, then kept in the user's cache folder.

Building takes lark about twice the time of everything else in the front end. The cache is only
ever a shortcut: a missing, foreign, damaged or outdated file is built anew, and a folder that
cannot be written is passed over.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lark

from modnorm.files import write_whole
from modnorm.grammar import grammar

OPTIONS: dict[str, Any] = {
    "parser": "lalr",
    "lexer": "basic",
    "start": ["statement", "expression", "mistake"],
    "maybe_placeholders": False,
    "propagate_positions": False,
}


class _PlainData(pickle.Unpickler):
    """Reads numbers, strings and their containers: a cache file cannot make anything run."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no plain data")


def cache_folder() -> Path:
    """The user's cache folder for modnorm, by the system's own convention."""
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "modnorm"
    if sys.platform == "win32" and (place := os.environ.get("LOCALAPPDATA")):
        return Path(place) / "modnorm" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "modnorm"
    return Path.home() / ".cache" / "modnorm"


def build(callbacks: object) -> lark.Lark:
    """The parser that calls `callbacks`, from the cache where that is possible."""
    text = grammar()
    key = _key(text)
    try:
        file = cache_folder() / f"grammar-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    except RuntimeError:  # no home folder
        return lark.Lark(text, transformer=callbacks, **OPTIONS)
    if (parser := _read(file, key, callbacks)) is not None:
        return parser
    parser = lark.Lark(text, transformer=callbacks, **OPTIONS)
    _write(file, key, parser)
    return parser


def _read(file: Path, key: str, callbacks: object) -> lark.Lark | None:
    """The parser in a file, or None where there is none, or anything else."""
    try:
        if not file.is_file():  # a pipe would be waited for
            return None
        content = file.read_bytes()
        digest, payload = content[:32], content[32:]
        if _digest(key, payload) != digest:
            return None
        # `_load` is what lark's own cache calls; `Lark.load` takes no transformer
        parser = lark.Lark.__new__(lark.Lark)
        return parser._load(_PlainData(io.BytesIO(payload)).load(), transformer=callbacks)
    except Exception:  # of whatever kind what is no parser leads to
        return None


def _key(text: str) -> str:
    """What tables depend on."""
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{lark.__version__}\n{version}\n{OPTIONS}\n{text}"


def _digest(key: str, payload: bytes) -> bytes:
    """The checksum of a cache's content, as that of one grammar."""
    return hashlib.sha256(key.encode() + payload).digest()


def _write(file: Path, key: str, parser: lark.Lark) -> None:
    stream = io.BytesIO()
    parser.save(stream, ("transformer",))
    payload = stream.getvalue()
    with suppress(OSError):
        write_whole(file, _digest(key, payload) + payload)
