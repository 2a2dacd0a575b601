"""Certified sensitivities and sharpness hold: gradient ascent finds no direction that breaks them.

The norms are those of the operations' docstrings. Where a bound is known to be tight the search has
to come near it, so that it is known to be able to find a violation.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import op_samples as samples
import pytest
import torch
from op_samples import OPS
from op_search import (
    SizeOf,
    ascend,
    channels,
    f,
    in_ball,
    largest,
    pack,
    places,
    rms,
    row_sum,
    shapes,
    starts_for,
    total,
    weight_size,
    whole,
)
from torch.func import jvp

from modnorm.ops.base import Atom, Op, Reader
from modnorm.ops.types import Tensor, TupleType, Type


class Trial(NamedTuple):
    """Which norms an operation's bound is about, arguments and an input to try it with."""

    into: SizeOf = channels
    out: SizeOf = channels
    arguments: dict[str, Any] = {}  # noqa: RUF012
    type: Type = Tensor("float", (2, 3, 6))
    tight: float = 0.0
    """The part of the bound that the search has to reach."""


SPLIT = Tensor("float", (1, 2, 3, 4), None, ("batch", "head", "other", "channel"))
HEADS = TupleType((f(1, 2, 3, 4), f(1, 2, 3, 4), f(1, 2, 3, 4)))
VECTORS = Tensor("float", (2, 3, 6), None, ("batch", "other", "channel"))
PAIR = TupleType((f(2, 3, 4), f(2, 3, 4)))
MIXED = {n: TupleType((f(1, n, 3), f(1, n))) for n in (2, 4)}
GROUPED = TupleType((f(1, 4, 3, 4), f(1, 2, 3, 4), f(1, 2, 3, 4)))
TRIALS: dict[str, list[Trial]] = {
    "Abs": [Trial(tight=0.99), Trial(whole, whole, tight=0.99)],
    "ReLU": [Trial(tight=0.99)],
    "GELU": [Trial(tight=0.99), Trial(largest, largest, tight=0.99)],
    "SiLU": [Trial(tight=0.99)],
    "Tanh": [Trial(tight=0.98)],
    "Sigmoid": [Trial(tight=0.99)],
    "Softplus": [Trial(tight=0.9)],
    "Softcap": [Trial(arguments={"c": 3}, tight=0.98)],
    "LogSoftmax": [Trial(largest, largest, {}, f(1, 4), tight=0.9)],
    "Concat": [
        Trial(total(channels), channels, {}, PAIR),
        Trial(total(rms), rms, {"dim": 1}, PAIR),
    ],
    "Stack": [Trial(total(rms), rms, {"dim": 1}, PAIR, tight=0.9)],
    "Last": [Trial(channels, channels, {}, VECTORS, tight=0.99)],
    "Slice": [Trial(arguments={"start": 2}, tight=0.99)],
    "Split": [Trial(rms, total(rms), {"count": 2}, f(2, 6), tight=0.99)],
    "Transpose": [Trial(rms, partial(rms, axis=1), {}, VECTORS, tight=0.99)],
    "Reshape": [Trial(rms, rms, {"sizes_": (3, 2, -1)}, VECTORS, tight=0.99)],
    "Squeeze": [Trial(rms, rms, {"dim": 1}, f(2, 1, 6), tight=0.99)],
    "Unsqueeze": [Trial(rms, rms, {"dim": 1}, f(2, 6), tight=0.99)],
    "Softmax": [
        Trial(largest, row_sum, {"scale": 2}, f(2, 5), tight=0.95),
        Trial(rms, rms, {"scale": 2}, f(2, 5)),
    ],
    "Attention": [
        Trial(total(rms), rms, {}, HEADS, tight=0.9),
        Trial(total(rms), rms, {"causal": True, "scale": 3}, HEADS),
        Trial(total(rms), rms, {"softcap": 0.5, "window": 2}, GROUPED, tight=0.9),
    ],
    "RoPE": [
        Trial(rms, rms, {}, f(2, 5, 6), tight=0.999),
        Trial(rms, rms, {"fraction": 0.5, "interleaved": True}, f(2, 3, 8), tight=0.999),
    ],
    "SplitHeads": [Trial(rms, rms, {"heads": 3}, tight=0.99)],
    "MergeHeads": [Trial(rms, rms, {}, f(1, 2, 3, 4), tight=0.99)],
    "Flatten": [Trial(whole, rms, tight=0.999), Trial(channels, whole)],
    "Mean": [Trial(whole, whole, {"dim": 1}), Trial(channels, channels, {"dim": 1}, tight=0.9)],
    "MeanSubtract": [Trial(tight=0.99), Trial(whole, whole, {"dim": (1, 2)}, tight=0.99)],
    "AdaptiveAvgPool": [
        Trial(type=f(1, 2, 5, 5), arguments={"size": 2}, tight=0.9),
        Trial(whole, whole, {"size": 2}, f(1, 2, 4, 6), tight=0.9),
    ],
    "AvgPool": [
        Trial(type=f(1, 2, 3, 3), arguments={"kernel": 2, "stride": 1}, tight=0.9),
        Trial(type=f(1, 2, 5, 5), arguments={"kernel": 3, "stride": 2, "padding": 1}),
        Trial(whole, whole, {"kernel": 2}, f(1, 2, 4, 6), tight=0.9),
    ],
    "MaxPool": [
        Trial(arguments={"kernel": 2}, type=f(1, 4, 4, 4), tight=0.95),
        Trial(whole, whole, {"kernel": 2}, f(1, 2, 4, 4), tight=0.95),
        Trial(places, places, {"kernel": 3}, f(1, 6, 3), tight=0.8),
    ],
    "RMSDivide": [Trial(arguments={"eps": 0.04}, tight=0.98)],
    "LayerNorm": [Trial(arguments={"eps": 0.04}, tight=0.98)],
    "GroupStandardize": [
        Trial(whole, whole, {"groups": 2, "eps": 0.04}, f(2, 4, 3), tight=0.98),
        Trial(rms, rms, {"groups": 1, "eps": 0.04}, f(2, 6), tight=0.98),
    ],
    "Add": [Trial(total(channels), channels, {}, TupleType((f(2, 3, 4), f(3, 4))), tight=0.99)],
    "WeightedSum": [
        Trial(
            total(channels), channels, {"coefficients": (0.5, -3)}, TupleType((f(2, 4),) * 2), 0.9
        )
    ],
    "Select": [Trial(total(channels), channels, {"i": 1}, TupleType((f(2, 4),) * 2), 0.9)],
    "Mul": [Trial(arguments={"a": -3}, tight=0.99)],
    "Shift": [Trial(arguments={"a": -3}, tight=0.99)],
    "Identity": [Trial(tight=0.99)],
    "Enumerate": [Trial()],
    "Parameter": [Trial(out=rms, arguments={"sizes_": (2, 3)})],
    "Linear": [
        Trial(arguments={"out": 4}, tight=0.95),
        Trial(rms, rms, {"out": 9}, f(2, 4)),
        Trial(rms, largest, {"out": 5, "norm_": "row"}, f(2, 4), tight=0.95),
        Trial(rms, largest, {"out": 5, "norm_": "sign"}, f(2, 4), tight=0.9),
        Trial(rms, rms, {"out": 3, "norm_": "frobenius"}, f(2, 4), tight=0.95),
        Trial(row_sum, rms, {"out": 3, "norm_": "column"}, f(2, 4)),
    ],
    "Readout": [Trial(rms, largest, {"out": 5}, tight=0.95)],
    "HeadedLinear": [Trial(rms, rms, {"out": 8, "heads": 2}, f(2, 3, 5), tight=0.95)],
    "Conv2D": [
        Trial(arguments={"out": 3}, type=f(1, 2, 4, 4)),
        Trial(arguments={"out": 2, "stride": 2, "kernel": 2}, type=f(1, 3, 4, 4)),
        Trial(whole, whole, {"out": 2}, f(1, 3, 4, 4)),
        Trial(
            arguments={"out": 4, "groups": 2, "kernel": (1, 2), "padding": 0}, type=f(1, 4, 2, 4)
        ),
        Trial(arguments={"out": 4, "kernel": 1, "padding": 0}, type=f(1, 3, 2, 2), tight=0.95),
    ],
    "Conv1D": [
        Trial(places, places, {"out": 3, "padding": "causal", "dilation": 2}, f(1, 2, 5)),
        Trial(places, places, {"out": 4, "groups": 4, "kernel": 2}, f(1, 4, 3)),
    ],
    "ConvTranspose1D": [
        Trial(places, places, {"out": 3, "kernel": 4, "stride": 2}, f(1, 2, 4)),
        Trial(
            places,
            places,
            {"out": 2, "kernel": 2, "stride": 2, "padding": 0},
            f(1, 3, 3),
            tight=0.95,
        ),
    ],
    "ConvTranspose2D": [
        Trial(
            arguments={"out": 2, "kernel": 2, "stride": 2, "padding": 0},
            type=f(1, 3, 2, 2),
            tight=0.95,
        ),
        Trial(arguments={"out": 3, "kernel": 4, "stride": 2}, type=f(1, 2, 2, 3)),
    ],
    "Upsample": [Trial(type=f(1, 3, 2, 2), arguments={"factor": 2}, tight=0.99)],
    "Bias": [
        Trial(tight=0.99),
        Trial(type=f(1, 2, 3, 3), tight=0.99),
        Trial(rms, rms, {}, SPLIT, tight=0.99),
        Trial(rms, rms, {"axis": 1}, SPLIT, tight=0.99),
    ],
    "Scale": [
        Trial(tight=0.99),
        Trial(type=f(1, 2, 3, 3), tight=0.99),
        Trial(rms, rms, {}, SPLIT, tight=0.99),
        Trial(rms, rms, {"axis": -3}, SPLIT, tight=0.99),
    ],
    "Scored": [Trial(total(rms), total(rms), {"count": 3}, TupleType((f(2, 4), f(2, 3))), 0.9)],
    "Member": [Trial(total(channels), channels, {"i": 1}, TupleType((f(2, 4),) * 2), 0.9)],
    "Spread": [Trial(rms, rms, {"experts": 3}, f(2, 6), tight=0.99)],
    "ExpertLinear": [Trial(rms, rms, {"out": 4, "experts": 3}, f(2, 3, 5), tight=0.95)],
    "ExpertBias": [Trial(rms, rms, {"experts": 3}, f(2, 3, 5), tight=0.99)],
    "ExpertScale": [Trial(rms, rms, {"experts": 3}, f(2, 3, 5), tight=0.99)],
    "Experts": [
        Trial(total(rms), rms, {"module_": None, "count": 2}, MIXED[2], tight=0.9),
        Trial(total(rms), rms, {"module_": None, "count": 4}, MIXED[4], tight=0.8),
    ],
    "Dropout": [Trial(arguments={"p": 0.25})],  # in training they are tried in test_effects.py
    "DropPath": [Trial(arguments={"p": 0.25})],
    "BatchMeanSubtract": [Trial(), Trial(type=f(1, 2, 3, 3))],
    "Unembed": [Trial(rms, largest, {"embed": "e", "count": 5, "dim": 6}, f(2, 6), tight=0.95)],
}
PAIRS = [
    pytest.param(op, trial, id=f"{op.name}-{i}")
    for op in OPS
    for i, trial in enumerate(TRIALS.get(op.name, []))
]


def test_every_operation_is_tried() -> None:
    untried = {op.name for op in OPS} - TRIALS.keys()
    # an Embed's input is discrete, and its weight is tried below; the others have no one bound, nor
    # has what divides by a batch's deviation; test_aggregate.py tries what takes a graph's edges
    assert untried == {
        "Embed", "EmbeddingBag", "Product", "MatMul", "Exp", "ReLU2", "BatchStandardize",
        "Aggregate", "Lerp",
    }  # fmt: skip


@pytest.mark.parametrize(("cls", "trial"), PAIRS)
def test_no_direction_is_stretched_more_than_certified(cls: type[Op], trial: Trial) -> None:
    op, _ = cls(**trial.arguments).resolve(trial.type)
    bound = op.certified
    assert not isinstance(bound, str), bound
    like = shapes(trial.type)
    weight = samples.weight(op, torch.Generator().manual_seed(0))
    weights = [] if weight is None else [weight]

    def ratio(parts: list[torch.Tensor]) -> torch.Tensor:
        n = len(like)
        x, h = pack(trial.type, parts[:n]), pack(trial.type, parts[n : 2 * n])
        if op.name in ("Attention", "Experts"):  # their bounds are for values of norm at most 1
            x = in_ball(x, rms)
        w = parts[2 * n] / weight_size(op, parts[2 * n]) if weights else None
        change = jvp(lambda v: op.reference(v, w), (x,), (h,))[1]
        change = change.double() if isinstance(change, torch.Tensor) else change
        return trial.out(change) / trial.into(h)

    found = ascend(ratio, [*like, *like, *weights], 1, starts_for(trial.tight))
    assert found <= bound * (1 + 1e-9)
    assert found >= trial.tight * bound


def test_attention_moves_by_its_scale() -> None:
    """With opposite keys and values, attention is v·tanh(scale·q), of slope `scale` at q = 0."""
    op = next(op for op in OPS if op.name == "Attention")(scale=3)
    one = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    k = v = torch.cat((one, -one), 2)
    step = 1e-6
    moved = op.reference((step * one, k, v)) - op.reference((0 * one, k, v))
    assert (rms(moved) / step).item() == pytest.approx(3)


USERS = [p for p in PAIRS if issubclass(p.values[0], Atom | Reader)]


@pytest.mark.parametrize(("cls", "trial"), USERS)
def test_a_change_of_the_weight_moves_the_output_by_its_norm_at_most(
    cls: type[Op], trial: Trial
) -> None:
    """Well-normed: ‖f(x; ΔW)‖ ≤ ‖ΔW‖ for ‖x‖ ≤ 1. Every atom here is linear in its weight."""
    op, _ = cls(**trial.arguments).resolve(trial.type)
    weight = samples.weight(op, torch.Generator().manual_seed(0))
    assert weight is not None

    def ratio(parts: list[torch.Tensor]) -> torch.Tensor:
        x = in_ball(parts[0], trial.into)
        zero = torch.zeros_like(parts[1])
        change = op.reference(x, parts[1]) - op.reference(x, zero)
        return trial.out(change) / weight_size(op, parts[1])

    assert ascend(ratio, [*shapes(trial.type), weight], seed=2) <= 1 + 1e-9


@pytest.mark.parametrize("name", ["Embed", "EmbeddingBag"])
def test_an_embeds_output_moves_by_its_weights_norm(name: str) -> None:
    op = next(op for op in OPS if op.name == name)(count=4, dim=6)
    x = torch.tensor([[0], [1], [2], [3]])
    for seed in range(20):
        w = samples.weight(op, torch.Generator().manual_seed(seed))
        assert w is not None
        ratio = channels(op.reference(x, w)) / weight_size(op, w)
        assert ratio.item() == pytest.approx(1)


# -- sharpness ------------------------------------------------------------------------------

ELEMENTWISE = ["GELU", "SiLU", "Tanh", "Sigmoid", "Softplus", "Softcap"]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gamma_of_a_nonlinearity_is_its_largest_second_derivative(name: str) -> None:
    cls = next(op for op in OPS if op.name == name)
    op = cls(**(TRIALS[name][0].arguments))
    x = torch.linspace(-12, 12, 400_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(op.reference(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x)
    assert op.sharpness is not None
    assert not isinstance(op.certified, str)
    found, steepest = second.abs().max().item(), slope.abs().max().item()
    assert found * (1 - 1e-12) <= op.sharpness.gamma <= found * 1.0001
    assert steepest * (1 - 1e-12) <= op.certified <= steepest * 1.0001


def gated(x: Any) -> torch.Tensor:
    """The norm of what experts give, and of the largest score."""
    return rms(x[0]) + largest(x[1])


SECOND = {
    "Experts": Trial(
        gated, rms, {"module_": None, "count": 3}, TupleType((f(1, 3, 2), f(1, 3))), 0.4
    ),
    "Softmax": Trial(largest, row_sum, {"scale": 2}, f(1, 4), 0.7),
    "LogSoftmax": Trial(largest, largest, {}, f(1, 4), 0.9),
    "Attention": Trial(total(rms), rms, {}, TupleType((f(1, 1, 2, 2),) * 3), 0.3),
    "RMSDivide": Trial(rms, rms, {"eps": 0}, f(1, 6), 0.9),
    "LayerNorm": Trial(rms, rms, {"eps": 0}, f(1, 6), 0.9),
    "GroupStandardize": Trial(whole, whole, {"groups": 1, "eps": 0}, f(1, 2, 3), 0.9),
}


@pytest.mark.parametrize("name", list(SECOND))
def test_gamma_bounds_second_differences(name: str) -> None:
    """‖D²f[h, k]‖ ≤ γ‖h‖‖k‖ where the declared first-order bound holds."""
    trial = SECOND[name]
    op, _ = next(op for op in OPS if op.name == name)(**trial.arguments).resolve(trial.type)
    like = shapes(trial.type)
    n = len(like)

    def ratio(parts: list[torch.Tensor]) -> torch.Tensor:
        x, h, k = (pack(trial.type, parts[i * n : (i + 1) * n]) for i in range(3))
        if name in ("Attention", "Experts"):
            x = in_ball(x, rms)
        elif name == "RMSDivide":  # γ is declared at an input of size 1
            x = x / rms(x)
        elif name in ("LayerNorm", "GroupStandardize"):
            x = x - x.mean([*range(1, x.ndim)], keepdim=True)
            x = x / rms(x.flatten(1))
        first = lambda v: jvp(op.reference, (v,), (h,))[1]  # noqa: E731
        change = jvp(first, (x,), (k,))[1]
        return trial.out(change) / (trial.into(h) * trial.into(k))

    assert op.sharpness is not None
    found = ascend(ratio, [*like, *like, *like], seed=3)
    assert trial.tight * op.sharpness.gamma <= found <= op.sharpness.gamma * (1 + 1e-9)
