"""The kernels for polar factors against float64, in Triton's interpreter."""

from __future__ import annotations

import math
import os

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from modnorm.kernels import polar_launch
from modnorm.kernels.polar_launch import (
    Operand,
    Products,
    Put,
    Scratch,
    Update,
    operand,
    orthogonalize_triton,
    pointers,
)
from modnorm.kernels.polar_tiles import PolarTile, PolarTiles

pytestmark = [
    pytest.mark.triton,
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning"),
]
LONG = bool(os.environ.get("MODNORM_LONG"))
TILE = PolarTile(16, 16, 16, 1)
TILED, SMALL = PolarTiles(None, TILE, TILE, TILE), PolarTiles(TILE, TILE, TILE, TILE)
WAYS = {  # the tiles, the form, the steps before which it restarts
    "plain": (TILED, "plain", ()),
    "gram": (TILED, "gram", (2, 4)),
    "small": (SMALL, "plain", ()),
}
STEPS = [  # modula's later release, in 1024ths
    *((3955, -8306, 5008), (3735, -6681, 3463), (3799, -6499, 3211)),
    *((4019, -6385, 2906), (2677, -3029, 1162), (2172, -1833, 682)),
]
STEPS = [(a / 1024, b / 1024, c / 1024) for a, b, c in STEPS]
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
types = st.sampled_from(list(CLOSE))
layouts = st.sampled_from(["plain", "transposed", "sliced", "expanded"])
sizes = st.integers(1, 20) | st.sampled_from([16, 17])
# Shrinking would run the interpreter for minutes.
examples = settings(max_examples=1000 if LONG else 8, phases=[Phase.explicit, Phase.generate])


def stack(shape: tuple[int, int, int], dtype: torch.dtype, layout: str, seed: int) -> Tensor:
    k, n, m = shape
    random = torch.Generator().manual_seed(seed)
    if layout == "transposed":
        x = torch.randn(k, m, n, generator=random).mT
    elif layout == "sliced":
        x = torch.randn(2 * k, n + 3, 2 * m, generator=random)[1::2, 1 : n + 1, ::2]
    elif layout == "expanded":
        return torch.randn(k, 1, m, generator=random).to(dtype).expand(k, n, m)
    else:
        x = torch.randn(k, n, m, generator=random)
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype).copy_(x)


def polar(x: Tensor, steps: list[tuple[float, float, float]] = STEPS) -> Tensor:
    """In float64, by singular values."""
    x = x.double()
    x = x / torch.where((top := x.abs().amax((1, 2), True)) > 0, top, 1)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s = s / torch.where((size := s.pow(8).sum(1, True).pow(1 / 8)) > 0, size, 1)
    for a, b, c in steps:
        s = a * s + b * s**3 + c * s**5
    return u * s.unsqueeze(1) @ v


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest relative error of a matrix of the stack."""
    off = torch.linalg.matrix_norm(found.double() - wanted.double())
    return float((off / torch.linalg.matrix_norm(wanted.double()).clamp_min(1e-300)).max())


def product(x: Tensor, tiling: PolarTiles = TILED) -> Products:
    return Products(x.shape[0], min(x.shape[1:]), max(x.shape[1:]), tiling, "ieee")


@examples
@given(st.integers(1, 3), sizes, sizes, types, layouts, st.integers(0, 99))
def test_a_symmetric_product_is_the_same_in_both_halves(k, n, m, dtype, layout, seed):
    x = stack((k, n, m), dtype, layout, seed)
    d = stack((k, n, n), dtype, "plain", seed + 1)
    d = d + d.mT
    out = torch.full((k, n, n), math.nan, dtype=dtype)
    job = Products(k, n, m, TILED, "ieee")
    job.gram(operand(x), out, d=d, alpha=0.5, beta=-2.0, diagonal=3.0)
    wanted = 0.5 * x.double() @ x.double().mT - 2 * d.double() + 3 * torch.eye(n)
    assert torch.equal(out, out.mT)
    assert error(out, wanted) < CLOSE[dtype]


@examples
@given(st.integers(1, 2), sizes, types, st.integers(0, 99))
def test_a_product_of_commuting_matrices(k, n, dtype, seed):
    x = stack((k, n, n), torch.float32, "plain", seed) / math.sqrt(n)
    x = x + x.mT
    y = torch.eye(n) - 0.5 * x + x @ x
    x, y = x.to(dtype), ((y + y.mT) / 2).to(dtype)
    out = torch.full((k, n, n), math.nan, dtype=dtype)
    Products(k, n, n, TILED, "ieee").gram(operand(x), out, operand(y))
    assert torch.equal(out, out.mT)
    assert error(out, x.double() @ y.double()) < CLOSE[dtype]


@examples
@given(st.integers(1, 2), sizes, sizes, st.integers(-15, 15), st.integers(0, 99))
def test_the_first_products_measure_the_matrix(k, n, m, exponent, seed):
    x = stack((k, n, m), torch.float32, "plain", seed) * 10.0**exponent
    job = Products(k, n, m, TILED, "ieee")
    gram, square = torch.empty(2, k, n, n)
    scales = torch.empty(k)
    polar_launch.first_step(job, operand(x), (0.0, 1.0, 0.0), True, gram, square, scales, Scratch())
    unit = x.double() / 10.0**exponent
    s = torch.linalg.matrix_norm(torch.linalg.matrix_power(unit @ unit.mT, 2)).pow(0.25)
    torch.testing.assert_close(scales.double() * s * 10.0**exponent, torch.ones(k).double())
    assert error(gram, unit @ unit.mT / s[:, None, None] ** 2) < 1e-5
    assert torch.equal(gram, square)  # what the polynomial 1·g makes of it


@examples
@given(st.integers(1, 2), sizes, sizes, types, layouts, st.booleans(), st.integers(0, 99))
def test_a_product_adds_a_times_x_and_scales(k, n, m, dtype, layout, scaled, seed):
    n, m = sorted((n, m))
    q = stack((k, n, n), dtype, "plain", seed)
    q = q + q.mT
    x = stack((k, n, m), dtype, layout, seed + 1)
    scales, out = torch.rand(k) + 1, torch.full((k, n, m), math.nan, dtype=dtype)
    product(x).multiply(q, operand(x), scales, 1.5, scaled, Put.stack(out))
    wanted = q.double() @ x.double() + 1.5 * x.double()
    wanted *= scales[:, None, None] if scaled else 1
    assert error(out, wanted) < CLOSE[dtype]


@settings(max_examples=600 if LONG else 4, phases=[Phase.explicit, Phase.generate])
@pytest.mark.parametrize("way", WAYS)
@given(st.integers(1, 2), sizes, sizes, layouts, st.integers(-14, 17), st.integers(0, 99))
def test_polar_factors_in_float32(way, k, n, m, layout, exponent, seed):
    tiling, form, restarts = WAYS[way]
    x = stack((k, n, m), torch.float32, layout, seed)
    x = x * 10.0**exponent
    out = orthogonalize_triton(x, STEPS, tiling, form, restarts=restarts)
    assert error(out, polar(x)) < 1e-5


@settings(max_examples=300 if LONG else 3, phases=[Phase.explicit, Phase.generate])
@pytest.mark.parametrize("way", ["plain", "small"])
@given(st.integers(1, 2), sizes, sizes, layouts, st.integers(0, 99))
def test_polar_factors_in_bfloat16(way, k, n, m, layout, seed):
    x = stack((k, n, m), torch.float32, "plain", seed)
    # Singular values from 0.3 to 1: the iteration magnifies small ones with their rounding.
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    x = u * torch.linspace(1, 0.3, s.shape[1]) @ v
    x = stack((k, n, m), torch.bfloat16, layout if layout != "expanded" else "plain", 0).copy_(x)
    assert error(orthogonalize_triton(x, STEPS, *WAYS[way][:2]), polar(x)) < 1e-2


def test_bfloat16_in_the_gram_form_needs_restarts():
    x = stack((1, 12, 40), torch.bfloat16, "plain", 0)
    out = orthogonalize_triton(x, STEPS, TILED, "gram", restarts=range(6))
    assert error(out, polar(x)) < 1e-2


@pytest.mark.parametrize("way", WAYS)
def test_any_scale_gives_the_same_bits(way):
    tiling, form, restarts = WAYS[way]
    x = stack((1, 7, 18), torch.float32, "plain", 0)
    results = [
        orthogonalize_triton(x * 2.0**e, STEPS[:3], tiling, form, restarts=restarts)
        for e in (0, 1, 33, -40)
    ]
    assert all(torch.equal(results[0], y) for y in results)


@pytest.mark.parametrize("way", WAYS)
def test_storing_the_transpose_gives_the_same_bits(way):
    tiling, form, restarts = WAYS[way]
    x = stack((1, 17, 5), torch.float32, "plain", 0)
    wanted = orthogonalize_triton(x, STEPS[:2], tiling, form, restarts=restarts)
    for y in (x.mT.contiguous().mT, x.mT, x.mT.contiguous()):
        out = orthogonalize_triton(y, STEPS[:2], tiling, form, restarts=restarts)
        assert torch.equal(out if out.shape == x.shape else out.mT, wanted)


@pytest.mark.parametrize("way", WAYS)
def test_zeros_denormals_and_what_is_not_finite(way):
    tiling, form, restarts = WAYS[way]
    x = stack((6, 5, 9), torch.float32, "plain", 0)
    x[0] = 0
    x[1] *= 1e-40
    x[2, 3, 4] = math.inf
    x[3, 1, 1] = math.nan
    x[4] *= 1e20  # its squares are no float32
    x[5] *= 10.0 ** -torch.arange(0.0, 45, 5)  # columns down to denormals
    out = orthogonalize_triton(x, STEPS, tiling, form, restarts=restarts)
    assert not out[:2].any()
    assert out[2:5].isnan().all()
    assert error(out[5:], polar(x[5:])) < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_old_scratch_and_further_matrices_do_not_matter(way):
    tiling, form, restarts = WAYS[way]
    x, scratch = stack((3, 6, 18), torch.float32, "plain", 0), Scratch()
    first = orthogonalize_triton(x, STEPS, tiling, form, restarts=restarts, scratch=scratch)
    for block in scratch._blocks.values():
        if block.shape != (len(STEPS), 3):
            block.fill_(math.nan)
    again = orthogonalize_triton(x[1:2], STEPS, tiling, form, restarts=restarts, scratch=scratch)
    assert torch.equal(first[1:2], again)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_allocated_after_the_first_call(way, monkeypatch):
    tiling, form, restarts = WAYS[way]
    x, scratch = stack((1, 5, 9), torch.float32, "plain", 0), Scratch()
    out = torch.empty_like(x)

    def call() -> None:
        orthogonalize_triton(x, STEPS, tiling, form, restarts=restarts, out=out, scratch=scratch)

    call()
    first = out.clone()
    out.zero_()
    for name in ("empty", "zeros", "tensor", "empty_like", "full"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("allocates"))
    call()
    assert torch.equal(out, first)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", [(7, 18), (18, 7)])
def test_an_update_moves_parameters_in_place(way, dtype, shape):
    tiling, form, restarts = WAYS[way]
    u = [stack((1, *shape), torch.float32, "plain", i)[0] for i in range(3)]
    u[1].fill_(math.nan)
    # allocated one by one, and laid out the other way round
    p = [torch.randn(shape[::-1], generator=torch.Generator().manual_seed(i)).T for i in range(3)]
    masters = [x.clone(memory_format=torch.contiguous_format) for x in p]
    p = [x.to(dtype) for x in p]
    if dtype == torch.bfloat16:
        p[2][0, 0] += 1  # changed from outside: now it counts, and not its copy
    lr, decay, factor, targets = 0.1, 0.01, 1.7, torch.tensor([0.5, 1.0, 2.0])
    own = pointers(masters) if dtype == torch.bfloat16 else None
    update = Update(pointers(p), torch.tensor([lr, decay]), targets, factor, own)
    before = [x.double() for x in (masters if own else p)]
    before[2][0, 0] = p[2][0, 0]
    orthogonalize_triton(pointers(u), STEPS, tiling, form, restarts=restarts, update=update)
    for i in (0, 2):
        y, t = polar(u[i].unsqueeze(0))[0], float(targets[i])
        wanted = (1 - lr * t * decay) * before[i] - lr * t * factor * y
        assert error((masters if own else p)[i][None], wanted[None]) < 1e-5
        assert torch.equal(p[i], masters[i].to(dtype)) or not own
    assert torch.equal(p[1].double(), before[1].to(dtype).double())
    assert torch.equal(masters[1].double(), before[1])


def test_a_learning_rate_on_the_device_is_read_at_every_call():
    u, p = torch.eye(4), torch.zeros(4, 4)
    hyper = torch.tensor([1.0, 0.0])
    update = Update(pointers([p]), hyper, torch.ones(1), 1.0)
    orthogonalize_triton(u[None], STEPS, SMALL, update=update)
    first = p.clone()
    hyper[0] = 0.5
    orthogonalize_triton(u[None], STEPS, SMALL, update=update)
    torch.testing.assert_close(p, 1.5 * first)


def test_small_matrices_in_float16_between_the_steps():
    x = stack((1, 16, 20), torch.float32, "plain", 0) * 1e-9
    out = orthogonalize_triton(x, STEPS, SMALL, dtype=torch.float16)
    assert error(out, polar(x)) < 2e-3


def test_what_does_not_fit_is_said():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="form must be"):
        orthogonalize_triton(x, STEPS, SMALL, "cubic")
    with pytest.raises(ValueError, match="out is"):
        orthogonalize_triton(x, STEPS, SMALL, out=torch.zeros(2, 4, 3))
    update = Update(pointers([x[0]]), torch.zeros(2), torch.zeros(1), 1.0)
    with pytest.raises(ValueError, match="2 updates"):
        orthogonalize_triton(x, STEPS, SMALL, update=update)
    with pytest.raises(ValueError, match="differ"):
        pointers([x[0], x[0].T])
    with pytest.raises(ValueError, match="float16"):
        orthogonalize_triton(x, STEPS, TILED, dtype=torch.float16)
    assert orthogonalize_triton(x[:0], STEPS, SMALL).shape == (0, 3, 4)
    assert isinstance(operand(x), Operand)
