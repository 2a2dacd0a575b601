"""Every atom: its weight begins with norm 1, and its duality map finds the maximiser."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import op_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_samples import OPS, cases
from torch import nn

from modnorm.ops.base import Atom, Misfit

ATOMS = [cls for cls in OPS if issubclass(cls, Atom)]
every_atom = pytest.mark.parametrize("cls", ATOMS, ids=lambda cls: cls.name)


def initialised(op: Atom, seed: int) -> torch.Tensor:
    """A weight as the generated file begins with it."""
    weight = torch.full(op.weight_shape, torch.nan, dtype=torch.float64)
    names: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "math": math,
        "weight": weight,
        "generator": torch.Generator().manual_seed(seed),
        **dict(zip(op.axes, op.weight_shape, strict=True)),
    }
    with torch.no_grad():
        exec(op.beginning, names)
    return names["weight"]


@every_atom
@samples.examples(20, 300)
@given(data=st.data())
def test_a_weight_begins_with_norm_one(cls: type[Atom], data: st.DataObject) -> None:
    """All but those that begin at zero."""
    op = data.draw(cases(cls)).op
    assert isinstance(op, Atom)
    norm = op.weight_norm(initialised(op, data.draw(st.integers(0, 1000))))
    zero = op.begins_at_zero or op.init_ == "zero"
    assert norm.item() == pytest.approx(0 if zero else 1, abs=1e-12)


@every_atom
def test_a_weight_begins_as_it_is_told_to(cls: type[Atom]) -> None:
    usual = wide(cls)
    assert not initialised(wide(cls, init_="zero"), 1).any()
    drawn = initialised(wide(cls, init_="normal", std=Fraction(1, 10**6)), 1)
    assert 0 < drawn.abs().max() < 1e-5
    if not cls.begins_at_zero:  # as large as by default
        size = initialised(usual, 1).square().mean().sqrt().item()
        drawn = initialised(wide(cls, init_="normal"), 1)
        assert drawn.square().mean().sqrt().item() == pytest.approx(size, rel=0.7)
        assert len(drawn.unique()) == drawn.numel()
    if len(usual.axes) == 1:
        with pytest.raises(Misfit, match="is a vector, and none is orthogonal"):
            wide(cls, init_="orthogonal")
        return
    found = initialised(wide(cls, init_="orthogonal"), 1)
    size = initialised(usual, 1).square().mean().sqrt().item()
    assert found.square().mean().sqrt().item() == pytest.approx(size)
    matrices = found.unsqueeze(0) if found.ndim == 2 else found.reshape(*found.shape[:2], -1)
    matrices = matrices.movedim(-1, 0) if found.ndim > 2 and "kernel" in usual.axes else matrices
    values = torch.linalg.svdvals(matrices)
    torch.testing.assert_close(values, torch.full_like(values, values.max().item()))


@every_atom
def test_the_generator_decides_the_weight(cls: type[Atom]) -> None:
    op = wide(cls)
    torch.manual_seed(0)
    first = initialised(op, 3)
    torch.manual_seed(1)
    assert torch.equal(first, initialised(op, 3))
    drawn = not torch.equal(first, initialised(op, 4))
    assert drawn == (not cls.name.endswith(("Bias", "Scale")))


def wide(cls: type[Atom], **begins: Any) -> Atom:
    """The atom with every size 5."""
    sizes = {a.field: 5 for a in cls.arguments() if a.kind == "size" and a.name != "groups"}
    op = cls(**sizes, **begins)
    assert isinstance(op, Atom)
    return op


@every_atom
@samples.examples(20, 300)
@given(data=st.data())
def test_the_norm_is_a_norm(cls: type[Atom], data: st.DataObject) -> None:
    op = data.draw(cases(cls)).op
    assert isinstance(op, Atom)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    a, b = samples.weight(op, generator), samples.weight(op, generator)
    assert a is not None
    assert b is not None
    scale = data.draw(st.floats(-3, 3))
    n = op.weight_norm
    assert n(a + b) <= n(a) + n(b) + 1e-12
    assert n(scale * a).item() == pytest.approx(abs(scale) * n(a).item())
    assert n(a) > 0
    assert n(torch.zeros_like(a)) == 0


@every_atom
@samples.examples(20, 300)
@given(data=st.data())
def test_the_duality_map_is_not_beaten(cls: type[Atom], data: st.DataObject) -> None:
    """T has norm 1, and ⟨G, T⟩ is the dual norm: no weight of norm 1 reaches more."""
    op = data.draw(cases(cls)).op
    assert isinstance(op, Atom)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    gradient = samples.weight(op, generator)
    assert gradient is not None
    t = op.dualize(gradient)
    best = (gradient * t).sum()
    assert op.weight_norm(t).item() == pytest.approx(1, abs=1e-9)
    assert best.item() == pytest.approx(dual_norm(op, gradient).item())
    for scale in (0.01, 0.3, 1e9):  # near the maximiser, and anywhere
        for _ in range(20):
            other = samples.weight(op, generator)
            assert other is not None
            candidate = t + scale * other
            candidate = candidate / op.weight_norm(candidate)
            assert (gradient * candidate).sum() <= best + 1e-9


def dual_norm(op: Atom, g: torch.Tensor) -> torch.Tensor:
    """The dual norm in closed form, typed from the mathematics and not from the operation."""
    match op.norm.name:
        case "spectral":
            out, in_ = g.shape[-2:]
            return math.sqrt(out / in_) * torch.linalg.svdvals(g).sum()
        case "spectral_taps":
            out, in_, *kernel = g.shape
            taps = torch.linalg.svdvals(g.flatten(2).permute(2, 0, 1)).sum()
            return math.sqrt(out / in_) / math.prod(kernel) * taps
        case "spectral_groups":
            matrices = op.matrices(g)  # type: ignore[attr-defined]
            out, in_ = matrices.shape[-2:]
            together = op.measured_shape[-1]
            return math.sqrt(out / in_) / together * torch.linalg.svdvals(matrices).sum()
        case "row_rms":
            return math.sqrt(g.shape[1]) * g.norm(dim=1).sum()
        case "rms":
            return math.sqrt(g.numel()) * g.norm()
        case "max":
            return g.abs().sum()
        case "row":
            return g.norm(dim=1).sum() / math.sqrt(g.shape[1])
        case "column":
            return math.sqrt(g.shape[0]) * g.norm(dim=0).sum()
        case "sign":
            return g.abs().sum() / g.shape[1]
        case "frobenius":
            return math.sqrt(g.shape[0] / g.shape[1]) * g.norm()
    raise AssertionError(f"no dual norm is known here for {op.norm}")


@every_atom
def test_a_zero_gradient_gives_finite_numbers(cls: type[Atom]) -> None:
    op = wide(cls)
    t = op.dualize(torch.zeros(op.weight_shape, dtype=torch.float64))
    assert t.isfinite().all()
    assert op.weight_norm(t) <= 1 + 1e-9


def test_rows_of_an_embed_that_saw_no_gradient_stay() -> None:
    op = wide(next(cls for cls in ATOMS if cls.name == "Embed"))
    gradient = torch.zeros(op.weight_shape)
    gradient[2] = torch.arange(5.0)
    t = op.dualize(gradient)
    assert (t[[0, 1, 3, 4]] == 0).all()
    assert t[2].square().mean().sqrt().item() == pytest.approx(1)
