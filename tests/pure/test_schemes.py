"""The choice of a scheme for each shape, and what it is said to cost."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modnorm.kernels.schemes import Scheme, choose, flops, sides

axes = st.integers(1, 100_000)


def products(n: int, m: int, scheme: Scheme) -> int:
    """Multiplications and additions, product by product, as `polar` forms them."""
    rows, square = 2 * n * n * m, 2 * n**3
    steps = [[rows, square, rows] for _ in range(scheme.steps)]
    if scheme.form == "gram":
        # X·Xᵀ, the two squares, the next X·Xᵀ from the last, both polynomials, times X
        steps = [*steps[:-2], [rows, square, square, square, square, square, rows]]
    if scheme.steps == 3:  # the last polynomial is of degree 3
        steps[-1].remove(square)
    return sum(map(sum, steps))


@given(axes, axes, st.sampled_from(["plain", "gram"]), st.integers(3, 6))
def test_flops_are_those_of_the_products(one: int, other: int, form: str, steps: int) -> None:
    n, m = sides((one, other))
    assert flops(n, m, Scheme(form, steps)) == products(n, m, Scheme(form, steps))


@given(axes, axes)
def test_the_cheaper_form_is_chosen_whichever_way_the_matrix_lies(one: int, other: int) -> None:
    scheme = choose((one, other))
    assert scheme == choose((other, one))
    n, m = sides((one, other))
    costs = {form: flops(n, m, Scheme(form, scheme.steps)) for form in ("plain", "gram")}
    assert costs[scheme.form] == min(costs.values())
    assert (scheme.form == "gram") == (2 * m > 3 * n)


@pytest.mark.parametrize(
    ("shape", "scheme"),
    [
        ((1, 1), Scheme("plain", 6)),
        ((5, 1000), Scheme("gram", 6)),
        ((31, 31), Scheme("plain", 6)),
        ((32, 32), Scheme("plain", 6)),
        ((64, 256), Scheme("gram", 6)),
        ((65, 65), Scheme("plain", 6)),
        ((512, 512), Scheme("plain", 6)),
        ((512, 768), Scheme("plain", 6)),
        ((512, 2048), Scheme("gram", 6)),
        ((2048, 512), Scheme("gram", 6)),
        ((8, 64, 64), Scheme("plain", 6)),  # eight matrices
        ((64, 256, 3, 3), Scheme("gram", 6)),  # nine
        ((3, 512, 7, 7), Scheme("gram", 6)),
    ],
)
def test_examples(shape: tuple[int, ...], scheme: Scheme) -> None:
    assert choose(shape) == scheme
    for steps in (3, 4, 5, 6):
        assert choose(shape, steps) == scheme._replace(steps=steps)


@given(axes, axes)
def test_three_steps_take_less_than_three_fifths_of_five_plain_ones(one: int, other: int) -> None:
    n, m = sides((one, other))
    cheapest = min(flops(n, m, Scheme(form, 3)) for form in ("plain", "gram"))
    assert 5 * cheapest < 3 * flops(n, m, Scheme("plain", 5))


def test_it_works_without_torch() -> None:
    program = (
        "import sys, modnorm.kernels.schemes as s\n"
        "assert s.choose((512, 128))[:2] == ('gram', 6)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
