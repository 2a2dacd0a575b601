"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST = 36
"""Characters of what is being measured."""


@contextmanager
def bar(show: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A function that is told how many of how many things are done, and what is done now."""
    if not show:
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")

        def update(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what[-LONGEST:])

        yield update
