"""What keeps a model from being imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part that the language has no words for: where it is, and what is missing."""

    module: str
    place: str
    what: str

    def __str__(self) -> str:
        where = self.module or "the model"
        return f"{where}{f' ({self.place})' if self.place else ''}: {self.what}"


class ImportFailed(Exception):
    """A model cannot be imported: its text says why, and how to mend it; `parts` are the places."""

    def __init__(self, message: str, parts: tuple[Part, ...] = ()) -> None:
        listed = "".join(f"\n  {part}" for part in parts)
        super().__init__(message + listed)
        self.parts = parts


class Unsaid(Exception):
    """Raised for an operation that the language has no counterpart for: its text says what."""
