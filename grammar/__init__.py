"""The language's grammar (`mod.lark`) and its library, written in the language itself (`std/`)."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

PLACE: Traversable = files(__name__)
"""The folder that holds `mod.lark` and `std/`."""


def grammar() -> str:
    """The text of `mod.lark`."""
    return (PLACE / "mod.lark").read_text(encoding="utf-8")


def library() -> dict[str, Traversable]:
    """The library's files by module name: `transformer` for `std/transformer.mod`."""
    place = PLACE / "std"
    if not place.is_dir():
        return {}
    found = {entry.name: entry for entry in place.iterdir() if entry.name.endswith(".mod")}
    return {name.removesuffix(".mod"): found[name] for name in sorted(found)}
