"""Which runs a sweep consists of: fixed by what was asked for and by the runs' own outcomes.

The same outcomes give the same plan, in whatever order, and with whatever breaks, they are made.
"""

from __future__ import annotations

import itertools
import math
import platform
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from modnorm.codegen.assemble import generate
from modnorm.console import tell
from modnorm.diagnostics import ModnormError
from modnorm.measure.interface import torch_at_hand
from modnorm.passes.program import Program
from modnorm.pipeline import Analysis
from modnorm.report.output import IMPORTED, Read
from modnorm.sweep import Metric
from modnorm.sweep.axes import beyond, read_label
from modnorm.sweep.options import TransferOptions
from modnorm.sweep.parts import roles
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Outcome, Settings, Size, Sizes, Sweep, Trial
from modnorm.sweep.trial import Job, key_of

if TYPE_CHECKING:
    from modnorm.sweep.store import Store

MASS = "mass"
LOWEST, HIGHEST = 2.0**-100, 2.0**100
"""Learning rates that no curve goes past."""
CEILING = 1e30
"""The loss of a run that has none, not even before its first step."""
Variation = Callable[[Mapping[str, Any]], Analysis]
"""Analyses the file with some params changed."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The runs of one optimizer at one combination of sizes. rates: asked for, rising.

    cost: how much work a run is, against others'. source: the model's generated file; inputs: what
    the model takes, in words; mass: that of its body, where it is not the file's own.
    """

    optimizer: str
    sizes: Sizes
    rates: tuple[float, ...]
    cost: float = 1.0
    source: str = ""
    inputs: str = ""
    mass: float | None = None


Run = tuple[Curve, Trial]


@dataclass(frozen=True)
class Plan:
    """All curves of a sweep. `sweep` is what was asked for, without runs.

    extend: how often a curve passes an end. metric: the loss that says which learning rate is best.
    stem: of the models' file. read: the files that the plan is made from.
    """

    sweep: Sweep
    curves: tuple[Curve, ...]
    extend: int
    metric: Metric = "train"
    stem: str = ""
    read: Read = field(default_factory=dict)
    _made: dict[Any, Trial] = field(default_factory=dict, init=False, compare=False)

    def job(self, curve: Curve, lr: float, seed: int) -> Job:
        return {
            "stem": self.stem,
            "source": curve.source,
            "optimizer": curve.optimizer,
            "mass": curve.mass,
            "lr": lr,
            "seed": seed,
            "settings": asdict(self.sweep.settings),
        }

    def key(self, curve: Curve, lr: float, seed: int) -> str:
        """The checksum of a run."""
        return key_of(self.job(curve, lr, seed), self.sweep.versions or {})

    def trial(self, curve: Curve, lr: float, seed: int) -> Trial:
        """A run, which is made once, as it is asked for again and again."""
        place = curve, lr, seed
        if place not in self._made:
            key = self.key(curve, lr, seed)
            self._made[place] = Trial(curve.optimizer, curve.sizes, lr, seed, key)
        return self._made[place]

    def trials(self, curve: Curve, known: Mapping[str, Outcome]) -> list[Trial]:
        """The runs of a curve that are known to be needed, given the outcomes of some of them."""
        rates, seeds = list(curve.rates), self.sweep.seeds
        room = {True: self.extend, False: self.extend}
        while True:
            found = [[self.trial(curve, lr, seed) for seed in seeds] for lr in rates]
            flat = [trial for some in found for trial in some]
            if len(rates) < 2 or not all(trial.key in known for trial in flat):
                return flat
            losses = [[known[t.key].loss(self.metric, CEILING) for t in some] for some in found]
            means = [math.fsum(some) / len(some) for some in losses]
            best = means.index(min(means))
            low = best == 0
            if not low and best != len(rates) - 1:
                return flat
            lr = beyond(rates, low)
            if not room[low] or not LOWEST < lr < HIGHEST:
                return flat
            room[low] -= 1
            rates = [lr, *rates] if low else [*rates, lr]

    def runs(self, known: Mapping[str, Outcome]) -> dict[str, Run]:
        """All runs that are known to be needed, by their keys; those that are the same once."""
        found: dict[str, Run] = {}
        for curve in self.curves:
            for trial in self.trials(curve, known):
                found.setdefault(trial.key, (curve, trial))
        return found

    def known(self, store: Store) -> dict[str, Outcome]:
        """The outcomes of the runs that the store has, those past the ends with them."""
        found: dict[str, Outcome] = {}
        asked: set[str] = set()
        while keys := self.runs(found).keys() - asked:
            asked |= keys
            found |= store.outcomes(keys)
        return found

    def probes(self, missing: Set[str]) -> list[tuple[Trial, Job]]:
        """One step of the smallest model for each optimizer and each input a model has.

        What does not fit shows there, and not in the middle of a sweep.
        """
        found: dict[tuple[str, str], Run] = {}
        for key, (curve, trial) in self.runs({}).items():
            place = curve.optimizer, curve.inputs
            if key in missing and (place not in found or curve.cost < found[place][0].cost):
                found[place] = curve, trial
        return [(trial, self.shortened(curve, trial, 1)) for curve, trial in found.values()]

    def shortened(self, curve: Curve, trial: Trial, steps: int) -> Job:
        """The job of a run with fewer steps, measured on one batch."""
        job = self.job(curve, trial.lr, trial.seed)
        job["settings"] |= {"steps": steps, "eval_batches": 1}
        return job

    def result(self, known: Mapping[str, Outcome]) -> Sweep:
        """The sweep, with the runs that are over."""
        trials = [
            trial
            for curve in self.curves
            for trial in sorted(self.trials(curve, known), key=lambda t: (t.lr, t.seed))
        ]
        runs = tuple((trial, known[trial.key]) for trial in trials if trial.key in known)
        return replace(self.sweep, runs=runs, missing=len(trials) - len(runs))


def combinations(
    vary: Mapping[str, Sequence[Size]], base: Mapping[str, Size] | None = None
) -> list[Sizes]:
    """The combinations of sizes, each once: all of them, or a star of one axis at a time.

    With `base`, which has a value for each param, only one param at a time differs from it.
    """
    if base is None:
        return [
            tuple(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())
        ]
    star = (
        tuple((other, value if other == name else base[other]) for other in vary)
        for name, values in vary.items()
        for value in values
    )
    return list(dict.fromkeys(star)) or [()]


# --- what was asked for -----------------------------------------------------------------------


def planned(
    file: str,
    options: TransferOptions,
    rates: Mapping[str, tuple[float, ...]],
    variation: Variation,
) -> Plan:
    """Compile every model of a sweep, look at the data, and plan the runs.

    `rates` are those of each optimizer.

    Raises:
        ModnormError: with the mistakes in the file, or at some sizes.
        DataError: if the data cannot be had.
        SweepError: if the sweep cannot be made as asked.
    """
    first = variation({})
    declared = first.program.params
    special = MASS in options.vary and MASS not in declared
    base: dict[str, Size] | None = None
    if options.star:
        base = {name: _base(name, first.program) for name in options.vary}
    models: list[Curve] = []
    for sizes in combinations(options.vary, base):
        changed = {n: v for n, v in sizes if n != MASS or MASS in declared}
        program = _program(variation, changed) if changed else first.program
        inputs = ", ".join(f"{i.name}: {i.type}" for i in program.inputs)
        cost, mass = max(1.0, float(program.entries)), None
        if special:
            mass = float(dict(sizes)[MASS])
        models.append(Curve("", sizes, (), cost, generate(program, "cpu"), inputs, mass))
    stem = PurePath(file).stem
    data, digest = _data(options.data, models[0].source, stem)
    names = [one.name for one in fields(Settings) if hasattr(options, one.name)]
    asked = {name: getattr(options, name) for name in names}
    sweep = Sweep(
        model=first.program.name,
        source=file,
        params={name: _plain(v) for name, v in declared.items() if name not in options.vary},
        vary=dict(options.vary),
        optimizers=tuple(rates),
        rates=dict(rates),
        seeds=tuple(range(options.seeds)),
        settings=Settings(**{**asked, "data": data, "data_sha256": digest}),
        runs=(),
        versions=versions(),
    )
    curves = [
        replace(
            one, optimizer=label, rates=own, mass=one.mass if read_label(label).normed else None
        )
        for label, own in rates.items()
        for one in models
    ]
    read: Read = {"": file, "--data": options.data, IMPORTED: first.sources}
    return Plan(sweep, tuple(curves), options.extend, options.metric, stem, read)


def _program(variation: Variation, changed: Mapping[str, Size]) -> Program:
    """The program at some sizes; what is wrong there is said with them."""
    try:
        return variation(changed).program
    except ModnormError as error:
        where = ", ".join(f"{name} = {value}" for name, value in changed.items())
        error.diagnostics = tuple(
            replace(found, message=f"{found.message} (at {where})") for found in error.diagnostics
        )
        raise


def _base(name: str, program: Program) -> Size:
    """The value of a param where another one is varied."""
    if name == MASS and name not in program.params:
        return _body_mass(program)
    value = _plain(program.params.get(name, 1))  # of a param that there is not, said elsewhere
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SweepError(f"the param {name} is {value!r}: only numbers can be varied")
    return value


def _body_mass(program: Program) -> Size:
    """The mass of what is between the first part and the last, which have 1 each."""
    total = {"first": Fraction(0), "body": Fraction(0), "last": Fraction(0)}
    parts = roles([SimpleNamespace(name=weight.path) for weight in program.weights])
    for part, weight in zip(parts, program.weights, strict=True):
        total[part] += Fraction(weight.mass) * weight.copies
    if not total["first"] == total["last"] > 0:
        said = " : ".join(f"{float(mass):g}" for mass in total.values())
        raise SweepError(
            "--star holds the mass at the file's own where another param is varied, but the first "
            f"part, the body and the last have masses {said}, which is not 1 : m : 1: vary the "
            "mass in a sweep of its own"
        )
    mass: Size = _plain(total["body"] / total["first"])
    return mass


def _plain(value: Any) -> Any:
    """A param's value as JSON has it."""
    if isinstance(value, bool | int | float | str):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


def _data(name: str | None, source: str, stem: str) -> tuple[str, str]:
    """The name of the data that is really used, and its checksum."""
    from modnorm.data.texts import resolved

    if name is None:
        with torch_at_hand():
            from modnorm.codegen.imports import import_source
            from modnorm.data.tasks import default_data, only_input

            name = default_data(only_input(import_source(source, stem)))
    name, found = resolved(name, tell)
    return name, found.sha256


def versions() -> dict[str, str]:
    """Of what makes the runs."""
    found = {"python": platform.python_version()}
    for name in ("modnorm", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
