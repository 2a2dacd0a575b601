"""What `modnorm check` finds, as data and as JSON, which is written and read here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike, fspath
from typing import Any, Literal

from modnorm.report.unusable import Unusable
from modnorm.report.words import listed, plain

Verdict = Literal["ok", "above declared", "violated", "outside the ball", "not measured"]

Quantity = Literal["activation", "change"]


@dataclass(frozen=True)
class Extent:
    """The norms of the smallest group and of the whole of the inputs met."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModuleFinding:
    """One position of the module tree; of a repetition's copies, the one with most stretch.

    `here` is the stretch at the inputs met, and `measured` the largest found in the ball of inputs.
    `certified` is None where nothing is certified, and `reason` says why; the stretches are None
    where the input is of integers. `depth` is that of the named parts around it.
    `certified_at_norms` is what is certified for weights of a checkpoint's norms, the largest of
    all copies.
    """

    path: str
    name: str = ""
    kind: str = ""
    depth: int = 0
    line: int = 0
    file: str | None = None
    norm: str = ""
    output_norm: str = ""
    declared: float | None = None
    certified: float | None = None
    reason: str = ""
    measured: float | None = None
    here: float | None = None
    copies: int = 1
    verdict: Verdict
    certified_at_norms: float | None = None
    input: Extent = Extent()


@dataclass(frozen=True)
class WeightFinding:
    """One weight: its norm, the ball's radius being 1, its target, and what it does alone.

    `change` is the largest first-order change of the output by an update of the target's size;
    None where it was not measured. `bound` is the part of κ that it has with all its `copies`.
    """

    weight: str
    norm: float | None = None
    target: float | None = None
    change: float | None = None
    bound: float | None = None
    copies: int = 1


@dataclass(frozen=True, kw_only=True)
class ScalingFinding:
    """A module's activations, or their changes, against one param: values, exponent, verdict."""

    path: str
    quantity: Quantity
    values: tuple[float | None, ...] = ()
    slope: float | None = None
    error: float | None = None
    verdict: str


@dataclass(frozen=True)
class Coordinates:
    """The coordinate check against one param."""

    param: str
    sizes: tuple[float, ...] = ()
    modules: tuple[ScalingFinding, ...] = ()

    def distinct(self) -> dict[str, dict[Quantity, ScalingFinding]]:
        """By path and quantity; without parts that end in another and so give what that gives."""
        by_path: dict[str, dict[Quantity, ScalingFinding]] = {}
        for module in self.modules:
            by_path.setdefault(module.path, {})[module.quantity] = module
        seen: dict[tuple[str, ...], str] = {}
        for path, found in by_path.items():
            values = tuple(value for module in found.values() for value in module.values)
            seen.setdefault(tuple(f"{value or 0.0:.8e}" for value in values), path)
        return {path: by_path[path] for path in seen.values()}


@dataclass(frozen=True)
class Training:
    """How the models of a coordinate check were trained."""

    optimizer: str = ""
    lr: float = 0.0
    steps: int = 0
    seeds: int = 0
    loss: str = ""
    params: tuple[Coordinates, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that was measured of a model. A file may leave out what has a default here.

    The two `_at_norms` are κ and the certified sensitivity of the whole for weights of the norms
    that those of a checkpoint have; None without a checkpoint or without a proof.
    """

    model: str
    source: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    data: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    checkpoint: str | None = None
    agreement: float | None = None
    kappa: float | None = None
    kappa_reason: str = ""
    random_kappa: float | None = None
    measured_kappa: float | None = None
    modules: tuple[ModuleFinding, ...]
    weights: tuple[WeightFinding, ...] = ()
    coordinates: Training | None = None
    notes: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()
    kappa_at_norms: float | None = None
    sensitivity_at_norms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The findings as objects that `json` can write; None for what is not finite."""
        found: dict[str, Any] = plain(asdict(self))
        for module in found["modules"]:
            if module["file"] is None:
                del module["file"]
        return found


def dumps(found: dict[str, Any]) -> str:
    """Findings as JSON text, a module or a weight a line."""
    return listed(found)


def read_check(path: str | PathLike[str]) -> Findings:
    """The findings in a file.

    Raises:
        Unusable: if the file cannot be read, or has something else in it.
    """
    from modnorm.report.typed import parsed

    whole, real = _finite(int), _finite(float)
    try:
        with open(path, encoding="utf-8") as file:
            found = parsed(file.read(), parse_int=whole, parse_float=real, parse_constant=real)
        return checked(found)
    except UnicodeDecodeError:
        reason = "it is no UTF-8 text"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name, or what is Unusable
        reason = getattr(error, "strerror", None) or str(error)
    reason = reason[:1].lower() + reason[1:]
    raise Unusable(f"cannot use `{fspath(path)}` as measurements: {reason}")


def checked(found: object) -> Findings:
    """The findings in what `to_json` gives.

    Raises:
        Unusable: if it is something else.
    """
    from modnorm.report.typed import typed

    try:
        return typed(found, Findings)
    except Unusable as error:
        what = "it is not what `modnorm check --format json` writes"
        raise Unusable(f"{what}: {error}") from None


def _finite(kind: type[float]) -> Callable[[str], float | None]:
    """Reads a number of JSON; None for one that is not finite, or that no float can hold."""
    return lambda text: kind(text) if math.isfinite(float(text)) else None
