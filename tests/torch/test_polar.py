"""Orthogonalisation against the SVD in float64, for every table, form and type.

Tolerances. A polynomial of `POLAR` acts on each singular value: `expected` evaluates it in float64.
float32 is off by its rounding, 2⁻²⁴, times the slope of the whole map, below 1200 for all tables,
times a small factor of the dimension: 2e-3. bfloat16 rounds every entry to 2⁻⁹; there singular
values below l, and directions that rounding mixes, end anywhere below the band's upper end, and
that end is exceeded by at most 8 % (found by random search over 10⁵ matrices of 2 × 2 to 12 × 12,
where rounding is worst, since it averages out over large ones; the test allows 10 %).
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimizer_cases import give_gradients, parameters
from torch import Tensor

from modnorm.kernels import DualizedSGD
from modnorm.kernels import polar as module
from modnorm.kernels.polar import ACCURATE, POLAR, fast_type, polar
from modnorm.kernels.schemes import Scheme, choose
from modnorm.kernels.spectral import Spectral
from modnorm.kernels.spectral_taps import SpectralTaps
from modnorm.kernels.weight import Weight

BANDS = {
    3: (0.0122, 0.592, 1.406),
    4: (0.0031, 0.748, 1.242),
    5: (0.00102, 0.807, 1.160),
    6: (0.00031, 0.907, 1.041),
}
"""What the comments in `POLAR` claim: from which l on singular values end between which numbers."""
SCHEMES = [Scheme(form, steps) for form in ("plain", "gram") for steps in POLAR]
BF16 = fast_type(torch.device("cpu")) == torch.bfloat16


def expected(s: Tensor, steps: int) -> Tensor:
    """The map on singular values: scaled by their 8-norm, then through the polynomials."""
    x = s / torch.linalg.vector_norm(s, 8)
    for a, b, c in POLAR[steps]:
        x = a * x + b * x**3 + c * x**5
    return x


def matrix(n: int, m: int, s: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """U·S·Vᵀ with random U and V, and these two."""
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(n, len(s), generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(m, len(s), generator=generator, dtype=torch.float64))
    return (u * s) @ v.mT, u, v


def spread(count: int, decades: float) -> Tensor:
    return torch.logspace(0, -decades, count, dtype=torch.float64)


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fast_type", lambda device: torch.float32)


# --- the tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", POLAR)
def test_the_bands(steps: int) -> None:
    """sup over (0, 1] and the band from l on, on a grid with at most 1e-5 between neighbours."""
    start, low, high = BANDS[steps]
    x = torch.cat([torch.logspace(-9, 0, 400_001), torch.linspace(0, 1, 400_001)[1:]]).double()
    y = x.clone()
    for a, b, c in POLAR[steps]:
        y = a * y + b * y**3 + c * y**5
    assert float(y.max()) <= high + 1e-12
    assert float(y.min()) > 0
    assert float(y[x >= start].min()) >= low
    assert float(y[x >= start].max()) == pytest.approx(high, abs=6e-4)


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_the_tables_leave_room_for_rounding(steps: int) -> None:
    """What is 4 % too large after a step does not grow from there on."""
    for first in range(1, steps):
        x = torch.linspace(1e-3, 1, 100_001, dtype=torch.float64)
        for a, b, c in POLAR[steps][:first]:
            x = a * x + b * x**3 + c * x**5
        x = torch.linspace(0, 1.04 * float(x.max()), 100_001, dtype=torch.float64)
        for a, b, c in POLAR[steps][first:]:
            x = a * x + b * x**3 + c * x**5
        assert float(x.max()) <= BANDS[steps][2] * 1.01


# --- against the SVD -------------------------------------------------------------------------

axes = st.integers(1, 40)
seeds = st.integers(0, 2**31)
schemes = st.sampled_from(SCHEMES)


@given(axes, axes, st.integers(-18, 18), schemes, seeds)
def test_float64_is_accurate_for_every_scheme(
    n: int, m: int, exponent: int, scheme: Scheme, seed: int
) -> None:
    s = spread(min(n, m), 2.0)
    g, u, v = matrix(n, m, s, seed)
    result = polar((g * 10.0**exponent).unsqueeze(0), scheme)[0]
    torch.testing.assert_close(result, (u * expected(s, 6)) @ v.mT, rtol=0, atol=1e-9)


@given(axes, axes, st.integers(-15, 15), schemes, st.floats(0, 3), seeds)
def test_float32_follows_the_polynomials(
    n: int, m: int, exponent: int, scheme: Scheme, decades: float, seed: int
) -> None:
    s = spread(min(n, m), decades)
    g, u, v = matrix(n, m, s, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fast_type", lambda device: torch.float32)
        result = polar((g * 10.0**exponent).float().unsqueeze(0), scheme)[0].double()
    wanted = (u * expected(s, scheme.steps)) @ v.mT
    assert float(torch.linalg.matrix_norm(result - wanted, 2)) <= 2e-3


@pytest.mark.skipif(not BF16, reason="no fast bfloat16 here")
@given(axes, axes, st.integers(-15, 15), schemes, st.floats(0, 6), seeds)
def test_bfloat16_stays_below_the_bands_upper_end(
    n: int, m: int, exponent: int, scheme: Scheme, decades: float, seed: int
) -> None:
    s = spread(min(n, m), decades)
    g, _, _ = matrix(n, m, s, seed)
    result = polar((g * 10.0**exponent).float().unsqueeze(0), scheme)[0].double()
    sigma = float(torch.linalg.matrix_norm(result, 2))
    assert sigma <= BANDS[scheme.steps][2] * (1.10 if scheme.steps < ACCURATE else 1.0002)
    assert sigma >= BANDS[scheme.steps][1] * 0.9


@pytest.mark.skipif(not BF16, reason="no fast bfloat16 here")
@pytest.mark.parametrize("shape", [(65, 128), (128, 128), (300, 100)])
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme.steps < ACCURATE])
def test_bfloat16_on_matrices_of_usual_size(shape: tuple[int, int], scheme: Scheme) -> None:
    """As near to U·Vᵀ as the polynomial itself, up to 2 % of the latter's norm, for 5 steps 5 %."""
    s = spread(min(shape), 2.0)
    g, u, v = matrix(*shape, s, 3)
    result = polar(g.float().unsqueeze(0), scheme)[0].double()
    values = torch.linalg.svdvals(result)
    assert float(values[0]) <= BANDS[scheme.steps][2] * 1.03
    ideal = float((expected(s, scheme.steps) - 1).square().mean().sqrt())
    error = float((result - u @ v.mT).square().sum() / len(s)) ** 0.5
    assert error <= ideal + (0.05 if scheme.steps == 5 else 0.02)


@pytest.mark.skipif(not BF16, reason="no fast bfloat16 here")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_bfloat16_where_rounding_is_worst(scheme: Scheme) -> None:
    """A few large entries: errors don't average out, and beyond its interval a quintic explodes."""
    torch.manual_seed(0)
    for n in (2, 3, 4, 6, 12):
        u = torch.linalg.qr(torch.randn(2000, n, n) * torch.rand(2000, n, n) ** 8)[0]
        v = torch.linalg.qr(torch.randn(2000, n, n))[0]
        s = torch.exp(-6 * torch.rand(2000, n) * torch.rand(2000, 1))
        result = polar((u * s.unsqueeze(1)) @ v, scheme)
        assert float(torch.linalg.svdvals(result)[:, 0].max()) <= BANDS[scheme.steps][2] * 1.10


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("steps", POLAR)
@pytest.mark.parametrize("shape", [(3, 40, 40), (2, 30, 90), (2, 90, 30), (1, 1, 7), (1, 7, 1)])
def test_both_forms_agree(steps: int, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    g = torch.randn(shape)
    plain, gram = (polar(g.clone(), Scheme(form, steps)) for form in ("plain", "gram"))
    torch.testing.assert_close(plain, gram, rtol=0, atol=2e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_matrices_of_rank_below_full(scheme: Scheme) -> None:
    """Directions without a singular value stay in the band although rounding fills them."""
    g, u, v = matrix(40, 60, spread(3, 0.5), 1)
    result = polar(g.float().unsqueeze(0), scheme)[0].double()
    _, low, high = BANDS[scheme.steps]
    assert float(torch.diagonal(u.mT @ result @ v).min()) >= low * 0.9
    assert float(torch.linalg.matrix_norm(result, 2)) <= high * 1.1


# --- odd inputs ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(4, 4), (1, 9), (9, 1), (1, 1), (33, 70)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_stays_zero_beside_others(
    scheme: Scheme, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    g = torch.randn(3, *shape, dtype=dtype)
    g[1] = 0
    others = polar(g[[0, 2]], scheme)
    alone = polar(torch.zeros(1, *shape, dtype=dtype), scheme)
    result = polar(g, scheme)
    assert torch.equal(result[1], torch.zeros(shape, dtype=dtype))
    assert torch.equal(alone[0], result[1])
    torch.testing.assert_close(result[[0, 2]], others, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("power", [-149, -140, -126, -100, -60, -33, -1, 1, 33, 53])
def test_denormal_and_huge_numbers(scheme: Scheme, power: int) -> None:
    """Powers of two round nothing, so that the result is the same to the last bits."""
    scale = 2.0**power
    torch.manual_seed(0)
    unit = torch.randn(2, 20, 30)
    result = polar((unit * scale).float(), scheme)
    assert result.isfinite().all()
    unit = ((unit * scale).double() / scale).float()  # the smallest are rounded themselves
    torch.testing.assert_close(result, polar(unit, scheme), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_size_ends_in_the_band(scheme: Scheme) -> None:
    """Squares of squares of what is of size 1e-6 are no float32, though that is a usual size."""
    unit = torch.stack([matrix(128, 130, spread(128, x), 3)[0] for x in (0.5, 6.0)]).float()
    for power in range(-100, 20):
        result = polar(unit * 2.0 ** (power / 4), scheme).double()
        sigma = torch.linalg.matrix_norm(result, 2)
        assert (sigma <= BANDS[scheme.steps][2] * 1.1).all()
        assert (sigma >= BANDS[scheme.steps][1] * 0.9).all()


def test_infinities_are_rejected_by_the_optimizer() -> None:
    plan = (Weight("w", "Linear", (40, 50), "spectral", 1.0, 0.5),)
    named = parameters(plan=plan)
    optimizer = DualizedSGD(named, lr=0.1, plan=plan)
    for value in (math.inf, -math.inf, math.nan, 1e30):
        give_gradients(named)
        grad = named[0][1].grad
        assert grad is not None
        grad[3, 4] = value
        with pytest.raises(FloatingPointError, match="w"):
            optimizer.step()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_bits_every_time_whatever_the_memory_held(scheme: Scheme) -> None:
    torch.manual_seed(0)
    g, work = torch.randn(2, 40, 90), {}
    first = polar(g.clone(), scheme, 1.0, work)
    for value in work.values():
        if isinstance(value, Tensor):
            value.fill_(math.nan)
    polar(torch.randn(3, 50, 20), scheme, 1.0, work)
    assert torch.equal(polar(g.clone(), scheme, 1.0, work), first)
    assert torch.equal(polar(g.clone(), scheme), first)


def test_memory_is_kept() -> None:
    torch.manual_seed(0)
    work: dict[object, object] = {}
    for _ in range(2):
        for shape in ((2, 40, 90), (1, 64, 64), (3, 90, 40)):
            polar(torch.randn(shape), choose(shape[1:]), 1.0, work)
        places = {key: v.data_ptr() for key, v in work.items() if isinstance(v, Tensor)}
    for shape in ((2, 40, 90), (1, 64, 64), (3, 90, 40)):
        polar(torch.randn(shape), choose(shape[1:]), 1.0, work)
    assert places == {key: v.data_ptr() for key, v in work.items() if isinstance(v, Tensor)}


# --- as the duality map ----------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_factor_belongs_to_the_norm(scheme: Scheme) -> None:
    torch.manual_seed(0)
    g = torch.randn(2, 45, 36)
    bare = polar(g.clone(), scheme)
    dual = Spectral.dualize(g.clone(), scheme)
    torch.testing.assert_close(dual, bare * math.sqrt(45 / 36), rtol=0.02, atol=0.01)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_groups_and_taps_are_matrices_of_their_own(scheme: Scheme) -> None:
    torch.manual_seed(0)
    grouped = torch.randn(2, 3, 36, 40)
    result = Spectral.dualize(grouped.clone(), scheme)
    taps = SpectralTaps.dualize(grouped[:, :1].reshape(2, 36, 40, 1, 1).clone(), scheme)
    for i, j in itertools.product(range(2), range(3)):
        alone = Spectral.dualize(grouped[i, j].clone().unsqueeze(0), scheme)[0]
        torch.testing.assert_close(result[i, j], alone, rtol=0, atol=2e-3)
        if j == 0:
            torch.testing.assert_close(taps[i, :, :, 0, 0], alone, rtol=0, atol=2e-3)


# --- the option ------------------------------------------------------------------------------

PLAN = (Weight("w", "Linear", (40, 50), "spectral", 1.0, 0.5),)


@pytest.mark.parametrize("steps", [None, 3, 4, 5, 6])
def test_steps(steps: int | None) -> None:
    """The option overrides the plan's choice, and the update is that of the scheme."""
    named = parameters(plan=PLAN)
    before = named[0][1].detach().clone()
    optimizer = DualizedSGD(named, lr=1.0, steps=steps, momentum=0.0, plan=PLAN)
    give_gradients(named)
    assert named[0][1].grad is not None
    grad = named[0][1].grad.clone()
    optimizer.step()
    wanted = Spectral.dualize(grad.unsqueeze(0), choose((40, 50), steps or ACCURATE))[0]
    torch.testing.assert_close(before - named[0][1].detach(), 0.5 * wanted, rtol=1e-4, atol=1e-5)
    assert optimizer.state_dict()["param_groups"][0]["steps"] == steps


@pytest.mark.parametrize("steps", [2, 7, 0, -1, 4.0, "4", (4,), math.nan])
def test_what_is_no_number_of_steps(steps: object) -> None:
    with pytest.raises(ValueError, match="steps must be a whole number, at least 3 and below 7"):
        DualizedSGD(parameters(plan=PLAN), lr=1.0, steps=steps, plan=PLAN)  # type: ignore[arg-type]


def test_without_fast_bfloat16_it_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_type.cache_clear()
    for kind in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, kind, lambda: False, raising=False)
    assert fast_type(torch.device("cpu")) == torch.float32
    assert fast_type(torch.device("meta")) == torch.float32
    fast_type.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert fast_type(torch.device("cpu")) == torch.bfloat16
    fast_type.cache_clear()
