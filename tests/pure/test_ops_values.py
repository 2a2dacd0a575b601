"""What operations declare: sensitivities, sharpness, what they absorb, what they emit."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
from op_types import B, T, W, f, i, tup

from modnorm.ops.aggregate import Aggregate
from modnorm.ops.attention import Attention
from modnorm.ops.axes import Flatten, Reshape, Squeeze, Transpose, Unsqueeze
from modnorm.ops.base import LINEAR, Op, Sharpness
from modnorm.ops.conv import Conv1D, Conv2D, ConvTranspose1D, ConvTranspose2D
from modnorm.ops.effects import BatchMeanSubtract, BatchStandardize, Dropout, DropPath
from modnorm.ops.elementwise import (
    GELU,
    Abs,
    Exp,
    LogSoftmax,
    ReLU,
    ReLU2,
    Sigmoid,
    SiLU,
    Softcap,
    Softmax,
    Softplus,
    Tanh,
)
from modnorm.ops.embed import Embed, EmbeddingBag, Unembed
from modnorm.ops.experts import Experts, Member, Scored, Spread
from modnorm.ops.fused import QKV
from modnorm.ops.headed import HeadedLinear
from modnorm.ops.joins import Add, Select, WeightedSum
from modnorm.ops.last import Last
from modnorm.ops.linear import ExpertLinear, Linear, Readout
from modnorm.ops.normalize import GroupStandardize, LayerNorm, MeanSubtract, RMSDivide
from modnorm.ops.parameter import Parameter
from modnorm.ops.pieces import Concat, Slice, Split, Stack
from modnorm.ops.pooling import AdaptiveAvgPool, AvgPool, MaxPool, Mean, Upsample
from modnorm.ops.product import Lerp, MatMul, Product
from modnorm.ops.registry import builtin
from modnorm.ops.reshape import Enumerate, MergeHeads, SplitHeads
from modnorm.ops.rope import RoPE
from modnorm.ops.scalars import Identity, Mul, Shift
from modnorm.ops.types import Tensor, Type
from modnorm.ops.vectors import Bias, ExpertBias, ExpertScale, Scale

OPS = list(builtin().values())

# -- the modular norm: the table of declared and certified values -----------------------------

ROOT_HALF = 1 / math.sqrt(2)
NO_BOUND = str
VALUES: list[tuple[Op, Any, Any, Sharpness | None]] = [
    (Linear(4), 1, 1, Sharpness(0, 1, 0)),
    (Linear(4, 6, norm_="row"), 1, 1, Sharpness(0, 1, 0)),
    (Linear(4, 6, norm_="column"), 1, 6, Sharpness(0, 1, 0)),
    (Linear(4, 6, norm_="sign"), 1, 1, Sharpness(0, 1, 0)),
    (Linear(4, 6, norm_="frobenius"), 1, 1, Sharpness(0, 1, 0)),
    (Readout(4), 1, 1, Sharpness(0, 1, 0)),
    (HeadedLinear(4, 2), 1, 1, Sharpness(0, 1, 0)),
    (QKV(4, 2), 3, 3, Sharpness(0, 1, 0)),
    (Conv2D(4), 1, 1, Sharpness(0, 1, 0)),
    (Conv1D(4), 1, 1, Sharpness(0, 1, 0)),
    (ConvTranspose1D(4), 1, 1, Sharpness(0, 1, 0)),
    (ConvTranspose2D(4), 1, 1, Sharpness(0, 1, 0)),
    (Upsample(2), 1, 1, LINEAR),
    (MaxPool((2, 3)), 1, math.sqrt(6), None),
    (Embed(4, 4), 1, 1, Sharpness(0, 1, 0)),
    (Unembed("e"), 1, 1, Sharpness(0, 1, 0)),
    (Bias(), 1, 1, LINEAR),
    (Scale(), 1, 1, Sharpness(0, 1, 0)),
    (Identity(), 1, 1, LINEAR),
    (Add(), 1, 1, LINEAR),
    (WeightedSum((Fraction(1, 3), -2)), 2, 2, LINEAR),
    (Mul(Fraction(-2, 3)), Fraction(2, 3), Fraction(2, 3), LINEAR),
    (Shift(3), 1, 1, LINEAR),
    (Shift(3, factor=-2), 2, 2, LINEAR),
    (Select(0), 1, 1, LINEAR),
    (Flatten(), 1, 1, LINEAR),
    (SplitHeads(4), 1, 2, LINEAR),
    (SplitHeads(2), 1, math.sqrt(2), LINEAR),
    (MergeHeads(), 1, 1, LINEAR),
    (Enumerate(), 1, 0, LINEAR),
    (Abs(), 1, 1, None),
    (ReLU(), ROOT_HALF, 1, None),
    (GELU(), ROOT_HALF, 1.128904145, Sharpness(0, 0, math.sqrt(2 / math.pi))),
    (SiLU(), 1, 1.099839320, Sharpness(0, 0, 0.5)),
    (Tanh(), 1, 1, Sharpness(0, 0, 4 / (3 * math.sqrt(3)))),
    (Softmax(Fraction(3, 2)), Fraction(3, 2), Fraction(3, 2), Sharpness(0, 0, 2.25)),
    (Softmax(-2), 2, 2, Sharpness(0, 0, 4)),
    (MeanSubtract(), 1, 1, LINEAR),
    (RMSDivide(), 1, NO_BOUND, Sharpness(0, 0, 2 / math.sqrt(3))),
    (RMSDivide(eps=4), 1, 0.5, Sharpness(0, 0, 2 / math.sqrt(3))),
    (RMSDivide(eps=0), 1, NO_BOUND, Sharpness(0, 0, 2 / math.sqrt(3))),
    (LayerNorm(), 1, NO_BOUND, Sharpness(0, 0, 2 / math.sqrt(3))),
    (GroupStandardize(2), 1, NO_BOUND, Sharpness(0, 0, 2 / math.sqrt(3))),
    (GroupStandardize(2, eps=4), 1, 0.5, Sharpness(0, 0, 2 / math.sqrt(3))),
    (BatchStandardize(), 1, NO_BOUND, Sharpness(0, 0, 2 / math.sqrt(3))),
    (Mean(1), 1, 1, LINEAR),
    (AvgPool(3), 1, 1, LINEAR),
    (AdaptiveAvgPool(3), 1, 1, LINEAR),
    (MaxPool(3), 1, 3, None),
    (Product(), 1, NO_BOUND, Sharpness(0, 0, 1)),
    (Lerp(), 1, NO_BOUND, None),
    (Last(), 1, 1, LINEAR),
    (MatMul().resolve(tup(f(B, 3, 8), f(B, 8, 3)))[0], 8, NO_BOUND, Sharpness(0, 0, 8)),
    (MatMul().resolve(tup(f(B, 3, T), f(B, T, 3)))[0], 1, NO_BOUND, Sharpness(0, 0, 1)),
    (Sigmoid(), Fraction(1, 4), Fraction(1, 4), Sharpness(0, 0, 1 / (6 * math.sqrt(3)))),
    (Softplus(), 1, 1, Sharpness(0, 0, 0.25)),
    (Exp(), 1, NO_BOUND, Sharpness(0, 0, 1)),
    (ReLU2(), math.sqrt(2), NO_BOUND, Sharpness(0, 0, 2)),
    (Softcap(30), 1, 1, Sharpness(0, 0, 4 / (3 * math.sqrt(3)) / 30)),
    (LogSoftmax(), 1, 2, Sharpness(0, 0, 1)),
    (Concat(), 1, 1, LINEAR),
    (Stack(1), 1, 1, LINEAR),
    (Slice(2), 1, NO_BOUND, LINEAR),
    (Slice(2).resolve(f(B, 8))[0], 1, math.sqrt(8 / 6), LINEAR),
    (Slice(2).resolve(f(B, T))[0], 1, NO_BOUND, LINEAR),
    (Slice(2, dim=1).resolve(f(B, T, 8))[0], 1, 1, LINEAR),
    (Split(4), 4, 8, LINEAR),
    (Split(4, 1).resolve(f(B, 4, 8))[0], 4, 4, LINEAR),
    (Transpose(), 1, 1, LINEAR),
    (Transpose().resolve(f(B, 4, 8))[0], 1, math.sqrt(8), LINEAR),
    (Reshape((2, 4)).resolve(f(B, 8))[0], 1, 2**0.5, LINEAR),
    (Squeeze(1).resolve(f(B, 1, 8))[0], 1, 1, LINEAR),
    (Unsqueeze(1).resolve(f(B, 8))[0], 1, 1, LINEAR),
    (Parameter((1, 8)), 0, 0, LINEAR),
    (Attention(), 1, 1, Sharpness(0, 0, 2)),
    (Attention(scale=3), Fraction(1, 3), 3, Sharpness(0, 0, 12)),
    (Attention(scale=Fraction(-1, 2)), 1, 1, Sharpness(0, 0, 0.75)),
    (
        Attention(scale=2, softcap=1),
        Fraction(1, 3),
        2,
        Sharpness(0, 0, 6 + 16 / (3 * math.sqrt(3))),
    ),
    (Attention(window=3, alibi=True), 1, 1, Sharpness(0, 0, 2)),
    (RoPE(), 1, 1, LINEAR),
    (DropPath(Fraction(1, 5)), 1, Fraction(5, 4), LINEAR),
    (Dropout(), 1, 2, LINEAR),
    (Dropout(0), 1, 1, LINEAR),
    (Dropout(Fraction(1, 10)), 1, Fraction(10, 9), LINEAR),
    (BatchMeanSubtract(), 1, 2, LINEAR),
    (Scored(4), 1, 1, LINEAR),
    (Member(0), 1, 1, LINEAR),
    (Spread(4), 1, 1, LINEAR),
    (ExpertLinear(4, experts=3), 1, 1, Sharpness(0, 1, 0)),
    (ExpertBias(experts=3), 1, 1, LINEAR),
    (ExpertScale(experts=3), 1, 1, Sharpness(0, 1, 0)),
    (Experts(None, 2), 1, 1, Sharpness(0, 0, 1)),
    (Experts(None, 8, 8), 1, 2, Sharpness(0, 0, 1)),
    (Experts(None, 9), 1, math.sqrt(9 / 2), Sharpness(0, 0, 1)),
    (Experts(None, 9, 8), 1, NO_BOUND, None),
    (Aggregate(), 1, 1, LINEAR),
    (Aggregate("sum"), 1, NO_BOUND, LINEAR),
    (Aggregate("sum", 4), 4, 4, LINEAR),
    (Aggregate("gcn"), 1, NO_BOUND, LINEAR),
    (Aggregate("gcn", 8), 1, 3, LINEAR),
    (Aggregate("max"), 1, NO_BOUND, None),
    (Aggregate("max", 2), 1, math.sqrt(2), None),
    (Aggregate("max", 9).resolve(tup(f(T, 4), i(2, B, bound=T)))[0], 1, 2, None),
    (EmbeddingBag(4, 4), 1, 1, Sharpness(0, 1, 0)),
    (EmbeddingBag(4, 4, "sum"), 1, NO_BOUND, Sharpness(0, 1, 0)),
    (EmbeddingBag(4, 4, "sum").resolve(i(B, 3))[0], 3, 3, Sharpness(0, 1, 0)),
]


@pytest.mark.parametrize(
    ("op", "declared", "certified", "sharpness"),
    VALUES,
    ids=[f"{v[0].name}-{n}" for n, v in enumerate(VALUES)],
)
def test_values(op: Op, declared: Any, certified: Any, sharpness: Sharpness | None) -> None:
    """Certified values and sharpness are rounded up, by less than one part in ten thousand."""
    assert op.sensitivity == pytest.approx(declared, rel=1e-15)
    assert isinstance(op.sensitivity, float) == isinstance(declared, float)
    if certified is NO_BOUND:
        assert isinstance(op.certified, str)
        assert len(op.certified.split()) > 5
    else:
        assert not isinstance(op.certified, str)
        assert certified <= op.certified <= certified * 1.0001
    assert (op.sharpness is None) == (sharpness is None)
    if op.sharpness is not None and sharpness is not None:
        given, wanted = dataclasses.astuple(op.sharpness), dataclasses.astuple(sharpness)
        for a, b in zip(given, wanted, strict=True):
            assert b <= a <= b * 1.0001


def test_every_operation_is_in_the_table() -> None:
    assert {type(op) for op, *_ in VALUES} == set(OPS)


# -- rewrites -------------------------------------------------------------------------------

THIRD = Fraction(1, 3)
ABSORBED: list[tuple[Op, tuple[Any, ...], Any]] = [
    (Linear(4), (THIRD,), (Linear(4), THIRD)),
    (Linear(4, norm_="sign"), (THIRD,), (Linear(4, norm_="sign"), THIRD)),
    (Readout(4), (-2,), (Readout(4), -2)),
    (HeadedLinear(4, 2), (THIRD,), (HeadedLinear(4, 2), THIRD)),
    (Bias(), (THIRD,), None),
    (Identity(), (THIRD, THIRD), (Identity(), THIRD)),
    (Identity(), (THIRD, 2), None),
    (Mul(2), (THIRD,), (Mul(2), THIRD)),
    (ReLU(), (THIRD,), (ReLU(), THIRD)),
    (ReLU(), (-THIRD,), None),
    (Abs(), (-THIRD,), (Abs(), THIRD)),
    (Tanh(), (-1,), (Tanh(), -1)),
    (Tanh(), (THIRD,), None),
    (GELU(), (THIRD,), None),
    (SiLU(), (-1,), None),
    (Softmax(2), (THIRD,), (Softmax(Fraction(2, 3)), 1)),
    (Parameter((2, 3)), (THIRD,), (Parameter((2, 3)), 1)),
    (Softcap(6), (-THIRD,), (Softcap(18), -THIRD)),
    (Softcap(6.0), (1e-310,), None),
    (ReLU2(), (THIRD,), (ReLU2(), THIRD * THIRD)),
    (ReLU2(), (-THIRD,), None),
    (Exp(), (THIRD,), None),
    (MatMul(), (THIRD, 2), (MatMul(), 2 * THIRD)),
    (Concat(), (THIRD, THIRD), (Concat(), THIRD)),
    (Concat(), (THIRD, 1), None),
    (Split(2), (THIRD,), (Split(2), THIRD)),
    (Dropout(), (-THIRD,), (Dropout(), -THIRD)),
    (BatchMeanSubtract(), (THIRD,), None),
    (RMSDivide(eps=1), (-THIRD,), (RMSDivide(eps=9), -1)),
    (RMSDivide(eps=0), (2,), (RMSDivide(eps=0), 1)),
    (RMSDivide(eps=1.0), (1e-200,), None),
    (GroupStandardize(2, eps=1), (-2,), (GroupStandardize(2, eps=Fraction(1, 4)), -1)),
    (BatchStandardize(), (2,), None),
    (LayerNorm(eps=1), (2,), (LayerNorm(eps=Fraction(1, 4)), 1)),
    (Add(), (1, 1), (Add(), 1)),
    (Add(), (2, 2), (WeightedSum((2, 2)), 1)),
    (Add(), (1 - THIRD, THIRD), (WeightedSum((1 - THIRD, THIRD)), 1)),
    (WeightedSum((2, 3)), (THIRD, -1), (WeightedSum((Fraction(2, 3), -3)), 1)),
    (Select(1), (5, 7), (Select(1), 7)),
    (Attention(scale=3), (THIRD, 2, 7), (Attention(scale=2), 7)),
    (Attention(scale=3), (THIRD, 2, 7, 1), (Attention(scale=2), 7)),
    (Attention(), (1, 1, 1, 2), None),
    (RoPE(), (2, 2), (RoPE(), 2)),
    (DropPath(THIRD), (-2,), (DropPath(THIRD), -2)),
    (RoPE(), (2, 3), None),
    (Enumerate(), (2,), (Enumerate(), 1)),
    (Mean(1), (2,), (Mean(1), 2)),
]


@pytest.mark.parametrize(
    ("op", "scalars", "expected"),
    ABSORBED,
    ids=[f"{a[0].name}-{n}" for n, a in enumerate(ABSORBED)],
)
def test_what_absorbs(op: Op, scalars: tuple[Any, ...], expected: Any) -> None:
    """Exactly what is expected; that it is right is tested with torch."""
    assert op.absorb(scalars) == expected


def test_what_fuses() -> None:
    x = f(B, 3, 8, 8)
    mean, rms = MeanSubtract((-1, -2)).resolve(x)[0], RMSDivide((2, 3), 1).resolve(x)[0]
    assert rms.fuse(mean) == LayerNorm((2, 3), 1)
    assert rms.fuse(MeanSubtract()) is None
    assert rms.fuse(Abs()) is None
    assert MergeHeads().fuse(SplitHeads(3)) == Identity()
    assert Transpose(1, 2).resolve(f(B, 3, 4))[0].fuse(Transpose()) == Identity()
    assert Squeeze(1).fuse(Unsqueeze(1)) == Identity()
    assert Reshape((2, 6)).fuse(Reshape((3, 4))) == Reshape((2, 6))
    assert Reshape((2, -1)).fuse(Reshape((3, 4))) is None


# -- emission -------------------------------------------------------------------------------

IMAGE = f(B, 3, 8, 8)
QS, KS, PAD = f(B, 4, T, 16), f(B, 2, T, 16), Tensor("bool", (B, 1, 1, T))
EMITTED: list[tuple[Op, Any, Type, str]] = [
    (Linear(4), "x", f(B, 5), "F.linear(x, m.weight)"),
    (Linear(4, norm_="column"), "x", f(B, 5), "F.linear(x, m.weight)"),
    (Readout(4), "x", f(B, T, 5), "F.linear(x, m.weight)"),
    (HeadedLinear(4, 2), "x", f(B, T, 5), "headed(x, m.weight)"),
    (Conv2D(4), "x", IMAGE, "F.conv2d(x, m.weight, padding=1)"),
    (Conv2D(4, stride=2, padding=0), "x", IMAGE, "F.conv2d(x, m.weight, stride=2)"),
    (Conv2D(6, kernel=(1, 3), groups=3, padding="same"), "x", IMAGE,
     "F.conv2d(x, m.weight, padding=(0, 1), groups=3)"),
    (Conv1D(4, kernel=4, padding="same", dilation=3), "x", f(B, 3, T),
     "F.conv1d(F.pad(x, (4, 5)), m.weight, dilation=3)"),
    (Conv1D(4, padding="causal"), "x", f(B, 3, T), "F.conv1d(F.pad(x, (2, 0)), m.weight)"),
    (ConvTranspose1D(4, stride=2, output_padding=1), "x", f(B, 3, T),
     "F.conv_transpose1d(x, m.weight, stride=2, padding=1, output_padding=1)"),
    (ConvTranspose2D(4, kernel=2, stride=2, padding=0), "x", IMAGE,
     "F.conv_transpose2d(x, m.weight, stride=2)"),
    (Upsample(2), "x", IMAGE, "F.interpolate(x, scale_factor=2)"),
    (MaxPool((1, 2)), "x", IMAGE, "F.max_pool2d(x, (1, 2))"),
    (AvgPool(2), "x", f(B, 3, T), "F.avg_pool1d(x, 2)"),
    (Unembed("e", count=65, dim=8), "x", f(B, 8), "F.linear(x / 8, m.weight)"),
    (Unembed("e", count=2, dim=8), "x", f(B, 8), "F.linear(x / 8, m.weight)"),
    (Embed(4, 3), "x", Tensor("int", (B,), 4), "looked_up(x, m.weight, m.name)"),
    (Bias(), "x", IMAGE, "x + m.weight[:, None, None]"),
    (Bias(), "x", f(B, 5), "x + m.weight"),
    (Identity(), ("a", "b"), tup(f(B), f(B)), "(a, b)"),
    (Mul(THIRD), "x", f(B), "1/3 * x"),
    (Mul(-1), "x", f(B), "-x"),
    (Mul(2.0), ("a", "b"), tup(f(B), f(B)), "(2 * a, 2 * b)"),
    (Mul(Fraction(1, 2)), ("a",), tup(f(B)), "(0.5 * a,)"),
    (Add(), ("a", "b"), tup(f(B), f(B)), "a + b"),
    (Add(), "x", tup(f(B), f(B)), "x[0] + x[1]"),
    (WeightedSum((1 - THIRD, THIRD)), ("a", "b"), tup(f(B), f(B)), "lerp(a, b, 1/3)"),
    (WeightedSum((1, -1)), ("a", "b"), tup(f(B), f(B)), "a - b"),
    (WeightedSum((2, 1)), ("a", "b"), tup(f(B), f(B)), "torch.add(b, a, alpha=2)"),
    (WeightedSum((2, 3, 1)), ("a", "b", "c"), tup(f(B), f(B), f(B)),
     "torch.add(torch.add(c, a, alpha=2), b, alpha=3)"),
    (WeightedSum((-2, 3)), ("a", "b"), tup(f(B), f(B)), "torch.add(-2 * a, b, alpha=3)"),
    (RMSDivide(), "x", f(B, 5), "F.rms_norm(x, (5,), eps=1e-12)"),
    (RMSDivide(), "x", f(B, T), "F.rms_norm(x, x.shape[-1:], eps=1e-12)"),
    (RMSDivide((1, 2, 3)), "x", IMAGE, "F.rms_norm(x, (3, 8, 8), eps=1e-12)"),
    (RMSDivide(1), "x", IMAGE, "unit_rms(x, 1, eps=1e-12)"),
    (LayerNorm(), "x", f(B, 5), "layer_normed(x, (5,), eps=1e-12)"),
    (LayerNorm((1, 2)), "x", IMAGE,
     "unit_rms(centered(widened(x), (1, 2)), (1, 2), eps=1e-12).to(x.dtype)"),
    (GroupStandardize(3), "x", IMAGE, "F.group_norm(x, 3, eps=1e-05)"),
    (MeanSubtract((1, 2)), "x", IMAGE, "centered(x, (1, 2))"),
    (Softmax(3), "x", f(B, 5), "F.softmax(3 * widened(x), dim=-1).to(x.dtype)"),
    (Softmax(), "x", f(B, 5), "F.softmax(x, dim=-1)"),
    (AvgPool(2), "x", IMAGE, "F.avg_pool2d(x, 2)"),
    (MaxPool(3, 2, 1), "x", IMAGE, "F.max_pool2d(x, 3, stride=2, padding=1)"),
    (AdaptiveAvgPool(2), "x", IMAGE, "F.adaptive_avg_pool2d(x, 2)"),
    (Flatten(-2), "x", f(B, 2, 3, 4), "x.flatten(2)"),
    (Softcap(30), "x", f(B, 5), "30 * torch.tanh(x / 30)"),
    (Softcap(THIRD), "x", f(B, 5), "1/3 * torch.tanh(x / (1/3))"),
    (ReLU2(), "x", f(B, 5), "F.relu(x).square()"),
    (LogSoftmax(1), "x", f(B, 5, 6), "F.log_softmax(x, dim=1)"),
    (MatMul(), ("a", "b"), tup(f(B, 3, 4), f(B, 4, 3)), "torch.matmul(a, b)"),
    (Product(), ("a", "b"), tup(f(B, T, 4), f(B, 1, 4)), "a * b"),
    (Lerp(), ("a", "b", "c"), tup(f(B, 4), f(B, 4), f(B, 4)), "gated(a, b, c)"),
    (Last(), "x", f(B, T, 4), "x[:, -1]"),
    (Concat(1), ("a", "b"), tup(f(B, 3, 4), f(B, 2, 4)), "torch.cat((a, b), dim=1)"),
    (Concat(), "x", tup(f(B, 4), f(B, 4)), "torch.cat(x, dim=-1)"),
    (Stack(1), ("a", "b"), tup(f(B, 4), f(B, 4)), "torch.stack((a, b), dim=1)"),
    (Slice(1), "x", f(B, 4), "x[:, 1:]"),
    (Slice(0, -1, 0), "x", f(4), "x[:-1]"),
    (Slice(1, 3), "x", f(B, T, 4), "x[..., 1:3]"),
    (Slice(0, 3, 1), "x", f(B, T, 4), "x.narrow(1, 0, 3)"),
    (Slice(1, -2, 1), "x", f(B, T, 4), "x.narrow(1, 1, x.shape[1] - 3)"),
    (Slice(-2, dim=1), "x", f(B, T, 4), "x.narrow(1, -2, 2)"),
    (Parameter(), "x", f(B, 4), "m.weight[0, 0]"),
    (Parameter((4,)), "x", f(B, 4), "m.weight.expand(x.shape[0], -1)"),
    (Parameter((1, 4)), ("x", "y"), tup(f(B, 4), f(B)), "m.weight.expand(x.shape[0], -1, -1)"),
    (Parameter((2, 3, 4)), "x", tup(tup(f(B, 4)), f(B)),
     "m.weight.view(2, 3, 4).expand(x[0][0].shape[0], -1, -1, -1)"),
    (Split(2), "x", f(B, 4), "x.chunk(2, dim=-1)"),
    (Transpose(1, 2), "x", f(B, 3, 4), "x.transpose(-2, -1)"),
    (Reshape((2, -1)), "x", f(B, 4), "x.reshape(x.shape[0], 2, 2)"),
    (Reshape((2, -1)), "x", f(B, 4, T), "x.reshape(x.shape[0], 2, -1)"),
    (Squeeze(1), "x", f(B, 1, 4), "x.squeeze(1)"),
    (Unsqueeze(1), "x", f(B, 4), "x.unsqueeze(1)"),
    (Mean(1, keepdim=True), "x", f(B, 3, 4), "x.mean(dim=1, keepdim=True)"),
    (Attention(True), ("q", "k", "v"), tup(*[f(B, 2, T, 8)] * 3),
     "F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.125)"),
    (Attention(True, "1/sqrt(d)"), ("q", "k", "v"), tup(QS, KS, KS),
     "F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=0.25)"),
    (Attention(True, window=9), ("q", "k", "v"), tup(*[QS] * 3),
     "attend(q, k, v, 0.0625, None, True, 9)"),
    (Attention(alibi=True), ("q", "k", "v"), tup(*[QS] * 3),
     "attend(q, k, v, 0.0625, alibi(q, k))"),
    (Attention(), "x", tup(QS, KS, KS, PAD), "attend(x[0], x[1], x[2], 0.0625, x[3])"),
    (Attention(True, alibi=True), ("q", "k", "v", "m"), tup(QS, KS, KS, PAD),
     "attend(q, k, v, 0.0625, alibi(q, k, m), True)"),
    (Attention(True, 0), ("q", "k", "v", "m"), tup(QS, KS, KS, f(B, 4, T, T)),
     "attend(0 * q, k, v, 1, m, True)"),
    (Attention(softcap=50), ("q", "k", "v"), tup(QS, KS, KS),
     "capped(q, k, v, 0.0625, 50)"),
    (Attention(window=3), ("q", "k", "v"), tup(QS, *[f(B, 4, W, 16)] * 2),
     "attend(q, k, v, 0.0625, None, False, 3)"),
    (RoPE(scale=0.25, fraction=0.5), "q", f(B, T, 8), "rotary(q, 4, 10000, scale=0.25)"),
    (RoPE(interleaved=True, offset=7), ("q", "k"), tup(f(B, T, 8), f(B, T, 4)),
     "(rotary(q, 8, 10000, offset=7, interleaved=True),"
     " rotary(k, 4, 10000, offset=7, interleaved=True))"),
    (RoPE(), ("q", "k"), tup(f(B, T, 8), f(B, T, 8)), "(rope(q), rope(k))"),
    (RoPE(500), "q", f(B, T, 8), "rope(q, 500)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "x", "type", "code"), EMITTED, ids=[f"{e[0].name}-{n}" for n, e in enumerate(EMITTED)]
)
def test_emission(op: Op, x: Any, type: Type, code: str) -> None:
    """The text; that it computes the operation is tested with torch."""
    assert op.resolve(type)[0].emit(x, type, "m") == code


def test_helpers_are_functions_under_the_names_that_are_called() -> None:
    assert RoPE().helpers()[0].startswith("def rope(x: Tensor,")
    assert WeightedSum((THIRD, 1 - THIRD)).helpers()[0].startswith("def lerp(x: Tensor,")
    assert WeightedSum((2, 1)).helpers() == ()
