"""Operations against modula's PyTorch release: the same functions, the same sensitivities."""

from __future__ import annotations

import math
from typing import Any

import op_samples as samples
import pytest
import torch

from modnorm.ops.base import Atom, Op
from modnorm.ops.registry import find
from modnorm.ops.types import Tensor, TupleType, Type

atom = pytest.importorskip("modula.atom")
bond = pytest.importorskip("modula.bond")


def f(*shape: int) -> Tensor:
    return Tensor("float", shape)


def resolved(name: str, type: Type, **arguments: Any) -> Op:
    cls = find(name)
    assert cls is not None
    return cls(**arguments).resolve(type)[0]


QKV = TupleType((f(2, 3, 5, 4), f(2, 3, 5, 4), f(2, 3, 5, 6)))
BONDS: list[Any] = [
    ("Identity", {}, lambda: bond.Identity(), f(2, 3)),
    ("Flatten", {}, lambda: bond.Flatten(), f(2, 3, 4, 5)),
    ("SplitHeads", {"heads": 3}, lambda: bond.AddHeads(3), f(2, 5, 12)),
    ("MergeHeads", {}, lambda: bond.RemoveHeads(), f(2, 3, 5, 4)),
    ("Enumerate", {}, lambda: bond.Enumerate(), Tensor("int", (2, 7), 5)),
    ("Abs", {}, lambda: bond.Abs(), f(2, 3)),
    ("ReLU", {}, lambda: bond.ReLU(), f(2, 3)),
    ("GELU", {}, lambda: bond.GELU(), f(2, 3)),
    ("MeanSubtract", {}, lambda: bond.MeanSubtract(), f(2, 3, 4)),
    ("MeanSubtract", {"dim": (1, 2, 3)}, lambda: bond.MeanSubtract((1, 2, 3)), f(2, 3, 4, 5)),
    ("RMSDivide", {}, lambda: bond.RMSDivide(), f(2, 3, 4)),
    ("RMSDivide", {"dim": (1, 2, 3)}, lambda: bond.RMSDivide((1, 2, 3)), f(2, 3, 4, 5)),
    ("Mean", {"dim": 1}, lambda: bond.Mean(1), f(2, 3, 4)),
    ("Mean", {"dim": (1, 2)}, lambda: bond.Mean((1, 2)), f(2, 3, 4)),
    ("AdaptiveAvgPool", {}, lambda: bond.AvgPool(), f(2, 3, 5, 7)),
    ("AdaptiveAvgPool", {"size": 2}, lambda: bond.AvgPool((2, 2)), f(2, 3, 5, 7)),
    ("Attention", {}, lambda: bond.FunctionalAttention(False), QKV),
    ("Attention", {"causal": True}, lambda: bond.FunctionalAttention(True), QKV),
]


@pytest.mark.parametrize(
    ("name", "arguments", "theirs", "type"), BONDS, ids=[f"{b[0]}-{i}" for i, b in enumerate(BONDS)]
)
def test_bonds(name: str, arguments: dict[str, Any], theirs: Any, type: Type) -> None:
    op, other = resolved(name, type, **arguments), theirs()
    assert op.sensitivity == pytest.approx(other.sensitivity, rel=1e-15)
    x = samples.value(type, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.emitted(op, x, type, None), other.forward(x, None))


def test_layer_norm_fuses_to_modulas() -> None:
    type = f(2, 3, 4)
    op = resolved("RMSDivide", type).fuse(resolved("MeanSubtract", type))
    assert op is not None
    x = samples.value(type, torch.Generator().manual_seed(0))
    expected = bond.LayerNorm().forward(x, [])
    torch.testing.assert_close(samples.emitted(op, x, type, None), expected)


ATOMS: list[Any] = [
    ("Linear", {"out": 6}, lambda: atom.Linear(6, 4), f(3, 4), math.sqrt(6 / 4)),
    (
        "Conv2D",
        {"out": 6, "kernel": 5, "stride": 2, "padding": 1},
        lambda: atom.Conv2D(6, 4, 5, 2, 1),
        f(2, 4, 7, 9),
        math.sqrt(6 / 4) / 25,
    ),
    (
        "Embed",
        {"count": 7, "dim": 4},
        lambda: atom.Embedding(7, 4),
        Tensor("int", (2, 3), 7),
        math.sqrt(4),
    ),
]


@pytest.mark.parametrize(
    ("name", "arguments", "theirs", "type", "scale"), ATOMS, ids=[a[0] for a in ATOMS]
)
def test_atoms_have_modulas_scale_in_the_weight(
    name: str, arguments: dict[str, Any], theirs: Any, type: Type, scale: float
) -> None:
    """The forward passes agree after scaling; modula's initial weight then has norm 1."""
    op, other = resolved(name, type, **arguments), theirs()
    assert isinstance(op, Atom)
    assert (op.mass, op.sensitivity) == (other.mass, other.sensitivity)
    torch.manual_seed(0)
    w = other.initialize("cpu", torch.float64)[0].detach()
    assert tuple(w.shape) == op.weight_shape
    x = samples.value(type, torch.Generator().manual_seed(0))
    torch.testing.assert_close(op.reference(x, scale * w), other.forward(x, [w]))
    assert op.weight_norm(scale * w).item() == pytest.approx(1, abs=1e-5)
