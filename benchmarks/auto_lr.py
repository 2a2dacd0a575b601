"""lr="auto" against a swept learning rate: small models, 300 steps, three seeds.

    python benchmarks/auto_lr.py                  # all models, some four minutes
    python benchmarks/auto_lr.py --model gpt      # one of them, at most a minute and a half

Models are examples/gpt.mod (d_embed 64, 2 blocks, context 32, batch 8) on shakespeare, the same
with `Readout` as its last layer, and examples/resmlp.mod (width 64, 2 blocks, batch 64) on
fashion-mnist with GELU for Abs, which is not smooth, so that lr="auto" would be an error. A
falling learning rate does so linearly, to 0. The sweep goes up and down by factors of 2 from a
guess until both neighbours of the best are worse, by the mean of the seeds' training losses.

Prints a Markdown table. Step sizes are medians over the seeds, a training loss is the mean over
the last 50 steps, ± is half the seeds' range, and "to swept" the ratio of held-out losses. λ is
the bound that the file knows, or the median of what the runs with that bound and a constant
factor have met: the curvature of every tenth batch's loss along the step,
2·(change of the loss + η·slope)/η², over the square of the norm that steps are taken to have. All
of it runs on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import modnorm
from modnorm.data import texts
from modnorm.data.tasks import Task, make_task, only_input
from modnorm.train import falling, train

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SEEDS, TAIL = (0, 1, 2), 50


@dataclass(frozen=True)
class Case:
    """A model: an example, what is replaced in its text, and what it is trained on.

    guesses: log2 of the learning rate where each optimizer's sweep begins.
    """

    file: str
    replaced: dict[str, str]
    params: dict[str, int]
    data: str
    batch: int
    guesses: dict[str, int]


GPT = {"d_embed": 64, "blocks": 2, "heads": 4, "context": 32}
CASES = {
    "gpt": Case("gpt.mod", {}, GPT, "shakespeare", 8, {"DualizedSGD": -2, "NormedAdam": -1}),
    "gpt, Readout": Case(
        "gpt.mod",
        {"model GPT = Linear(vocab)": "model GPT = Readout(vocab)"},
        GPT,
        "shakespeare",
        8,
        {"DualizedSGD": -1, "NormedAdam": -1},
    ),
    "resmlp, GELU": Case(
        "resmlp.mod",
        {"@ Abs @": "@ ScaledGELU @", "import residual": "import ScaledGELU, residual"},
        {"width": 64, "blocks": 2},
        "fashion-mnist",
        64,
        {"DualizedSGD": -2, "NormedAdam": -2},
    ),
}


@dataclass(frozen=True)
class Trained:
    """One run, with the sizes of its steps, and the curvatures that some of them met."""

    train: float
    held_out: float
    sizes: list[float]
    curvatures: list[float]


def module_of(case: Case, folder: str) -> ModuleType:
    text = (EXAMPLES / case.file).read_text(encoding="utf-8")
    for old, new in case.replaced.items():
        assert old in text, f"{case.file} has changed: {old!r} is not in it"
        text = text.replace(old, new)
    path = Path(folder) / case.file
    path.write_text(text, encoding="utf-8")
    return modnorm.load(path, **case.params)


def trained(
    module: ModuleType, task: Task, kind: str, seed: int, steps: int, falls: bool, **options: Any
) -> Trained:
    model = getattr(module, module.MODEL)(generator=torch.Generator().manual_seed(seed))
    optimizer = getattr(module, kind)(model.named_parameters(), **options)
    (group,) = optimizer.param_groups
    reach = max(optimizer.reach(group, w) for w in optimizer.plan if w.target)
    batches = torch.Generator().manual_seed(seed)
    losses, sizes, curvatures = list[float](), list[float](), list[float]()
    drawn: list[Any] = []

    def objective() -> torch.Tensor:
        drawn[:] = task.draw(batches)
        return task.loss(model(drawn[0]), drawn[1])

    factor = falling("linear" if falls else "constant", steps)
    for step, loss in enumerate(train(objective, [optimizer], range(steps), factor=factor)):
        losses.append(loss.item())
        sizes.append(group.get("step_size", group["lr"]))
        if "smoothness" in group and not falls and step % 10 == 0 and sizes[-1]:
            with torch.no_grad():
                change = task.loss(model(drawn[0]), drawn[1]).item() - losses[-1]
            # The step is η = slope/(λ·reach²), and so is one with what was met for λ.
            curvatures.append(2 * (change / (sizes[-1] * reach) ** 2 + group["smoothness"]))
    with torch.no_grad():
        held_out = statistics.fmean(task.loss(model(x), y).item() for x, y in task.held_out())
    return Trained(statistics.fmean(losses[-TAIL:]), held_out, sizes, curvatures)


def spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


def row(names: list[str], tried: list[Trained], best: list[Trained]) -> str:
    sizes = (
        statistics.median(pick(run.sizes) for run in tried)
        for pick in (lambda s: s[0], statistics.median, lambda s: s[-1])
    )
    ratio = statistics.fmean(a.held_out / b.held_out for a, b in zip(tried, best, strict=True))
    losses = spread([run.train for run in tried]), spread([run.held_out for run in tried])
    cells = [*names, ", ".join(f"{x:.2g}" for x in sizes), *losses, f"{ratio:.3f}"]
    return f"| {' | '.join(cells)} |"


def rows(name: str, case: Case, steps: int, folder: str) -> Iterator[str]:
    module = module_of(case, folder)
    found = texts.load(case.data)
    task = make_task(only_input(module), found, case.batch, case.params.get("context"), 40)
    task.to(torch.device("cpu"), torch.float32)
    bound = module.PLAN.smoothness["cross_entropy"]
    for kind, guess in case.guesses.items():

        def runs(falls: bool = True, kind: str = kind, **options: Any) -> list[Trained]:
            return [trained(module, task, kind, seed, steps, falls, **options) for seed in SEEDS]

        swept = {guess: runs(lr=2.0**guess)}

        def mean(log: int, swept: dict[int, list[Trained]] = swept) -> float:
            return statistics.fmean(run.train for run in swept[log])

        while missing := {(log := min(swept, key=mean)) - 1, log + 1} - swept.keys():
            swept |= {other: runs(lr=2.0**other) for other in missing}
        best = swept[log]
        yield row([name, kind, f"swept: 2^{log}, falling", ""], best, best)
        constant = runs(lr="auto", falls=False)
        yield row([name, kind, "auto", f"{bound:.3g}, bound"], constant, best)
        yield row([name, kind, "auto, falling", f"{bound:.3g}, bound"], runs(lr="auto"), best)
        curved = [x for run in constant for x in run.curvatures]
        met = float(f"{statistics.median(curved):.2g}")
        words = f"{met:.2g}, met (at most {max(curved):.2g})"
        yield row([name, kind, "auto, falling", words], runs(lr="auto", smoothness=met), best)


HEAD = (
    *("model", "optimizer", "learning rate", "λ", "step: first, median, last"),
    *("training loss", "held-out loss", "to swept"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=CASES, action="append", help="by default all")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.model or CASES:
            for line in rows(name, CASES[name], options.steps, folder):
                print(line, flush=True)


if __name__ == "__main__":
    main()
