"""Options of `modnorm transfer`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from modnorm.options import Command, settings
from modnorm.sweep import FORMATS, METRICS, RATES, SCHEDULES


def _vary(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> Mapping[str, tuple[int | float, ...]]:
    from modnorm.sweep.axes import BadAxis, values

    try:
        return {name: values(text) for name, text in settings(context, option, given).items()}
    except BadAxis as error:
        raise click.BadParameter(f"{error}.", context, option) from None


def _tolerance(context: click.Context, option: click.Parameter, given: float) -> float:
    if not 0 < given < math.inf:  # nan is in no range, and click lets it pass
        raise click.BadParameter(f"{given} is no positive number.", context, option)
    return given


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


SHOWING = {"finished", "metric", "tolerance", "plot", "form", "output", "quiet", "force"}
"""Options that say how a sweep is shown."""


def expect_showing(context: click.Context) -> None:
    """Refuse what --from has no use for.

    Raises:
        UsageError: naming the first such option.
    """
    for option in context.command.get_params(context):
        name = option.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and isinstance(option, click.Option) and name not in SHOWING:
            raise click.UsageError(
                f"{option.opts[0]} says what to run, but --from shows a sweep that is over: "
                "give one of them."
            )


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
                help="Learning rates: values, A..B by doubling, A..B:0.5 by half powers of two; "
                f"of all optimizers without some of their own. [{RATES}]",
            ),
            click.option(
                "--optimizer",
                metavar="NAME[:option=value…],…",
                multiple=True,
                default=["normed_adam"],
                help="normed_adam, normed_sgd, dualized_sgd, adam (AdamW), sgd, muon or your own "
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
                click.option(name, type=kind, default=default, show_default=True, help=text)
                for name, kind, default, text in (
                    ("--seeds", click.IntRange(1, 1000), 1, "Runs of each kind."),
                    ("--steps", positive, 300, "Of a run."),
                    ("--batch", positive, 8, "Examples a step."),
                    ("--eval-batches", positive, 50, "Size of the held-out set, in batches."),
                    ("--threads", positive, 1, "Of a run."),
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
            click.option(
                "--dry-run",
                is_flag=True,
                help="Say how many runs there are and about how long they take, and stop.",
            ),
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
                type=float,
                callback=_tolerance,
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
