"""Options of `modnorm transfer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from modnorm.options import Command, settings

SCHEDULES = ("linear", "cosine", "constant")
METRICS = ("train", "held_out")
FORMATS = ("text", "json", "markdown", "html")
RATES = "2^-8..2^2"


def _vary(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> Mapping[str, tuple[int | float, ...]]:
    from modnorm.sweep.axes import BadAxis, values

    names = [text.partition("=")[0].strip() for text in given]
    if twice := {name for name in names if names.count(name) > 1}:
        raise click.BadParameter(f"'{min(twice)}' is varied twice.", context, option)
    try:
        return {name: values(text) for name, text in settings(context, option, given).items()}
    except BadAxis as error:
        raise click.BadParameter(f"{error}.", context, option) from None


def rates_of(options: Mapping[str, Any]) -> Mapping[str, tuple[float, ...]]:
    """The learning rates of each optimizer.

    Raises:
        UsageError: if they cannot be told.
    """
    from modnorm.sweep.axes import BadAxis, labels, rates

    what = "--optimizer"
    try:
        optimizers = labels(options["optimizer"])
        what = "--lr"
        return rates(options["lr"], optimizers)
    except BadAxis as error:
        raise click.UsageError(f"{what}: {error}.") from None


def transfer_options(command: Command) -> Command:
    """What `modnorm transfer` sweeps, and how."""
    positive = click.IntRange(min=1)
    for decorate in reversed(
        (
            click.option(
                "--vary",
                metavar="NAME=V1,V2,…",
                multiple=True,
                callback=_vary,
                help="Sizes to compare: values of a param, or of `mass`; may be repeated.",
            ),
            click.option(
                "--lr",
                metavar="[OPTIMIZER=]V1,V2,…",
                multiple=True,
                default=[RATES],
                help="Learning rates: values, A..B by doubling, A..B:0.5 by half powers of two. "
                f"[{RATES}]",
            ),
            click.option(
                "--optimizer",
                metavar="NAME[:option=value…],…",
                multiple=True,
                default=["normed_adam"],
                help="normed_adam, normed_sgd, dualized_sgd, adam, sgd, muon or your own "
                "module:function. [normed_adam]",
            ),
            click.option("--data", metavar="NAME|FILE|module:function", help="What to train on."),
            click.option("--star", is_flag=True, help="Vary one param at a time."),
            click.option(
                "--extend",
                type=click.IntRange(0, 20),
                default=2,
                show_default=True,
                help="How often to go on past an end where the best rate is.",
            ),
            *(
                click.option(name, type=positive, default=default, show_default=True, help=text)
                for name, default, text in (
                    ("--seeds", 1, "Runs of each kind."),
                    ("--steps", 300, "Of a run."),
                    ("--batch", 8, "Examples a step."),
                    ("--eval-batches", 50, "Size of the held-out set, in batches."),
                    ("--threads", 1, "Of a run."),
                )
            ),
            click.option("--context", type=positive, help="Characters of an example of a text."),
            click.option(
                "--schedule",
                type=click.Choice(SCHEDULES),
                default="linear",
                show_default=True,
                help="How the learning rate falls.",
            ),
            click.option("--jobs", type=positive, help="Runs at once. [one a core]"),
            click.option(
                "--ray",
                metavar="[ADDRESS]",
                is_flag=False,
                flag_value="",
                help="Run on a Ray cluster; without an address, on one started here.",
            ),
            click.option(
                "--store", metavar="FILE.db", help="Where finished runs are. [FILE.transfer.db]"
            ),
            click.option("--dry-run", is_flag=True, help="Say how many runs there are, and stop."),
            click.option(
                "--partial",
                is_flag=True,
                help="Show the runs that are there by now; nothing is run.",
            ),
            click.option(
                "--from",
                "finished",
                metavar="JSON",
                help="Show a finished sweep once more; nothing is run.",
            ),
            click.option(
                "--metric",
                type=click.Choice(METRICS),
                default="train",
                show_default=True,
                help="The loss whose optimum is looked for.",
            ),
            click.option(
                "--tolerance",
                type=click.FloatRange(min=0, min_open=True),
                default=0.1,
                show_default=True,
                help="Drift per doubling that is still transfer.",
            ),
            click.option(
                "--plot", metavar="OUT.png", help="Where to draw the curves: .png, .svg or .pdf."
            ),
            click.option(
                "--format",
                "form",
                type=click.Choice(FORMATS),
                help="By default what OUT's suffix stands for, else text.",
            ),
        )
    ):
        command = decorate(command)
    return command
