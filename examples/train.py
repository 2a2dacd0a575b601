"""Trains any compiled module, on a CPU or a GPU, and resumes bit for bit.

    python examples/train.py gpt.py                            # what modnorm compile wrote
    python examples/train.py examples/gpt.mod -p d_embed=256   # compiled in memory
    python examples/train.py gpt.py --checkpoint run.pt --checkpoint-every 500
    python examples/train.py gpt.py --checkpoint run.pt --checkpoint-every 500 --resume

The task follows from the module's INPUTS: text for int[batch, seq], images for float[batch, …].
Your own data may also be a function, `--data module:function` (modnorm/data/functions.py).
The learning rate falls linearly to 0. Needs modnorm with torch.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from checkpoint import Trouble, beside, expect_apart, expect_free
from screen import Row, Screen
from trainer import (
    DTYPES,
    Run,
    Settings,
    constants_of,
    data_troubles,
    has_weight_decay,
    load_module,
)

from modnorm.data import texts
from modnorm.data.tasks import NextCharacter, default_data, make_task, only_input
from modnorm.sweep.axes import NORMED


class Log:
    """JSON lines: the settings, then one row an evaluation. A resumed run takes out later rows."""

    def __init__(
        self, path: Path | None, settings: Settings, step: int, resume: bool, force: bool
    ) -> None:
        self.path = path
        if path is None:
            return
        head = {"modnorm": "log", "settings": asdict(settings), "torch": str(torch.__version__)}
        kept = [json.dumps(head)]
        try:
            if resume and path.exists():
                kept = self.kept(path, step, force) or kept
            temporary = beside(path)
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            raise Trouble(f"the log {path} cannot be written: {error.strerror}") from error

    @staticmethod
    def kept(path: Path, step: int, force: bool) -> list[str]:
        """The lines that stay, if this program wrote the file. One that was cut off may be last."""
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if not lines:
            return []
        found = list(map(as_row, lines))
        if found[0].get("modnorm") != "log" and not {"settings", "torch"} <= found[0].keys():
            if force:
                return []
            raise Trouble(
                f"{path} is no log of this program: give another --log, or --force to replace it"
            )
        strange = next((n for n, row in enumerate(found[1:-1], 2) if not is_evaluation(row)), 0)
        if strange and not force:
            raise Trouble(
                f"{path} is damaged, in line {strange}: mend it, or give another --log, or --force "
                "to go on without such lines"
            )
        rows = zip(lines[1:], found[1:], strict=True)
        return lines[:1] + [x for x, row in rows if is_evaluation(row) and row["step"] <= step]

    def write(self, row: dict[str, Any]) -> None:
        if self.path is not None:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise Trouble(f"the log {self.path} cannot be written: {error}") from error


def as_row(line: str) -> dict[str, Any]:
    """The object that a line holds; an empty one where it holds something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_evaluation(row: dict[str, Any]) -> bool:
    return isinstance(row.get("step"), int)


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM: a run stops between two steps, the second signal is hard."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    run: Run,
    screen: Screen,
    log: Log,
    eval_every: int,
    checkpoint: Path | None,
    checkpoint_every: int | None,
) -> int:
    """Trains to the end; the exit code (128 + the signal's number where it was stopped)."""
    steps = run.settings.steps
    look_every = 1 if run.settings.device == "cpu" else 20  # a look at a GPU's loss waits for it
    spent, begun = 0.0, run.step
    held_out: float | None = None

    def finite(loss: float, which: str) -> None:
        if not math.isfinite(loss):
            raise Trouble(
                f"the {which} loss is {loss} at step {run.step} with a learning rate of "
                f"{run.settings.lr:g}: give a smaller --lr"
            )

    def evaluate() -> None:
        nonlocal held_out
        mean = run.mean_loss()
        held_out, accuracy = run.held_out()
        finite(held_out, "held-out")
        rate = (run.step - begun) / spent if spent else None
        screen.row(Row(run.step, mean, held_out, accuracy, rate))
        log.write(
            {
                "step": run.step,
                "train_loss": mean,
                "held_out_loss": held_out,
                "held_out_accuracy": accuracy,
                "lr": run.schedule.get_last_lr()[0],
                "steps_per_second": rate,
            }
        )

    with stop_requests() as stopped, screen:
        if run.step in (0, steps):
            evaluate()
        while run.step < steps and not stopped:
            started = time.perf_counter()
            loss = run.train_step()
            last = run.step == steps
            saves = last or (checkpoint_every is not None and run.step % checkpoint_every == 0)
            evaluates = last or run.step % eval_every == 0
            if saves or evaluates or stopped or run.step % look_every == 0:
                value = float(loss)
                finite(value, "training")
                screen.progress(run.step, value)
            spent += time.perf_counter() - started
            if evaluates:
                evaluate()
            if saves and checkpoint is not None:
                run.save(checkpoint)
        if stopped and run.step < steps and checkpoint is not None:
            run.save(checkpoint)
    screen.finish(run.step, held_out, spent, bool(stopped), checkpoint)
    return 128 + stopped[0] if stopped and run.step < steps else 0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-p", "constants", multiple=True, metavar="NAME=VALUE", help="A constant of a .mod.")
@click.option(
    "--data",
    "data_name",
    metavar="NAME|FILE",
    help=f"{', '.join(texts.NAMED)}, a text file, an .npz with x and y, or module:function "
    "[default: what fits the model's input].",
)
@click.option(
    "--optimizer", type=click.Choice(list(NORMED)), default="normed_adam", show_default=True
)
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    default=0.4,
    show_default=True,
    help="Learning rate at the first step, in the modular norm.",
)
@click.option(
    "--weight-decay",
    type=click.FloatRange(min=0),
    help="[default: 0.01, or 0 where the optimizer has none]",
)
@click.option("--steps", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--context", type=click.IntRange(min=1), help="Characters a window [default: 64].")
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True)
@click.option(
    "--eval-every",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="[default: a tenth of the steps]",
)
@click.option(
    "--eval-batches",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Size of the held-out set; it is the same at every evaluation.",
)
@click.option("--device", metavar="cpu|cuda", default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True)
@click.option("--compile", is_flag=True, help="Run the model through torch.compile.")
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Written at the end, and on Ctrl-C.",
)
@click.option("--checkpoint-every", type=click.IntRange(min=1), metavar="STEPS")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if there is one.")
@click.option(
    "--force", is_flag=True, help="Begin anew in files that are there, whatever they hold."
)
@click.option(
    "--log",
    "log_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="One JSON object an evaluation.",
)
@click.option(
    "--monitor",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="What the steps do to each weight, for `modnorm report --monitor`.",
)
@click.option(
    "--monitor-every",
    type=click.IntRange(min=1),
    metavar="STEPS",
    default=50,
    show_default=True,
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: torch's choice]")
@data_troubles()
def main(
    file: Path,
    constants: tuple[str, ...],
    data_name: str | None,
    eval_every: int | None,
    eval_batches: int,
    checkpoint: Path | None,
    checkpoint_every: int | None,
    resume: bool,
    force: bool,
    log_path: Path | None,
    monitor: Path | None,
    monitor_every: int,
    threads: int | None,
    **options: Any,
) -> None:
    """Train the model in FILE: a .py that modnorm compile wrote, or a .mod."""
    if (resume or checkpoint_every) and checkpoint is None:
        raise click.UsageError("--resume and --checkpoint-every need --checkpoint FILE")
    data_file = None if data_name is None or data_name in texts.NAMED else Path(data_name)
    written = {"--checkpoint": checkpoint, "--log": log_path, "--monitor": monitor}
    expect_apart({"the model": file, "--data": data_file}, written)
    for option, path in written.items():
        expect_free(path, option, resume, force)
    if threads is not None:
        torch.set_num_threads(threads)
    device = check_device(options.pop("device"), checkpoint is not None)
    module = load_module(file, constants_of(constants))
    spec = only_input(module)
    found = texts.load(data_name or default_data(spec))
    window = options.pop("context")
    task = make_task(spec, found, options["batch"], window, eval_batches)
    if isinstance(task, NextCharacter):
        window = task.context
    if options["weight_decay"] is None:
        options["weight_decay"] = 0.01 if has_weight_decay(module, options["optimizer"]) else 0.0
    settings = Settings(
        model=module.MODEL,
        context=window,
        data=found.name,
        data_sha256=found.sha256,
        device=device,
        **options,
    )
    screen = Screen(settings.steps, task.labelled and not isinstance(task, NextCharacter))
    try:
        run = Run(module, task, settings)
        if resume and checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint, screen.notice)
        if monitor is not None:
            run.watch(monitor, monitor_every, force)
        screen.header(run, texts.describe(found), checkpoint if resume else None)
        if checkpoint is not None:
            beside(checkpoint)
        log = Log(log_path, settings, run.step, resume, force)
        every = eval_every or max(1, settings.steps // 10)
        code = train(run, screen, log, every, checkpoint, checkpoint_every)
    except torch.OutOfMemoryError as error:
        raise Trouble(f"{device} is out of memory: give a smaller --batch or --context") from error
    click.get_current_context().exit(code)


def check_device(name: str, repeatable: bool) -> str:
    """The device's name, once it is known to be there. Deterministic where a run may be resumed."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise click.BadParameter(
            f"{name!r} is no device: give cpu or cuda", param_hint="--device"
        ) from error
    if kind not in ("cpu", "cuda"):
        raise click.BadParameter(f"{name!r}: give cpu or cuda", param_hint="--device")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise Trouble(
                "this torch sees no CUDA device: give --device cpu, or install a torch "
                "built for CUDA"
            )
        if repeatable:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
    return name


if __name__ == "__main__":
    sys.exit(main())
