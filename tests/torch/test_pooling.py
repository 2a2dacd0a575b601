"""Pooling is torch.nn's, and its gains are singular values of the map that it is."""

from __future__ import annotations

import math
from typing import Any

import op_samples as samples
import pytest
import torch
from torch import nn

from modnorm.ops.base import Misfit, Op
from modnorm.ops.edges import Bound, Edge, whole
from modnorm.ops.pooling import PIXEL, AdaptiveAvgPool, AvgPool, MaxPool, Upsample
from modnorm.ops.types import Symbol, Tensor

WINDOWS = [(k, s, p) for k in (1, 2, 3, 4) for s in (1, 2, 3, 5) for p in (0, 1, 2) if 2 * p <= k]
SIZES = [4, 5, 8]


def f(*shape: Any) -> Tensor:
    return Tensor("float", shape)


def stretch(op: Op, type: Tensor) -> float:
    """The gain from the RMS over all of an image to that of the output."""
    gains = op.gains((Edge(type, {PIXEL: Bound(0.0, 1.0)}),), type)
    assert not isinstance(gains, str)
    everything = whole(type)
    return gains[0, everything][0, everything]


@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
def test_windows_are_torchs(kernel: int, stride: int, padding: int) -> None:
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64) - 3  # below 0: padding must not be the largest
    for cls, module in ((AvgPool, nn.AvgPool2d), (MaxPool, nn.MaxPool2d)):
        expected = module(kernel, stride, padding)(x)
        op, out = cls(kernel, stride, padding).resolve(f(2, 3, 7, 5))
        torch.testing.assert_close(samples.emitted(op, x, f(2, 3, 7, 5), None), expected)
        torch.testing.assert_close(op.reference(x), expected)
        assert str(out) == str(f(*expected.shape))
        free = op.resolve(f(2, 3, Symbol(("h",)), Symbol(("w",))))[1]
        assert isinstance(free, Tensor)
        sizes = {"h": 7, "w": 5}
        assert [samples.concrete(s, sizes) for s in free.shape] == list(expected.shape)


def test_windows_do_not_overlap_where_no_stride_is_given() -> None:
    x = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    for cls, module in ((AvgPool, nn.AvgPool2d), (MaxPool, nn.MaxPool2d)):
        op, _ = cls(4).resolve(f(1, 2, 9, 8))
        assert torch.equal(samples.emitted(op, x, f(1, 2, 9, 8), None), module(4)(x))


def test_the_adaptive_one_is_torchs() -> None:
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    for size in (1, 2, 3, 5, 9):
        op, _ = AdaptiveAvgPool(size).resolve(f(2, 3, 7, 5))
        expected = nn.AdaptiveAvgPool2d(size)(x)
        torch.testing.assert_close(samples.emitted(op, x, f(2, 3, 7, 5), None), expected)
        torch.testing.assert_close(op.reference(x), expected)


PLACES: list[tuple[Op, nn.Module]] = [
    (AvgPool(3, 2, 1), nn.AvgPool1d(3, 2, 1)),
    (MaxPool(4), nn.MaxPool1d(4)),
    (AdaptiveAvgPool(3), nn.AdaptiveAvgPool1d(3)),
    (Upsample(2), nn.Upsample(scale_factor=2)),
]
PAIRS: list[tuple[Op, nn.Module]] = [
    (AvgPool((3, 2), (1, 2), (1, 0)), nn.AvgPool2d((3, 2), (1, 2), (1, 0))),
    (MaxPool((1, 3)), nn.MaxPool2d((1, 3))),
    (AdaptiveAvgPool((3, 2)), nn.AdaptiveAvgPool2d((3, 2))),
    (Upsample((3, 1)), nn.Upsample(scale_factor=(3, 1))),
]


@pytest.mark.parametrize(("op", "module"), PLACES + PAIRS)
def test_signals_and_pairs_are_torchs(op: Op, module: nn.Module) -> None:
    signal = "1d" in type(module).__name__ or module.extra_repr().startswith("scale_factor=2")
    x = torch.randn(2, 3, *((9,) if signal else (7, 5)), dtype=torch.float64)
    found, out = op.resolve(f(*x.shape))
    expected = module(x)
    assert isinstance(out, Tensor)
    assert out.shape == expected.shape
    torch.testing.assert_close(found.reference(x), expected)
    torch.testing.assert_close(samples.emitted(found, x, f(*x.shape), None), expected)


def test_more_padding_than_half_a_window_is_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="at most half of"):
        nn.AvgPool2d(3, 1, 2)(torch.zeros(1, 1, 5, 5))
    with pytest.raises(Misfit, match="more than half of its 3"):
        AvgPool(3, 1, 2).resolve(f(1, 1, 5, 5))


def largest_singular_value(op: Op, size: int) -> float:
    """Of the map from images of one channel to the output, both as vectors."""
    images = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
    return float(torch.linalg.matrix_norm(op.reference(images).flatten(1), 2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
def test_the_gain_of_a_mean_over_windows_is_its_singular_value(
    kernel: int, stride: int, padding: int, size: int
) -> None:
    type = f(1, 1, size, size)
    op, out = AvgPool(kernel, stride, padding).resolve(type)
    assert isinstance(out, Tensor)
    exact = largest_singular_value(op, size) * size / int(out.shape[-1])  # type: ignore[arg-type]
    gain = stretch(op, type)
    assert exact * (1 - 1e-12) <= gain <= exact * 1.001
    n = Symbol(("n",))
    assert stretch(op, f(1, 1, n, n)) >= gain * (1 - 1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("out", [1, 2, 3, 4, 6])
def test_the_gain_of_the_adaptive_mean_is_its_singular_value(out: int, size: int) -> None:
    type = f(1, 1, size, size)
    op, _ = AdaptiveAvgPool(out).resolve(type)
    exact = largest_singular_value(op, size) * size / out
    assert exact * (1 - 1e-12) <= stretch(op, type) <= exact * 1.001


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
def test_the_gain_of_a_maximum_is_attained_where_one_pixel_is_the_largest_of_most_windows(
    kernel: int, stride: int, padding: int, size: int
) -> None:
    type = f(1, 1, size, size)
    op, out = MaxPool(kernel, stride, padding).resolve(type)
    assert isinstance(out, Tensor)
    images = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
    moved = (op.reference(images) - op.reference(0 * images)).flatten(1).square().sum(1).amax()
    exact = math.sqrt(float(moved)) * size / int(out.shape[-1])  # type: ignore[arg-type]
    assert stretch(op, type) == pytest.approx(exact)
    n = Symbol(("n",))
    assert stretch(op, f(1, 1, n, n)) >= exact * (1 - 1e-12)
