"""Forward and backward of the generated GPT against modula's, same weights and batch, eager.

    python benchmarks/model.py [--threads 1] [--rounds 30]

One process, alternating; prints medians and the ratio of medians as a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import modnorm

SIZES = ((128, 4), (256, 6), (512, 8))
PROGRAM = Path(__file__).with_name("modula_gpt.mod")


def modula_gpt(width: int, blocks: int) -> tuple[Any, Any]:
    """modula's model and its weights."""
    try:
        from modula.compound import GPT  # type: ignore[import-not-found]
    except ImportError:
        sys.exit("benchmarks/model.py compares with modula: pip install modula==0.0.0.0.0.2")
    model = GPT(65, 64, 4, width, width // 4, width // 4, blocks)
    torch.manual_seed(0)
    return model, model.initialize(device="cpu")


def compiled_gpt(width: int, blocks: int, weights: Any) -> torch.nn.Module:
    """The compiled model with modula's weights: its forward factors are in ours."""
    module = modnorm.load(PROGRAM, width=width, blocks=blocks)
    model: torch.nn.Module = getattr(module, module.MODEL)()
    with torch.no_grad():
        for record, p, w in zip(module.PLAN, model.parameters(), weights, strict=True):
            rows, columns = record.shape
            scale = columns**0.5 if record.atom == "Embed" else (rows / columns) ** 0.5
            p.copy_(scale * w)
    return model


def seconds(run: Callable[[], None], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def measure(width: int, blocks: int, batch: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of forward and backward: ours and modula's, a pair a round."""
    theirs, weights = modula_gpt(width, blocks)
    ours = compiled_gpt(width, blocks, weights)
    tokens = torch.randint(0, 65, (batch, 64), generator=torch.Generator().manual_seed(0))
    target = tokens.roll(1).flatten()
    close = (ours(tokens) - theirs.forward(tokens, weights)).abs().max().item()
    assert close < 1e-3, f"the two models differ by {close}"

    def run_ours() -> None:
        ours.zero_grad(set_to_none=True)
        F.cross_entropy(ours(tokens).flatten(0, 1), target).backward()

    def run_theirs() -> None:
        weights.zero_grad()
        F.cross_entropy(theirs.forward(tokens, weights).flatten(0, 1), target).backward()

    repeat = max(1, round(0.2 / seconds(run_theirs, 2)))
    seconds(run_ours, 2)
    pairs = [(seconds(run_ours, repeat), seconds(run_theirs, repeat)) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, batch {options.batch} x 64\n")
    print("| width, blocks | modnorm, ms | modula, ms | ratio | ratio, pair by pair |")
    print("| --- | --- | --- | --- | --- |")
    for width, blocks in SIZES:
        ours, theirs = measure(width, blocks, options.batch, options.rounds)
        a, b = statistics.median(ours), statistics.median(theirs)
        ratios = sorted(x / y for x, y in zip(ours, theirs, strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"| {width}, {blocks} | {a * 1e3:.1f} | {b * 1e3:.1f} | {a / b:.2f} | {spread} |")


if __name__ == "__main__":
    main()
