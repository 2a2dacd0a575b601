"""Options of the command line with values of their own kinds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

MOST = 2**31
"""What free sizes are below."""
Command = TypeVar("Command", bound=Callable[..., Any])


def settings(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> Mapping[str, str]:
    """Options of the form NAME=VALUE as a mapping; no name may be there twice."""
    settings: dict[str, str] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"'{setting}' is not of the form NAME=VALUE.", context, option)
        if name.strip() in settings:
            raise click.BadParameter(f"'{name.strip()}' is given twice.", context, option)
        settings[name.strip()] = value
    return settings


force = click.option(
    "--force",
    is_flag=True,
    help="Replace a file that modnorm did not make, or that was changed since.",
)


def _sizes(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> Mapping[str, int]:
    sizes = settings(context, option, given)
    for name, size in sizes.items():
        digits = size.strip().lstrip("0")
        if not digits.isdecimal():
            message = f"'{name}={size:.40}' is no positive integer."
            raise click.BadParameter(message, context, option)
        if len(digits) > len(str(MOST)) or int(digits) >= MOST:
            message = f"'{name}' must be below {MOST:,} (2^31)."
            raise click.BadParameter(message, context, option)
    return {name: int(size.strip().lstrip("0")) for name, size in sizes.items()}


def _values(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> Mapping[str, tuple[float, ...]]:
    varied: dict[str, tuple[float, ...]] = {}
    for name, text in settings(context, option, given).items():
        try:
            values = [float(v) if set(".eE") & set(v) else int(v) for v in text.split(",")]
        except ValueError:
            raise click.BadParameter(f"'{text:.40}' are not numbers.", context, option) from None
        if (
            len(values) < 2
            or len(set(values)) < len(values)
            or not all(0 < v < 1e308 for v in values)
        ):
            message = f"'{name}' needs two different positive values or more."
            raise click.BadParameter(message, context, option)
        varied[name] = tuple(values)
    return varied


def mod_files(
    context: click.Context, argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """What a shell completes FILE.mod with: programs, and folders on the way to them.

    A folder that is the only choice is gone into, since shells put a space behind what is complete.
    """
    while True:
        folder, start = os.path.split(incomplete)
        try:
            with os.scandir(folder or ".") as entries:
                found = [e for e in entries if e.name.startswith(start) and _offered(e, start)]
        except OSError:
            found = []
        paths = [os.path.join(folder, e.name) + "/" * e.is_dir() for e in found]
        if len(paths) != 1 or not found[0].is_dir():
            return [CompletionItem(path) for path in sorted(paths)]
        incomplete = paths[0]


def _offered(entry: os.DirEntry[str], start: str) -> bool:
    """Whether a file is a program, or a folder; hidden ones only where one begins so."""
    hidden = entry.name.startswith(".") and not start.startswith(".")
    return not hidden and (entry.is_dir() or entry.name.endswith(".mod"))


def check_options(command: Command) -> Command:
    """What `modnorm check` measures, and how."""
    for decorate in reversed(
        (
            click.option(
                "--data", metavar="FILE", help="A text, or an .npz with an array an input."
            ),
            click.option("--checkpoint", metavar="FILE.pt", help="Weights: a state dict."),
            click.option(
                "--size",
                "sizes",
                metavar="NAME=VALUE",
                multiple=True,
                callback=_sizes,
                help="A free size of the inputs; may be repeated. [batch=4, seq=16, others 8]",
            ),
            click.option(
                "--seed",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                help="Of weights, batches and searches.",
            ),
            click.option(
                "--effort",
                type=click.IntRange(1, 3),
                default=1,
                show_default=True,
                help="How long to search for what is stretched most.",
            ),
            click.option("--all", "every", is_flag=True, help="Measure all copies of repetitions."),
            click.option(
                "--vary",
                metavar="NAME=V1,V2,…",
                multiple=True,
                callback=_values,
                help="Coordinate check: train at these values of a param; may be repeated.",
            ),
            click.option(
                "--steps",
                type=click.IntRange(min=1),
                default=5,
                show_default=True,
                help="Of that training.",
            ),
            click.option(
                "--lr",
                type=click.FloatRange(min=0, min_open=True, max=1e6),
                default=0.125,
                show_default=True,
                help="Of that training.",
            ),
            click.option(
                "--seeds",
                type=click.IntRange(min=1),
                default=2,
                show_default=True,
                help="Of that training.",
            ),
            click.option(
                "--plot",
                metavar="OUT.png",
                help="Where to draw the coordinate check: .png, .svg or .pdf.",
            ),
        )
    ):
        command = decorate(command)
    return command
