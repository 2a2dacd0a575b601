"""One optimizer step: modnorm's, torch's, modula's and what other peers are installed.

    python benchmarks/step.py                          # a Markdown table on stdout
    python benchmarks/step.py --model "gpt 128, 4" --rounds 300 --threads 1

Needs `pip install modula==0.0.0.0.0.2`. Everything runs in one process and takes turns, so that
whatever else the machine does meets all alike and none finds its own numbers left in a cache: a
round makes one timed step of each. The table shows the median, the middle half of the times, and
the median of the ratios to fused AdamW and to modula in the same round, and to copying: the time in
which this machine copies the bytes that fused AdamW has to move (weight, gradient and two moments
read, all but the gradient written). Gradients are fixed random numbers; weight
decay is on. With a GPU, everything runs there too, in float32 and, for the largest model, bfloat16.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from models import MODELS, ON_CPU, gpt
from peers import Step, Subject, contenders, version

COLUMNS = (
    *("model", "weights", "optimizer", "ms a step", "middle half"),
    *("to fused AdamW", "to modula", "to copying"),
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def clock_for(device: str, cpu_time: bool) -> Callable[[], float]:
    """The time once the device has done what it was given."""
    clock = time.process_time if cpu_time else time.perf_counter
    if device == "cpu":
        return clock

    def after_the_device() -> float:
        torch.cuda.synchronize()
        return clock()

    return after_the_device


def measure(
    steps: dict[str, Step], rounds: int, budget: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each step. One that has used up its budget of seconds sits out the rest."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 2):
        for name, step in steps.items():
            if round_ < 7 or sum(times[name]) < budget:
                start = clock()
                step()
                times[name].append(clock() - start)
    return {name: taken[2:] for name, taken in times.items()}


def copying(device: str, clock: Callable[[], float]) -> float:
    """Bytes a second, read and written, of copying 256 MiB."""
    source = torch.ones(1 << 26, device=device)
    target, taken = torch.empty_like(source), []
    for _ in range(7):
        start = clock()
        target.copy_(source)
        taken.append(clock() - start)
    return 2 * 4 * source.numel() / statistics.median(taken)


def ratio(times: dict[str, list[float]], name: str, other: str) -> str:
    """The median over the rounds that both ran."""
    if other not in times:
        return ""
    return (
        f"{statistics.median(a / b for a, b in zip(times[name], times[other], strict=False)):.2f}"
    )


def table(model: str, device: str, dtype: torch.dtype, options: argparse.Namespace) -> None:
    """Measures a model and prints its rows."""
    clock = clock_for(device, options.cpu_time)
    subject = Subject(MODELS[model](), device, dtype)
    steps = {name: make() for name, make in contenders(subject).items()}
    times = measure(steps, options.rounds, options.budget, clock)
    label = model if dtype == torch.float32 else f"{model}, bfloat16"
    floor = 7 * dtype.itemsize * subject.entries / copying(device, clock)
    for name, taken in times.items():
        low, middle, high = statistics.quantiles(taken, n=4)
        columns = (ratio(times, name, "torch AdamW, fused"), ratio(times, name, "modula, Adam"))
        print(
            f"| {label} | {subject.entries:,} | {name} | {1e3 * middle:.2f} "
            f"| {1e3 * low:.2f} to {1e3 * high:.2f} | {columns[0]} | {columns[1]} "
            f"| {middle / floor:.2f} |",
            flush=True,
        )
    del steps, subject
    gc.collect()


def machine(device: str) -> str:
    """What it runs on, and the versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0]}, {len(names)} cores" if names else platform.processor()
    if device != "cpu":
        processor = torch.cuda.get_device_name()
    packages = ("modula", "triton", "heavyball", "dion", "gram-newton-schulz")
    versions = [f"{name} {version(name)}" for name in packages if version(name)]
    python = f"Python {platform.python_version()}"
    return ", ".join([processor, python, f"torch {torch.__version__}", *versions])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", action="append", choices=[*MODELS], help="instead of those that fit the machine"
    )
    parser.add_argument("--size", action="append", metavar="WIDTH,DEPTH", help="a GPT of this size")
    parser.add_argument("--rounds", type=int, default=200, help="steps of each optimizer (200)")
    parser.add_argument(
        "--budget", type=float, default=10, help="seconds an optimizer and model (10)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (1)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time: for a machine that others use too"
    )
    options = parser.parse_args()
    for size in options.size or []:
        width, depth = map(int, size.split(","))
        name = f"gpt {width}, {depth}"
        MODELS.setdefault(name, partial(gpt, width, depth))
        options.model = [*(options.model or []), name]
    torch.set_num_threads(options.threads)
    kind = "processor time" if options.cpu_time else "time"
    print(f"On the CPU: {machine('cpu')}; {options.threads} threads; {kind}.\n\n{HEADER}")
    for model in options.model or ON_CPU:
        table(model, "cpu", torch.float32, options)
    if not torch.cuda.is_available():
        print("\nOn a GPU: not measured, there is none.")
        return
    print(f"\nOn the GPU: {machine('cuda')}.\n\n{HEADER}")
    for model in options.model or MODELS:
        table(model, "cuda", torch.float32, options)
        if model == "gpt 1B":
            table(model, "cuda", torch.bfloat16, options)


if __name__ == "__main__":
    main()
