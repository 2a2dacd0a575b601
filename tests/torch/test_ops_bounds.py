"""What is proved about an output's size, and about sensitivity, at a known size of the input."""

from __future__ import annotations

from typing import Any

import op_samples as samples
import pytest
import torch
from op_samples import OPS
from op_search import SizeOf, ascend, channels, f, pack, rms, shapes, total, weight_size
from torch.func import jvp

from modnorm.ops.types import TupleType, Type

HEADS = TupleType((f(1, 2, 3, 4), f(1, 2, 3, 4), f(1, 2, 3, 4)))
SIZED: list[tuple[str, dict[str, Any], Type, Any]] = [
    ("Linear", {"out": 4}, f(2, 3, 6), 2.0),
    ("Conv2D", {"out": 4}, f(1, 3, 4, 4), 2.0),
    ("Bias", {}, f(2, 3, 6), 2.0),
    ("Scale", {}, f(2, 3, 4, 4), 0.5),
    ("Unembed", {"embed": "e", "count": 5, "dim": 6}, f(2, 6), 2.0),
    ("Identity", {}, f(2, 6), 2.0),
    ("Mul", {"a": -3}, TupleType((f(2, 6), f(3, 4))), (2.0, 0.5)),
    ("Add", {}, TupleType((f(2, 3, 6), f(3, 6))), (2.0, 0.5)),
    ("Add", {}, TupleType((f(2, 3, 4, 5), f(4, 5))), (2.0, 0.5)),
    ("Add", {}, TupleType((f(2, 3, 4, 5), f(3, 1, 1), f(2, 1, 4, 5))), (2.0, 0.5, 1.0)),
    ("WeightedSum", {"coefficients": (0.25, -3)}, TupleType((f(2, 6), f(2, 6))), (2.0, 0.5)),
    (
        "WeightedSum",
        {"coefficients": (0.25, -3)},
        TupleType(
            (
                f(
                    5,
                ),
                f(1, 2, 2, 5),
            )
        ),
        (2.0, 0.5),
    ),
    ("Select", {"i": 1}, TupleType((f(2, 6), f(2, 6))), (2.0, 0.5)),
    ("Flatten", {}, f(2, 3, 4, 5), 2.0),
    ("SplitHeads", {"heads": 3}, f(2, 3, 6), 2.0),
    ("MergeHeads", {}, f(1, 2, 3, 4), 2.0),
    ("Abs", {}, f(2, 6), 2.0),
    ("ReLU", {}, f(2, 3, 4, 4), 2.0),
    ("GELU", {}, f(2, 6), 5.0),
    ("SiLU", {}, f(2, 6), 5.0),
    ("Tanh", {}, f(2, 6), 0.5),
    ("Softmax", {"scale": 3}, f(2, 6), 2.0),
    ("MeanSubtract", {}, f(2, 3, 6), 2.0),
    ("MeanSubtract", {"dim": (1, 2, 3)}, f(1, 2, 4, 4), 2.0),
    ("MeanSubtract", {"dim": 1}, f(1, 3, 2, 2), 2.0),
    ("MeanSubtract", {"dim": 1}, f(1, 5, 2), 2.0),
    ("RMSDivide", {"eps": 0.04}, f(2, 3, 6), 2.0),
    ("LayerNorm", {"eps": 0.04}, f(2, 3, 6), 2.0),
    ("Mean", {"dim": 1}, f(2, 3, 6), 2.0),
    ("Mean", {"dim": -1}, f(2, 3, 6), 2.0),
    ("Mean", {"dim": 3}, f(1, 3, 4, 4), 2.0),
    ("Mean", {"dim": 1}, f(1, 3, 4, 4), 2.0),
    ("Mean", {"dim": (2, 3)}, f(1, 3, 4, 4), 2.0),
    ("AvgPool", {"size": 2}, f(1, 3, 5, 3), 2.0),
    ("Attention", {}, HEADS, (2.0, 3.0, 0.7)),
    ("Attention", {"scale": 0.5, "causal": True}, HEADS, (2.0, 1.5, 3.0)),
    ("RoPE", {}, TupleType((f(2, 4, 6), f(2, 4, 2))), (2.0, 0.5)),
]


def test_every_operation_is_tried_with_a_size() -> None:
    assert {op.name for op in OPS} - {name for name, *_ in SIZED} == {"Embed", "Enumerate"}


def measure(type: Type, *, heads: bool) -> SizeOf:
    """The norm of `certified_at`: the sum over members of the largest RMS along channels."""
    one = rms if heads else channels
    return total(one) if isinstance(type, TupleType) else one


def of_size(x: Any, high: Any, norm: SizeOf) -> Any:
    """The value, or each member of a tuple, scaled down to a norm."""
    if isinstance(high, tuple):
        return tuple(of_size(m, h, norm) for m, h in zip(x, high, strict=True))
    return x / (norm(x) / high).clamp_min(1)


@pytest.mark.parametrize(
    ("name", "arguments", "type", "high"), SIZED, ids=[f"{s[0]}-{i}" for i, s in enumerate(SIZED)]
)
def test_bounds_hold_for_inputs_of_a_known_size(
    name: str, arguments: dict[str, Any], type: Type, high: Any
) -> None:
    op, out = next(op for op in OPS if op.name == name)(**arguments).resolve(type)
    heads = name in ("SplitHeads", "MergeHeads", "Attention", "RoPE")
    into, after = measure(type, heads=heads), measure(out, heads=heads)
    like = shapes(type)
    weight = samples.weight(op, torch.Generator().manual_seed(0))
    weights = [] if weight is None else [weight]

    def parts_of(parts: list[torch.Tensor]) -> tuple[Any, Any, torch.Tensor | None]:
        n = len(like)
        x, h = pack(type, parts[:n]), pack(type, parts[n : 2 * n])
        w = parts[2 * n] / weight_size(op, parts[2 * n]) if weights else None
        return of_size(x, high, rms if heads else channels), h, w

    def size(parts: list[torch.Tensor]) -> torch.Tensor:
        x, _, w = parts_of(parts)
        return after(op.reference(x, w))

    def ratio(parts: list[torch.Tensor]) -> torch.Tensor:
        x, h, w = parts_of(parts)
        change = jvp(lambda v: op.reference(v, w), (x,), (h,))[1]
        return after(change) / into(h)

    wanted = [*like, *like, *weights]
    reach, bound = op.reach(high, type), op.certified_at(high, type)
    found = ascend(size, [*like, *like, *weights], seed=4)
    limit = sum(reach) if isinstance(reach, tuple) else reach
    assert 0.35 * limit <= found <= limit * (1 + 1e-9)
    if not isinstance(bound, str):
        assert ascend(ratio, wanted, seed=5) <= bound * (1 + 1e-9)
