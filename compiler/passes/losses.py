"""Losses by name: how smooth the training loss is, from the model's sharpness.

With λ = σ·α + τ the loss of an update of modular norm η is at most its linear part plus λ/2·η².
σ bounds the slope of the loss in the output and τ its curvature, both in the norm of the output.
Source: Large et al. 2024 (arXiv 2405.14813), section 4; the constants: docs/mathematics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from modnorm.diagnostics import Diagnostic, Diagnostics
from modnorm.ops.types import Tensor
from modnorm.passes.certificate import Smoothness
from modnorm.passes.program import Program


class Constants(NamedTuple):
    """σ and τ."""

    sigma: float
    tau: float


class Unbounded(Exception):
    """Raised where a loss has no constants behind a model: why, for people."""


Rule = Callable[[Tensor, str, float], Constants]


def _mse(output: Tensor, norm: str, high: float) -> Constants:
    """‖y - t‖² in R, for targets of norm at most 1: every norm of an output is at least R."""
    if not math.isfinite(high):
        raise Unbounded("the output's norm has no bound")
    return Constants(2 * (high + 1), 2.0)


def _cross_entropy(output: Tensor, norm: str, high: float) -> Constants:
    """2 and 1 in the largest entry; √(2n) and n/2 in the RMS over n scores."""
    if norm == "I":
        return Constants(2.0, 1.0)
    count = output.shape[-1] if output.shape else 0
    if not isinstance(count, int) or len(output.shape) == 4:
        raise Unbounded(f"it needs scores along the last axis, but the output is {output}")
    return Constants(math.sqrt(2 * count), count / 2)


LOSSES: Mapping[str, Rule] = {"mse": _mse, "cross_entropy": _cross_entropy}
"""The losses that are known: mean squared error, and cross-entropy of logits."""


@dataclass(frozen=True)
class Loss:
    """λ of a loss behind the model, with the declared sharpness; `loss` is a name of `LOSSES`."""

    loss: str
    name: ClassVar[str] = "loss"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        found = self.smoothness(program)
        assert program.certificate is not None
        if self.loss == "cross_entropy" and found.sigma and program.certificate.norm != "I":
            diagnostics.add(
                Diagnostic(
                    "A606",
                    "a cross-entropy behind an output that is bounded in the RMS has"
                    f" σ = {found.sigma:.4g} and τ = {found.tau:.4g}: they grow with the number of"
                    " scores",
                    program.span,
                    hint="end in `Readout(out)` instead of `Linear(out)`: it bounds the largest"
                    " score, and σ and τ are 2 and 1",
                )
            )
        return replace(program, smoothness=found)

    def smoothness(self, program: Program) -> Smoothness:
        certificate = program.certificate
        assert certificate is not None, "the program has not been certified"
        output = program.types[program.tree.id][1]
        if not isinstance(output, Tensor) or output.dtype != "float":
            return Smoothness(self.loss, f"it needs one output of real numbers, not {output}")
        high = certificate.parts[program.tree.id].high
        try:
            sigma, tau = LOSSES[self.loss](output, certificate.norm, high)
        except Unbounded as error:
            return Smoothness(self.loss, str(error))
        sharpness = program.sharpness[program.tree.id]
        if sharpness is None:
            why = "an operation is not smooth, or a weight is used more than once"
            return Smoothness(self.loss, why, sigma, tau)
        return Smoothness(self.loss, "", sigma, tau, sigma * sharpness.alpha + tau)

    def verify(self, program: Program) -> None:
        found = program.smoothness
        assert found is not None
        assert (found.smoothness is None) == bool(found.reason)
