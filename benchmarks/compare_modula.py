"""Side by side: modula's own GPT and training loop, and the compiled examples/gpt.mod.

    python benchmarks/compare_modula.py                    # both, 2,000 steps, seed 0
    python benchmarks/compare_modula.py --seeds 3 --only modula

Both are modula's example: vocabulary 65, context 64, 4 heads, d_embed 128, d_query = d_value = 32,
4 blocks, learning rate 0.5 falling to 0, weight decay 0.01, batch 12, betas 0.9 and 0.99. Both
see the same text, the same batches in the same order and the same held-out windows; timings are of
training steps alone. Prints a Markdown table. Needs torch, modnorm and `modula` (PyPI).
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from checkpoint import Trouble  # noqa: E402
from trainer import data_troubles, load_module  # noqa: E402

from modnorm.data import texts  # noqa: E402
from modnorm.data.tasks import NextCharacter, cross_entropy  # noqa: E402
from modnorm.train import train  # noqa: E402

SIZES = {"vocab": 65, "context": 64, "d_embed": 128, "heads": 4, "blocks": 4, "blocks_mass": 5}
HEAD = SIZES["d_embed"] // SIZES["heads"]
LR, WEIGHT_DECAY, BETA1, BETA2, BATCH = 0.5, 0.01, 0.9, 0.99, 12


@dataclass(frozen=True)
class Trained:
    """One run: held-out loss at the end, mean training loss of the last tenth, seconds a step."""

    held_out: float
    train: float
    step_seconds: float


Forward = Callable[[torch.Tensor], torch.Tensor]


class Update:
    """What is done after a backward pass, as an optimizer that counts its steps."""

    def __init__(self, update: Callable[[int], None]) -> None:
        self.update, self.steps = update, 0
        self.param_groups: list[dict[str, Any]] = []

    def zero_grad(self) -> None:
        """The update does that itself."""

    def step(self) -> None:
        self.update(self.steps)
        self.steps += 1


def trained(
    task: NextCharacter, steps: int, seed: int, forward: Forward, update: Callable[[int], None]
) -> Trained:
    """The loop that both share: draw, forward, backward, then `update(step)`."""
    batches = torch.Generator().manual_seed(seed)
    seconds: list[float] = []
    losses: list[torch.Tensor] = []

    def objective() -> torch.Tensor:
        x, y = task.draw(batches)
        return cross_entropy(forward(x), y)

    begun = time.perf_counter()
    for loss in train(objective, [Update(update)], range(steps)):
        losses.append(loss)
        now = time.perf_counter()
        seconds.append(now - begun)
        begun = now
    with torch.no_grad():
        held_out = [cross_entropy(forward(x), y) for x, y in task.held_out()]
    return Trained(
        float(torch.stack(held_out).mean()),
        float(torch.stack(losses[-max(1, steps // 10) :]).mean()),
        statistics.median(seconds),
    )


def modula_network(seed: int) -> tuple[Any, Any]:
    """modula's GPT of the sizes above, and its freshly drawn weights."""
    from modula.compound import GPT

    torch.manual_seed(seed)
    network = GPT(
        vocab_size=SIZES["vocab"],
        context=SIZES["context"],
        num_heads=SIZES["heads"],
        d_embed=SIZES["d_embed"],
        d_query=HEAD,
        d_value=HEAD,
        num_blocks=SIZES["blocks"],
        blocks_mass=SIZES["blocks_mass"],
    )
    return network, network.initialize(device="cpu")


def run_modula(task: NextCharacter, steps: int, seed: int) -> Trained:
    """modula's example: its Adam, then normalize, update and regularize."""
    network, weights = modula_network(seed)
    with torch.no_grad():
        mom1, mom2 = 0 * weights, 0 * weights

    @torch.no_grad()
    def update(step: int) -> None:
        nonlocal mom1, mom2
        grad = weights.grad()
        mom1 += (1 - BETA1) ** (step / (step + 1)) * (grad - mom1)
        mom2 += (1 - BETA2) ** (step / (step + 1)) * (grad**2 - mom2)
        change = mom1 / mom2**0.5
        change.zero_nans()
        lr = LR * (1 - step / steps)
        network.normalize(change, target_norm=lr)
        weights.__isub__(change)
        network.regularize(weights, strength=lr * WEIGHT_DECAY)
        weights.zero_grad()

    return trained(task, steps, seed, lambda x: network.forward(x, weights), update)


def run_compiled(
    module: Any, task: NextCharacter, steps: int, seed: int, same_start: bool
) -> Trained:
    """The compiled model with its NormedAdam."""
    torch.manual_seed(seed)
    model = getattr(module, module.MODEL)(generator=torch.Generator().manual_seed(seed))
    if same_start:
        start_from_modula(module, model, seed)
    optimizer = module.NormedAdam(
        model.named_parameters(), lr=LR, betas=(BETA1, BETA2), weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)

    def update(step: int) -> None:
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    return trained(task, steps, seed, model, update)


@torch.no_grad()
def start_from_modula(module: Any, model: torch.nn.Module, seed: int) -> None:
    """Copies modula's initial weights; its forward's scales, √(out/in) and √dim, go into them."""
    _, weights = modula_network(seed)
    parameters = dict(model.named_parameters())
    if [tuple(w.shape) for w in weights] != [tuple(entry.shape) for entry in module.PLAN]:
        raise Trouble("the compiled model's weights are not those of modula's GPT")
    for entry, weight in zip(module.PLAN, weights, strict=True):
        rows, columns = entry.shape
        scale = columns if entry.atom == "Embed" else rows / columns
        parameters[entry.name].copy_(weight * scale**0.5)


def plus_minus(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def table(runs: dict[str, list[Trained]]) -> str:
    """A Markdown table: a row each, and the difference of the two."""
    lines = ["| | held-out loss | training loss | ms a step |", "| --- | ---: | ---: | ---: |"]
    for name, found in runs.items():
        held_out = plus_minus([run.held_out for run in found])
        training = plus_minus([run.train for run in found])
        step = 1000 * statistics.median(run.step_seconds for run in found)
        lines.append(f"| {name} | {held_out} | {training} | {step:.2f} |")
    if len(runs) == 2:
        theirs, ours = runs.values()
        pairs = list(zip(ours, theirs, strict=True))
        held_out = plus_minus([a.held_out - b.held_out for a, b in pairs])
        training = plus_minus([a.train - b.train for a, b in pairs])
        ratio = statistics.median(a.step_seconds / b.step_seconds for a, b in pairs)
        lines.append(f"| second minus first | {held_out} | {training} | × {ratio:.2f} |")
    return "\n".join(lines)


def release(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed)"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--steps", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many seeds, from 0 on.",
)
@click.option(
    "--data",
    "text",
    metavar="NAME|FILE",
    default="shakespeare",
    show_default=True,
    help="A text of at most 65 distinct characters.",
)
@click.option("--eval-batches", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--only", type=click.Choice(["modula", "modnorm"]), help="Run one of the two.")
@click.option(
    "--mod",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=ROOT / "examples" / "gpt.mod",
    help="What to compile, of the same sizes [default: examples/gpt.mod].",
)
@click.option("--same-start", is_flag=True, help="Start the compiled model at modula's weights.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@data_troubles()
def main(
    steps: int,
    seeds: int,
    text: str,
    eval_batches: int,
    only: str | None,
    mod: Path,
    same_start: bool,
    threads: int,
) -> None:
    """Train modula's GPT and the compiled examples/gpt.mod on the same batches."""
    torch.set_num_threads(threads)
    if only != "modnorm" or same_start:
        try:
            import modula  # noqa: F401
        except ImportError as error:
            raise Trouble(
                "modula is not installed: pip install modula==0.0.0.0.0.2, or give --only modnorm"
            ) from error
    found = texts.load(text)
    if not isinstance(found, texts.Text) or len(found.symbols) > SIZES["vocab"]:
        raise Trouble(f"{found.name} is no text of at most {SIZES['vocab']} distinct characters")
    task = NextCharacter(found, BATCH, SIZES["context"], eval_batches)
    runs: dict[str, list[Trained]] = {}
    if only != "modnorm":
        runs["modula"] = []
    module = None
    if only != "modula":
        module = load_module(mod, {})
        runs[f"compiled {mod.name}"] = []
    for seed in range(seeds):
        for name, done in runs.items():
            begun = time.perf_counter()
            if name == "modula":
                done.append(run_modula(task, steps, seed))
            else:
                done.append(run_compiled(module, task, steps, seed, same_start))
            click.echo(
                f"{name}, seed {seed}: held-out loss {done[-1].held_out:.4f} "
                f"({time.perf_counter() - begun:.0f} s)",
                err=True,
            )
    starts = "both from modula's initial weights" if same_start else "each from its own weights"
    click.echo(f"{table(runs)}\n")
    click.echo(
        f"GPT, {SIZES['blocks']} blocks of width {SIZES['d_embed']}; {texts.describe(found)}; "
        f"{steps:,} steps of {BATCH} × {SIZES['context']}, lr {LR:g}, weight decay "
        f"{WEIGHT_DECAY:g}, {seeds} seed{'s' * (seeds > 1)} from 0, {starts}; held-out loss over "
        f"{len(task.places):,} windows, training loss over the last tenth; "
        f"median step, {threads} thread{'s' * (threads > 1)}, CPU {platform.machine()}; "
        f"{release('modula')}, {release('modnorm')}, torch {torch.__version__}, "
        f"Python {platform.python_version()}."
    )


if __name__ == "__main__":
    sys.exit(main())
