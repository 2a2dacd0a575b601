"""DualizedSGD with its kernels, under Triton's interpreter, against the same without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modnorm.kernels import DualizedSGD, polar, polar_launch, polar_tiles, schemes
from modnorm.kernels.plan import Plan
from modnorm.kernels.weight import Weight

pytestmark = pytest.mark.triton

PLAN = (
    Weight("embed", "Embed", (6, 4), "row_rms", 1.0, 0.25),
    Weight("conv", "Conv2D", (40, 33, 2, 1), "spectral_taps", 1.0, 0.5),
    Weight("a", "Linear", (70, 66), "spectral", 1.0, 0.2),
    Weight("b", "Linear", (70, 66), "spectral", 1.0, 0.3),
    Weight("wide", "Linear", (34, 90), "spectral", 1.0, 0.3),
    Weight("small", "Linear", (12, 30), "spectral", 1.0, 0.3),
    Weight("heads", "Linear", (2, 36, 40), "spectral", 1.0, 0.3),
)

TILES: dict[tuple[int, int], Any] = {}


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    tile(schemes.ACCURATE)
    yield
    TILES.clear()


def tile(steps: int) -> None:
    """What the compiler writes into a file, for the plan above and so many steps."""
    size = 4 if steps == schemes.ACCURATE else 2
    for w in PLAN[1:]:
        sides = schemes.sides(w.shape)
        tiles = polar_tiles.tiles(*sides, "sm_90", size, 2, steps)
        TILES[sides] = size, tiles


def run(dtype: torch.dtype, count: int, **options: Any) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    params = [nn.Parameter(torch.randn(w.shape, generator=draw).to(dtype)) for w in PLAN]
    named = [(w.name, p) for w, p in zip(PLAN, params, strict=True)]
    optimizer = DualizedSGD(
        named, lr=0.5, plan=Plan(PLAN, polar_tiles=TILES), weight_decay=0.1, **options
    )
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draw).to(dtype)
        optimizer.step()
    state = optimizer.state
    return {n: state[p].get("master", p).detach().float().clone() for n, p in named}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [3, 6])
def test_as_without_kernels(
    dtype: torch.dtype, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile(steps)
    calls: list[bool] = []

    def counted(*arguments: Any) -> bool:
        calls.append(len(arguments) > 4)
        return polar_launch.polar_in_place(*arguments)

    monkeypatch.setattr(polar, "POLAR_ON_GPU", [counted])
    found = run(dtype, 2, steps=steps)
    assert calls.count(True) >= 2 * 3  # a with b, wide and small move at once,
    assert calls.count(False) >= 2 * 2  # the convolution and the stack are mapped first
    monkeypatch.setattr(polar, "POLAR_ON_GPU", [])
    wanted = run(dtype, 2, steps=steps)
    for w in PLAN:
        step = 0.5 * w.target  # the RMS of a step's entries, about
        error = float((found[w.name] - wanted[w.name]).square().mean().sqrt())
        assert error < (1e-4 if steps == 6 else 0.03) * step, (w.name, error / step)


def test_a_weight_that_has_no_tiles_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    TILES.clear()
    found = run(torch.float32, 1)
    monkeypatch.setattr(polar, "POLAR_ON_GPU", [])
    wanted = run(torch.float32, 1)
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_two_runs_are_equal_to_the_last_bit() -> None:
    first, second = run(torch.float32, 1), run(torch.float32, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)
