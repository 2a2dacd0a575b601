"""Certificates for weights of given norms: against closed forms, and never exceeded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from certified import Measured, case_of

import modnorm
from modnorm.codegen.plan import records
from modnorm.diagnostics import Diagnostics
from modnorm.passes.certificate import Certificate
from modnorm.passes.certify import Certify
from modnorm.passes.program import run_passes
from modnorm.pipeline import analyse_text
from modnorm.report.checked import read_check

STEPS = 30
"""Of an ascent that looks for the largest of something."""


def at_norms(text: str, **norms: float) -> Certificate:
    program = analyse_text(text).program
    found = run_passes(program, (Certify(norms),), Diagnostics()).certificate
    assert found is not None
    return found


def test_norms_of_a_chain_multiply() -> None:
    """κ = Σ (1/3)·(norms of all other weights); the sensitivity is the product of all."""
    text = "input x: float[batch, 4]\nmodel M = Linear(4) @ Linear(4) @ Linear(4)"
    found = at_norms(text, linear=2, linear_1=3, linear_2=5)
    assert found.sensitivity == pytest.approx(30)
    assert found.kappa == pytest.approx((3 * 5 + 2 * 5 + 2 * 3) / 3)
    assert at_norms(text) == analyse_text(text).program.certificate


def test_a_bias_adds_its_norm_to_what_follows() -> None:
    text = "input x: float[batch, 4]\nmodel M = Linear(4) @ Bias"
    found = at_norms(text, bias=7, linear=2)
    assert found.sensitivity == pytest.approx(2)
    # the matrix meets inputs of size 1 + 7; the bias is followed by a matrix of norm 2
    assert found.kappa == pytest.approx((8 + 2) / 2)


def test_copies_and_shared_weights_have_their_norms_too() -> None:
    text = "input x: float[batch, 4]\nshared cell = Linear(4)\nmodel M = Linear(4) ** 3 @ cell ** 2"
    (own,) = [w.path for w in analyse_text(text).program.weights if "{" in w.path]
    found = at_norms(text, **{"cell": 2, "cell.linear": 2, own: 3})
    assert found.sensitivity == pytest.approx(2**2 * 3**3)


def test_inputs_of_attention_grow_with_the_norms() -> None:
    """Logits grow with both norms, and what queries and keys do with all three."""
    text = """
    input x: float[batch, seq, 8]
    model M = MergeHeads @ Attention @ (q, k, v)
      where
        q = HeadedLinear(8, 2)
        k = HeadedLinear(8, 2)
        v = HeadedLinear(8, 2)
    """
    paths = [w.path for w in analyse_text(text).program.weights]
    found = at_norms(text, **dict(zip(paths, (2.0, 3.0, 5.0), strict=True)))
    # a query moves by 2 for an input that moves by 1, and the output by 3·5 times that
    assert found.sensitivity == pytest.approx(2 * 3 * 5 + 3 * 2 * 5 + 5)


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_of_other_norms_move_nothing_further_than_certified(seed: int) -> None:
    text = """
    input x: float[batch, 4]
    def block = 1/2 * Identity + 1/2 * Tanh @ Bias @ Linear(4)
    model M = Linear(3) @ block ** 3 @ Scale
    """
    case = case_of(text)
    weights = records(case.program)
    norms = [0.5 + 2.0 * i / len(weights) for i in range(len(weights))]
    measured = Measured(case, seed, norms)
    largest: dict[str, float] = {}
    for record, norm in zip(weights, norms, strict=True):
        path = record.weight.path
        largest[path] = max(largest.get(path, 0.0), norm)
    found = run_passes(case.program, (Certify(largest),), Diagnostics()).certificate
    assert found is not None
    assert found.kappa is not None
    assert isinstance(found.sensitivity, float)
    update = measured.driven_up(measured.update_effect, STEPS)
    move = measured.driven_up(measured.input_effect, STEPS)
    bend = measured.driven_up(lambda: measured.bend(True, True), STEPS)
    assert 0.1 * found.kappa <= update <= found.kappa * (1 + 1e-9)
    assert 0.1 * found.sensitivity <= move <= found.sensitivity * (1 + 1e-9)
    assert 0.02 * found.sharpness.alpha <= bend <= found.sharpness.alpha * (1 + 1e-9)


def test_a_checkpoint_is_certified_at_its_norms(tmp_path: Path) -> None:
    source = tmp_path / "m.mod"
    source.write_text("input x: float[batch, 4]\nmodel M = Linear(4) @ Linear(4)\n")
    orthogonal = torch.linalg.qr(torch.randn(4, 4, generator=torch.manual_seed(0)))[0]
    state = {"linear.weight": 3 * orthogonal, "linear_1.weight": 5 * orthogonal}
    torch.save(state, tmp_path / "m.pt")
    findings = modnorm.check(source, checkpoint=tmp_path / "m.pt")
    found = findings.json
    assert found["kappa"] == pytest.approx(1)
    assert found["kappa_at_norms"] == pytest.approx(4, rel=1e-4)
    assert found["sensitivity_at_norms"] == pytest.approx(15, rel=1e-4)
    own = {m["path"]: m["certified_at_norms"] for m in found["modules"]}
    assert own["linear"] == pytest.approx(3, rel=1e-4)
    assert "at norms" in str(findings)
    assert not found["violations"]
    check = tmp_path / "check.json"
    check.write_text(json.dumps(found), encoding="utf-8")
    assert read_check(check).kappa_at_norms == found["kappa_at_norms"]
    page = str(modnorm.report(source, format="html", check=check))
    assert "κ at norms" in page
    fresh = modnorm.check(source).json
    assert fresh["kappa_at_norms"] is None
    assert math.isfinite(fresh["kappa"])
