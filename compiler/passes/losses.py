"""How smooth a training loss is behind the model, from the model's sharpness.

With λ = σ·α + τ·κ² the loss of an update of modular norm η is at most its linear part plus λ/2·η².
Source: Large et al. 2024 (arXiv 2405.14813), section 4; docs/mathematics.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from modnorm.diagnostics import Diagnostic, Diagnostics
from modnorm.ops.losses import LARGEST, LOSSES, Constants, Unbounded
from modnorm.ops.types import Tensor
from modnorm.passes.certificate import Smoothness
from modnorm.passes.certify import Certify
from modnorm.passes.program import Program, run_passes

LARGE = "it is too large for a float"


@dataclass(frozen=True)
class Loss:
    """λ of a loss behind the model: the proved one, or else with the declared sharpness and κ = 1.

    `loss` is a name of `LOSSES`.
    """

    loss: str
    name: ClassVar[str] = "loss"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        assert program.certificate is not None, "the program has not been certified"
        try:
            found = self.constants(program, program.certificate.norm)
        except Unbounded as error:
            return replace(program, smoothness=Smoothness(self.loss, str(error)))
        if self.constants(program, LARGEST).sigma < found.sigma:
            diagnostics.add(
                Diagnostic(
                    "A606",
                    f"behind an output that is bounded in the RMS, {self.loss} has"
                    f" σ = {found.sigma:.4g} and τ = {found.tau:.4g}: they grow with the number of"
                    " scores",
                    program.span,
                    hint=LOSSES[self.loss].hint,
                )
            )
        return replace(program, smoothness=self.smoothness(program, found))

    def constants(self, program: Program, norm: str) -> Constants:
        """σ and τ in a norm of the output.

        Raises:
            Unbounded: if the loss has none behind this model.
        """
        assert program.certificate is not None
        output = program.types[program.tree.id][1]
        if not isinstance(output, Tensor) or output.dtype != "float":
            raise Unbounded(f"it needs one output of real numbers, not {output}")
        high = program.certificate.parts[program.tree.id].high
        found = LOSSES[self.loss].constants(output, norm, high)
        if not all(map(math.isfinite, found)):
            raise Unbounded(LARGE)
        return found

    def smoothness(self, program: Program, found: Constants) -> Smoothness:
        certificate, declared = program.certificate, program.sharpness[program.tree.id]
        assert certificate is not None
        alpha, kappa = certificate.sharpness.alpha, certificate.kappa
        if kappa is not None and math.isfinite(alpha):
            proved = found.sigma * alpha + found.tau * kappa * kappa
            if not math.isfinite(proved):
                return Smoothness(self.loss, LARGE, *found)
            return Smoothness(self.loss, "", *found, proved, certified=True)
        if declared is None:
            why = (
                "an operation is not smooth, or a weight is used more than once where nothing is"
                " proved"
            )
            return Smoothness(self.loss, why, *found)
        smoothness = found.sigma * declared.alpha + found.tau
        if not math.isfinite(smoothness):
            return Smoothness(self.loss, LARGE, *found)
        return Smoothness(self.loss, "", *found, smoothness)

    def verify(self, program: Program) -> None:
        found = program.smoothness
        assert found is not None
        assert (found.smoothness is None) == bool(found.reason)


@dataclass(frozen=True)
class Curvature:
    """λ of every known loss behind the model."""

    name: ClassVar[str] = "curvature"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        certified = run_passes(program, (Certify(brief=True),), Diagnostics())
        found = [run_passes(certified, (Loss(loss),), Diagnostics()).smoothness for loss in LOSSES]
        return replace(program, curvature=tuple(one for one in found if one is not None))

    def verify(self, program: Program) -> None:
        assert [found.loss for found in program.curvature] == list(LOSSES)
