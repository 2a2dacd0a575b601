"""The committed results of sweeps are whole, and are of the commands said to have made them."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from modnorm.cli import cli
from modnorm.command_line import rates_of
from modnorm.options import declared
from modnorm.sweep.options import TransferOptions
from modnorm.sweep.records import Sweep
from modnorm.sweep.saved import loads

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / "transfer"
sys.path.insert(0, str(FOLDER))

from sweeps import SWEEPS  # noqa: E402

NAMES = sorted(path.stem for path in (FOLDER / "results").glob("*.json"))


def asked(name: str) -> dict[str, Any]:
    """The options of a sweep's command, as the command line reads them."""
    command: Any = cli.commands["transfer"]
    with command.make_context("transfer", SWEEPS[name].arguments) as context:
        options: dict[str, Any] = context.params
        named = {name: options[name] for name in declared(TransferOptions)}
        return {**options, "rates": rates_of(TransferOptions(**named))}


def result(name: str) -> Sweep:
    return loads((FOLDER / "results" / f"{name}.json").read_text(encoding="utf-8"))


def same(found: Any, text: str) -> bool:
    """Whether a param has the value that the command line gives it."""
    try:
        return bool(Fraction(text) == Fraction(str(found)))
    except ValueError:
        return str(found).lower() == text.lower()


def test_every_sweep_has_results_and_every_result_a_sweep() -> None:
    assert sorted(SWEEPS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_the_command(name: str) -> None:
    found, options = result(name), asked(name)
    assert found.source == options["file"]
    assert (ROOT / found.source).exists()
    assert dict(found.vary) == options["vary"]
    assert dict(found.rates) == options["rates"]
    assert found.seeds == tuple(range(options["seeds"]))
    assert found.settings.data == options["data"]
    for option in ("steps", "batch", "schedule"):
        assert getattr(found.settings, option) == options[option]
    if options["context"] is not None:
        assert found.settings.context == options["context"]
    for param, value in options["params"].items():
        if param not in found.vary:
            assert same(found.params[param], value), param


@pytest.mark.parametrize("name", NAMES)
def test_no_run_is_missing_or_there_twice(name: str) -> None:
    found = result(name)
    assert found.missing == 0
    places = [(t.optimizer, t.sizes, t.lr, t.seed) for t, _ in found.runs]
    assert len(set(places)) == len(places)
    curves = {(t.optimizer, t.sizes) for t, _ in found.runs}
    here = set(places)
    for optimizer, sizes in curves:
        for lr in found.rates[optimizer]:
            assert {(optimizer, sizes, lr, seed) for seed in found.seeds} <= here
