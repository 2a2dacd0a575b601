"""What is proved about a model: the result of the pass `certify`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modnorm.diagnostics import Span
from modnorm.ops.base import Sharpness
from modnorm.ops.edges import Measure


@dataclass(frozen=True)
class Reason:
    """Why there is no certificate: an operation for which there is no bound, and what it lacks.

    `span` is where the operation stands in the model's own file, or where the part of another file
    that holds it is mentioned there; `origin` is where the operation stands.
    """

    path: str
    op: str
    span: Span
    text: str
    origin: Span

    def __str__(self) -> str:
        origin = "" if self.origin is self.span else f" ({self.origin})"
        return f"{self.op} at {self.span}{origin}: {self.text}"


@dataclass(frozen=True)
class PartBound:
    """What is proved of one part, for every copy of it.

    `norm` is the letter of the measure of its output (of a tuple's members, joined by ` + `), `low`
    and `high` bound it. `sensitivity` is from the measure `source` of the input to that of the
    output, a string where there is no bound.
    """

    source: str
    norm: str
    low: float
    high: float
    sensitivity: float | str


@dataclass(frozen=True)
class WeightBound:
    """What is proved of one weight, or of all copies of it together.

    `high` bounds how far the atom's output moves for an update of norm 1, `downstream` how far that
    moves the model's output (summed over its uses; of copies the mean, weighted by their targets),
    and `kappa` is the weight's part of the model's κ.
    """

    high: float
    downstream: float
    kappa: float


@dataclass(frozen=True)
class Certificate:
    """κ: how far the output can move, in `norm`, for an update of modular norm 1.

    It holds while every weight's norm is at most 1 and every input's, in `source`, too. None where
    there is no bound; `reasons` says why. `parts` is by id of the module tree, `weights` by the
    template of a weight's path. `inputs` and `outputs` are the measures of the model's tensors;
    `by_image`: those of images are R, and not P.
    `sharpness` bounds the second derivatives in the same norms, for updates of modular norm 1 and
    inputs that move by 1; infinite where there is no bound.
    """

    inputs: tuple[Measure, ...]
    outputs: tuple[Measure, ...]
    source: str
    norm: str
    kappa: float | None
    sensitivity: float | str
    reasons: tuple[Reason, ...]
    parts: Mapping[int, PartBound]
    weights: Mapping[str, WeightBound]
    sharpness: Sharpness
    by_image: bool


@dataclass(frozen=True)
class Smoothness:
    """A loss behind a model: σ, τ and λ; `reason` says why one is missing.

    `certified`: λ = σ·α + τ·κ², with what is proved. Else it is σ·α + τ, with the declared α.
    """

    loss: str
    reason: str = ""
    sigma: float | None = None
    tau: float | None = None
    smoothness: float | None = None
    certified: bool = False
