"""Norms, balls and the searches in them, against what is known exactly."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modnorm.measure.coordinates import Fit, power_law
from modnorm.measure.search import EFFORTS, Ascent, Problem, largest_stretch, stretch_at
from modnorm.measure.values import (
    Ball,
    extent,
    flatten,
    groups,
    norm,
    pack,
    smooth_norm,
    steepest,
    steepest_all,
)
from modnorm.ops.attention import Attention
from modnorm.ops.edges import Measure
from modnorm.ops.elementwise import GELU, ReLU, Softmax
from modnorm.ops.linear import Linear, Readout
from modnorm.ops.normalize import RMSDivide
from modnorm.ops.types import Tensor, TupleType

LONG = bool(os.environ.get("MODNORM_LONG"))
P, R, MAX, L1 = Measure((2,)), Measure((1, 2)), Measure(()), Measure((2,), True)
MEASURES = st.sampled_from([P, R, MAX, L1])


def drawn(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# --- values ----------------------------------------------------------------------------------


@given(MEASURES, st.integers(0, 99))
def test_the_steepest_direction_is_never_beaten(measure: Measure, seed: int) -> None:
    gradient = drawn(seed, 2, 3, 4)
    best = steepest(gradient, measure)
    assert measure.of(best) == pytest.approx(1)
    reached = (gradient * best).sum()
    for other in range(20):
        h = drawn(1000 + other, 2, 3, 4)
        assert (gradient * h / measure.of(h)).sum() <= reached + 1e-12


def test_of_a_tuple_only_the_steepest_member_moves() -> None:
    gradients = [drawn(0, 1, 2, 3), 5 * drawn(1, 1, 2, 3)]
    first, second = steepest_all(gradients, [P, P])
    assert not first.any()
    assert torch.equal(second, steepest(gradients[1], P))


@given(MEASURES, st.integers(0, 99))
def test_groups_and_norms(measure: Measure, seed: int) -> None:
    x = drawn(seed, 2, 3, 4)
    sizes = groups(x, measure)
    assert sizes.amax() == pytest.approx(measure.of(x))
    low, high = extent([x, x], [measure, measure])
    assert high == pytest.approx(float(norm([x, x], [measure, measure])))
    assert low == pytest.approx(2 * float(sizes.amin()))
    assert smooth_norm([x], [measure]) <= measure.of(x) + 1e-12


@given(st.integers(0, 99), st.floats(0.1, 1), st.floats(1, 3))
def test_a_projection_lands_in_the_ball(seed: int, low: float, high: float) -> None:
    ball = Ball({P: (low, high)})
    for scale in (1e-3, 1.0, 1e3):
        x = ball.project(scale * drawn(seed, 2, 3, 4))
        assert ball.has(x)
        assert torch.allclose(ball.project(x), x)
    several = Ball({MAX: (0.0, 0.5), P: (0.0, 0.3), R: (0.0, 0.2)})
    assert several.has(several.project(drawn(seed, 2, 3, 4)))
    assert several.broken(torch.ones(2, 3, 4)) == MAX


def test_flatten_and_pack() -> None:
    t = Tensor("float", (1,))
    type = TupleType((t, TupleType((t, t))))
    value: Any = (torch.zeros(1), (torch.ones(1), torch.ones(1) * 2))
    assert pack(type, flatten(value)) == value


# --- searches ----------------------------------------------------------------------------------


def of(op: Any, like: list[torch.Tensor], into: Measure, out: Measure, **options: Any) -> Problem:
    ball = options.pop("ball", Ball({into: (0.0, 1.0)}))

    def function(parts: list[torch.Tensor], weight: torch.Tensor | None) -> list[torch.Tensor]:
        x = tuple(parts) if len(parts) > 1 else parts[0]
        return flatten(op.reference(x) if weight is None else op.reference(x, weight))

    return Problem(function, [into] * len(like), [out], [ball] * len(like), like, **options)


def test_a_matrix_is_stretched_by_its_norm() -> None:
    """From RMS to RMS that is the spectral norm; from the largest entry, the largest row sum."""
    op, x = Linear(5, 4), drawn(1, 1, 3, 4)
    w = drawn(0, 5, 4)
    for into, out, exact in (
        (P, P, float(op.weight_norm(w))),
        (MAX, MAX, float(w.abs().sum(1).amax())),
    ):
        problem = of(op, [x], into, out)
        fixed = Problem(
            lambda parts, _: [op.reference(parts[0], w)], [into], [out], problem.balls, [x]
        )
        assert stretch_at(fixed, [x], EFFORTS[3]) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    ("op", "out"), [(Linear(4, 6), P), (Linear(9, 6), P), (Readout(9, 6), MAX)], ids=str
)
def test_an_atoms_weight_is_sought_too(op: Any, out: Measure) -> None:
    """From half of the ball's radius the search finds a weight on its surface."""
    w = drawn(0, *op.weight_shape)
    w = w / (2 * op.weight_norm(w))
    problem = of(op, [drawn(1, 1, 2, 6)], P, out, atom=op, weight=w)
    assert 0.98 <= largest_stretch(problem, EFFORTS[1]) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("op", "into", "out", "high", "exact"),
    [
        (ReLU(), P, P, 1.0, 1.0),
        (GELU(), P, P, 2.0, 1.128904),
        (GELU(), P, P, 1.0, 1.128904),
        (Softmax(2), MAX, L1, 3.0, 2.0),
    ],
    ids=str,
)
def test_known_constants_are_found(
    op: Any, into: Measure, out: Measure, high: float, exact: float
) -> None:
    ball = Ball({into: (0.0, high)})
    problem = of(op, [drawn(2, 1, 2, 6)], into, out, ball=ball)
    found = largest_stretch(problem, EFFORTS[2])
    assert 0.97 * exact <= found <= exact * (1 + 1e-6)


@pytest.mark.parametrize("low", [0.25, 0.5, 1.0])
def test_normalisation_is_steepest_at_the_smallest_input(low: float) -> None:
    problem = of(RMSDivide(), [drawn(3, 1, 2, 6)], P, P, ball=Ball({P: (low, 2.0)}))
    found = largest_stretch(problem, EFFORTS[1])
    assert 0.97 / low <= found <= 1 / low * (1 + 1e-6)


def test_attention_is_as_steep_as_proved() -> None:
    """Its sensitivity is max(1, scale) for queries, keys and values of norm 1 per head."""
    heads = [drawn(i, 1, 2, 3, 4) for i in range(3)]
    per_head = Measure((3,))
    for scale, exact in ((1, 1.0), (3, 3.0)) if LONG else ((3, 3.0),):
        found = largest_stretch(of(Attention(scale=scale), heads, per_head, per_head), EFFORTS[3])
        assert 0.9 * exact <= found <= exact * (1 + 1e-6)


def test_the_ascent_is_torchs_adam_to_the_bit() -> None:
    draw = torch.Generator().manual_seed(0)
    mine, theirs = (
        [torch.linspace(-1, 1, n, dtype=torch.float64) for n in (3, 8)] for _ in range(2)
    )
    ascent = Ascent(list(zip(mine, (0.1, 0.02), strict=True)))
    groups = [{"params": [p], "lr": lr} for p, lr in zip(theirs, (0.1, 0.02), strict=True)]
    optimizer = torch.optim.Adam(groups, maximize=True)
    for step in range(5):
        for group, lr in zip(optimizer.param_groups, (0.1, 0.02), strict=True):
            group["lr"] = lr * (1 - step / 5)
        for p in theirs:
            p.grad = torch.randn(p.shape, generator=draw, dtype=p.dtype)
        ascent.step([p.grad for p in theirs if p.grad is not None], 1 - step / 5)
        optimizer.step()
    assert all(map(torch.equal, mine, theirs))


def test_a_constant_is_not_stretched() -> None:
    problem = of(ReLU(), [-torch.ones(1, 2, 3, dtype=torch.float64)], P, P)
    assert stretch_at(problem, problem.like, EFFORTS[1]) == 0.0


# --- power laws ---------------------------------------------------------------------------------


@given(st.floats(-2, 2), st.floats(0.01, 100))
def test_a_power_law_is_recovered(slope: float, factor: float) -> None:
    xs = [8.0, 16.0, 32.0, 64.0]
    fit = power_law(xs, [factor * x**slope for x in xs])
    assert fit is not None
    assert fit.slope == pytest.approx(slope, abs=1e-9)
    assert fit.error == pytest.approx(0, abs=1e-9)


def test_the_standard_error_is_that_of_least_squares() -> None:
    """Points at log x = 0, 1, 2 with log y = 0, 1, 0: slope 0, residuals -1/3, 2/3, -1/3."""
    fit = power_law([1.0, math.e, math.e**2], [1.0, math.e, 1.0])
    assert fit is not None
    assert fit.slope == pytest.approx(0)
    assert fit.error == pytest.approx(math.sqrt((1 / 9 + 4 / 9 + 1 / 9) / 1 / 2))


@pytest.mark.parametrize(
    ("slope", "error", "verdict"),
    [
        (0.05, 0.01, "flat"),
        (-0.15, 0.1, "flat"),
        (0.05, 0.3, "unclear"),
        (0.25, 0.04, "grows"),
        (0.25, 0.06, "unclear"),
        (-0.5, 0.05, "shrinks"),
    ],
)
def test_verdicts(slope: float, error: float, verdict: str) -> None:
    assert Fit(slope, error).verdict == verdict


def test_what_no_power_law_fits() -> None:
    assert power_law([1.0, 2.0], [0.0, 1.0]) is None
    assert power_law([1.0, 2.0], [math.nan, 1.0]) is None
    with pytest.raises(ValueError, match="two different sizes"):
        power_law([2.0, 2.0], [1.0, 1.0])
