"""Names in the generated file: unique, legal, and not those that the file uses itself."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Iterable

TAKEN = frozenset(
    "Any Callable Iterable NamedTuple Tensor F nn torch math hashlib ast adam defaultdict deepcopy "
    "Input Part blank PLAN PLAN_HASH INPUTS MODEL NORMS".split()
) | frozenset(dir(builtins))
"""Names that no class of a model and no variable may take, beside what the optimizers define."""


class Names:
    """Hands out names, each once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)

    def claim(self, name: str) -> str:
        """The name, or the nearest free and legal variation of it."""
        candidate = f"{name}_" if keyword.iskeyword(name) or name in self.taken else name
        number = 2
        while candidate in self.taken:
            candidate = f"{name}{number}"
            number += 1
        self.taken.add(candidate)
        return candidate
