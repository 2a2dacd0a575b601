"""Time one optimizer step of a GPT: this project's optimizers, torch's, and modula's.

    python benchmarks/step.py                                   # a Markdown table on stdout
    python benchmarks/step.py --size 128,4 --rounds 300 --threads 1

Needs `pip install modula==0.0.0.0.0.2`. Everything runs in one process and takes turns, so that
whatever else the machine does meets all alike and none finds its own numbers left in a cache: a
round makes one timed step of each, and the table shows the medians. The gradients are fixed random
numbers. Weight decay is on in all of them, except in the rows that say otherwise.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import modula.compound
import torch
from modula.vector import Vector
from torch import Tensor, nn

from modnorm.kernels.optimizer import DualizedSGD, NormedAdam, NormedSGD
from modnorm.kernels.plan import Weight

VOCAB, CONTEXT, HEADS = 65, 64, 4
LR, DECAY = 1e-3, 0.01


def gpt_plan(width: int, depth: int) -> tuple[Weight, ...]:
    """The weights of modula's GPT in execution order, with its targets (blocks of mass 5)."""
    square, up, down = (width, width), (4 * width, width), (width, 4 * width)
    rows = [("token", "row_rms", (VOCAB, width), 1 / 7)]
    rows += [("position", "row_rms", (CONTEXT, width), 1 / 7)]
    for block in range(depth):
        rows += [(f"block.{block}.{name}", "spectral", square, 5 / 7) for name in "qkv"]
        rows += [(f"block.{block}.out", "spectral", square, 5 / 21)]
        rows += [(f"block.{block}.up", "spectral", up, 5 / 21)]
        rows += [(f"block.{block}.down", "spectral", down, 5 / 21)]
    rows += [("head", "spectral", (VOCAB, width), 1 / 7)]
    atoms = {"row_rms": "Embed", "spectral": "Linear"}
    return tuple(Weight(name, atoms[n], shape, n, 1.0, t) for name, n, shape, t in rows)


def modula_step(width: int, depth: int, grads: list[Tensor]) -> Callable[[], object]:
    """What modula's example script does between backward pass and next forward pass, with Adam."""
    head = width // HEADS
    model = modula.compound.GPT(VOCAB, CONTEXT, HEADS, width, head, head, depth)
    weights = model.initialize(device="cpu")
    if [tuple(weight.shape) for weight in weights] != [tuple(grad.shape) for grad in grads]:
        raise SystemExit("modula's GPT has other weights than this benchmark's")
    beta1, beta2, count, grad = 0.9, 0.99, 0, Vector(grads)
    with torch.no_grad():
        first, second = 0 * weights, 0 * weights

    @torch.no_grad()
    def step() -> None:
        nonlocal count, first, second, weights
        first += (1 - beta1) ** (count / (count + 1)) * (grad - first)
        second += (1 - beta2) ** (count / (count + 1)) * (grad**2 - second)
        update = first / second**0.5
        update.zero_nans()
        model.normalize(update, target_norm=LR)
        weights -= update
        model.regularize(weights, strength=LR * DECAY)
        count += 1

    return step


def muon_step(params: list[nn.Parameter], plan: tuple[Weight, ...]) -> Callable[[], object]:
    """torch's Muon on the blocks' matrices, its fused AdamW on the rest."""
    inside = [p for p, w in zip(params, plan, strict=True) if w.name.startswith("block")]
    outside = [p for p, w in zip(params, plan, strict=True) if not w.name.startswith("block")]
    muon = torch.optim.Muon(inside, lr=LR, weight_decay=DECAY)
    adam = torch.optim.AdamW(outside, lr=LR, weight_decay=DECAY, fused=True)

    def step() -> None:
        muon.step()
        adam.step()

    return step


def contenders(width: int, depth: int) -> tuple[int, dict[str, Callable[[], object]]]:
    """The number of weights, and each method's step; all share the parameters and gradients."""
    plan = gpt_plan(width, depth)
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(w.shape)) for w in plan]
    for p in params:
        p.grad = torch.randn_like(p)
    named = [(w.name, p) for p, w in zip(params, plan, strict=True)]
    torch_options = {"lr": LR, "weight_decay": DECAY}
    own = {**torch_options, "plan": plan}
    return sum(p.numel() for p in params), {
        "torch AdamW, fused": torch.optim.AdamW(params, fused=True, **torch_options).step,
        "torch AdamW, foreach": torch.optim.AdamW(params, foreach=True, **torch_options).step,
        "modula, Adam": modula_step(width, depth, [p.grad for p in params if p.grad is not None]),
        "NormedAdam, no decay": NormedAdam(named, lr=LR, plan=plan).step,
        "NormedAdam": NormedAdam(named, **own).step,
        "NormedSGD": NormedSGD(named, **own).step,
        "torch Muon + AdamW, fused": muon_step(params, plan),
        "DualizedSGD": DualizedSGD(named, **own).step,
    }


def measure(
    steps: dict[str, Callable[[], object]],
    rounds: int,
    budget: float,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Median seconds of each step. One that has used up its budget of seconds sits out the rest."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            if len(times[name]) < 5 or sum(times[name]) < budget:
                start = clock()
                step()
                times[name].append(clock() - start)
    return {name: statistics.median(taken[2:]) for name, taken in times.items()}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--size", action="append", metavar="WIDTH,DEPTH", help="128,4 256,6 512,8 by default"
    )
    parser.add_argument("--rounds", type=int, default=200, help="steps of each method (200)")
    parser.add_argument("--budget", type=float, default=10, help="seconds a method and size (10)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (1)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time: for a machine that others use too"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{processor()}; {options.threads} threads; Python {platform.python_version()}, ", end="")
    clock = time.process_time if options.cpu_time else time.perf_counter
    kind = "processor time" if options.cpu_time else "time"
    print(f"torch {torch.__version__}, modula 0.0.0.0.0.2; medians of {kind}\n")
    print("| width, depth | weights | method | ms a step | against AdamW, fused | against modula |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in options.size or ["128,4", "256,6", "512,8"]:
        width, depth = map(int, size.split(","))
        count, steps = contenders(width, depth)
        medians = measure(steps, options.rounds, options.budget, clock)
        adamw, reference = medians["torch AdamW, fused"], medians["modula, Adam"]
        for name, median in medians.items():
            ratios = f"{median / adamw:.2f} | {median / reference:.2f}"
            print(f"| {width}, {depth} | {count} | {name} | {1e3 * median:.2f} | {ratios} |")


if __name__ == "__main__":
    main()
