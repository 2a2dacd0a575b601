"""Measures a model: what `modnorm check` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import torch

from modnorm.codegen.plan import records
from modnorm.diagnostics import Diagnostics
from modnorm.graph.modules import Leaf
from modnorm.graph.paths import starred
from modnorm.measure import weights as own
from modnorm.measure.certificates import Certificates
from modnorm.measure.coordinates import Variation, coordinate_check
from modnorm.measure.inputs import Batch, batch_for
from modnorm.measure.interpreter import agreement, copies, weight_name
from modnorm.measure.options import CheckOptions
from modnorm.measure.problems import CheckError, some
from modnorm.measure.search import EFFORTS, Changes, measure_changes
from modnorm.measure.stretches import TOLERANCE, Stretches, Visit, rows, visits
from modnorm.measure.values import Ball, flatten
from modnorm.passes.certificate import Certificate
from modnorm.passes.certify import Certify
from modnorm.passes.program import Program, run_passes
from modnorm.passes.warnings import RESOLUTION, hardly_moving
from modnorm.pipeline import Analysis
from modnorm.report.checked import Findings, ModuleFinding, WeightFinding
from modnorm.report.words import as_float
from modnorm.stack import room

Progress = Callable[[int, int, str], None]
"""Told the number of things done, of all things to do, and what is done now."""

SAME = 1e-6
"""The largest relative difference, in float64, of a model and its reading by the references."""


def check(
    analysis: Analysis,
    variation: Variation,
    options: CheckOptions,
    progress: Progress = lambda done, total, what: None,
) -> Findings:
    """Everything that is measured of a model.

    Raises:
        CheckError: if the data, the checkpoint or a size does not fit the model.
    """
    with room():
        return _Check(analysis.program, options, progress).run(variation)


class _Check:
    def __init__(self, program: Program, options: CheckOptions, progress: Progress) -> None:
        self.program, self.options, self.progress = program, options, progress
        self.plan = records(program)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.done, self.total = 0, 1

    def tick(self, what: str) -> None:
        self.progress(self.done, self.total, what)
        self.done += 1

    def run(self, variation: Variation) -> Findings:
        program, options = self.program, self.options
        self.tick("the model")
        for param, values in options.vary.items():
            for value in values:
                if not variation({param: value}).program.weights:  # or it does not compile
                    raise CheckError(
                        f"with {param} = {value} {program.name} has no weights to train: leave out"
                        " `--vary`, or vary another param"
                    )
        model = own.build(own.compiled(program), options.seed)
        fixed = options.checkpoint is not None
        if options.checkpoint is not None:
            own.load(options.checkpoint, model)
        model.requires_grad_(False).eval()
        weights = own.values(program, model)
        batch = batch_for(program, options, self.generator)
        found, off = self.traced(model, weights, batch)
        norms = own.norms(self.plan, weights)
        certificates = Certificates(program, options.every)
        root, kappa = certificates.at(program.tree, ()), certificates.certificate.kappa
        notes, trusted = self.notes(norms, batch, root.balls)
        outside = frozenset(name for name, norm in norms.items() if norm > 1 + TOLERANCE)
        if strange := certificates.strange(weights) if fixed else []:
            notes.append(
                f"{some(strange)} cannot come of inputs as large as the certificate assumes, so"
                " what is certified need not hold behind"
            )
            outside, trusted = outside.union(strange), False
        at_norms = self.at_norms(norms) if fixed else None
        reported = rows(program)
        alone = self.alone(weights)
        self.total = sum(len(found[i]) for i in reported) + len(alone) + 2
        self.total += sum(len(v) for v in options.vary.values()) * options.seeds
        effort = EFFORTS[options.effort]
        stretches = Stretches(
            program, certificates, weights, batch.inputs, effort,
            self.generator, fixed, outside, trusted, self.tick,
        )  # fmt: skip
        modules: list[ModuleFinding] = []
        violations: list[str] = []  # by operations first: they are what is at fault around them
        around: list[str] = []
        for row in reported.values():
            finding, wrong = stretches.measure(row, found[row.module.id])
            if at_norms is not None:
                sensitivity = proved(at_norms.parts[row.module.id].sensitivity)
                finding = replace(finding, certified_at_norms=sensitivity)
            modules.append(finding)
            (violations if isinstance(row.module, Leaf) else around).extend(wrong)
        violations += around
        notes += refuted(modules)
        notes += left(found)
        changes = measure_changes(
            program.tree, self.plan, weights, batch.value,
            root.out, self.generator, effort.here, alone, self.tick,
        )  # fmt: skip
        if trusted and not outside:
            violations += breach(changes, kappa)
            violations += self.breaches_alone(changes, certificates)
        if trusted and at_norms is not None:
            violations += breach(changes, at_norms.kappa, " for weights of these norms")
        per_weight = [
            WeightFinding(
                r.name, norms[r.name], r.target, changes.alone.get(r.name),
                certificates.part_of_kappa(r.weight.path), r.weight.copies,
            )
            for r in self.plan
        ]  # fmt: skip
        training = coordinate_check(variation, options, self.tick) if options.vary else None
        return Findings(
            model=program.name,
            source=program.source.name,
            params={name: _constant(value) for name, value in program.params.items()},
            seed=options.seed,
            data=batch.origin,
            sizes=dict(batch.sizes),
            checkpoint=options.checkpoint,
            agreement=off,
            kappa=kappa,
            kappa_reason=certificates.reason,
            random_kappa=changes.random,
            measured_kappa=changes.steepest,
            modules=tuple(modules),
            weights=tuple(sorted(per_weight, key=_worst)),
            coordinates=training,
            notes=tuple(notes),
            violations=tuple(violations),
            kappa_at_norms=None if at_norms is None else at_norms.kappa,
            sensitivity_at_norms=None if at_norms is None else proved(at_norms.sensitivity),
        )

    # -- what is measured on ----------------------------------------------------------------

    def traced(
        self, model: torch.nn.Module, weights: Mapping[str, torch.Tensor], batch: Batch
    ) -> tuple[dict[int, list[Visit]], float]:
        """Every part's inputs and outputs, of the tree that computes what the model does."""
        try:
            with torch.no_grad():
                expected = model(*batch.inputs)
            found, y = visits(self.program, weights, batch.value, every=self.options.every)
        except (RuntimeError, IndexError, ValueError) as error:
            sizes = ", ".join(f"{name} = {size}" for name, size in batch.sizes.items())
            said = str(error).strip().split("\n")[0]
            raise CheckError(
                f"{self.program.name} does not run on inputs with {sizes or 'these sizes'}"
                f" ({said}): choose others with `--size NAME=VALUE`"
            ) from error
        finite = all(bool(t.isfinite().all()) for t in flatten(expected))
        if not finite:
            raise CheckError(
                f"{self.program.name} gives NaN or infinity for this batch, so nothing can be"
                " measured"
            )
        off = agreement(expected, y)
        if off > SAME:
            raise CheckError(
                f"the compiled {self.program.name} and its operations' references differ by"
                f" {off:.2g} of the output's size, so what would be measured is not the model: an"
                " operation's `emit` and `reference` disagree"
            )
        return found, off

    def notes(
        self, norms: Mapping[str, float], batch: Batch, balls: Sequence[Ball]
    ) -> tuple[list[str], bool]:
        """Where the certificate's assumptions do not hold; and whether the batch meets them."""
        notes = []
        worst = max(norms, key=norms.__getitem__, default="")
        if over := sum(norm > 1 + TOLERANCE for norm in norms.values()):
            notes.append(
                f"{over} of {len(norms)} weights are outside their balls, {worst}"
                f" with norm {norms[worst]:.3g}: what is certified holds inside of them"
            )
        still = [r for r in self.plan if 0 < r.target < RESOLUTION * norms[r.name]]
        if still:
            least = min(still, key=lambda record: record.target)
            notes.append(hardly_moving(len(still), len(self.plan), least.name, least.target))
        larger = [
            f"the input `{given.name}` is larger than what the certificate assumes"
            for given, x, ball in zip(self.program.inputs, batch.inputs, balls, strict=True)
            if x.is_floating_point() and not ball.has(x)
        ]
        return [*notes, *larger], not larger

    def alone(self, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """The weights whose updates are measured each for itself: those of copies looked at."""
        looked_at = copies(self.program.tree, self.options.every)
        leaves = [(leaf, indices) for leaf, indices in looked_at if isinstance(leaf, Leaf)]
        names = dict.fromkeys(weight_name(leaf, indices) for leaf, indices in leaves)
        return [name for name in names if name and name in weights]

    def breaches_alone(self, changes: Changes, certificates: Certificates) -> Iterator[str]:
        """Updates of single weights that move the output further than what is certified."""
        alone: dict[str, float] = {}
        for record in self.plan:
            path = record.weight.path
            alone[path] = alone.get(path, 0.0) + changes.alone.get(record.name, 0.0)
        for path, change in alone.items():
            part = certificates.part_of_kappa(path)
            if part is not None and change > part * (1 + TOLERANCE):
                yield (
                    f"updates of {starred(path)} alone move the output by {change:.6g}, which is"
                    f" more than their certified part of κ {part:.6g}"
                )

    def at_norms(self, norms: Mapping[str, float]) -> Certificate:
        """What is certified where every weight's norm is at most the measured one.

        Copies of a repetition have one bound, the largest of theirs.
        """
        largest: dict[str, float] = {}
        for record in self.plan:
            path = record.weight.path
            largest[path] = max(largest.get(path, 0.0), norms[record.name] * (1 + TOLERANCE))
        certified = run_passes(self.program, (Certify(largest),), Diagnostics()).certificate
        assert certified is not None
        return certified


def breach(changes: Changes, kappa: float | None, what: str = "") -> list[str]:
    """An update that moves the output further than a κ."""
    if kappa is None or changes.steepest <= kappa * (1 + TOLERANCE):
        return []
    return [
        f"an update of modular norm 1 moves the output by {changes.steepest:.6g}, which is"
        f" more than the certified κ {kappa:.6g}{what}"
    ]


def refuted(modules: Sequence[ModuleFinding]) -> Iterator[str]:
    """Assumptions that something measured is larger than."""
    for m in modules:
        largest = max(m.measured or 0.0, m.here or 0.0)
        if m.kind == "assume" and m.declared is not None and largest > m.declared * (1 + TOLERANCE):
            yield (
                f"sensitivity {m.declared:.6g} is assumed at line {m.line}, but {largest:.6g} was"
                " measured there"
            )


def left(found: Mapping[int, Sequence[Visit]]) -> Iterator[str]:
    """Operations that got values outside of the range that they are declared for."""
    for visited in found.values():
        module = visited[0].module
        if not isinstance(module, Leaf) or module.op.meant_for is None:
            continue
        low, high = module.op.meant_for
        met = torch.cat([t.flatten() for visit in visited for t in flatten(visit.x)])
        outside = int(((met < low) | (met > high)).sum())
        if outside:
            yield (
                f"`{module.op.label}` at line {module.span.line} is declared for values from"
                f" {low:.6g} to {high:.6g}, but {outside} of {len(met)} were outside, between"
                f" {float(met.amin()):.6g} and {float(met.amax()):.6g}"
            )


def proved(value: float | str) -> float | None:
    """A bound, or None for the reason why there is none."""
    return None if isinstance(value, str) else value


def _worst(weight: WeightFinding) -> tuple[float, float]:
    """Weights with large norms first; among equal ones those that move the output."""
    return -round(weight.norm or 0.0, 6), -(weight.change or 0.0)


def _constant(value: object) -> object:
    if isinstance(value, bool | int | str):
        return value
    return as_float(value) if isinstance(value, Fraction | float) else str(value)
