"""Names in the generated file: unique, legal, and not those that the file uses itself."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Iterable

TAKEN = frozenset(
    ["annotations", "Any", "Callable", "Iterable", "NamedTuple", "Tensor", "F", "nn", "torch", "math", "hashlib", "defaultdict", "deepcopy", "Input", "Part", "blank", "Weight", "Norm", "Batch", "PLAN", "PLAN_HASH", "INPUTS", "MODEL", "NORMS", "NEWTON_SCHULZ", "NormedOptimizer", "NormedAdam", "NormedSGD", "DualizedSGD", "Spectral", "SpectralTaps", "RowRMS", "RMS", "MaxAbs", "STATE_TYPES", "BATCH_ENTRIES", "BATCH_ENTRIES_ELSEWHERE"]
) | frozenset(dir(builtins))
"""Names at module level that no class of a model may take."""


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
