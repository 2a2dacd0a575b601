"""Certificates hold: what is measured on programs never exceeds what is proved of them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from certified import Measured, case_of
from checks import Case, compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from pythonic import Text
from strategies import Sample, programs

from modnorm.diagnostics import Diagnostics
from modnorm.ops.edges import ONE_HOT
from modnorm.passes.certify import Certify
from modnorm.passes.program import Program, run_passes
from modnorm.pipeline import ANALYSIS, analyse

ROUNDING = 1e-9
STEPS = 30 if os.environ.get("MODNORM_LONG") else 4
EXAMPLES = settings().max_examples
SEEDS = st.integers(0, 2**16)
FILES = sorted((Path(__file__).parents[2] / "examples").glob("*.mod"))


def check_certificate(text: Text, seed: int = 0, steps: int = STEPS) -> tuple[float, ...]:
    """Measured over proved: an update's effect, an input's, the output's size."""
    case = compiled(text)
    if case is None or case.program.certificate is None:
        return ()
    found = case.program.certificate
    whole = found.parts[case.program.tree.id]
    measured = Measured(case, seed)
    tried = []
    if found.kappa is not None and any(r.target for r in measured.records):
        tried.append((measured.driven_up(measured.update_effect, steps), found.kappa))
    if isinstance(found.sensitivity, float) and measured.floats:
        tried.append((measured.driven_up(measured.input_effect, steps), found.sensitivity))
    if ONE_HOT not in found.outputs:
        tried.append((measured.driven_up(measured.output_size, steps), whole.high))
    for most, bound in tried:
        assert most <= bound * (1 + ROUNDING), (most, bound)
    return tuple(most / bound for most, bound in tried if bound)


@settings(max_examples=2 * EXAMPLES)
@given(programs(), SEEDS)
def test_nothing_moves_further_than_proved(sample: Sample, seed: int) -> None:
    check_certificate(sample.text, seed)


def check_brief(program: Program) -> bool:
    """Whether there is a κ; of it and of the output a brief certificate says what the full does."""
    full, brief = (
        run_passes(program, (Certify(brief=brief),), Diagnostics()).certificate
        for brief in (False, True)
    )
    assert full is not None
    assert brief is not None
    same = ("kappa", "norm", "outputs", *(("sharpness",) if full.kappa is not None else ()))
    assert [getattr(brief, name) for name in same] == [getattr(full, name) for name in same]
    assert brief.parts[program.tree.id].high == full.parts[program.tree.id].high
    return full.kappa is not None


@settings(max_examples=2 * EXAMPLES)
@given(programs())
def test_a_brief_certificate_says_the_same_of_the_model(sample: Sample) -> None:
    case = compiled(sample.text)
    if case is not None:
        check_brief(case.program)


def test_a_brief_certificate_says_the_same_of_the_examples() -> None:
    found = {path.stem: check_brief(analyse(path, passes=ANALYSIS).program) for path in FILES}
    assert found["gpt_certified"]
    assert not found["gpt"]


@pytest.mark.parametrize("blocks", [1, 4, 30, 1000])
def test_a_brief_certificate_says_the_same_at_every_depth(blocks: int) -> None:
    for path in FILES:
        if path.stem in ("gpt", "gpt_certified"):
            check_brief(analyse(path, {"blocks": blocks}, passes=ANALYSIS).program)


BENDS = {"alpha": (True, True), "beta": (True, False), "gamma": (False, False)}
"""The directions of the second derivatives: of the weights (True) or of the input."""


def check_sharpness(
    case: Case, seed: int = 0, steps: int = STEPS
) -> dict[str, tuple[float, float]]:
    """Found and proved second derivatives."""
    assert case.program.certificate is not None
    if ONE_HOT in case.program.certificate.outputs:
        return {}
    proved = case.program.certificate.sharpness
    measured = Measured(case, seed)
    found = {}
    for name, (first, second) in BENDS.items():
        if (measured.records or not first) and (measured.floats or (first and second)):
            most = measured.driven_up(partial(measured.bend, first, second), steps)
            found[name] = (most, getattr(proved, name))
            assert most <= getattr(proved, name) * (1 + ROUNDING) + 1e-12, (name, found)
    return found


@settings(max_examples=EXAMPLES // 2)
@given(programs(), SEEDS)
def test_no_derivative_moves_further_than_proved(sample: Sample, seed: int) -> None:
    case = compiled(sample.text)
    if case is not None:
        check_sharpness(case, seed, STEPS // 2)


SMOOTH = {
    "bilinear": ("float[batch, 3]", "Linear(3) @ Scale @ Bias @ Linear(4)", 0.9),
    "width": ("float[batch, 16]", "Linear(16) @ Tanh @ Linear(16)", 0.5),
    "gelu": ("float[batch, 8]", "Readout(4) @ GELU @ Linear(8)", 0.1),
    "stack": ("float[batch, 4]", "(1/2 * Identity + 1/2 * Tanh @ Linear(4)) ** 5", 0.2),
    "grows": ("float[batch, 4]", "(3/2 * Linear(4)) ** 4", 0.6),
    "norm": ("float[batch, 4]", "Linear(4) @ RMSDivide(eps = 1) @ Linear(4)", 0.2),
    "gates": ("float[batch, 4]", "Linear(4) @ Product @ (Tanh @ Linear(4), Tanh @ Linear(4))", 0.1),
    "softmax": ("float[batch, 4]", 'Linear(2, norm = "column") @ Softmax(2) @ Readout(6)', 0.2),
    "attention": (
        "float[batch, 3, 4]",
        "Linear(4) @ MergeHeads @ Attention @ (H, H, H) where H = HeadedLinear(4, 2)", 0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives_are_bounded_and_nearly_met(name: str) -> None:
    type, expression, near = SMOOTH[name]
    found = check_sharpness(case_of(f"input x: {type}\nmodel M = {expression}"), steps=20)
    assert found.keys() == BENDS.keys()
    most, proved = found["alpha"]
    assert near * proved <= most


SHARED = {
    "repeated": ("", "cell ** 3", 0.9),
    "around": ("", "cell @ Linear(4) @ cell", 0.5),
    "inside": ("def body = 1/2 * Identity + 1/2 * Tanh @ Linear(4) @ cell", "body ** 4", 0.1),
    "outside": ("def body = cell @ (3/2 * Linear(4))", "body ** 3", 0.3),
}


@pytest.mark.parametrize("name", SHARED)
def test_second_derivatives_of_shared_weights_are_bounded(name: str) -> None:
    """All uses of a shared weight move at once."""
    definition, expression, near = SHARED[name]
    text = (
        f"input x: float[batch, 4]\nshared cell = Linear(4)\n{definition}\nmodel M = {expression}"
    )
    most, proved = check_sharpness(case_of(text), steps=12)["alpha"]
    assert near * proved <= most


def test_a_gpt_with_one_table_for_both_ends_has_a_sharpness() -> None:
    text = """
    input tokens: int[batch, seq] < 7
    shared table = Embed(7, 8)
    def attend = 1/3 * Linear(8) @ MergeHeads @ Attention(causal = true) @ (q, k, v)
      where
        q = HeadedLinear(8, 2)
        k = HeadedLinear(8, 2)
        v = HeadedLinear(8, 2)
    def body = 1/2 * Identity + 1/2 * attend
    model M = Unembed(table) @ body ** 3 @ table
    """
    most, proved = check_sharpness(case_of(text), steps=20)["alpha"]
    assert 0.05 * proved <= most
