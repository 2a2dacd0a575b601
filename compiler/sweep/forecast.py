"""How long a sweep may take, told before it is begun."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from modnorm.measure.interface import torch_at_hand
from modnorm.measure.problems import NoTorch
from modnorm.sweep.drive import failure
from modnorm.sweep.plan import Curve
from modnorm.sweep.progress import Estimate, spoken
from modnorm.sweep.records import Outcome, Trial
from modnorm.sweep.request import Prepared
from modnorm.sweep.trial import run_trial

STEPS = 3
"""Of a model that is measured."""
PATIENCE = 2.0
"""Seconds after which no further optimizer is measured."""
FORWARD = 1 / 3
"""What a held-out batch costs, of a step: forward, and not backward, which is about twice that."""


def forecast(ready: Prepared, known: Mapping[str, Outcome], jobs: int) -> str:
    """A line on how long the missing runs take, so many at once; nothing where none is missing.

    It is learned from runs that are over, or else from a few steps of the smallest and the largest
    model.

    Raises:
        TrialFailed: if those steps cannot be made.
    """
    missing: list[Curve] = []
    estimate = Estimate()
    for curve in ready.plan.curves:
        for trial in ready.plan.trials(curve, known):
            if trial.key in known:
                estimate.learn(curve, known[trial.key])
            else:
                missing.append(curve)
    if not missing:
        return ""
    source = "runs that are over"
    if estimate.remaining(missing, jobs) is None:
        source = f"{STEPS} steps of the smallest and the largest model"
        try:
            with torch_at_hand():
                _measure(ready, missing, estimate)
        except NoTorch:
            return "no estimate of their time: torch is not installed\n"
    seconds = estimate.remaining(missing, jobs)
    assert seconds is not None
    return (
        f"about {spoken(seconds)} for what is missing, {jobs} at once: an estimate from {source}, "
        "without runs past the ends of a grid\n"
    )


def _measure(ready: Prepared, missing: list[Curve], estimate: Estimate) -> None:
    """Time the smallest and the largest model, for each optimizer while patience lasts."""
    begun = time.perf_counter()
    by_optimizer: dict[str, list[Curve]] = {}
    for curve in missing:
        by_optimizer.setdefault(curve.optimizer, []).append(curve)
    warm = False
    for curves in by_optimizer.values():
        if warm and time.perf_counter() - begun > PATIENCE:
            return
        ends = min(curves, key=lambda c: c.cost), max(curves, key=lambda c: c.cost)
        for curve in dict.fromkeys(ends):
            trial = ready.plan.trials(curve, {})[0]
            if not warm:  # what is made once is no part of a run
                _timed(ready, trial)
                begun, warm = time.perf_counter(), True
            estimate.learn(curve, _timed(ready, trial))


def _timed(ready: Prepared, trial: Trial) -> Outcome:
    """The outcome of a few steps, with the seconds that the whole run would take."""
    job = ready.job(trial)
    whole = ready.sweep.settings
    job["settings"] = {**job["settings"], "steps": STEPS, "eval_batches": 1}
    try:
        made = run_trial(job)
    except Exception as error:  # as in a sweep: whatever a stranger's optimizer raises
        raise failure(trial, error) from error
    each = made.seconds / (made.steps + FORWARD)
    return replace(made, seconds=each * (whole.steps + FORWARD * whole.eval_batches))
