"""What is found in sweeps that are made up, and the JSON of it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modnorm.report.unusable import Unusable
from modnorm.sweep.analysis import found
from modnorm.sweep.findings import Findings
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Outcome, Size, Sizes, Sweep
from modnorm.sweep.saved import dumps, loads
from tests.sweeps import DEPTHS, FIRST, RATES, WIDTHS, drifting, grid, sweep


def drift(findings: Findings, optimizer: str, axis: str) -> Any:
    (one,) = [d for d in findings.drifts if (d.optimizer, d.axis) == (optimizer, axis)]
    return one


# --- optima ---------------------------------------------------------------------------------


def test_optima_losses_and_drifts_are_those_put_in() -> None:
    findings = found(grid(diverges=math.inf))
    assert len(findings.curves) == 2 * len(WIDTHS) * len(DEPTHS)
    for one in findings.curves:
        sizes, normed = dict(one.sizes), one.optimizer == "normed_adam"
        slope = (0.03, -0.02) if normed else (-0.6, -0.2)
        best = -2 if normed else -4
        best += slope[0] * math.log2(sizes["d_embed"] / 32)
        best += slope[1] * math.log2(sizes["blocks"] / 2)
        assert one.best == pytest.approx(best)
        assert one.error == pytest.approx(0.03 / math.sqrt(3))
        # each seed's own optimum is 0.03 to a side of the common one, or there
        assert one.train.best == pytest.approx(2 + 0.04 * 0.03**2 * 2 / 3)
        assert one.held_out.best == pytest.approx(2.05 + 0.04 * 0.03**2 * 2 / 3)
        away = best - (-2 if normed else -4)
        at_smallest = 2 + 0.04 * (away**2 + 0.03**2 * 2 / 3)
        assert one.train.at_smallest == pytest.approx(at_smallest)
        assert one.train.excess == pytest.approx(at_smallest / (one.train.best or 0) - 1, abs=1e-9)
    assert drift(findings, "normed_adam", "d_embed").value == pytest.approx(0.03)
    assert drift(findings, "normed_adam", "blocks").value == pytest.approx(-0.02)
    assert drift(findings, "normed_adam", "d_embed").verdict == "transfers"
    assert drift(findings, "adam", "d_embed").value == pytest.approx(-0.6)
    assert drift(findings, "adam", "blocks").verdict == "drifts"
    assert not findings.warnings


def test_far_from_the_optimum_the_curve_is_followed_closely() -> None:
    findings = found(sweep({"adam": drifting(-2, -0.9, 0)}, {"d_embed": (32, 256)}, rates=RATES))
    largest = findings.curves[-1]
    assert largest.train.at_smallest == pytest.approx(2 + 0.04 * 2.7**2)


def test_a_diverged_run_has_its_first_loss() -> None:
    made = sweep({"adam": drifting(-2, 0, 0)}, {}, diverges=2.5)
    (one,) = found(made).curves
    assert (one.best, one.diverged, one.runs) == (pytest.approx(-2), 2, len(RATES))
    assert [p.loss for p in one.points if p.diverged] == [FIRST, FIRST]
    worse = [
        (t, replace(o, train_loss=99.0) if o.status == "done" and t.lr < 0.01 else o)
        for t, o in made.runs
    ]
    (other,) = found(replace(made, runs=tuple(worse))).curves
    assert other.best == one.best
    assert other.points[0].loss == FIRST


def test_a_first_loss_that_is_not_finite_does_no_harm() -> None:
    made = sweep({"adam": drifting(-2, 0, 0)}, {}, diverges=2.5)
    runs = [(t, replace(o, first_loss=math.inf) if t.lr > 2 else o) for t, o in made.runs]
    findings = found(replace(made, runs=tuple(runs)))
    assert findings.curves == found(made).curves
    assert loads(dumps(findings)) == findings.sweep
    nothing = [(t, Outcome("diverged", math.inf, None, None, None, 1, 0.1)) for t, _ in made.runs]
    findings = found(replace(made, runs=tuple(nothing)))
    assert findings.curves[0].best is None
    assert "at no learning rate does the loss fall" in findings.warnings[0]
    json.loads(dumps(findings), parse_constant=pytest.fail)


@pytest.mark.parametrize(("start", "edge", "advice"), [(-9, "low", "2^-11..2^-8"),
                                                       (3, "high", "2^2..2^5")])  # fmt: skip
def test_a_best_at_an_end_is_no_optimum(start: float, edge: str, advice: str) -> None:
    findings = found(sweep({"adam": drifting(start, 0, 0)}, {"d_embed": (32, 64)}))
    for one in findings.curves:
        assert (one.best, one.error, one.edge) == (None, None, edge)
        assert one.train.best is not None
    assert advice in findings.warnings[0]
    assert drift(findings, "adam", "d_embed").value is None
    assert drift(findings, "adam", "d_embed").verdict == "unclear"


def test_curves_left_out_leave_no_drift_that_transfers() -> None:
    made = sweep({"adam": lambda sizes, seed: -2 if sizes["d_embed"] < 256 else -20},
                 {"d_embed": WIDTHS}, seeds=(0, 1))  # fmt: skip
    one = drift(found(made), "adam", "d_embed")
    assert (one.value, one.left_out, one.verdict) == (pytest.approx(0), 1, "unclear")


def test_two_learning_rates_make_no_optimum() -> None:
    (one,) = found(sweep({"adam": drifting(-2, 0, 0)}, {}, rates=(-3, -2))).curves
    assert (one.best, one.edge) == (None, None)
    assert "3 learning rates" in one.problem


def test_one_seed_has_the_error_of_a_wider_parabola() -> None:
    made = sweep({"adam": drifting(-2.2, 0, 0)}, {})
    (one,) = found(made).curves
    assert one.error == pytest.approx(0, abs=1e-9)
    skewed = [
        (t, replace(o, train_loss=(o.train_loss or 0) + 0.003 * (t.log2_lr + 2) ** 3))
        for t, o in made.runs
    ]
    (one,) = found(replace(made, runs=tuple(skewed))).curves
    assert one.error is not None
    assert one.error > 0.001
    (few,) = found(sweep({"adam": drifting(-2, 0, 0)}, {}, rates=(-4, -2, 0))).curves
    assert (few.best, few.error) == (pytest.approx(-2), None)


def test_missing_runs_are_left_out_and_said() -> None:
    made = grid()
    gone = {("adam", 32, 2, -6.0, 1), ("adam", 32, 2, 0.0, 2)}
    runs = tuple(
        (t, o)
        for t, o in made.runs
        if (t.optimizer, *dict(t.sizes).values(), t.log2_lr, t.seed) not in gone
    )
    findings = found(replace(made, runs=runs, missing=2))
    whole = found(made)
    (one,) = [c for c in findings.of("adam") if tuple(dict(c.sizes).values()) == (32, 2)]
    assert (one.left_out, one.seeds) == (4, (0, 1, 2))
    assert one.best == pytest.approx(whole.of("adam")[0].best)
    assert any("2 runs are missing" in w for w in findings.warnings)
    assert any("4 runs left out" in w for w in findings.warnings)


def test_a_run_that_is_there_twice_counts_once() -> None:
    made = grid()
    assert found(replace(made, runs=made.runs * 2)).curves == found(made).curves


def test_a_drift_without_an_error_has_no_verdict() -> None:
    findings = found(sweep({"adam": drifting(-2, 0, 0)}, {"d_embed": (32, 64)}))
    (one,) = findings.drifts
    assert (one.value, one.error, one.verdict) == (pytest.approx(0), None, "unclear")
    assert "add seeds (--seeds) or sizes (--vary)" in findings.warnings[0]


def test_a_sweep_that_has_just_begun_has_findings() -> None:
    made = grid()
    assert found(replace(made, runs=(), missing=len(made.runs))).curves == ()
    for count in (1, 5, 40):
        findings = found(replace(made, runs=made.runs[:count], missing=1))
        assert findings.curves
        assert loads(dumps(findings)) == findings.sweep


def test_the_metric_decides() -> None:
    made = sweep({"adam": drifting(-2, 0, 0)}, {})
    runs = [(t, replace(o, held_out_loss=2 + 0.03 * (t.log2_lr + 4.5) ** 2)) for t, o in made.runs]
    held_out = replace(made, runs=tuple(runs))
    assert found(held_out, "train").curves[0].best == pytest.approx(-2)
    assert found(held_out, "held_out").curves[0].best == pytest.approx(-4.5)


@pytest.mark.parametrize("wrong", [{"metric": "test"}, {"tolerance": -1.0},
                                   {"tolerance": math.nan}])  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SweepError):
        found(grid(), **wrong)


@pytest.mark.parametrize("value", [0, -1, True, math.inf])
def test_only_positive_numbers_are_varied(value: Any) -> None:
    made = sweep({"adam": lambda sizes, seed: -2.0}, {"dropout": (value,)})
    with pytest.raises(SweepError, match="dropout"):
        found(made)


@pytest.mark.parametrize("sizes", [(), (("blocks", 4),), (("d_embed", 32), ("blocks", 4))])
def test_runs_that_are_not_of_one_sweep(sizes: Sizes) -> None:
    there = sweep({"adam": drifting(-4, -0.6, 0.0)}, {"d_embed": WIDTHS})
    trial, done = there.runs[-1]
    mixed = replace(there, runs=(*there.runs, (replace(trial, sizes=sizes), done)))
    with pytest.raises(SweepError, match=r"the sizes \(d_embed\) and the other \("):
        found(mixed)


# --- masses ---------------------------------------------------------------------------------


def by_mass(optimum: Mapping[Size, float], **others: Any) -> Sweep:
    """Widths by masses, with the lowest loss at a mass that depends on the width."""

    def low(sizes: Mapping[str, Size]) -> float:
        return 2.0 + 0.05 * math.log2(sizes["mass"] / optimum[sizes["d_embed"]]) ** 2

    return sweep(
        {"normed_adam": lambda sizes, seed: -2 + 0.5 * math.log2(sizes["mass"]) + 0.01 * seed},
        {"d_embed": (32, 64), "mass": (0.5, 1, 2, 4)}, seeds=(0, 1), low=low, **others,
    )  # fmt: skip


def test_the_best_mass_is_recommended_and_transfers() -> None:
    findings = found(by_mass({32: 2, 64: 2}))
    small, large = findings.masses
    assert small.masses == large.masses == (("mass", 2),)
    assert (small.transfers, large.transfers) == (None, True)
    # each mass has its own best learning rate, the same at both widths
    assert all(c.train.excess == pytest.approx(0, abs=1e-9) for c in findings.curves)
    assert large.excess == pytest.approx(0)
    assert [d.axis for d in findings.drifts] == ["d_embed"]
    assert findings.drifts[0].masses == (("mass", 2),)
    assert findings.drifts[0].value == pytest.approx(0)


def test_a_mass_that_does_not_transfer_is_told() -> None:
    _, large = found(by_mass({32: 1, 64: 4})).masses
    assert (large.masses, large.transfers) == ((("mass", 4),), False)
    assert large.excess == pytest.approx(0.05 * 4 / 2, rel=1e-3)


def test_masses_within_errors_are_as_good() -> None:
    made = by_mass({32: 2, 64: 2})
    noisy = [
        (t, replace(o, train_loss=(o.train_loss or 0) + (0.2 if t.seed == dict(t.sizes)["mass"] % 2
                                                          else 0.0)))
        for t, o in made.runs
    ]  # fmt: skip
    small, _ = found(replace(made, runs=tuple(noisy))).masses
    assert (("mass", 1),) in small.as_good


def test_masses_that_make_no_difference_are_no_size() -> None:
    made = by_mass({32: 1, 64: 1})
    runs = []
    for trial, outcome in made.runs:
        d_embed = dict(trial.sizes)["d_embed"]
        key = f"{d_embed}{trial.lr}{trial.seed}"
        runs.append((replace(trial, key=key), outcome))
    findings = found(replace(made, runs=tuple(runs)))
    assert [c.sizes for c in findings.curves] == [(("d_embed", 32),), (("d_embed", 64),)]
    assert not findings.masses


# --- properties -----------------------------------------------------------------------------


@given(st.integers(-6, 6), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_findings_move_with_the_learning_rate_and_not_with_the_order(shift: int, seed: int) -> None:
    noise = random.Random(seed)
    made = grid()
    runs = [
        (t, o if o.train_loss is None
         else replace(o, train_loss=o.train_loss + noise.gauss(0, 0.01)))
        for t, o in made.runs
    ]  # fmt: skip
    shifted = [(replace(t, lr=t.lr * 2.0**shift), o) for t, o in runs]
    noise.shuffle(shifted)
    before = found(replace(made, runs=tuple(runs)))
    after = found(replace(made, runs=tuple(shifted)))
    for a, b in zip(before.curves, after.curves, strict=True):
        assert (a.best is None) == (b.best is None)
        if a.best is not None:
            assert b.best == pytest.approx(a.best + shift, abs=1e-9)
            assert b.train.best == pytest.approx(a.train.best, abs=1e-9)
            assert b.train.excess == pytest.approx(a.train.excess, abs=1e-9)
    for c, d in zip(before.drifts, after.drifts, strict=True):
        assert d.value == pytest.approx(c.value, abs=1e-9)
        assert d.verdict == c.verdict
    shuffled = list(runs)
    noise.shuffle(shuffled)
    assert found(replace(made, runs=tuple(shuffled))) == before


@given(st.integers(0, 2**32), st.floats(1e-6, 1e6), st.text(max_size=20))
@settings(max_examples=20, deadline=None)
def test_json_gives_the_sweep_back(seed: int, scale: float, name: str) -> None:
    noise = random.Random(seed)
    made = grid(model=name, params={"p": scale, "name": name, "flag": True})
    runs = tuple(
        (replace(t, lr=t.lr * scale), o if o.train_loss is None
         else replace(o, train_loss=o.train_loss + noise.gauss(0, 0.01), seconds=noise.random()))
        for t, o in made.runs
    )  # fmt: skip
    findings = found(replace(made, runs=runs))
    text = dumps(findings)
    assert loads(text) == findings.sweep
    assert dumps(found(loads(text))) == text
    json.loads(text, parse_constant=pytest.fail)


# --- JSON -----------------------------------------------------------------------------------


def test_json_has_its_keys_and_a_run_a_line() -> None:
    made = grid()
    text = dumps(found(made))
    data = json.loads(text)
    assert (data["modnorm"], data["version"]) == ("transfer", 1)
    assert {"model", "source", "params", "vary", "optimizers", "seeds", "rates", "settings",
            "versions", "metric", "tolerance", "missing", "trials", "curves", "drifts",
            "masses"} <= data.keys()  # fmt: skip
    assert sum('"held_out_loss"' in line for line in text.splitlines()) == len(made.runs)
    assert text.endswith("}\n")


def mutated(change: Any) -> str:
    data = json.loads(dumps(found(grid(seeds=(0,)))))
    change(data)
    return json.dumps(data)


def put(key: str, value: Any) -> Any:
    return lambda data: data.__setitem__(key, value)


def put_run(key: str, value: Any) -> Any:
    return lambda data: data["trials"][3].__setitem__(key, value)


DAMAGED = {
    "": "no JSON at line 1",
    "{": "no JSON at line 1",
    "[]": "not what `modnorm transfer",
    '{"modnorm": "check"}': "not what `modnorm transfer",
    '{"modnorm": "transfer", "version": 2}': "version 2",
    '{"modnorm": "transfer", "version": 1}': "missing required field `trials`",
    mutated(put("version", True)): "version True",
    mutated(put("version", [1])): "version [1]",
    mutated(put("versions", {"torch": ["2.11"]})): "got `array` at `versions.torch`",
    mutated(put("versions", ["2.11"])): "expected `object`, got `array` at `versions`",
    '{"modnorm": NaN}': "NaN is no number of JSON",
    "[" * 100_000: "nested too deeply",
    mutated(put("seeds", ["0"])): "expected `int`, got `str` at `seeds[0]`",
    mutated(put("optimizers", 3)): "expected `array`, got `int` at `optimizers`",
    mutated(put("vary", {"d": ["32"]})): "expected `int | float`, got `str` at `vary.d[0]`",
    mutated(put("rates", {"adam": 1})): "expected `array`, got `int` at `rates.adam`",
    mutated(put("rates", {"adam": [1, 10**400]})): "number out of range at `rates.adam[1]`",
    mutated(lambda data: data.pop("missing")): "missing required field `missing`",
    mutated(put("settings", {"data": "x"})): "'batch' of `settings` is missing",
    mutated(lambda data: data["settings"].__setitem__("odd", 1)): "'odd' of `settings` is",
    mutated(put("trials", [1])): "expected `object`, got `int` at `trials[0]`",
    mutated(put_run("lr", 0)): "expected `float` > 0.0 at `trials[3].lr`",
    mutated(put_run("lr", True)): "expected `float`, got `bool` at `trials[3].lr`",
    mutated(put_run("status", "fine")): "invalid enum value 'fine' at `trials[3].status`",
    mutated(put_run("seed", 1.5)): "expected `int`, got `float` at `trials[3].seed`",
    mutated(put_run("sizes", {"d_embed": -1})): "> 0.0 at `trials[3].sizes.d_embed`",
    mutated(put_run("seconds", 987.5)).replace("987.5", "1e999"): "at `trials[3].seconds`",
    mutated(put_run("train_loss", "low")): "got `str` at `trials[3].train_loss`",
    mutated(lambda data: data["trials"][3].pop("held_out_loss")): "`held_out_loss` at `trials[3]`",
}


@pytest.mark.parametrize("text", DAMAGED, ids=list(DAMAGED.values()))
def test_a_damaged_file_is_told_apart(text: str) -> None:
    with pytest.raises(Unusable) as caught:
        loads(text)
    assert DAMAGED[text] in str(caught.value)
