"""What a training run shows: a header, a table of held-out losses that grows, a progress bar.

Without a terminal the bar is left out and the table's lines are what a log keeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

if TYPE_CHECKING:
    from trainer import Run

FULL, WIDE, MEDIUM, NARROW = 96, 76, 52, 36  # from these widths on the bar has more of its parts


@dataclass(frozen=True)
class Row:
    """One evaluation. `train` is the mean loss since the last one; `rate` is steps a second."""

    step: int
    train: float | None
    held_out: float
    accuracy: float | None
    rate: float | None


def lasting(seconds: float) -> str:
    """0:07, 12:30, 3:02:11."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float | None, form: str = ".4f") -> str:
    return "–" if value is None else format(value, form)


@dataclass(frozen=True)
class Shorter:
    """Leaves the last columns free: where a terminal echoes ^C there, a line can't be erased."""

    inside: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.inside, options.update(width=max(1, options.max_width - 3)))


class Bar(Progress):
    def get_renderables(self) -> Iterable[RenderableType]:
        return map(Shorter, super().get_renderables())


class Screen:
    """Prints a run. A context manager: the bar is live inside."""

    def __init__(self, steps: int, images: bool, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.steps, self.images = steps, images
        self.width = self.console.width if self.console.is_terminal else 80
        self.best: float | None = None
        self.last: float | None = None
        self.rows = 0
        self.drawn = 0.0
        columns: list[ProgressColumn] = [TextColumn("{task.fields[place]}"), BarColumn(None)]
        for field, least in (("loss", 0), ("held_out", FULL), ("rate", MEDIUM), ("left", WIDE)):
            if self.width >= least:
                columns.append(TextColumn(f"{{task.fields[{field}]}}"))
        self.bar = Bar(
            *columns,
            console=self.console,
            transient=True,
            expand=True,
            refresh_per_second=5,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(
            "", total=steps, place="", loss="", held_out="", rate="", left=""
        )
        self.begun = (0, time.perf_counter())

    def __enter__(self) -> Screen:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def line(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False, soft_wrap=not self.console.is_terminal)

    def notice(self, text: str) -> None:
        self.line(f"note: {text}", "yellow")

    def header(self, run: Run, data: str, resumed: Path | None) -> None:
        """What is trained, on what, and how."""
        settings = run.settings
        weights = [weight.numel() for weight in run.model.parameters()]
        self.line(
            f"{settings.model}: {sum(weights):,} weights in {len(weights)} tensors, "
            f"plan {run.module.PLAN_HASH[:12]}",
            "bold",
        )
        self.line(data)
        shape = f"{settings.batch} × {settings.context}" if settings.context else settings.batch
        self.line(
            f"{type(run.optimizer).__name__}, lr {settings.lr:g} falling to 0 over "
            f"{self.steps:,} steps, weight decay {settings.weight_decay:g}, batch {shape}, "
            f"seed {settings.seed}, {settings.device} {settings.dtype}"
            + (", compiled" if settings.compile else "")
        )
        if resumed is not None:
            self.line(
                f"resumed from {resumed} at step {run.step:,}"
                if run.step
                else f"no checkpoint {resumed} yet: starting at step 0"
            )
        self.begun = (run.step, time.perf_counter())
        self.progress(run.step, None)

    def columns(self) -> list[tuple[str, int]]:
        """The table's headings and widths, as many as the console has room for."""
        wanted = [("step", max(4, len(f"{self.steps:,}"))), ("held out", 8), ("train", 7)]
        wanted += [("accuracy", 8)] if self.images else []
        wanted += [("steps/s", 8)]
        room, kept = self.width, []
        for heading, width in wanted:
            room -= width + 2
            if room >= 0:
                kept.append((heading, width))
        return kept

    def row(self, row: Row) -> None:
        """One more line of the table; the best held-out loss so far is in green."""
        columns = self.columns()
        if not self.rows:
            self.line("".join(f"{heading:>{width + 2}}" for heading, width in columns), "dim")
        self.rows += 1
        cells = {
            "step": f"{row.step:,}",
            "held out": number(row.held_out),
            "train": number(row.train),
            "accuracy": number(row.accuracy, ".2%"),
            "steps/s": number(row.rate, ".1f"),
        }
        self.last = row.held_out
        best = self.best is None or row.held_out < self.best
        self.best = row.held_out if self.best is None else min(self.best, row.held_out)
        text = "".join(f"{cells[heading]:>{width + 2}}" for heading, width in columns)
        self.line(text, "green" if best and self.rows > 1 else None)

    def progress(self, step: int, loss: float | None) -> None:
        """Moves the bar, at most ten times a second."""
        now = time.perf_counter()
        if self.bar.disable or (now - self.drawn < 0.1 and step < self.steps):
            return
        self.drawn = now
        first, started = self.begun
        rate = (step - first) / (now - started) if step > first else None
        self.bar.update(
            self.task,
            completed=step,
            place=f"{step:,}/{self.steps:,}" if self.width >= NARROW else f"{step:,}",
            loss=f"loss {number(loss, '.3f')}",
            held_out="" if self.last is None else f"held out {self.last:.3f}",
            rate="" if rate is None else f"{rate:.1f} steps/s",
            left="" if rate is None else f"{lasting((self.steps - step) / rate)} left",
        )

    def finish(
        self, step: int, held_out: float | None, seconds: float, stopped: bool, kept: Path | None
    ) -> None:
        """The last lines: the result, or where the run was stopped."""
        if stopped and step < self.steps:
            kept_as = f"kept in {kept}; --resume goes on" if kept else "nothing kept (--checkpoint)"
            self.line(f"stopped at step {step:,}, {kept_as}", "yellow")
            return
        self.line(
            f"held-out loss {number(held_out)} after {step:,} steps, "
            f"{lasting(seconds)} of training" + (f", kept in {kept}" if kept else ""),
            "bold",
        )
