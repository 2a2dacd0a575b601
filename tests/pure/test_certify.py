"""Certificates against what docs/mathematics.md derives by hand, and what they say of files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modnorm.graph.modules import Leaf, walk
from modnorm.ops.losses import LOSSES
from modnorm.passes.certificate import Certificate
from modnorm.passes.frames import LOOKS, Frames
from modnorm.pipeline import ANALYSIS, Analysis, analyse, analyse_text, reported
from modnorm.report.options import LOSSES as OFFERED

EXAMPLES = Path(__file__).parents[2] / "examples"
GELU = 1.12891
"""The certified sensitivity of GELU, rounded up from Φ(√2) + √2·φ(√2)."""


def certificate(text: str, **params: Any) -> Certificate:
    found = analyse_text(text, params=params).program.certificate
    assert found is not None
    return found


# -- by hand ----------------------------------------------------------------------------------


def derived(blocks: int, mass: float, gelu: float = GELU) -> float:
    """κ of examples/gpt_certified.mod, as docs/mathematics.md derives it."""
    s = 1 / (2 * blocks)
    root = math.sqrt(2)
    mlp = 1 - s + s * root * gelu
    sizes = [((1 - 2 * s / 3) * (1 + (root - 1) * s)) ** k for k in range(blocks + 1)]
    attention = [1 - s + s / 3 * (1 + 2 * h * h) for h in sizes[:-1]]
    total, later = sizes[-1], 1.0
    for h, moves in zip(reversed(sizes[:-1]), reversed(attention), strict=True):
        after = h * (1 - 2 * s / 3)
        inside = mlp * (2 * h**3 + h + h / 3) + after * root * (gelu + 1)
        total += mass * s / 3 * inside * later
        later *= moves * mlp
    return (total + later) / (mass + 2)


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("mass", [1, 5, 20])
def test_the_kappa_of_a_gpt_is_the_one_derived_by_hand(blocks: int, mass: int) -> None:
    params = {"blocks": blocks, "blocks_mass": mass}
    found = analyse(EXAMPLES / "gpt_certified.mod", params).program.certificate
    assert found is not None
    assert found.kappa == pytest.approx(derived(blocks, mass), rel=1e-9)


def test_the_example_is_near_one_at_every_width_and_depth() -> None:
    for params in ({"d_embed": 64}, {"d_embed": 4096, "heads": 32}, {"blocks": 48}):
        found = analyse(EXAMPLES / "gpt_certified.mod", params).program.certificate
        assert found is not None
        assert found.kappa is not None
        assert 0.9 < found.kappa < 1.25


@pytest.mark.parametrize("blocks", [8, 12, 24, 96, 500, 1000, 4000, 30_000])
def test_kappa_at_any_depth_is_within_a_percent_of_the_exact_one(blocks: int) -> None:
    """Copies share bounds; those of one alone would give a little less."""
    found = analyse(EXAMPLES / "gpt_certified.mod", {"blocks": blocks}).program.certificate
    assert found is not None
    assert found.kappa is not None
    exact = derived(blocks, 5)
    assert exact * (1 - 1e-9) <= found.kappa <= 1.01 * exact


STACKS = {
    # what enters each copy, and how far each moves its output, exactly
    "(9/10 * Identity + 1/10 * Linear(4))": (lambda h: h, 1.0),
    "(Bias)": (lambda h: h + 1, 1.0),
    "(99/100 * Linear(4))": (lambda h: 0.99 * h, 0.99),
    "(101/100 * Linear(4))": (lambda h: 1.01 * h, 1.01),
    "(999/1000 * Identity + 1/1000 * Bias)": (lambda h: h + 0.001, 1.0),
    "(9/10 * Bias)": (lambda h: 0.9 * (h + 1), 0.9),
}


@pytest.mark.parametrize("count", [30, 300, 1500])
@pytest.mark.parametrize("body", STACKS)
def test_sizes_at_depth_are_within_a_few_percent_of_the_exact_ones(body: str, count: int) -> None:
    step, slope = STACKS[body]
    program = analyse_text(
        f"input x: float[batch, 4]\nmodel M = Linear(4) @ {body} ** {count}"
    ).program
    assert program.certificate is not None
    size = 1.0
    for _ in range(count):
        size = step(size)
    assert program.certificate.sensitivity == pytest.approx(slope**count, rel=1e-6)
    found = program.certificate.parts[program.tree.id].high
    assert size * (1 - 1e-9) <= found <= 1.05 * size


def test_the_number_of_looks_grows_with_the_logarithm_of_the_depth() -> None:
    looks = []
    for blocks in (100, 1000, 10_000, 30_000):
        program = analyse(EXAMPLES / "gpt_certified.mod", {"blocks": blocks}, passes=ANALYSIS)
        frames = Frames(program.program, whole=False)
        tree = program.program.tree
        frames.frame(tree, frames.entry(program.program.types[tree.id][0]))
        looks.append(frames.looks)
    assert max(looks) <= 1.5 * min(looks)


@given(st.lists(st.floats(0.1, 3), min_size=1, max_size=6))
def test_a_chain_of_linears_by_the_product(factors: list[float]) -> None:
    """κ = Σ (m/Σm)·(norm of the input), since what follows cancels against the target."""
    chain = " @ ".join(f"({f!r} * Linear(4))" for f in reversed(factors))
    text = f"input x: float[batch, 4]\nmodel M = {chain}"
    sizes = [1.0]
    for f in factors:
        sizes.append(sizes[-1] * f)
    found = certificate(text)
    assert found.kappa == pytest.approx(sum(sizes[:-1]) / len(factors), rel=1e-9)
    assert found.sensitivity == pytest.approx(sizes[-1], rel=1e-9)


# -- measures -----------------------------------------------------------------------------------

HEADS = """
input x: float[batch, seq, 64]
model M = MergeHeads @ Attention @ (q, k, v)
  where
    q = {0}
    k = {0}
    v = {0}
"""


def test_a_norm_for_each_head_takes_the_number_of_heads_out() -> None:
    split = certificate(HEADS.format("SplitHeads(16) @ Linear(64)")).kappa
    headed = certificate(HEADS.format("HeadedLinear(64, 16)")).kappa
    assert headed == pytest.approx(1)
    # queries and keys meet ρ·ρ = 16 and everything is √16 larger in a head
    assert split == pytest.approx((4 * 16 + 4 * 16 + 4) / 3)


def test_softmax_bounds_a_sum_that_a_matrix_by_columns_takes() -> None:
    text = 'input x: float[batch, 8]\nmodel M = Linear(4, norm = "{0}") @ Softmax @ Readout(32)'
    column, spectral = (certificate(text.format(norm)) for norm in ("column", "spectral"))
    assert column.kappa == pytest.approx(1)
    assert column.weights["linear"].high == pytest.approx(1)
    assert spectral.weights["linear"].high < 0.2


def test_images_normalised_as_a_whole_are_measured_as_a_whole() -> None:
    text = """
    input x: float[batch, 3, 16, 16]
    def block = Abs @ Conv2D(8) @ RMSDivide({0}, eps = 1)
    model M = {1}block ** 3 @ Conv2D(8)
    """
    for dim, tail, letters in (
        ("(1, 2, 3)", "", "RR"),
        ("1", "", "PP"),
        ("(1, 2, 3)", "Linear(10) @ Flatten @ AdaptiveAvgPool @ ", "PR"),
    ):
        found = certificate(text.format(dim, tail))
        assert found.source + found.norm == letters
        assert found.kappa is not None
        assert found.kappa <= 1


def test_the_largest_score_is_what_a_readout_bounds() -> None:
    text = "input x: float[batch, 8]\nmodel M = {0}(100) @ Linear(8)"
    assert certificate(text.format("Readout")).norm == "I"
    assert certificate(text.format("1/2 * Readout")).norm == "I"
    assert certificate(text.format("Linear")).norm == "R"


# -- repetitions ---------------------------------------------------------------------------------


def test_a_stack_that_grows_is_bounded_as_far_as_it_goes() -> None:
    text = "param n = 4\ninput x: float[batch, 4]\nmodel M = (Identity + Linear(4)) ** n"
    few, many = certificate(text, n=4), certificate(text, n=900)
    assert few.kappa is not None
    assert few.sensitivity == pytest.approx(2**4)
    # the update of a copy is shrunk by what follows it, and what enters doubles with each copy
    assert few.kappa == pytest.approx((2**4 - 1) / 4)
    assert many.kappa == pytest.approx((2**900 - 1) / 900)


def test_a_stack_that_settles_is_followed_to_any_depth() -> None:
    text = """
    param n = 4
    input x: float[batch, 4]
    model M = Linear(4) @ (9/10 * Identity + 1/10 * Tanh @ Linear(4) @ RMSDivide(eps = 1)) ** n
    """
    for n in (4, 40, 400, 40_000):
        found = certificate(text, n=n)
        assert found.kappa is not None
        assert found.kappa <= 1 + 1e-9


def test_a_shared_weight_in_a_repetition_counts_once_a_use() -> None:
    text = """
    param n = 5
    input x: float[batch, 4]
    shared cell = Linear(4)
    model M = (1/2 * cell) ** n
    """
    found = certificate(text, n=5)
    # use k has the input 2^-k and is followed by n-1-k halvings and its own; targets are pooled
    uses = [0.5 ** (5 - k) for k in range(5)]
    expected = sum(u * 0.5**k for k, u in enumerate(uses)) / sum(uses)
    assert found.kappa == pytest.approx(expected)


def test_every_part_has_a_bound_and_none_is_better_than_its_copies() -> None:
    analysis = analyse(EXAMPLES / "gpt_certified.mod", {"blocks": 3})
    found = analysis.program.certificate
    assert found is not None
    nodes = list(walk(analysis.program.tree))
    assert found.parts.keys() == {node.id for node in nodes}
    for node in nodes:
        part = found.parts[node.id]
        assert 0 <= part.low <= part.high
        if isinstance(node, Leaf) and isinstance(node.op.certified, float | int):
            assert isinstance(part.sensitivity, float)
    assert set(found.weights) == {weight.path for weight in analysis.program.weights}


NASTY = {
    # a free last axis: nothing is known of the share of an entry
    "float[batch, seq, 4]": ("Softmax @ Mean(2) @ Linear(4)", 0.4, 10.0),
    # sizes whose squares leave the range of floats
    "float[batch, 4]": ("Linear(4) @ RMSDivide(-1, eps = 1) @ Mul(1e200)", 1.0, 1.0),
    "float[batch, 5]": ("Linear(4) @ RMSDivide(-1, eps = 0) @ Mul(1e-200)", 1.0, 1.0),
    "float[batch, 6]": ("Linear(4) @ RMSDivide(-1, eps = 1) @ Softmax @ Mul(1e200)", 0.16, 0.5),
    # a stack that doubles an excess of 1e-13 in each copy
    "float[batch, 1]": (
        "(Product @ (Identity, Identity)) ** 45 @ Mul(1.0000000000001) @ Linear(1)", 33.0, 35.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("type", NASTY)
def test_what_reaches_far_stays_bounded(type: str) -> None:
    expression, least, most = NASTY[type]
    text = f"input x: {type}\nmodel M = {expression}"
    found = analyse_text(text).program
    assert found.certificate is not None
    assert least <= found.certificate.parts[found.tree.id].high <= most


def test_powers_beyond_all_floats_keep_their_sign() -> None:
    text = """
    input x: float[batch, 1]
    bond f(x) = 5 * tanh(x ** 3 / 1000 + 800) sensitivity 200
    model M = f @ Mul({0}) @ Linear(1)
    """
    # the slope at x = -92.8 is 129, whatever lies beyond
    for factor in ("1000", "1e110"):
        kappa = certificate(text.format(factor)).kappa
        assert kappa is not None
        assert 129 <= kappa * 200 <= 1.01 * 129.4
    assert certificate(text.format("1e300")).kappa is None


def test_a_bound_that_is_lost_on_the_way_says_where() -> None:
    body = "(1/2 * Product @ (Identity, Identity)) ** 3000"
    text = f"input x: float[batch, 4]\nmodel M = {body} @ Mul(4) @ Linear(4)"
    (reason,) = certificate(text).reasons
    assert "copies" in reason.text
    assert reason.span.text(60) == body


def test_repetitions_in_repetitions_are_looked_at_in_reasonable_number() -> None:
    text = """
    input x: float[batch, 4]
    shared b = Bias
    model M = ((((b ** 20) ** 20) ** 20) ** 20) @ Linear(4)
    """
    program = analyse_text(text, passes=ANALYSIS).program
    frames = Frames(program, whole=False)
    frames.frame(program.tree, frames.entry(program.types[program.tree.id][0]))
    assert frames.looks < 3 * LOOKS


# -- where there is none ---------------------------------------------------------------------


def test_the_place_without_a_bound_is_named_where_the_user_wrote_it() -> None:
    found = analyse(EXAMPLES / "gpt.mod").program.certificate
    assert found is not None
    assert found.kappa is None
    lines = (EXAMPLES / "gpt.mod").read_text(encoding="utf-8").split("\n")
    for reason in found.reasons:
        assert reason.op == "RMSDivide"
        assert "can be 0" in reason.text
        assert "Standardize" in lines[reason.span.line - 1]
        assert reason.origin.source.name == "std.nn"


def test_what_no_weight_reaches_takes_no_certificate_away() -> None:
    text = "input x: float[batch, 4]\nmodel M = Linear(4) @ RMSDivide"
    found = certificate(text)
    assert found.kappa == pytest.approx(1)
    assert isinstance(found.sensitivity, str)
    frozen = "input x: float[batch, 4]\nmodel M = Linear(4) @ RMSDivide @ Linear(4, mass = 0)"
    assert certificate(frozen).kappa == pytest.approx(1)


def test_a_bond_by_formula_is_proved_where_its_slope_can_be() -> None:
    text = """
    input x: float[batch, 4]
    bond Softcap(x, cap = 15) = cap * tanh(x / cap) sensitivity 1
    bond Square(x) = x * x sensitivity 1e9
    model M = Linear(4) @ {0} @ Linear(4)
    """
    assert certificate(text.format("Softcap")).kappa == pytest.approx(1)
    # entries up to √4·1, slope up to 4 (rounded up to a power of 2^(1/8)), target 1e-9 of that
    square = certificate(text.format("Square"))
    assert square.kappa is not None
    assert square.sensitivity == pytest.approx(4, rel=0.1)


PAIR = "input x: float[batch, 16]\n{0}\nmodel M = Product @ (T @ Linear(16), T @ Linear(16))"


def test_a_bond_by_formula_is_certified_as_the_operation_that_it_is() -> None:
    bond = certificate(PAIR.format("bond T(x) = tanh(x) sensitivity 1"))
    built_in = certificate(PAIR.format("def T = Tanh"))
    pair = (built_in.kappa, built_in.sensitivity)
    assert (bond.kappa, bond.sensitivity) == pytest.approx(pair, rel=1e-9)
    # each factor is at most tanh(√16), and moves by 1 where it is small
    assert bond.sensitivity == pytest.approx(2 * math.tanh(4))
    assert bond.kappa == pytest.approx(math.tanh(4))


SMALL = """
input x: float[batch, 16]
bond G(x) = x * (1 + erf(x / sqrt(2))) / 2 sensitivity 1.12891
bond S(x) = x * sigmoid(x) sensitivity 1.1
model M = {0} @ Mul(0.1) @ Readout(16)
"""


@pytest.mark.parametrize(("built_in", "bond"), [("GELU", "G"), ("SiLU", "S")])
def test_small_inputs_meet_small_slopes(built_in: str, bond: str) -> None:
    one, other = (certificate(SMALL.format(name)).sensitivity for name in (built_in, bond))
    assert isinstance(one, float)
    assert isinstance(other, float)
    assert one <= other * (1 + 1e-9)
    # entries up to 0.1: the slope there is 1/2 + 2·0.1·φ(0) or 1/2 + 0.1/2, to first order
    slope = 0.5 + 0.2 / math.sqrt(2 * math.pi) if built_in == "GELU" else 0.55
    assert one == pytest.approx(0.1 * slope, rel=0.01)


# -- losses -------------------------------------------------------------------------------------


def with_loss(text: str, loss: str) -> Analysis:
    return analyse_text(text, passes=reported(loss))


MLP = "input x: float[batch, 8]\nmodel M = {0}(10) @ Tanh @ Linear(16)"


def test_the_command_line_offers_the_losses_that_there_are() -> None:
    assert tuple(LOSSES) == OFFERED


def test_a_cross_entropy_behind_a_readout_does_not_grow_with_its_scores() -> None:
    rms = with_loss(MLP.format("Linear"), "cross_entropy")
    largest = with_loss(MLP.format("Readout"), "cross_entropy")
    one, other = rms.program.smoothness, largest.program.smoothness
    assert one is not None
    assert other is not None
    assert (one.sigma, one.tau) == (pytest.approx(math.sqrt(20)), 5)
    assert (other.sigma, other.tau) == (2, 1)
    proved = rms.program.certificate
    assert proved is not None
    assert proved.kappa is not None
    expected = math.sqrt(20) * proved.sharpness.alpha + 5 * proved.kappa**2
    assert one.smoothness == pytest.approx(expected)
    assert one.certified
    assert [d.code for d in rms.diagnostics] == ["A606"]
    assert not largest.diagnostics


def test_a_mean_squared_error_needs_the_size_of_the_output() -> None:
    found = with_loss(MLP.format("2 * Linear"), "mse").program.smoothness
    assert found is not None
    largest = math.tanh(math.sqrt(16))  # of what `Tanh` makes of 16 entries of RMS 1
    assert (found.sigma, found.tau) == (pytest.approx(2 * (2 * largest + 1)), 2)


def test_a_loss_behind_what_is_not_proved_has_the_declared_constant() -> None:
    text = "input x: float[batch, 8]\nmodel M = Linear(10) @ RMSDivide @ Tanh @ Linear(16)"
    program = with_loss(text, "cross_entropy").program
    found, declared = program.smoothness, program.sharpness[program.tree.id]
    assert found is not None
    assert declared is not None
    assert not found.certified
    assert found.smoothness == pytest.approx(math.sqrt(20) * declared.alpha + 5)


def test_a_tied_model_has_a_smoothness() -> None:
    """A shared weight moves in all its uses at once, which the declared rules do not cover."""
    text = """
    input tokens: int[batch, seq] < 9
    shared table = Embed(9, 8)
    model M = Unembed(table) @ Tanh @ Linear(8) @ table
    """
    program = with_loss(text, "cross_entropy").program
    assert program.sharpness[program.tree.id] is None
    assert program.smoothness is not None
    assert program.smoothness.certified
    assert program.smoothness.smoothness is not None


CHAIN = {"Linear(4) ** n": "", "cell ** n": "shared cell = Linear(4)"}


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
@pytest.mark.parametrize("expression", CHAIN)
def test_the_sharpness_of_a_chain_of_matrices_is_exact(expression: str, count: int) -> None:
    """Each of n moves by 1/n; α = 2·(pairs)/n² = (n - 1)/n, β = 1, whether they are one or many."""
    text = f"param n = 1\ninput x: float[batch, 4]\n{CHAIN[expression]}\nmodel M = {expression}"
    found = certificate(text, n=count).sharpness
    assert found.alpha == pytest.approx((count - 1) / count)
    assert found.beta == pytest.approx(1)
    assert found.gamma == 0


def test_a_loss_that_has_no_constant_says_why() -> None:
    rough = with_loss("input x: float[batch, 8]\nmodel M = ReLU @ Linear(4)", "mse")
    assert rough.program.smoothness is not None
    assert "not smooth" in rough.program.smoothness.reason
    two = with_loss("input x: float[batch, 8]\nmodel M = (Linear(4), Linear(4))", "mse")
    assert two.program.smoothness is not None
    assert "one output" in two.program.smoothness.reason
