"""What a sweep is asked for, and the jobs that come of it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

from modnorm.codegen.assemble import generate
from modnorm.console import tell
from modnorm.diagnostics import ModnormError
from modnorm.measure.interface import torch_at_hand
from modnorm.passes.program import Program
from modnorm.pipeline import Analysis
from modnorm.report.output import IMPORTED, Read
from modnorm.sweep.names import read_label
from modnorm.sweep.options import TransferOptions
from modnorm.sweep.parts import roles
from modnorm.sweep.plan import Curve, Plan, combinations
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Outcome, Settings, Size, Sizes, Sweep, Trial
from modnorm.sweep.trial import Job, key_of

MASS = "mass"
Variation = Callable[[Mapping[str, Any]], Analysis]


@dataclass(frozen=True)
class Prepared:
    """A plan, and what is needed to run and to report it. read: the files that it is made from."""

    plan: Plan
    sweep: Sweep
    inputs: Mapping[Sizes, str]
    read: Read
    make: Callable[[str, Sizes, float, int], Job]

    def job(self, trial: Trial) -> Job:
        return self.make(trial.optimizer, trial.sizes, trial.lr, trial.seed)

    def probes(self, missing: set[str]) -> list[tuple[Trial, Job]]:
        """One step of the smallest model for each optimizer and each input a model has.

        What does not fit shows there, and not in the middle of a sweep.
        """
        found: dict[tuple[str, str], tuple[Curve, Trial]] = {}
        for curve in self.plan.curves:
            for trial in self.plan.trials(curve, {}):
                place = curve.optimizer, self.inputs[curve.sizes]
                if trial.key in missing and (
                    place not in found or curve.cost < found[place][0].cost
                ):
                    found[place] = curve, trial
        jobs = []
        for _, trial in found.values():
            job = self.job(trial)
            job["settings"] = {**job["settings"], "steps": 1, "eval_batches": 1}
            jobs.append((trial, job))
        return jobs

    def result(self, known: Mapping[str, Outcome]) -> Sweep:
        """The sweep, with the runs that are over."""
        trials = [
            trial
            for curve in self.plan.curves
            for trial in sorted(self.plan.trials(curve, known), key=lambda t: (t.lr, t.seed))
        ]
        runs = tuple((trial, known[trial.key]) for trial in trials if trial.key in known)
        return replace(self.sweep, runs=runs, missing=len(trials) - len(runs))


def prepared(
    file: str,
    options: TransferOptions,
    rates: Mapping[str, tuple[float, ...]],
    variation: Variation,
) -> Prepared:
    """Compile every model of a sweep, look at the data, and plan the runs.

    `rates` are those of each optimizer; `variation` analyses the file with some params changed.

    Raises:
        ModnormError: with the mistakes in the file, or at some sizes.
        DataError: if the data cannot be had.
        SweepError: if the sweep cannot be made as asked.
    """
    first = variation({})
    declared = first.program.params
    base: dict[str, Size] | None = None
    if options.star:
        base = {name: _base(name, first.program) for name in options.vary}
    sources: dict[Sizes, str] = {}
    inputs: dict[Sizes, str] = {}
    costs: dict[Sizes, float] = {}
    for sizes in combinations(options.vary, base):
        changed = {n: v for n, v in sizes if n != MASS or MASS in declared}
        program = _program(variation, changed) if changed else first.program
        sources[sizes] = generate(program, "cpu")
        inputs[sizes] = ", ".join(f"{i.name}: {i.type}" for i in program.inputs)
        costs[sizes] = max(1.0, float(program.entries))
    stem = PurePath(file).stem
    data, digest = _data(options.data, next(iter(sources.values())), stem)
    sweep = Sweep(
        model=first.program.name,
        source=file,
        params={name: _plain(v) for name, v in declared.items() if name not in options.vary},
        vary=dict(options.vary),
        optimizers=tuple(rates),
        rates=dict(rates),
        seeds=tuple(range(options.seeds)),
        settings=_settings(options, data, digest),
        runs=(),
        versions=versions(),
    )
    curves = tuple(
        Curve(optimizer, sizes, own, costs[sizes])
        for optimizer, own in rates.items()
        for sizes in sources
    )
    special = MASS in options.vary and MASS not in declared

    def make(optimizer: str, sizes: Sizes, lr: float, seed: int) -> Job:
        mass = dict(sizes)[MASS] if special and read_label(optimizer).normed else None
        return {
            "stem": stem,
            "source": sources[sizes],
            "optimizer": optimizer,
            "mass": None if mass is None else float(mass),
            "lr": lr,
            "seed": seed,
            "settings": asdict(sweep.settings),
        }

    keys: dict[tuple[str, Sizes, float, int], str] = {}

    def key(curve: Curve, lr: float, seed: int) -> str:
        place = curve.optimizer, curve.sizes, lr, seed
        if place not in keys:
            keys[place] = key_of(make(*place), sweep.versions or {})
        return keys[place]

    plan = Plan(curves, sweep.seeds, options.extend, key, options.metric)
    read: Read = {"": file, "--data": options.data, IMPORTED: first.sources}
    return Prepared(plan, sweep, inputs, read, make)


def _settings(options: TransferOptions, data: str, digest: str) -> Settings:
    names = [one.name for one in fields(Settings) if hasattr(options, one.name)]
    asked = {name: getattr(options, name) for name in names}
    return Settings(**{**asked, "data": data, "data_sha256": digest})


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
