"""Sweeps made up from parabolas, of which it is known what is to be found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modnorm.sweep.records import Outcome, Settings, Size, Sizes, Sweep, Trial

FIRST = 4.2
"""Loss before the first step."""
RATES = tuple(range(-8, 3))

SETTINGS = Settings(
    data="shakespeare", data_sha256="ab" * 32, context=64, steps=300, batch=8, schedule="linear",
    eval_batches=50, threads=1,
)  # fmt: skip
Best = Callable[[Mapping[str, Size], int], float]


def outcome(train: float | None, held_out: float | None = None, first: float = FIRST) -> Outcome:
    """A run's; without a loss it diverged."""
    done = train is not None
    other = held_out if held_out is not None or train is None else train + 0.05
    return Outcome(
        "done" if done else "diverged", first, train, other, 0.4 if done else None, 300, 1.5
    )


def parabola(best: float, low: float, bend: float = 0.04) -> Callable[[float], float | None]:
    return lambda x: low + bend * (x - best) ** 2


def sweep(
    optima: Mapping[str, Best],
    vary: Mapping[str, tuple[Size, ...]],
    *,
    seeds: Sequence[int] = (0,),
    rates: Sequence[float] = RATES,
    low: Callable[[Mapping[str, Size]], float] = lambda sizes: 2.0,
    bend: float = 0.04,
    diverges: float = math.inf,
    **others: Any,
) -> Sweep:
    """All runs: a parabola about each optimum, diverged so far beyond it."""
    combos: list[Sizes] = [()]
    for name, values in vary.items():
        combos = [(*sizes, (name, value)) for sizes in combos for value in values]
    runs = []
    for optimizer, best in optima.items():
        for sizes in combos:
            for x in rates:
                for seed in seeds:
                    at = best(dict(sizes), seed)
                    loss = low(dict(sizes)) + bend * (x - at) ** 2
                    trial = Trial(optimizer, sizes, 2.0**x, seed, f"{optimizer}{sizes}{x}{seed}")
                    runs.append((trial, outcome(None if x - at > diverges else loss)))
    known: dict[str, Any] = {
        "model": "GPT",
        "source": "gpt.mod",
        "params": {"vocab": 65, "heads": 4},
        "vary": dict(vary),
        "optimizers": tuple(optima),
        "rates": dict.fromkeys(optima, tuple(2.0**x for x in rates)),
        "seeds": tuple(seeds),
        "settings": SETTINGS,
        "runs": tuple(runs),
        "versions": {"modnorm": "0.1.0", "torch": "2.13"},
    }
    return Sweep(**{**known, **others})


def drifting(start: float, width: float, depth: float, jitter: float = 0.0) -> Best:
    """An optimum that drifts by so much per doubling; seeds 0, 1, 2 are moved by -j, 0 and j."""

    def best(sizes: Mapping[str, Size], seed: int) -> float:
        moved = width * math.log2(sizes["d_embed"] / 32) if "d_embed" in sizes else 0.0
        moved += depth * math.log2(sizes["blocks"] / 2) if "blocks" in sizes else 0.0
        return start + moved + jitter * (seed - 1)

    return best


WIDTHS = (32, 64, 128, 256)
DEPTHS = (2, 4, 8)


def grid(**others: Any) -> Sweep:
    """Widths by depths: one optimizer that transfers, and one that drifts."""
    given: dict[str, Any] = {"seeds": (0, 1, 2), "diverges": 4.0, **others}
    return sweep(
        {"normed_adam": drifting(-2, 0.03, -0.02, 0.03), "adam": drifting(-4, -0.6, -0.2, 0.03)},
        {"d_embed": WIDTHS, "blocks": DEPTHS},
        **given,
    )
