"""GPT-2 of transformers on Shakespeare: adopted, and under torch's Muon with AdamW, at many sizes.

    python benchmarks/adopted.py                 # goes on where it was stopped; prints the table
    python benchmarks/adopted.py --print         # the table of what is there
    python benchmarks/adopted.py --size 64x4 --seeds 1 --model llama --optimizer dualized_sgd \
        --option blocks_mass=1                   # what else the docs say

Each size is trained at rates around the best one; more are added until the best is inside.
Muon has the matrices of blocks, as named (`ndim == 2`, and neither `wte` nor `wpe`, `embed` nor
`lm_head` in the name), AdamW what is left; one rate for both, by Muon's `match_rms_adamw`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

import modnorm
from modnorm.adopting.products import InFloat32
from modnorm.data import texts
from modnorm.data.tasks import NextCharacter
from modnorm.sweep.fits import mean, optimum, standard_error
from modnorm.train import falling, train

HERE = Path(__file__).resolve().parent
STORE = HERE / "transfer" / "results" / "adopted.jsonl"
STEPS, BATCH, CONTEXT, EVAL_BATCHES, TAIL = 300, 8, 64, 16, 30
SIZES = ((64, 4), (128, 4), (256, 4), (128, 2), (128, 8))
START = {"dualized_sgd": -2, "normed_adam": -2, "muon": -5}
"""The power of two of the middle one of the learning rates to begin with."""


@dataclass(frozen=True)
class Run:
    """What a loss depends on: the power of two of the learning rate, and the rest."""

    optimizer: str
    width: int
    depth: int
    seed: int
    log2: int
    options: tuple[tuple[str, float], ...] = ()
    model: str = "gpt2"


def built(run: Run, vocabulary: int) -> nn.Module:
    import transformers

    torch.manual_seed(run.seed)
    if run.model == "llama":
        like = transformers.LlamaConfig(
            vocab_size=vocabulary, max_position_embeddings=CONTEXT, hidden_size=run.width,
            intermediate_size=3 * run.width, num_hidden_layers=run.depth,
            num_attention_heads=run.width // 32, bos_token_id=None, eos_token_id=None,
            use_cache=False,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(like).train()
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=CONTEXT, n_embd=run.width, n_layer=run.depth,
        n_head=run.width // 32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None, use_cache=False,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).train()


class Muon(torch.optim.Muon):
    """As it is, quicker on a CPU that has no instructions for its products of bfloat16."""

    def step(self, closure: Any = None) -> Any:
        with InFloat32():  # type: ignore[no-untyped-call]
            return super().step(closure)


def optimizers(run: Run, model: nn.Module, example: torch.Tensor) -> list[Any]:
    rate = 2.0**run.log2
    if run.optimizer != "muon":
        options: Any = dict(run.options)
        return [modnorm.adopt(model, example, kind=run.optimizer, lr=rate, **options)]
    hidden, others = [], []
    for name, p in model.named_parameters():
        table = any(part in name for part in ("wte", "wpe", "embed", "lm_head"))
        (hidden if p.ndim == 2 and not table else others).append(p)
    return [
        Muon(hidden, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.0),
    ]


def measure(run: Run, task: NextCharacter) -> float:
    """The mean loss of the last steps, in nats; infinity where training fails."""
    model = built(run, task.classes)
    batches = torch.Generator().manual_seed(run.seed)

    def objective() -> torch.Tensor:
        x, y = task.draw(batches)
        return nn.functional.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())

    losses = []
    own = optimizers(run, model, task.draw(torch.Generator().manual_seed(0))[0])
    try:
        for loss in train(objective, own, range(STEPS), factor=falling("linear", STEPS)):
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return math.inf
    except FloatingPointError:
        return math.inf
    return mean(losses[-TAIL:])


def finished() -> dict[Run, float]:
    found = {}
    for line in STORE.read_text("utf-8").splitlines() if STORE.exists() else ():
        row = json.loads(line)
        loss = row.pop("loss")
        row["options"] = tuple((key, value) for key, value in row.get("options", ()))
        found[Run(**row)] = math.inf if loss is None else loss
    return found


def wanted(run: Run, found: dict[Run, float]) -> Iterator[Run]:
    """The runs that a curve still needs: three, and more until the best one is inside."""
    fields = asdict(run) | {"options": run.options}
    curve = {r.log2: loss for r, loss in found.items() if asdict(r) | {"log2": 0} == asdict(run)}
    start = START[run.optimizer]
    near = {start - 1, start, start + 1}
    if near <= curve.keys():
        best = min(curve, key=lambda x: curve[x])
        near = {best - 1, best, best + 1}
    for log2 in sorted(near - curve.keys()):
        yield Run(**fields | {"log2": log2})


def table(found: dict[Run, float]) -> None:
    curves: dict[Any, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for run, loss in sorted(found.items(), key=lambda item: item[0].log2):
        key = run.model, run.optimizer, run.options, run.width, run.depth
        curves[key][run.seed].append((run.log2, loss))
    click.echo("model, optimizer                     width depth seeds  best log2 lr          loss")
    for (model, name, options, width, depth), seeds in sorted(curves.items()):
        best = [found for points in seeds.values() if (found := optimum(points)) is not None]
        if not best:
            continue
        at, loss = (mean([one[i] for one in best]) for i in (0, 1))
        error = standard_error([one[0] for one in best])
        shown = " ".join([model, name, *(f"{key}={value:g}" for key, value in options)])
        within = "" if error is None else f"± {error:.2f}"
        click.echo(
            f"{shown:36} {width:5} {depth:5} {len(best):5}  {at:6.2f} {within:8} {loss:12.4f}"
        )


@click.command()
@click.option("--print", "prints", is_flag=True, help="Only print what is there.")
@click.option("--optimizer", "names", multiple=True, default=("dualized_sgd", "muon"))
@click.option("--model", type=click.Choice(["gpt2", "llama"]), default="gpt2")
@click.option("--seeds", default=3)
@click.option("--size", "sizes", multiple=True, help="WIDTHxDEPTH, by default five of them.")
@click.option("--option", "options", multiple=True, help="KEY=NUMBER, of adopt.")
def main(
    prints: bool, names: tuple[str, ...], model: str, seeds: int, sizes: tuple[str, ...],
    options: tuple[str, ...],
) -> None:  # fmt: skip
    """Train what is not there yet, and print the best learning rates."""
    found = finished()
    torch.set_num_threads(1)
    text = texts.load("shakespeare")
    assert isinstance(text, texts.Text)
    task = NextCharacter(text, BATCH, CONTEXT, EVAL_BATCHES)
    given = tuple((key, float(value)) for key, value in (one.split("=") for one in options))
    chosen = [tuple(map(int, size.split("x"))) for size in sizes] or list(SIZES)
    for seed in () if prints else range(seeds):
        for width, depth in chosen:
            for name in names:
                run = Run(name, width, depth, seed, 0, given, model)
                while missing := list(wanted(run, found)):
                    for one in missing:
                        found[one] = loss = measure(one, task)
                        row = asdict(one) | {"loss": loss if math.isfinite(loss) else None}
                        with STORE.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
    table(found)


if __name__ == "__main__":
    main()
