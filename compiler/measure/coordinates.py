"""The coordinate check: activations, and how they change, while a model grows.

In a well-scaled architecture the size of every activation, and of its change over the first steps
of training at one learning rate, is the same at every width and depth (Yang & Hu 2021, arXiv
2011.14522; Large et al. 2024, arXiv 2405.14813). Instead of curves to be judged by eye there is an
exponent for each: the slope of log size over log param.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F

from modnorm.graph.modules import Leaf, Module, Repeat, Scope, Shared
from modnorm.graph.paths import starred
from modnorm.measure import weights as own
from modnorm.measure.inputs import Batch, batch_for
from modnorm.measure.options import CheckOptions
from modnorm.measure.problems import CheckError
from modnorm.measure.stretches import path_of, rows, visits
from modnorm.measure.values import Tensors, flatten
from modnorm.ops.base import Atom
from modnorm.passes.program import Program
from modnorm.pipeline import Analysis
from modnorm.report.checked import Coordinates, Quantity, ScalingFinding, Training
from modnorm.report.words import as_float
from modnorm.train import train

Variation = Callable[[Mapping[str, object]], Analysis]
"""Analyses the same file with some of its params changed."""
OPTIMIZER = "NormedAdam"
QUANTITIES: tuple[Quantity, ...] = ("activation", "change")
OUTPUT = "output"
"""What stands for the whole model among the paths."""

Shown = dict[Quantity, dict[str, float]]
"""What one model showed, with one seed: RMS of activations after training, and of changes, each by
path."""


def coordinate_check(
    variation: Variation, options: CheckOptions, tick: Callable[[str], None]
) -> Training:
    """Train the model for a few steps at each value of each param, and fit exponents.

    The data are the same at every value.

    Raises:
        CheckError: if a model does not run or does not train.
        ModnormError: if the file does not compile with one of the values.
    """
    params: list[Coordinates] = []
    loss = ""
    for param, values in options.vary.items():
        runs: list[list[Shown]] = []
        sizes = tuple(_size(param, value) for value in values)
        for value in values:
            program = variation({param: value}).program
            module = own.compiled(program)
            runs.append([])
            for seed in range(options.seed, options.seed + options.seeds):
                tick(f"{param} = {value}, seed {seed}")
                batch = batch_for(program, options, torch.Generator().manual_seed(options.seed))
                loss, shown = _trained(program, module, batch, options, seed)
                runs[-1].append(shown)
        params.append(Coordinates(param, sizes, tuple(_fits(sizes, runs))))
    return Training(OPTIMIZER, options.lr, options.steps, options.seeds, loss, tuple(params))


def _size(param: str, value: object) -> float:
    size = math.nan
    if isinstance(value, int | float | Fraction) and not isinstance(value, bool):
        size = as_float(value)
    if not size > 0:
        raise CheckError(f"`{param}` = {value} is no size to fit a power law against")
    return size


def _trained(
    program: Program, module: ModuleType, batch: Batch, options: CheckOptions, seed: int
) -> tuple[str, Shown]:
    """The loss's name, and what a model shows before and after a few steps on one batch."""
    model = own.build(module, seed)
    optimizer = getattr(module, OPTIMIZER)(model.named_parameters(), lr=options.lr, missing="skip")
    before = _activations(program, model, batch)
    objective = Objective(batch, torch.Generator().manual_seed(seed))
    try:
        with torch.random.fork_rng(devices=()):  # what operations draw is the seed's, too
            torch.manual_seed(seed)
            for _ in train(
                lambda: objective(model(*batch.inputs)), [optimizer], range(options.steps)
            ):
                pass
        last = float(objective(model.eval()(*batch.inputs)).detach())
    except FloatingPointError:  # the optimizer's own check of gradients
        last = math.nan
    except ValueError as error:  # an operation's own, of a batch that it does not train on
        raise CheckError(f"{program.name} does not train on this batch: {error}") from error
    if not math.isfinite(last):
        raise CheckError(
            f"training {program.name} at the learning rate {options.lr:g} ends in NaN or infinity:"
            " choose a smaller one with `--lr`"
        )
    after = _activations(program, model, batch)
    pairs = {label: zip(new, before[label], strict=True) for label, new in after.items()}
    return objective.name, {
        "activation": {label: _rms(new) for label, new in after.items()},
        "change": {label: _rms([a - b for a, b in found]) for label, found in pairs.items()},
    }


class Objective:
    """The loss that a batch is trained on: fixed by the batch, the output's shape and a seed.

    Cross-entropy along the last axis of an output of two or three axes, towards the following
    entries of an integer sequence where they fit it, else towards random classes; the mean square
    distance to gaussian targets for any other output.
    """

    name = "mean square distance to gaussian targets"

    def __init__(self, batch: Batch, generator: torch.Generator) -> None:
        self.batch, self.generator = batch, generator
        self.targets: Tensors | None = None

    def __call__(self, y: Any) -> torch.Tensor:
        outputs = [t for t in flatten(y) if t.is_floating_point()]
        if self.targets is None:
            self.targets = [self._target(t, len(outputs) == 1) for t in outputs]
        losses = [self._loss(t, target) for t, target in zip(outputs, self.targets, strict=True)]
        return torch.stack(losses).sum() if losses else torch.zeros(())

    def _target(self, y: torch.Tensor, single: bool) -> torch.Tensor:
        if single and y.ndim in (2, 3) and y.shape[-1] > 1:
            following = self.batch.following
            if (
                following is not None
                and following.shape == y.shape[:-1]
                and int(following.max()) < y.shape[-1]
            ):
                self.name = "cross-entropy to the next entry"
                return following
            self.name = "cross-entropy to random classes"
            return torch.randint(y.shape[-1], y.shape[:-1], generator=self.generator)
        return torch.randn(y.shape, generator=self.generator, dtype=y.dtype)

    @staticmethod
    def _loss(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if target.dtype == torch.int64:
            return F.cross_entropy(y.flatten(0, -2), target.flatten())
        return (y - target).square().mean()


# --- activations ----------------------------------------------------------------------------


def _activations(program: Program, model: torch.nn.Module, batch: Batch) -> dict[str, Tensors]:
    """The outputs of named parts and atoms by their path: of copies the last one's, where depth has
    added up."""
    weights = own.values(program, model)
    try:
        found, _ = visits(program, weights, batch.value, every=False)
    except (RuntimeError, IndexError, ValueError) as error:
        said = str(error).strip().split("\n")[0]
        raise CheckError(f"{program.name} does not run on this batch: {said}") from error
    result: dict[str, Tensors] = {}
    for number, row in rows(program).items():
        if label := _label(program, row.module):
            for visit in found[number]:
                if outputs := [t for t in flatten(visit.y) if t.is_floating_point()]:
                    result[label] = outputs
    return result


def _label(program: Program, module: Module) -> str:
    """The path of a named part or an atom, `*` for the copy; empty for what is not shown."""
    if module is program.tree:
        return OUTPUT
    match module:
        case Leaf(op=Atom(), path=path) | Scope(path=path):
            return starred(path)
        case Shared() | Repeat():
            return path_of(module, ())
        case _:
            return ""


def _rms(tensors: Tensors) -> float:
    squares = sum(float(t.double().square().sum()) for t in tensors)
    return math.sqrt(squares / max(sum(t.numel() for t in tensors), 1))


# --- exponents ------------------------------------------------------------------------------

Verdict = Literal["flat", "grows", "shrinks", "unclear", "zero"]

FLAT = 0.15
"""An exponent up to this size counts as flat.

What scales wrongly does so with exponents of 1/2 and 1; what scales rightly still drifts by up to
0.1 at widths below a thousand.
"""
SURE = 2.0
"""Standard errors by which an exponent has to be beyond `FLAT` before it counts as not flat."""


@dataclass(frozen=True)
class Fit:
    """y ~ c·xᵃ by least squares of log y on log x: the exponent a, and its standard error."""

    slope: float
    error: float

    @property
    def verdict(self) -> Verdict:
        """Flat: no further from 0 than `FLAT`. Grows or shrinks: further, by `SURE` errors."""
        if abs(self.slope) <= FLAT:
            return "flat" if self.error <= FLAT else "unclear"
        if abs(self.slope) - SURE * self.error <= FLAT:
            return "unclear"
        return "grows" if self.slope > 0 else "shrinks"


def power_law(xs: Sequence[float], ys: Sequence[float]) -> Fit | None:
    """The power law through points; None where a value is 0 or not finite.

    The points' scatter about the line gives the standard error; two points give an error of 0.

    Raises:
        ValueError: for fewer than two different xs.
    """
    if len(set(xs)) < 2:
        raise ValueError("a power law needs two different sizes")
    if any(not (y > 0 and math.isfinite(y)) for y in ys):
        return None
    u, v = [math.log(x) for x in xs], [math.log(y) for y in ys]
    n = len(u)
    mean_u, mean_v = math.fsum(u) / n, math.fsum(v) / n
    spread = math.fsum((a - mean_u) ** 2 for a in u)
    slope = math.fsum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / spread
    rest = math.fsum((b - mean_v - slope * (a - mean_u)) ** 2 for a, b in zip(u, v, strict=True))
    error = math.sqrt(rest / (n - 2) / spread) if n > 2 else 0.0
    return Fit(slope, error)


def _fits(sizes: tuple[float, ...], runs: list[list[Shown]]) -> Iterator[ScalingFinding]:
    """A power law for every part that is there at every size, through all seeds' points."""
    every = [shown["change"] for run in runs for shown in run]
    for label in (label for label in every[0] if all(label in found for found in every)):
        for quantity in QUANTITIES:
            points = [[shown[quantity][label] for shown in run] for run in runs]
            means = tuple(
                math.exp(math.fsum(map(math.log, ys)) / len(ys)) if min(ys) > 0 else 0.0
                for ys in points
            )
            xs = [x for x, ys in zip(sizes, points, strict=True) for _ in ys]
            fit = power_law(xs, [y for ys in points for y in ys])
            yield ScalingFinding(
                path=label,
                quantity=quantity,
                values=means,
                slope=None if fit is None else fit.slope,
                error=None if fit is None else fit.error,
                verdict="zero" if fit is None else fit.verdict,
            )
