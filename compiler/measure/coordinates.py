"""The coordinate check: activations, and how they change, while a model grows.

In a well-scaled architecture the size of every activation, and of its change over the first steps
of training at one learning rate, is the same at every width and depth (Yang & Hu 2021, arXiv
2011.14522; Large et al. 2024, arXiv 2405.14813). Instead of curves to be judged by eye there is an
exponent for each: the slope of log size over log param.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from modnorm.graph.modules import Leaf, Module, Repeat, Scope, Shared
from modnorm.measure import weights as own
from modnorm.measure.fits import power_law
from modnorm.measure.inputs import Batch
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

OPTIMIZER = "NormedAdam"
QUANTITIES: tuple[Quantity, ...] = ("activation", "change")
OUTPUT = "output"
"""What stands for the whole model among the paths."""

Sizes = dict[str, float]
"""RMS by path."""


@dataclass(frozen=True)
class _Measured:
    """What one model showed, with one seed: RMS of activations after training, and of changes."""

    activation: Sizes
    change: Sizes


def coordinate_check(
    variation: Callable[[Mapping[str, object]], Analysis],
    importer: Callable[[Program], ModuleType],
    options: CheckOptions,
    batch: Callable[[Program, torch.dtype], Batch],
    tick: Callable[[str], None],
) -> Training:
    """Train the model for a few steps at each value of each param, and fit exponents.

    Raises:
        CheckError: if a model does not run or does not train.
        ModnormError: if the file does not compile with one of the values.
    """
    params: list[Coordinates] = []
    loss = ""
    for param, values in options.vary.items():
        runs: list[list[_Measured]] = []
        sizes = tuple(_size(param, value) for value in values)
        for value in values:
            program = variation({param: value}).program
            module = importer(program)
            runs.append([])
            for seed in range(options.seed, options.seed + options.seeds):
                tick(f"{param} = {value}, seed {seed}")
                data = batch(program, torch.float64)
                loss, measured = _trained(program, module, data, options, seed)
                runs[-1].append(measured)
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
) -> tuple[str, _Measured]:
    """The loss's name, and what a model shows before and after a few steps on one batch."""
    model = own.build(module, seed, torch.float64)
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
    change = {key: [a - b for a, b in zip(after[key], before[key], strict=True)] for key in after}
    return objective.name, _Measured(_sizes(after), _sizes(change))


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
            fits = following is not None and following.shape == y.shape[:-1]
            if following is not None and fits and int(following.max()) < y.shape[-1]:
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


def _activations(
    program: Program, model: torch.nn.Module, batch: Batch
) -> dict[tuple[str, str], Tensors]:
    """The outputs of named parts and atoms: by their path, and that of the copy."""
    weights = own.values(program, model)
    try:
        found, _ = visits(program, weights, batch.value, every=False)
    except (RuntimeError, IndexError) as error:
        said = str(error).strip().split("\n")[0]
        raise CheckError(f"{program.name} does not run on this batch: {said}") from error
    result: dict[tuple[str, str], Tensors] = {}
    for row in rows(program):
        label = _label(program, row.module)
        if label is None:
            continue
        for visit in found[row.module.id]:
            outputs = [t for t in flatten(visit.y) if t.is_floating_point()]
            if outputs:
                result[label, path_of(row.module, visit.indices)] = outputs
    return result


def _label(program: Program, module: Module) -> str | None:
    """The path of a named part or an atom, `*` for the copy; None for what is not shown."""
    if module is program.tree:
        return OUTPUT
    match module:
        case Leaf(op=Atom(), path=path) | Scope(path=path):
            return star(path)
        case Shared() | Repeat():
            return path_of(module, ()) or None
        case _:
            return None


def star(template: str) -> str:
    """A path with `*` for the indices of repetitions."""
    head, *rest = template.split("{")
    return head + "".join("*" + part.partition("}")[2] for part in rest)


def _sizes(found: Mapping[tuple[str, str], Tensors]) -> Sizes:
    """RMS over all entries; of a repetition's copies the last one's, where depth has added up."""
    sizes: Sizes = {}
    for (label, _), tensors in found.items():
        entries = sum(t.numel() for t in tensors)
        squares = sum(float(t.double().square().sum()) for t in tensors)
        sizes[label] = math.sqrt(squares / max(entries, 1))
    return sizes


def _fits(sizes: tuple[float, ...], runs: list[list[_Measured]]) -> list[ScalingFinding]:
    """A power law for every part that is there at every size, through all seeds' points."""
    labels = [
        label for label in runs[0][0].change if all(label in r.change for run in runs for r in run)
    ]
    found: list[ScalingFinding] = []
    for label in labels:
        for quantity in QUANTITIES:
            points = [[getattr(r, quantity)[label] for r in run] for run in runs]
            means = tuple(
                math.exp(math.fsum(math.log(y) for y in ys) / len(ys)) if min(ys) > 0 else 0.0
                for ys in points
            )
            xs = [x for x, ys in zip(sizes, points, strict=True) for _ in ys]
            fit = power_law(xs, [y for ys in points for y in ys])
            found.append(
                ScalingFinding(
                    path=label,
                    quantity=quantity,
                    values=means,
                    slope=None if fit is None else fit.slope,
                    error=None if fit is None else fit.error,
                    verdict="zero" if fit is None else fit.verdict,
                )
            )
    return found
