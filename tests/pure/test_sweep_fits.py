"""Optima, interpolation and drift against parabolas and planes that are known exactly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modnorm.sweep import fits

NUMBERS = st.floats(-8, 8).map(lambda x: round(x, 3))
BENDS = st.floats(0.01, 2).map(lambda x: round(x, 3))


def on(best: float, low: float, bend: float, xs: list[float]) -> list[tuple[float, float]]:
    return [(x, low + bend * (x - best) ** 2) for x in xs]


@given(NUMBERS, NUMBERS, BENDS, st.floats(0.1, 3), st.floats(0.1, 3))
def test_a_parabola_has_its_own_vertex(
    best: float, low: float, bend: float, left: float, right: float
) -> None:
    points = on(best, low, bend, [best - left, best + 0.03, best + 0.03 + right])
    found = fits.vertex(points)
    assert found is not None
    assert found == pytest.approx((best, low), abs=1e-6)


def test_rates_may_be_spaced_unequally() -> None:
    points = on(-2.3, 1.5, 0.1, [-7, -5, -3.5, -2.75, -2, -0.5, 3])
    assert fits.optimum(points) == pytest.approx((-2.3, 1.5))


def test_no_vertex_where_there_is_none() -> None:
    assert fits.vertex([(0, 1), (1, 1), (2, 1)]) is None
    assert fits.vertex([(0, 1), (1, 3), (2, 4)]) is None
    assert fits.optimum([(0, 1), (1, 1), (2, 1)]) is None
    assert fits.optimum([(0, 1), (1, 0)]) is None


def test_a_best_point_at_an_end_stays_within_what_was_tried() -> None:
    falling = [(x, -float(x)) for x in range(5)]
    assert fits.optimum(falling) == (4, -4)
    slowing = on(9, 0, 1, [0, 1, 2, 3])
    found = fits.optimum(slowing)
    assert found is not None
    assert found[0] == 3


def test_the_wide_parabola_tells_how_far_a_curve_is_from_one() -> None:
    xs = [float(x) for x in range(-6, 3)]
    assert fits.wide_vertex(on(-2.3, 1.5, 0.1, xs)) == pytest.approx((-2.3, 1.5))
    bent = [(x, (x + 2.3) ** 2 + 0.1 * (x + 2.3) ** 3) for x in xs]
    narrow, wide = fits.optimum(bent), fits.wide_vertex(bent)
    assert narrow is not None
    assert wide is not None
    assert abs(wide[0] - narrow[0]) > 0.01
    assert fits.wide_vertex(on(0, 0, 1, [-1, 0, 1, 2])) is None


# --- interpolation --------------------------------------------------------------------------


@given(st.lists(st.floats(0, 5), min_size=1, max_size=9))
def test_it_goes_through_the_points_and_stays_between_them(losses: list[float]) -> None:
    points = list(enumerate(losses))
    best = fits.lowest(points)
    for x, y in points:
        assert fits.interpolated(points, x) == pytest.approx(y, abs=1e-9)
    for i in range(len(points) - 1):
        low, high = sorted(losses[i : i + 2])
        for part in (0.1, 0.5, 0.9):
            value = fits.interpolated(points, i + part)
            assert value is not None
            if best not in (i, i + 1):  # next to the best, the parabola dips below
                assert low - 1e-9 <= value <= high + 1e-9


def test_about_the_best_it_is_the_parabola_of_the_optimum() -> None:
    points = [*on(0.2, 2, 0.3, [-1, 0, 1]), (2.0, 9.0), (3.0, 9.0)]
    optimum = fits.optimum(points)
    assert optimum is not None
    assert fits.interpolated(points, optimum[0]) == pytest.approx(optimum[1])
    assert fits.interpolated(points, 0.7) == pytest.approx(2 + 0.3 * 0.25)


def test_a_cliff_does_not_pull_the_curve_down() -> None:
    points = [(-3.0, 1.9), (-2.0, 1.86), (-1.0, 1.842), (0.0, 1.841), (1.0, 2.04), (2.0, 4.2)]
    optimum = fits.optimum(points)
    assert optimum is not None
    assert optimum[1] < 1.82  # the parabola of the three best dips far below what was measured
    value = fits.interpolated(points, optimum[0])
    assert value is not None
    assert 1.838 < value < 1.841


def test_nothing_is_known_beyond_the_points() -> None:
    assert fits.interpolated([(0, 1), (1, 0), (2, 1)], 2.1) is None
    assert fits.interpolated([(0, 1), (1, 0), (2, 1)], -0.1) is None
    assert fits.interpolated([], 0) is None


# --- incomplete seeds -----------------------------------------------------------------------


def test_most_runs_are_used() -> None:
    whole = frozenset(range(11))
    assert fits.rectangle({0: whole, 1: whole, 2: whole}) == ((0, 1, 2), tuple(range(11)))
    seeds, rates = fits.rectangle({0: whole, 1: whole - {3}, 2: whole - {7}})
    assert (seeds, len(rates)) == ((0, 1, 2), 9)
    seeds, rates = fits.rectangle({0: whole, 1: whole, 2: frozenset({0, 1})})
    assert (seeds, len(rates)) == ((0, 1), 11)
    assert fits.rectangle({}) == ((), ())


# --- drift ----------------------------------------------------------------------------------


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_plane_has_its_own_slopes(offset: float, a: float, b: float) -> None:
    grid = [(float(u), float(v)) for u in range(4) for v in range(3)]
    star = [(float(u), 1.0) for u in range(4)] + [(0.0, float(v)) for v in (0, 2)]
    for places in (grid, star):
        optima = [{0: offset + a * u + b * v} for u, v in places]
        found = fits.slopes(places, optima)
        assert found is not None
        for (slope, error), wanted in zip(found, (a, b), strict=True):
            assert slope == pytest.approx(wanted, abs=1e-8)
            assert error == pytest.approx(0, abs=1e-6)


def test_the_error_is_the_larger_of_seeds_and_scatter() -> None:
    places = [(0.0,), (1.0,), (2.0,)]
    # seeds whose slopes are 0.1, 0.2 and 0.3 on lines without scatter
    lines = [{seed: (seed + 1) * 0.1 * u for seed in range(3)} for (u,) in places]
    ((slope, error),) = fits.slopes(places, lines) or [(math.nan, None)]
    assert slope == pytest.approx(0.2)
    assert error == pytest.approx(0.1 / math.sqrt(3))
    # seeds that agree on points about a line: 0, 0.3, 0 has residuals -0.1, 0.2, -0.1
    bent = [dict.fromkeys(range(3), y) for y in (0.0, 0.3, 0.0)]
    ((slope, error),) = fits.slopes(places, bent) or [(math.nan, None)]
    assert slope == pytest.approx(0)
    assert error == pytest.approx(math.sqrt(0.06 / 1 / 2))


def test_without_scatter_and_seeds_there_is_no_error() -> None:
    assert fits.slopes([(0.0,), (1.0,)], [{0: 1.0}, {0: 1.5}]) == [(pytest.approx(0.5), None)]


def test_params_varied_together_cannot_be_told_apart() -> None:
    together = [(float(u), 2.0 * u) for u in range(4)]
    assert fits.slopes(together, [{0: u} for u, _ in together]) is None
    assert fits.slopes([(0.0, 0.0), (1.0, 0.0)], [{0: 0.0}, {0: 1.0}]) is None


@pytest.mark.parametrize(
    ("drift", "error", "wanted"),
    [
        (0.05, 0.01, "transfers"),
        (-0.05, 0.01, "transfers"),
        (0.09, 0.03, "unclear"),
        (0.9, 0.02, "drifts"),
        (-0.9, 0.02, "drifts"),
        (0.13, 0.02, "unclear"),
        (0.0, None, "unclear"),
        (0.0, 0.0, "transfers"),
    ],
)
def test_verdicts(drift: float, error: float | None, wanted: str) -> None:
    assert fits.verdict(drift, error, 0.1) == wanted


def test_a_wall_does_not_pull_the_optimum() -> None:
    """What learned nothing says only that the best is below it."""
    points = [(-4.0, 0.46), (-3.0, 0.45), (-2.0, 2.3)]
    assert fits.optimum(points, ceiling=2.3) == (-3.0, 0.45)
    assert fits.interpolated(points, -3.5, ceiling=2.3) == pytest.approx(0.455)
    pulled = fits.optimum(points)
    assert pulled is not None
    assert pulled[1] < 0.25
