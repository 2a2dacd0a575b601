"""Sharded weights in pipelines, of 16 bits, large, odd; and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

KINDS = ("NormedAdam", "NormedSGD", "DualizedSGD")


@pytest.mark.parametrize(("count", "sharded"), [(2, False), (4, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_stages_of_a_pipeline(world: Any, kind: str, count: int, sharded: bool) -> None:
    found = world(count).call("sharded_others.pipeline", kind, sharded)
    names = [x for i in range(7) if i % 2 == 0 for x in (f"{i}.weight", f"{i}.bias")]
    assert found[0][1] + found[-1][1] == names
    for worst, _ in found:
        assert worst <= 1e-10


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_16_bits(world: Any, kind: str, dtype: str) -> None:
    for worst in world(3).call("sharded_others.halves", kind, dtype):
        assert worst <= 1e-5


SHAPES = [
    ("spectral", (96, 200)),  # so large that some rows only are looked at
    ("spectral", (7, 3)),
    ("spectral", (1, 5)),
    ("spectral", (3, 20, 9)),
    ("spectral", (2, 70, 80)),
    ("spectral_taps", (6, 5, 3, 3)),
    ("spectral_taps", (70, 66, 1, 2)),
    ("spectral_taps", (5, 1, 3, 3)),
    ("spectral_groups", (2, 3, 5, 4)),
    *((norm, (5, 6)) for norm in ("row_rms", "row", "column", "frobenius", "sign", "rms", "max")),
    *((norm, (2,)) for norm in ("rms", "max")),
]


@pytest.mark.parametrize(("norm", "shape"), SHAPES)
def test_every_norm_along_every_axis(world: Any, norm: str, shape: tuple[int, ...]) -> None:
    for dim in range(len(shape)):
        for kind in ("NormedAdam", "NormedSGD", "DualizedSGD"):
            for worst, slack in world(3).call("sharded_others.one_weight", kind, norm, shape, dim):
                assert worst <= 1e-10, (kind, dim)
                assert slack <= 1e-8, (kind, dim)


@pytest.mark.parametrize("scale", [1e-30, 1e15, 1e100])
@pytest.mark.parametrize("norm", ["spectral", "row_rms", "max"])
def test_gradients_of_any_size(world: Any, norm: str, scale: float) -> None:
    for kind in ("NormedSGD", "DualizedSGD"):
        for dim in (0, 1):
            for worst, _ in world(3).call(
                "sharded_others.one_weight", kind, norm, (6, 5), dim, scale
            ):
                assert worst <= 1e-10, (kind, dim)


def test_gradients_that_are_sums_over_ranks(world: Any) -> None:
    assert max(world(2).call("sharded_others.partial_gradients")) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_weights_without_a_gradient(world: Any, kind: str) -> None:
    assert all(world(2).call("sharded_others.skipping", kind))


def test_what_is_refused(world: Any) -> None:
    found = world(2).call("sharded_others.refused")
    assert found[0] == found[1]
    for said, wanted in zip(
        found[0],
        (
            "lr='auto' is not for sharded parameters",
            "is sharded (DTensor), as partial sums",
            "its norm odd does not say how it is measured from parts",
            "the monitor measures whole weights, and these are sharded",
            "adopt runs a whole model",
            "the plan has no weights of these names: body.weight",
        ),
        strict=True,
    ):
        assert re.search(re.escape(wanted), said), said
