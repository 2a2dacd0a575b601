"""What `check` is asked to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """What to measure, and how thoroughly.

    `sizes` are numbers for free sizes of the inputs; `effort` is 1, 2 or 3; with `every` all copies
    of repetitions are measured. `vary` maps params to the values of a coordinate check.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    data: str | None = None
    checkpoint: str | None = None
    seed: int = 0
    effort: int = 1
    every: bool = False
    vary: Mapping[str, Sequence[object]] = field(default_factory=dict)
    steps: int = 5
    lr: float = 0.125
    seeds: int = 2
