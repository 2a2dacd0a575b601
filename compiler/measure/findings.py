"""What was measured, as data, and as the JSON that `modnorm check --format json` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from modnorm.report.words import listed

Verdict = Literal["ok", "above declared", "violated", "outside the ball", "not measured"]

Quantity = Literal["activation", "change"]

TOLERANCE = 1e-6
"""By how much, relatively, a measurement in float64 may exceed a certified value by rounding."""


@dataclass(frozen=True)
class ModuleFinding:
    """One position of the module tree; of a repetition's copies, the one with most stretch.

    `low` and `high` are the norms of the smallest group and of the whole of the inputs met; `here`
    is the stretch at them, and `measured` the largest found in the ball of inputs. `certified` is
    None where nothing is certified, and `reason` says why; the stretches are None where the input
    is of integers. `depth` is that of the named parts around it. `certified_at_norms` is what is
    certified for weights of a checkpoint's norms, the largest of all copies.
    """

    path: str
    name: str
    kind: str
    depth: int
    line: int
    file: str | None
    norm: str
    output_norm: str
    low: float | None
    high: float | None
    declared: float
    certified: float | None
    reason: str
    measured: float | None
    here: float | None
    copies: int
    verdict: Verdict
    certified_at_norms: float | None = None


@dataclass(frozen=True)
class WeightFinding:
    """One weight: its norm, the ball's radius being 1, its target, and what it does alone.

    `change` is the largest first-order change of the output by an update of the target's size;
    None where it was not measured. `bound` is the part of κ that it has with all its `copies`.
    """

    weight: str
    norm: float
    target: float
    change: float | None
    bound: float | None
    copies: int


@dataclass(frozen=True)
class ScalingFinding:
    """A module's activations, or their changes, against one param: values, exponent, verdict."""

    path: str
    quantity: Quantity
    values: tuple[float, ...]
    slope: float | None
    error: float | None
    verdict: str


@dataclass(frozen=True)
class Coordinates:
    """The coordinate check against one param."""

    param: str
    sizes: tuple[float, ...]
    modules: tuple[ScalingFinding, ...]

    def distinct(self) -> dict[str, dict[Quantity, ScalingFinding]]:
        """By path and quantity; without parts that end in another and so give what that gives."""
        by_path: dict[str, dict[Quantity, ScalingFinding]] = {}
        for module in self.modules:
            by_path.setdefault(module.path, {})[module.quantity] = module
        seen: dict[tuple[str, ...], str] = {}
        for path, found in by_path.items():
            values = tuple(value for module in found.values() for value in module.values)
            seen.setdefault(tuple(f"{value:.8e}" for value in values), path)
        return {path: by_path[path] for path in seen.values()}


@dataclass(frozen=True)
class Training:
    """How the models of a coordinate check were trained."""

    optimizer: str
    lr: float
    steps: int
    seeds: int
    loss: str
    params: tuple[Coordinates, ...]


@dataclass(frozen=True)
class Findings:
    """Everything that was measured of a model.

    The two `_at_norms` are κ and the certified sensitivity of the whole for weights of the norms
    that those of a checkpoint have; None without a checkpoint or without a proof.
    """

    model: str
    source: str
    params: Mapping[str, Any]
    seed: int
    data: str
    sizes: Mapping[str, int]
    checkpoint: str | None
    agreement: float
    kappa: float | None
    kappa_reason: str
    random_kappa: float
    measured_kappa: float
    modules: tuple[ModuleFinding, ...]
    weights: tuple[WeightFinding, ...]
    coordinates: Training | None
    notes: tuple[str, ...]
    violations: tuple[str, ...]
    kappa_at_norms: float | None = None
    sensitivity_at_norms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The findings as objects that `json` can write; None for what is not finite."""
        found = asdict(self)
        found["modules"] = [_module(m) for m in self.modules]
        return {key: _finite(value) for key, value in found.items()}


def _module(module: ModuleFinding) -> dict[str, Any]:
    found = asdict(module)
    found["input"] = {"low": found.pop("low"), "high": found.pop("high")}
    if found["file"] is None:
        del found["file"]
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def dumps(found: dict[str, Any]) -> str:
    """Findings as JSON text, a module or a weight a line."""
    return listed(found)
