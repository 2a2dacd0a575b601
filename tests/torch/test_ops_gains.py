"""Every gain and every bound on a size that an operation gives holds, in every measure."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import op_samples as samples
import pytest
import torch
from op_samples import OPS, leaves
from op_search import ascend, ascend_all, f, pack, shapes, starts_for, weight_size
from torch.func import jvp

from modnorm.ops.base import Op
from modnorm.ops.edges import LARGEST, ONE_HOT, Bound, Edge, Measure, moved, natural, slots
from modnorm.ops.types import Tensor, TupleType, Type
from modnorm.passes.gains import row_at

SPLIT = Tensor("float", (1, 2, 3, 4), None, ("batch", "head", "other", "channel"))
"""A value split into heads."""
HEADS = TupleType((SPLIT, SPLIT, SPLIT))
MASKED = TupleType((f(1, 4, 3, 4), f(1, 2, 3, 4), f(1, 2, 3, 4), f(1, 1, 3, 3)))
"""Keys for two query heads each, and a mask that is added."""
MIXED = TupleType((f(1, 2, 3, 4), f(1, 2, 3)))
IMAGE = f(1, 3, 4, 4)
SIGNAL = Tensor("float", (1, 3, 5), None, ("batch", "channel", "space"))


class Case(NamedTuple):
    """An operation, its input, and the input's norms: one for each tensor.

    `tight` is the part of the gain, between the measures in which values are spoken of, that a
    search has to reach.
    """

    name: str
    arguments: dict[str, Any]
    type: Type
    highs: tuple[float, ...]
    tight: float = 0.0
    low: float = 0.0


CASES = [
    Case("Linear", {"out": 4}, f(2, 3, 6), (2.0,), 0.95),
    Case("Linear", {"out": 4, "norm_": "row"}, f(2, 3, 6), (2.0,)),
    Case("Linear", {"out": 4, "norm_": "sign"}, f(2, 3, 6), (2.0,)),
    Case("Linear", {"out": 4, "norm_": "column"}, f(2, 3, 6), (2.0,)),
    Case("Linear", {"out": 4, "norm_": "frobenius"}, f(2, 3, 6), (2.0,), 0.9),
    Case("Readout", {"out": 4}, f(2, 3, 6), (2.0,)),
    Case("HeadedLinear", {"out": 8, "heads": 2}, f(2, 3, 5), (2.0,), 0.95),
    Case("Conv2D", {"out": 4}, IMAGE, (2.0,)),
    Case("Conv2D", {"out": 2, "kernel": 1, "stride": 2, "padding": 0}, IMAGE, (2.0,), 0.9),
    Case("Conv2D", {"out": 2, "kernel": 3, "stride": 2, "padding": 1}, f(1, 2, 6, 6), (1.0,)),
    Case("Conv2D", {"out": 2, "kernel": 3, "stride": 1, "padding": 0}, f(1, 2, 5, 5), (1.0,)),
    Case("Conv2D", {"out": 4, "groups": 2, "kernel": (1, 2)}, f(1, 4, 2, 3), (2.0,)),
    Case("Conv2D", {"out": 6, "groups": 3, "kernel": 1, "padding": 0}, f(1, 3, 2, 2), (2.0,), 0.9),
    Case("Conv2D", {"out": 2, "stride": (2, 1), "dilation": 2}, f(1, 2, 5, 4), (1.0,)),
    Case("Conv1D", {"out": 3, "padding": "causal", "kernel": 2, "stride": 3}, SIGNAL, (2.0,)),
    Case("Conv1D", {"out": 3, "groups": 3, "padding": "same"}, SIGNAL, (2.0,)),
    Case("ConvTranspose1D", {"out": 2, "kernel": 3, "stride": 2}, SIGNAL, (2.0,)),
    Case(
        "ConvTranspose1D", {"out": 3, "kernel": 2, "stride": 2, "padding": 0}, SIGNAL, (2.0,), 0.9
    ),
    Case(
        "ConvTranspose2D",
        {"out": 3, "kernel": 2, "stride": 2, "padding": 0},
        f(1, 2, 2, 2),
        (2.0,),
        0.9,
    ),
    Case("ConvTranspose2D", {"out": 2, "kernel": 3, "stride": 2}, f(1, 2, 3, 2), (2.0,)),
    Case(
        "ConvTranspose2D",
        {"out": 2, "kernel": 1, "stride": 2, "padding": 0},
        f(1, 3, 3, 2),
        (2.0,),
        0.9,
    ),
    Case("Bias", {}, f(2, 3, 6), (2.0,), 0.99),
    Case("Bias", {}, f(1, 3, 2, 2), (2.0,), 0.99, low=1.5),
    Case("Bias", {}, SPLIT, (2.0,), 0.99, low=1.5),
    Case("Bias", {"axis": 1}, SPLIT, (2.0,), 0.99, low=1.5),
    Case("Bias", {"axis": -2}, f(2, 3, 6), (2.0,), 0.99),
    Case("Scale", {}, f(2, 3, 4, 4), (0.5,), 0.99),
    Case("Scale", {}, SPLIT, (0.5,), 0.99),
    Case("Scale", {"axis": -3}, SPLIT, (0.5,), 0.99),
    Case("Scale", {"axis": 3}, f(2, 3, 4, 4), (0.5,), 0.99),
    Case("Unembed", {"embed": "e", "count": 5, "dim": 6}, f(2, 6), (2.0,)),
    Case("Identity", {}, f(2, 6), (2.0,), 0.99, low=1.0),
    Case("Mul", {"a": -3}, TupleType((f(2, 6), f(3, 4))), (2.0, 0.5), 0.99),
    Case("Mul", {"a": -3}, f(2, 6), (2.0,), 0.99, low=1.0),
    Case("Shift", {"a": Fraction(-1, 2)}, f(2, 6), (2.0,), 0.99, low=1.5),
    Case("Shift", {"a": 3, "factor": -2}, SPLIT, (1.0,), 0.99),
    Case("Add", {}, TupleType((f(2, 3, 6), f(3, 6))), (2.0, 0.5), 0.99),
    Case("Add", {}, TupleType((f(2, 6), f(2, 6))), (2.0, 0.5), 0.99, low=1.9),
    Case("Add", {}, TupleType((f(2, 3, 4, 5), f(4, 5))), (2.0, 0.5)),
    Case("Add", {}, TupleType((f(2, 3, 4, 5), f(3, 1, 1), f(2, 1, 4, 5))), (2.0, 0.5, 1.0)),
    Case("WeightedSum", {"coefficients": (0.25, -3)}, TupleType((f(2, 6),) * 2), (2.0, 0.5), 0.9),
    Case("WeightedSum", {"coefficients": (2, -3)}, TupleType((f(5), f(1, 2, 2, 5))), (2.0, 0.5)),
    Case("Select", {"i": 1}, TupleType((f(2, 6), f(2, 6))), (2.0, 0.5), 0.9),
    Case("Flatten", {}, f(2, 3, 4, 5), (2.0,)),
    Case("SplitHeads", {"heads": 3}, f(2, 3, 6), (2.0,), 0.99),
    Case("MergeHeads", {}, SPLIT, (2.0,), 0.99),
    Case("Abs", {}, f(2, 6), (2.0,), 0.99, low=1.0),
    Case("ReLU", {}, f(2, 3, 4, 4), (2.0,), 0.99),
    Case("GELU", {}, f(2, 6), (5.0,), 0.99),
    Case("SiLU", {}, f(2, 6), (5.0,), 0.99),
    Case("Tanh", {}, f(2, 6), (0.5,), 0.98),
    Case("Softmax", {"scale": 3}, f(2, 6), (2.0,), 0.5),
    Case("MeanSubtract", {}, f(2, 3, 6), (2.0,), 0.99),
    Case("MeanSubtract", {"dim": (1, 2, 3)}, f(1, 2, 4, 4), (2.0,), 0.5),
    Case("MeanSubtract", {"dim": 1}, f(1, 3, 2, 2), (2.0,), 0.99),
    Case("MeanSubtract", {"dim": 1}, f(1, 5, 2), (2.0,)),
    Case("RMSDivide", {"eps": 0.04}, f(2, 3, 6), (2.0,), 0.98),
    Case("RMSDivide", {"eps": 0}, f(2, 3, 6), (2.0,), 0.9, low=0.5),
    Case("RMSDivide", {"eps": 0.5, "dim": (1, 2, 3)}, f(1, 2, 3, 3), (2.0,)),
    Case("LayerNorm", {"eps": 0.04}, f(2, 3, 6), (2.0,), 0.98, low=0.5),
    Case("GroupStandardize", {"groups": 2, "eps": 0.04}, f(1, 4, 3), (2.0,)),
    Case("GroupStandardize", {"groups": 3, "eps": 0.5}, f(1, 6, 2, 2), (2.0,)),
    Case("Mean", {"dim": 1}, f(2, 3, 6), (2.0,), 0.9),
    Case("Mean", {"dim": -1}, f(2, 3, 6), (2.0,)),
    Case("Mean", {"dim": 3}, IMAGE, (2.0,)),
    Case("Mean", {"dim": 1}, IMAGE, (2.0,)),
    Case("Mean", {"dim": (2, 3)}, IMAGE, (2.0,), 0.9),
    Case("AdaptiveAvgPool", {"size": 2}, f(1, 3, 5, 3), (2.0,), 0.9),
    Case("AdaptiveAvgPool", {"size": 2}, IMAGE, (2.0,), 0.9),
    Case("AvgPool", {"kernel": 2}, IMAGE, (2.0,), 0.9),
    Case("AvgPool", {"kernel": 3, "stride": 2, "padding": 1}, f(1, 2, 5, 4), (2.0,), 0.9),
    Case("AvgPool", {"kernel": 3, "stride": 1}, f(1, 2, 5, 4), (2.0,), 0.9),
    Case("AvgPool", {"kernel": 2, "stride": 3}, f(1, 2, 5, 6), (2.0,), 0.9),
    Case("MaxPool", {"kernel": 2}, f(1, 4, 2, 3), (2.0,)),
    Case("MaxPool", {"kernel": 3, "stride": 2, "padding": 1}, f(1, 2, 4, 5), (2.0,)),
    Case("MaxPool", {"kernel": 2, "stride": 1}, f(1, 2, 3, 3), (2.0,)),
    Case("MaxPool", {"kernel": 3, "stride": 2}, SIGNAL, (2.0,)),
    Case("AvgPool", {"kernel": 3, "stride": 1, "padding": 1}, SIGNAL, (2.0,), 0.9),
    Case("AdaptiveAvgPool", {"size": 3}, SIGNAL, (2.0,), 0.9),
    Case("Upsample", {"factor": 2}, SIGNAL, (2.0,), 0.99),
    Case("Upsample", {"factor": (1, 3)}, f(1, 2, 2, 3), (2.0,), 0.99),
    Case("Product", {}, TupleType((f(2, 6), f(2, 6))), (2.0, 0.5), 0.9),
    Case("Product", {}, TupleType((f(1, 2, 3),) * 3), (1.0, 0.5, 2.0)),
    Case("Product", {}, TupleType((f(2, 3, 4), f(4), f(2, 1, 4))), (2.0, 0.5, 1.0)),
    Case("Lerp", {}, TupleType((f(2, 6),) * 3), (2.0, 0.5, 1.0)),
    Case("Lerp", {}, TupleType((f(2, 3, 4), f(4), f(2, 3, 1))), (2.0, 0.5, 1.0)),
    Case("Last", {}, f(2, 3, 6), (2.0,), 0.99, low=1.0),
    Case("MatMul", {}, TupleType((f(2, 3, 4), f(2, 4, 5))), (2.0, 0.5), 0.3),
    Case("Sigmoid", {}, f(2, 6), (2.0,), 0.98),
    Case("Softplus", {}, f(2, 6), (0.5,)),
    Case("Exp", {}, f(1, 4), (0.5,), 0.9),
    Case("ReLU2", {}, f(2, 4), (2.0,), 0.95),
    Case("Softcap", {"c": 2}, f(2, 6), (3.0,), 0.98),
    Case("LogSoftmax", {}, f(2, 4), (0.5,), 0.5),
    Case("Concat", {}, TupleType((f(2, 2), f(2, 4))), (2.0, 1.0), 0.9, low=1.5),
    Case("Parameter", {"sizes_": (2, 3)}, f(2, 6), (2.0,)),
    Case("Parameter", {}, f(2, 6), (2.0,)),
    Case("Stack", {"dim": 1}, TupleType((f(2, 4),) * 2), (2.0, 0.5), 0.99),
    Case("Slice", {"start": 1, "end": -2}, f(2, 3, 6), (2.0,), 0.99),
    Case("Slice", {"start": 1, "dim": 2}, SPLIT, (2.0,), 0.99, low=1.0),
    Case("Split", {"count": 2, "dim": 1}, f(1, 4, 2, 1), (2.0,), 0.5),
    Case("Transpose", {"a": 1}, SPLIT, (2.0,), 0.99, low=1.0),
    Case("Reshape", {"sizes_": (3, 2, -1)}, SPLIT, (2.0,)),
    Case("Reshape", {"sizes_": (3, -1)}, IMAGE, (2.0,), 0.9, low=1.0),
    Case("Squeeze", {"dim": 1}, f(2, 1, 4), (2.0,), 0.99, low=1.0),
    Case("Unsqueeze", {"dim": -1}, f(2, 3, 4), (2.0,)),
    Case("Mean", {"dim": (1, 3), "keepdim": True}, IMAGE, (2.0,)),
    Case("Attention", {}, HEADS, (2.0, 3.0, 0.7), 0.2),
    Case("Attention", {"scale": 0.5, "causal": True}, HEADS, (2.0, 1.5, 3.0)),
    Case("Attention", {"softcap": 2, "window": 2, "alibi": True}, MASKED, (2.0, 1.5, 1.0, 2.0)),
    Case("RoPE", {"fraction": 0.5, "offset": 3}, SPLIT, (2.0,), 0.99, low=1.0),
    Case("RoPE", {}, TupleType((f(2, 4, 6), f(2, 4, 2))), (2.0, 0.5), 0.99),
    Case("RoPE", {}, SPLIT, (2.0,), 0.99, low=1.0),
    Case("Dropout", {"p": 0.25}, TupleType((f(2, 6), f(3, 4))), (2.0, 0.5)),
    Case("DropPath", {"p": 0.25}, TupleType((f(2, 6), f(3, 4))), (2.0, 0.5)),
    Case("Scored", {"count": 3}, TupleType((f(2, 4), f(2, 3))), (2.0, 0.5), 0.99, low=1.0),
    Case("Member", {"i": 1}, TupleType((f(2, 6), f(2, 6))), (2.0, 0.5), 0.9),
    Case("Spread", {"experts": 3}, f(2, 3, 4), (2.0,), 0.99, low=1.0),
    Case("Spread", {"experts": 3}, f(4), (2.0,), 0.99),
    Case("ExpertLinear", {"out": 4, "experts": 3}, f(2, 3, 5), (2.0,), 0.95),
    Case("ExpertLinear", {"out": 4, "experts": 2}, f(1, 3, 2, 5), (2.0,)),
    Case("ExpertBias", {"experts": 3}, f(2, 3, 6), (2.0,), 0.99, low=1.5),
    Case("ExpertScale", {"experts": 2}, f(1, 3, 2, 4), (0.5,), 0.99),
    Case("Experts", {"module_": None, "count": 3}, MIXED, (2.0, 3.0), 0.7),
    Case("Experts", {"module_": None, "count": 2}, TupleType((f(2, 3), f(2))), (0.5, 1.0), 0.7),
    Case("BatchMeanSubtract", {}, f(2, 3, 6), (2.0,), low=1.0),
    Case("BatchMeanSubtract", {}, f(2, 3, 4, 4), (2.0,)),
]
IDS = [f"{case.name}-{i}" for i, case in enumerate(CASES)]


class Setting:
    """A case's operation, and inputs within their bounds."""

    def __init__(self, case: Case) -> None:
        cls: type[Op] = next(op for op in OPS if op.name == case.name)
        self.case = case
        self.op, out = cls(**case.arguments).resolve(case.type)
        types = slots(case.type)
        self.measures = [natural(t) for t in types]
        self.edges = tuple(
            Edge(t, {m: Bound(case.low if i == 0 else 0.0, high)}).completed()
            for i, (t, m, high) in enumerate(zip(types, self.measures, case.highs, strict=True))
        )
        self.outs = slots(out)
        self.gains = self.op.gains(self.edges, case.type)
        assert not isinstance(self.gains, str), self.gains
        self.like = shapes(case.type)
        weight = samples.weight(self.op, torch.Generator().manual_seed(0))
        self.weights = [] if weight is None else [weight]

    def x(self, parts: list[torch.Tensor]) -> Any:
        """The tensors scaled into their balls, and out of the one that is excluded."""
        found = []
        for i, (x, m, high) in enumerate(
            zip(parts[: len(self.like)], self.measures, self.case.highs, strict=True)
        ):
            if i == 0 and self.case.low:
                size = x.square().mean(m.axes, keepdim=True).sqrt()
                x = x / size * size.clamp(self.case.low, high)
            else:
                x = x / (m.of(x) / high).clamp_min(1)
            found.append(x)
        return pack(self.case.type, found)

    def w(self, parts: list[torch.Tensor]) -> torch.Tensor | None:
        return parts[-1] / weight_size(self.op, parts[-1]) if self.weights else None


def test_every_operation_is_tried() -> None:
    assert {op.name for op in OPS} - {case.name for case in CASES} == {
        "Embed", "EmbeddingBag", "Enumerate", "BatchStandardize", "Aggregate",
    }  # fmt: skip  # test_aggregate.py tries what takes a graph's edges


def stretched(
    setting: Setting, i: int, pairs: list[tuple[Measure, int, Measure, float]]
) -> list[float]:
    """How far a move of tensor i of the input was found to go, as parts of the gains.

    Each pair is a measure of that tensor, a tensor of the output with a measure, and the gain.
    """
    n = len(setting.like)

    def ratios(parts: list[torch.Tensor]) -> torch.Tensor:
        moves = [torch.zeros_like(t) for t in setting.like]
        moves[i] = parts[n + i]
        h, w = pack(setting.case.type, list(moves)), setting.w(parts)
        moved = jvp(lambda v: setting.op.reference(v, w), (setting.x(parts),), (h,))[1]
        changes = leaves(moved)
        return torch.stack(
            [to.of(changes[j]) / (of.of(moves[i]) * gain) for of, j, to, gain in pairs]
        )

    like = [*setting.like, *setting.like, *setting.weights]
    return ascend_all(ratios, like, 5, starts_for(setting.case.tight))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_no_change_is_stretched_more_than_its_gain(case: Case) -> None:
    """And between the measures in which values are spoken of, some is stretched as much."""
    setting = Setting(case)
    types = [edge.type for edge in setting.edges]
    best = 0.0
    for i, spoken in enumerate(setting.measures):
        row = row_at(setting.gains, (i, spoken), types)
        ends = [(j, natural(out)) for j, out in enumerate(setting.outs)]
        gains_of = [(spoken, *end, moved(row, end, setting.outs)) for end in ends]
        natural_pairs = [pair for pair in gains_of if pair[3]]
        pairs = natural_pairs + [
            (source, j, target, gain)
            for (k, source), gains in setting.gains.items()
            if k == i
            for (j, target), gain in gains.items()
        ]
        pairs = [*dict.fromkeys(pairs)]
        found = stretched(setting, i, pairs) if pairs else []
        for pair, part in zip(pairs, found, strict=True):
            assert part <= 1 + 1e-9, pair
            if pair in natural_pairs:
                best = max(best, part)
    assert best >= case.tight


def test_a_maximum_in_which_every_channel_takes_another_pixel() -> None:
    op, _ = next(op for op in OPS if op.name == "MaxPool")(kernel=2).resolve(f(1, 4, 2, 2))
    x = torch.eye(4).reshape(1, 4, 2, 2)
    pixel = Measure((1,))
    assert pixel.of(op.reference(x)) / pixel.of(x) == op.certified == 2


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_no_output_is_larger_than_its_bound(case: Case) -> None:
    setting = Setting(case)
    bounds = setting.op.sizes(setting.edges, case.type)
    assert len(bounds) == len(setting.outs)
    pairs = [(j, m, bound.high) for j, slot in enumerate(bounds) for m, bound in slot.items()]

    def sizes(parts: list[torch.Tensor]) -> torch.Tensor:
        y = leaves(setting.op.reference(setting.x(parts), setting.w(parts)))
        return torch.stack([measure.of(y[j]) / high for j, measure, high in pairs])

    like = [*setting.like, *setting.weights]
    found = ascend_all(sizes, like, 4, starts_for(case.tight))
    for (j, measure, _), part in zip(pairs, found, strict=True):
        assert part <= 1 + 1e-9, (j, measure)
        if measure == natural(setting.outs[j]):
            assert part >= 0.3, (j, measure)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_no_output_is_smaller_than_its_bound(case: Case) -> None:
    setting = Setting(case)
    generator = torch.Generator().manual_seed(3)
    lows = {
        (j, measure): bound.low
        for j, slot in enumerate(setting.op.sizes(setting.edges, case.type))
        for measure, bound in slot.items()
        if bound.low
    }
    for scale in (0.0, 0.1, 1.0, 10.0) if lows else ():
        parts = [
            scale * torch.randn(t.shape, generator=generator, dtype=torch.float64) + 1e-12
            for t in (*setting.like, *setting.weights)
        ]
        y = leaves(setting.op.reference(setting.x(parts), setting.w(parts)))
        for (j, measure), low in lows.items():
            assert y[j].square().mean(measure.axes).amin().sqrt() >= low * (1 - 1e-9)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_no_update_moves_the_output_more_than_it_may(case: Case) -> None:
    """`pushes`: a change of the weight by norm 1, for an input within its bounds."""
    setting = Setting(case)
    pushes = setting.op.pushes(setting.edges, case.type)
    assert bool(pushes) == bool(setting.weights)
    for measure, most in pushes.items():

        def ratio(parts: list[torch.Tensor], measure: Measure = measure) -> torch.Tensor:
            x, w = setting.x(parts), parts[-1]
            change = setting.op.reference(x, w) - setting.op.reference(x, torch.zeros_like(w))
            return measure.of(change) / weight_size(setting.op, w)

        assert ascend(ratio, [*setting.like, *setting.weights], seed=2) <= most * (1 + 1e-9)


def test_an_embed_is_a_matrix_that_reads_one_hot_vectors() -> None:
    op, out = next(op for op in OPS if op.name == "Embed")(count=4, dim=6).resolve(
        Tensor("int", (2, 3), 4)
    )
    (x,) = (Edge(Tensor("int", (2, 3), 4), {ONE_HOT: Bound(1.0, 1.0)}),)
    last = Measure((2,))
    assert isinstance(out, Tensor)
    assert op.gains((x,), x.type) == {(0, ONE_HOT): {(0, last): 1.0}}
    assert op.pushes((x,), x.type) == {last: 1.0}


def test_a_count_of_positions_has_no_influence() -> None:
    op, _ = next(op for op in OPS if op.name == "Enumerate")().resolve(f(2, 3, 4))
    assert op.gains((), f(2, 3, 4)) == {}


def test_the_measures_of_a_value_bound_each_other() -> None:
    """The constants between measures hold, and are attained."""
    from modnorm.ops.edges import conversion, tracked

    type = f(2, 3, 4, 5)
    measures = (*tracked(type), Measure((3,), True))
    for source in measures:
        for target in measures:
            constant = conversion(type.shape, source, target)
            found = ascend(
                lambda parts, s=source, t=target: t.of(parts[0]) / s.of(parts[0]),
                [torch.zeros(2, 3, 4, 5)],
                seed=1,
            )
            one = torch.zeros(2, 3, 4, 5)
            one[0, 0, 0, 0] = 1
            even = torch.ones(2, 3, 4, 5)
            row = torch.zeros(2, 3, 4, 5)
            row[0, 0, 0] = 1
            for x in (one, even, row):
                found = max(found, float(target.of(x) / source.of(x)))
            assert found <= constant * (1 + 1e-6), (source, target)
            if LARGEST in (source, target) or source.axes == target.axes:
                assert found >= 0.99 * constant, (source, target)
