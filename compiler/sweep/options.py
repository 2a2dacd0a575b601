"""Options of `modnorm transfer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modnorm.options import FORCE, OUTPUT, QUIET, REQUIRED, ModelOptions, Options, option, settings
from modnorm.sweep import METRICS, RATES, TOLERANCE, Metric

FORMATS = ("text", "json", "markdown", "html")
SCHEDULES = ("linear", "cosine", "constant")


def _axes(given: Sequence[str]) -> dict[str, tuple[int | float, ...]]:
    from modnorm.sweep.axes import values

    return {name: values(text) for name, text in settings(given).items()}


class Shown(Options):
    """How a sweep is shown, which may be over."""

    finished: str | None = option(
        None, "Show a finished sweep once more; nothing is run.", flags=["--from"], metavar="JSON"
    )
    metric: Metric = option(
        "train", "The loss whose optimum is looked for.",
        choices=METRICS, must=f"the metric is one of {METRICS}",
    )  # fmt: skip
    tolerance: float = option(
        TOLERANCE, "Drift per doubling that is still transfer.",
        positive=True, must="the tolerance must be positive",
    )  # fmt: skip
    plot: str | None = option(
        None, "Where to draw the curves: .png, .svg or .pdf.", metavar="OUT.png"
    )
    format: Any = option(
        "text", "By default what OUT's suffix stands for, else text.",
        choices=FORMATS, on_line=None, must=f"the format of a sweep is one of {FORMATS}",
    )  # fmt: skip
    output: Any = OUTPUT
    force: bool = FORCE
    quiet: bool = QUIET


class TransferOptions(Shown, ModelOptions):
    """What is swept, and how.

    Only the command line has `dry_run` and `partial`, and what `Shown` has beside `metric`,
    `tolerance`, `format` and `force`.
    """

    vary: Mapping[str, Any] = option(
        REQUIRED, "Sizes to compare: values of a param, or of `mass`; may be repeated.",
        metavar="NAME=V1,V2,…", keyed=True, many=True, reads=_axes,
    )  # fmt: skip
    lr: Any = option(
        RATES,
        "Learning rates: values, A..B by doubling, A..B:0.5 by half powers of two; "
        f"of all optimizers without some of their own. [{RATES}]",
        metavar="[OPTIMIZER=]V1,V2,…", many=True, on_line=(),
    )  # fmt: skip
    optimizer: str | Sequence[str] = option(
        "normed_adam",
        "normed_adam, normed_sgd, dualized_sgd, adam (AdamW), sgd, muon or your own "
        "module:function. [normed_adam]",
        metavar="NAME[:option=value…],…", many=True,
    )  # fmt: skip
    data: str | None = option(None, "What to train on.", metavar="NAME|FILE|module:function")
    star: bool = option(False, "Vary one param at a time.")
    extend: int = option(
        2, "How often to go on past an end where the best rate is.", least=0, most=20
    )
    seeds: int = option(1, "Runs of each kind.", least=1, most=1000)
    steps: int = option(300, "Of a run.", least=1)
    batch: int = option(8, "Examples a step.", least=1)
    eval_batches: int = option(50, "Size of the held-out set, in batches.", least=1)
    threads: int = option(1, "Of a run.", least=1)
    context: int | None = option(None, "Characters of an example of a text.", least=1)
    schedule: str = option(
        "linear", "How the learning rate falls.",
        choices=SCHEDULES, must=f"the schedule is one of {SCHEDULES}",
    )  # fmt: skip
    jobs: int | None = option(None, "Runs at once. [one a core]", least=1)
    ray: str | None = option(
        None, "Run on a Ray cluster; without an address, on one started here.",
        metavar="[ADDRESS]", bare="",
    )  # fmt: skip
    store: Any = option(None, "Where finished runs are. [FILE.transfer.db]", metavar="FILE.db")
    dry_run: bool = option(
        False, "Say how many runs there are and about how long they take, and stop."
    )
    partial: bool = option(False, "Show the runs that are there by now; nothing is run.")
