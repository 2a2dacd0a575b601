"""Arguments and options of the command line, as click has them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from modnorm.options import REQUIRED, Option, Options, declared
from modnorm.sweep.options import TransferOptions

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def takes(kind: type[Options]) -> Decorator:
    """Give a command the options of a class: as `options`, an object of it."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        known = declared(kind)

        def called(**values: Any) -> Any:
            own = {name: values.pop(name) for name in known}
            return command(**values, options=kind(**own))

        made: Callable[..., Any] = update_wrapper(called, command)
        for name, option in reversed(known.items()):
            made = _decorator(name, option)(made)
        return made

    return decorate


def _decorator(name: str, option: Option) -> Decorator:
    default = option.default if option.on_line is REQUIRED else option.on_line
    facts: dict[str, Any] = {"help": option.help, "metavar": option.metavar}
    facts.update(type=_type(option), multiple=option.many)
    if isinstance(default, bool):
        facts.update(is_flag=True)
    elif option.many and isinstance(default, str):
        facts.update(default=[default])
    elif default is not None and not option.many:
        facts.update(default=default, show_default=True)
    if option.bare is not None:
        facts.update(is_flag=False, flag_value=option.bare)
    if reads := _positive if option.positive else option.reads:
        facts.update(callback=_callback(reads))
    return click.option(*option.names(name), name, **facts)


def _type(option: Option) -> Any:
    if option.folder:
        return click.Path(exists=True, file_okay=False)
    if option.choices:
        *_, last = option.choices
        is_name = isinstance(last, str)
        return click.Choice(option.choices) if is_name else click.IntRange(option.choices[0], last)
    if option.least is not None:
        return click.IntRange(option.least, option.most)
    if option.positive and option.most is not None:
        return click.FloatRange(min=0, min_open=True, max=option.most)
    return float if option.positive else None


def _callback(reads: Callable[[Any], object]) -> Callable[..., object]:
    def read(context: click.Context, option: click.Parameter, given: Any) -> object:
        try:
            return reads(given)
        except ValueError as error:
            raise click.BadParameter(f"{error}.", context, option) from None

    return read


def _positive(given: float) -> float:
    if not 0 < given < math.inf:  # nan is in no range, and click lets it pass
        raise ValueError(f"{given} is no positive number")
    return given


def expect_only(kind: type[Options], context: click.Context) -> None:
    """Refuse what --from has no use for: options that are not of a class.

    Raises:
        UsageError: naming the first such option.
    """
    known = declared(kind)
    for option in context.command.get_params(context):
        name = option.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and isinstance(option, click.Option) and name not in known:
            raise click.UsageError(
                f"{option.opts[0]} says what to run, but --from shows a sweep that is over: "
                "give one of them."
            )


def rates_of(options: TransferOptions) -> Mapping[str, tuple[float, ...]]:
    """The learning rates of each optimizer.

    Raises:
        UsageError: if they cannot be told.
    """
    from modnorm.sweep.axes import BadAxis, labels, rates

    what = "--optimizer"
    try:
        optimizers = labels(options.optimizer)
        what = "--lr"
        return rates(options.lr, optimizers)
    except BadAxis as error:
        raise click.UsageError(f"{what}: {error}.") from None


# --- FILE.mod --------------------------------------------------------------------------------


def mod_file(required: bool = True) -> Decorator:
    """Give a command the file that is compiled."""
    facts: dict[str, Any] = {"metavar": "FILE.mod", "shell_complete": mod_files}
    return click.argument("file", required=required, **facts)


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
