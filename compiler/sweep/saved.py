"""The JSON of `modnorm transfer --format json`: findings with all runs, and the way back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from modnorm.report.typed import parsed, typed
from modnorm.report.unusable import Unusable
from modnorm.report.words import listed, plain
from modnorm.sweep.findings import Curve
from modnorm.sweep.records import Outcome, Settings, Size, Sweep, Trial
from modnorm.sweep.store import LARGEST, Finite, Kept

if TYPE_CHECKING:
    from modnorm.sweep.findings import Findings

KIND, VERSION = "transfer", 1
ASKED = ("model", "source", "params", "vary", "optimizers", "seeds", "rates")
CURVE = ("optimizer", "sizes", "best", "error", "edge", "problem", "seeds", "runs", "diverged",
         "left_out")  # fmt: skip
LOSS = ("best", "error", "at_smallest", "excess")
"""What the file has of a sweep, of a curve and of a loss."""
Positive = Annotated[float, Meta(gt=0, le=LARGEST)]


def to_json(findings: Findings) -> dict[str, Any]:
    """The findings as objects that `json` can write; None for what is not finite."""
    sweep = findings.sweep
    found = {
        "modnorm": KIND,
        "version": VERSION,
        **{name: getattr(sweep, name) for name in ASKED},
        "settings": asdict(sweep.settings),
        "versions": sweep.versions,
        "metric": findings.metric,
        "tolerance": findings.tolerance,
        "missing": sweep.missing,
        "warnings": findings.warnings,
        "curves": [_curve(one) for one in findings.curves],
        "drifts": [_record(one) for one in findings.drifts],
        "masses": [_record(one) for one in findings.masses],
        "trials": [{**_record(trial), **asdict(outcome)} for trial, outcome in sweep.runs],
    }
    written: dict[str, Any] = plain(found)
    return written


def _record(one: Any) -> dict[str, Any]:
    """A record as an object; so are the sizes in it."""
    found = asdict(one)
    for name in ("sizes", "masses"):
        if name in found:
            found[name] = dict(found[name])
    if "as_good" in found:
        found["as_good"] = [dict(sizes) for sizes in found["as_good"]]
    return found


def _curve(one: Curve) -> dict[str, Any]:
    found = {name: getattr(one, name) for name in CURVE}
    for name in ("train", "held_out"):
        found[name] = {part: getattr(getattr(one, name), part) for part in LOSS}
    return {**found, "sizes": dict(one.sizes)}


def dumps(findings: Findings) -> str:
    """Findings as JSON text, with a curve, a drift or a run a line; `loads` reads it."""
    return listed(to_json(findings))


# --- reading --------------------------------------------------------------------------------


class _Run(Kept):
    """A run as the file has it; a first loss that is not finite is null there."""

    optimizer: str
    sizes: dict[str, Any]
    lr: Positive
    seed: int
    key: str


def loads(text: str) -> Sweep:
    """The sweep in a text that `dumps` made.

    Raises:
        Unusable: if it is something else, or damaged; the message says where.
    """
    found = parsed(text, parse_constant=_refuse)
    if not isinstance(found, dict) or found.get("modnorm") != KIND:
        raise Unusable("it is not what `modnorm transfer --format json` writes")
    version = found.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise Unusable(
            f"it has version {version!r:.20} of the format, and this modnorm reads version"
            f" {VERSION}"
        )
    trials: list[_Run] = typed(_entry(found, "trials"), list[_Run], "trials")
    own = {
        "vary": _named(found, "vary", tuple[Size, ...]),
        "rates": _named(found, "rates", tuple[Finite, ...]),
        "settings": _settings(found),
        "runs": [_run(one, f"trials[{i}]") for i, one in enumerate(trials)],
        "missing": _entry(found, "missing"),
        "versions": found.get("versions") and _named(found, "versions", str),
    }
    return typed({**found, **own}, Sweep)


def _refuse(name: str) -> float:
    raise Unusable(f"{name} is no number of JSON")


def _entry(found: Mapping[str, Any], key: str) -> Any:
    if key not in found:
        raise Unusable(f"object missing required field `{key}`")
    return found[key]


def _named(found: Mapping[str, Any], key: str, kind: Any) -> dict[str, Any]:
    """An object whose names are not known beforehand: those of params, optimizers, packages."""
    values: dict[str, Any] = typed(_entry(found, key), dict[str, Any], key)
    return {name: typed(value, kind, f"{key}.{name}") for name, value in values.items()}


def _settings(found: Mapping[str, Any]) -> Settings:
    settings = _named(found, "settings", Any)
    if odd := sorted(settings.keys() ^ {one.name for one in fields(Settings)}):
        raise Unusable(f"{odd[0]!r:.40} of `settings` is missing, or not known to this modnorm")
    return typed(settings, Settings, "settings")


def _run(one: _Run, where: str) -> tuple[Trial, Outcome]:
    for name, size in one.sizes.items():
        typed(size, Positive, f"{where}.sizes.{name}")
    trial = Trial(one.optimizer, tuple(one.sizes.items()), one.lr, one.seed, one.key)
    return trial, one.outcome(math.inf)
