"""What keeps a model from being imported."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A part that the language has no words for: where it is, and what is missing."""

    module: str
    place: str
    what: str

    def __str__(self) -> str:
        where, place = self.module or "the model", self.place
        for folder in (f"{Path.cwd()}/", *(f"{path}/" for path in sys.path if path)):
            place = place.removeprefix(folder)
        return f"{where}{f' ({place})' if place else ''}: {self.what}"


class ImportFailed(Exception):
    """A model cannot be imported: its text says why, and how to mend it; `parts` are the places."""

    def __init__(self, message: str, parts: tuple[Part, ...] = ()) -> None:
        listed = "".join(f"\n  {part}" for part in parts)
        super().__init__(message + listed)
        self.parts = parts


class Unsaid(Exception):
    """Raised for an operation that the language has no counterpart for: its text says what."""
