"""The JSON of `modnorm transfer --format json`: findings with all runs, and the way back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from modnorm.report.unusable import Unusable
from modnorm.report.words import listed
from modnorm.sweep.curves import Curve, Loss
from modnorm.sweep.records import Outcome, Settings, Size, Sizes, Sweep, Trial

if TYPE_CHECKING:
    from modnorm.sweep.findings import Findings

KIND, VERSION = "transfer", 1


def to_json(findings: Findings) -> dict[str, Any]:
    """The findings as objects that `json` can write; None for what is not finite."""
    sweep = findings.sweep
    found = {
        "modnorm": KIND,
        "version": VERSION,
        "model": sweep.model,
        "source": sweep.source,
        "params": sweep.params,
        "vary": sweep.vary,
        "optimizers": sweep.optimizers,
        "seeds": sweep.seeds,
        "rates": sweep.rates,
        "settings": asdict(sweep.settings),
        "versions": sweep.versions,
        "metric": findings.metric,
        "tolerance": findings.tolerance,
        "missing": sweep.missing,
        "warnings": findings.warnings,
        "curves": [_curve(one) for one in findings.curves],
        "drifts": [{**asdict(one), "masses": dict(one.masses)} for one in findings.drifts],
        "masses": [
            {
                **asdict(one),
                "sizes": dict(one.sizes),
                "masses": dict(one.masses),
                "as_good": [dict(other) for other in one.as_good],
            }
            for one in findings.masses
        ],
        "trials": [
            {**asdict(trial), "sizes": dict(trial.sizes), **asdict(outcome)}
            for trial, outcome in sweep.runs
        ],
    }
    plain: dict[str, Any] = _plain(found)
    return plain


def _curve(one: Curve) -> dict[str, Any]:
    names = ("best", "error", "edge", "problem", "seeds", "runs", "diverged", "left_out")
    found = {name: getattr(one, name) for name in names}
    own = {"optimizer": one.optimizer, "sizes": dict(one.sizes)}
    return {**own, **found, "train": _loss(one.train), "held_out": _loss(one.held_out)}


def _loss(loss: Loss) -> dict[str, float | None]:
    return {name: getattr(loss, name) for name in ("best", "error", "at_smallest", "excess")}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def dumps(findings: Findings) -> str:
    """Findings as JSON text, with a curve, a drift or a run a line; `loads` reads it."""
    return listed(to_json(findings))


# --- reading --------------------------------------------------------------------------------


def loads(text: str) -> Sweep:
    """The sweep in a text that `dumps` made.

    Raises:
        Unusable: if it is something else, or damaged; the message says where.
    """
    try:
        found = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Unusable(f"no JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except ValueError as error:  # a number too long
        raise Unusable(str(error)) from None
    if not isinstance(found, dict) or found.get("modnorm") != KIND:
        raise Unusable("it is not what `modnorm transfer --format json` writes")
    if isinstance(found.get("version"), bool) or found.get("version") != VERSION:
        raise Unusable(
            f"it has version {found.get('version')!r:.20} of the format, and this modnorm reads"
            f" version {VERSION}"
        )
    return _sweep(_Entry(found, ""))


def _refuse(name: str) -> float:
    raise Unusable(f"{name} is no number of JSON")


class _Entry:
    """An object of the file, whose values are asked for by kind."""

    def __init__(self, found: Mapping[str, Any], where: str) -> None:
        self.found = found
        self.where = f" of {where}" if where else ""

    def get(self, key: str, kind: type | tuple[type, ...], what: str) -> Any:
        if key not in self.found:
            raise Unusable(f"`{key}`{self.where} is missing")
        value = self.found[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Unusable(f"`{key}`{self.where} is {value!r:.40}, {what}")
        return value

    def text(self, key: str) -> str:
        value: str = self.get(key, str, "no text")
        return value

    def whole(self, key: str) -> int:
        value: int = self.get(key, int, "no whole number")
        return value

    def number(self, key: str) -> float:
        return _float(self.get(key, (int, float), "no number"), f"`{key}`{self.where}")

    def perhaps(self, key: str) -> float | None:
        return None if self.found.get(key, 0) is None else self.number(key)

    def mapping(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = self.get(key, dict, "no object")
        return value

    def listed(self, key: str) -> list[Any]:
        value: list[Any] = self.get(key, list, "no list")
        return value

    def sizes(self, key: str) -> dict[str, list[Size]]:
        """An object of lists of numbers."""
        return {
            name: [_size(value, f"`{key}.{name}`{self.where}") for value in _list(values, name)]
            for name, values in self.mapping(key).items()
        }


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unusable(f"`{name}` is {value!r:.40}, no list")
    return value


def _size(value: Any, where: str) -> Size:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable(f"{where} has {value!r:.40}, no number")
    return value


def _float(value: Size, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unusable(f"{where} is too large a number")
    return number


def _sweep(entry: _Entry) -> Sweep:
    seeds = entry.listed("seeds")
    optimizers = entry.listed("optimizers")
    if not all(isinstance(name, str) for name in optimizers):
        raise Unusable("`optimizers` has something that is no text")
    if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise Unusable("`seeds` has something that is no whole number")
    versions = None
    if entry.found.get("versions") is not None:
        given = _Entry(entry.mapping("versions"), "versions")
        versions = {name: given.text(name) for name in given.found}
    return Sweep(
        model=entry.text("model"),
        source=entry.text("source"),
        params=entry.mapping("params"),
        vary={name: tuple(values) for name, values in entry.sizes("vary").items()},
        optimizers=tuple(optimizers),
        rates={
            name: tuple(_float(v, f"`rates.{name}`") for v in values)
            for name, values in entry.sizes("rates").items()
        },
        seeds=tuple(seeds),
        settings=_settings(_Entry(entry.mapping("settings"), "settings")),
        runs=tuple(_runs(entry)),
        missing=entry.whole("missing"),
        versions=versions,
    )


def _settings(entry: _Entry) -> Settings:
    known = {one.name: one for one in fields(Settings)}
    if strange := [name for name in entry.found if name not in known]:
        raise Unusable(f"`settings` has {strange[0]!r:.40}, which this modnorm does not know")
    found: dict[str, Any] = {}
    for name, one in known.items():
        if one.type == "str":
            found[name] = entry.text(name)
        elif "None" in str(one.type) and entry.found.get(name) is None:
            found[name] = None
        else:
            found[name] = entry.whole(name)
    return Settings(**found)


def _runs(entry: _Entry) -> Iterator[tuple[Trial, Outcome]]:
    for i, found in enumerate(entry.listed("trials")):
        if not isinstance(found, dict):
            raise Unusable(f"trials[{i}] is no object")
        one = _Entry(found, f"trials[{i}]")
        status = one.text("status")
        if status not in ("done", "diverged"):
            raise Unusable(f"`status` of trials[{i}] is {status!r:.40}, not done or diverged")
        lr = one.number("lr")
        if lr <= 0:
            raise Unusable(f"`lr` of trials[{i}] is {lr:g}, no positive number")
        trial = Trial(one.text("optimizer"), _sizes(one, i), lr, one.whole("seed"), one.text("key"))
        first = one.perhaps("first_loss")
        yield (
            trial,
            Outcome(
                status="done" if status == "done" else "diverged",
                first_loss=math.inf if first is None else first,
                train_loss=one.perhaps("train_loss"),
                held_out_loss=one.perhaps("held_out_loss"),
                accuracy=one.perhaps("accuracy"),
                steps=one.whole("steps"),
                seconds=one.number("seconds"),
            ),
        )


def _sizes(one: _Entry, i: int) -> Sizes:
    found = []
    for name, value in one.mapping("sizes").items():
        size = _size(value, f"`sizes.{name}` of trials[{i}]")
        if not 0 < _float(size, name) < math.inf:
            raise Unusable(f"`sizes.{name}` of trials[{i}] is {size!r:.40}, no positive number")
        found.append((name, size))
    return tuple(found)
