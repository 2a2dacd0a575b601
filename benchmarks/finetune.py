"""A GPT-2 of transformers that AdamW trained on one text, finetuned on another: AdamW and adopted.

    python benchmarks/finetune.py                # goes on where it was stopped; prints the table
    python benchmarks/finetune.py --print        # the table of what is there, by rates

The first text is the source of Python's standard library, the second Shakespeare, in the same
characters. Rates are powers of two around the best one; more are added until the best is inside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from adopted import BATCH, CONTEXT, built
from adopted import Run as Size
from torch import nn

import modnorm
from modnorm.data import texts
from modnorm.data.tasks import NextCharacter
from modnorm.sweep.fits import mean, standard_error
from modnorm.train import falling, train

HERE = Path(__file__).resolve().parent
STORE = HERE / "transfer" / "results" / "finetune.jsonl"
WIDTH, DEPTH, EVAL_BATCHES = 64, 2, 16
FIRST, SECOND = 800, 150
"""Steps on each of the texts."""
RATE = 2.0**-8
"""Of AdamW on the first text: with seed 0 better than its half and its double."""
MASSES: Any = {"blocks_mass": 32, "masses": {"transformer.wte.weight": 0.5}}
"""The only ones that were tried; adopt's own were chosen for models that begin."""
START = {"adamw": -9, "dualized_sgd": -4}
"""The power of two of the middle one of the learning rates to begin with."""


@dataclass(frozen=True)
class Run:
    """What a loss depends on: the power of two of the learning rate, and the rest."""

    optimizer: str
    seed: int
    log2: int


@dataclass(frozen=True)
class Losses:
    """On the held-out parts of both texts after finetuning, in nats; None where it failed."""

    first: float | None
    second: float | None


def task(name: str) -> NextCharacter:
    text = texts.load(name)
    assert isinstance(text, texts.Text)
    return NextCharacter(text, BATCH, CONTEXT, EVAL_BATCHES)


def trained(model: nn.Module, optimizer: Any, on: NextCharacter, steps: int, seed: int) -> bool:
    """Train on a text, at a rate that falls to 0; whether it went well."""
    batches = torch.Generator().manual_seed(seed)

    def objective() -> torch.Tensor:
        x, y = on.draw(batches)
        return nn.functional.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())

    try:
        for loss in train(objective, [optimizer], range(steps), factor=falling("linear", steps)):
            if not math.isfinite(loss.item()):
                return False
    except FloatingPointError:
        return False
    return True


@torch.no_grad()
def held_out(model: nn.Module, on: NextCharacter) -> float:
    model.eval()
    return on.measure(lambda x: model(x).logits)[0]


def made(name: str, model: nn.Module, rate: float, example: torch.Tensor) -> Any:
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    return modnorm.adopt(model, example, kind=name, lr=rate, **MASSES)


def pretrained(seed: int, first: NextCharacter, rate: float = RATE) -> nn.Module:
    model = built(Size("adamw", WIDTH, DEPTH, seed, 0), first.classes)
    own = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    assert trained(model, own, first, FIRST, seed)
    return model


def finetuned(run: Run, before: nn.Module, first: NextCharacter, second: NextCharacter) -> Losses:
    model = deepcopy(before).train()
    example = second.draw(torch.Generator().manual_seed(0))[0]
    own = made(run.optimizer, model, 2.0**run.log2, example)
    if not trained(model, own, second, SECOND, 1000 + run.seed):
        return Losses(None, None)
    return Losses(held_out(model, first), held_out(model, second))


def finished() -> dict[Run, Losses]:
    found = {}
    for line in STORE.read_text("utf-8").splitlines() if STORE.exists() else ():
        row = json.loads(line)
        found[Run(row["optimizer"], row["seed"], row["log2"])] = Losses(row["first"], row["second"])
    return found


def note(run: Run, losses: Losses, found: dict[Run, Losses]) -> None:
    found[run] = losses
    with STORE.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(run) | asdict(losses)) + "\n")


def missing(name: str, seeds: int, found: dict[Run, Losses]) -> Iterator[Run]:
    """The runs that a curve still needs: three rates, and more until the best one is inside."""
    near = set(range(START[name] - 1, START[name] + 2))
    if all(Run(name, seed, log2) in found for seed in range(seeds) for log2 in near):
        best = min(rates(name, found), key=lambda log2: mean(second(name, log2, found)))
        near = {best - 1, best, best + 1}
    for seed in range(seeds):
        for log2 in sorted(near):
            if (run := Run(name, seed, log2)) not in found:
                yield run


def rates(name: str, found: dict[Run, Losses]) -> set[int]:
    return {run.log2 for run in found if run.optimizer == name}


def second(name: str, log2: int, found: dict[Run, Losses]) -> list[float]:
    own = [x for run, x in found.items() if (run.optimizer, run.log2) == (name, log2)]
    return [math.inf if x.second is None else x.second for x in own]


def table(found: dict[Run, Losses]) -> None:
    """Means over seeds at each rate; the best for the second text is bold."""
    click.echo("| optimizer | rate | loss on the second text | on the first |")
    click.echo("| --- | --- | --- | --- |")
    for name in dict.fromkeys(run.optimizer for run in found):
        best = min(rates(name, found), key=lambda log2: mean(second(name, log2, found)))
        for log2 in sorted(rates(name, found)):
            own = [x for run, x in found.items() if (run.optimizer, run.log2) == (name, log2)]
            cells = []
            for values in ([x.second for x in own], [x.first for x in own]):
                known = [math.inf if x is None else x for x in values]
                error = standard_error(known)
                cells.append(f"{mean(known):.3f}" + ("" if error is None else f" ± {error:.3f}"))
            bold = "**" if log2 == best and name in START else ""
            rate = f"2^{log2}" if name in START else ""
            click.echo(f"| {name} | {rate} | {bold}{cells[0]}{bold} | {cells[1]} |")


@click.command()
@click.option("--print", "prints", is_flag=True, help="Only print what is there.")
@click.option("--seeds", default=3)
def main(prints: bool, seeds: int) -> None:
    """Train what is not there yet, and print losses at the best learning rates."""
    found = finished()
    if not prints:
        fill(found, seeds)
    table(found)


def fill(found: dict[Run, Losses], seeds: int) -> None:
    """Train what is not there yet."""
    torch.set_num_threads(1)
    one, two = task("python"), task("shakespeare")
    models = dict[int, nn.Module]()

    def before(seed: int) -> nn.Module:
        if seed not in models:
            models[seed] = pretrained(seed, one)
        return models[seed]

    for seed in range(seeds):
        if (run := Run("none", seed, 0)) not in found:
            note(run, Losses(held_out(before(seed), one), held_out(before(seed), two)), found)
    for name in START:
        while wanted := list(missing(name, seeds, found)):
            for run in wanted:
                note(run, finetuned(run, before(run.seed), one, two), found)


if __name__ == "__main__":
    main()
