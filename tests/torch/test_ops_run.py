"""Every registered operation: what is emitted is what is declared, and rewrites change nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import op_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_samples import NUMBERS, OPS, Case, cases, leaves

from modnorm.ops.base import Atom, Misfit, Op, Reader
from modnorm.ops.types import Tensor, TupleType, Type

every_op = pytest.mark.parametrize("cls", OPS, ids=lambda cls: cls.name)


def close(a: Any, b: Any, tolerance: float = 1e-9) -> None:
    """Assert that two values are equal up to rounding, with the same shapes and dtypes."""
    assert len(leaves(a)) == len(leaves(b))
    for x, y in zip(leaves(a), leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def gradients(out: Any, inputs: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """The gradients of a random linear function of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for t in leaves(out):
        if t.is_floating_point():
            total = total + (t * torch.randn(t.shape, generator=generator).double()).sum()
    if not total.requires_grad:
        return [torch.zeros_like(t) for t in inputs]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, inputs, strict=True)]


@every_op
@samples.examples(15, 400)
@given(data=st.data())
def test_emission_is_the_reference(cls: type[Op], data: st.DataObject) -> None:
    op, type, _ = data.draw(cases(cls))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    x = samples.value(type, generator, grad=True)
    w = samples.used(op, generator, grad=True)
    expected, got = op.reference(x, w), samples.emitted(op, x, type, w)
    close(got, expected)
    inputs = [t for t in leaves(x) if t.is_floating_point()]
    inputs += [w] if isinstance(w, torch.Tensor) else []
    if inputs:
        for a, b in zip(gradients(got, inputs, 1), gradients(expected, inputs, 1), strict=True):
            close(a, b, 1e-7)


@every_op
@samples.examples(15, 400)
@given(data=st.data())
def test_the_output_has_the_resolved_type(cls: type[Op], data: st.DataObject) -> None:
    op, type, out = data.draw(cases(cls))
    generator = torch.Generator().manual_seed(0)
    y = op.reference(samples.value(type, generator), samples.used(op, generator))
    fits(y, out, {})


@every_op
@samples.examples(15, 400)
@given(data=st.data())
def test_symbolic_sizes_are_the_sizes_at_run_time(cls: type[Op], data: st.DataObject) -> None:
    """The type inferred with free sizes holds for every choice of them, and the emission runs."""
    op, type, _ = data.draw(cases(cls))
    free = sorted({s for t in tensors(type) for s in t.shape if isinstance(s, int) and s > 1})
    names = {s: f"n{i}" for i, s in enumerate(free) if data.draw(st.booleans())}
    general = samples.symbolic(type, names)
    try:
        op, out = op.resolve(general)
    except Misfit as error:
        misfit = error
    else:
        misfit = None
    if misfit is not None:  # the operation needs a number, and says which size it is about
        assert any(name in misfit.message for name in names.values()), misfit.message
        return
    generator = torch.Generator().manual_seed(0)
    x, w = samples.value(type, generator), samples.used(op, generator)
    fits(samples.emitted(op, x, general, w), out, {name: s for s, name in names.items()})


def tensors(type: Type) -> list[Tensor]:
    return [t for m in type.members for t in tensors(m)] if isinstance(type, TupleType) else [type]


def fits(y: Any, type: Type, sizes: dict[str, int]) -> None:
    """Assert that a value has a type."""
    if isinstance(type, TupleType):
        assert isinstance(y, tuple)
        assert len(y) == len(type.members)
        for member, t in zip(y, type.members, strict=True):
            fits(member, t, sizes)
        return
    assert y.is_floating_point() == (type.dtype == "float")
    assert tuple(y.shape) == tuple(samples.concrete(s, sizes) for s in type.shape)
    if type.bound is not None and y.numel():
        assert int(y.max()) < samples.concrete(type.bound, sizes)


@every_op
@samples.examples(15, 400)
@given(data=st.data())
def test_absorbing_a_scalar_changes_nothing(cls: type[Op], data: st.DataObject) -> None:
    """absorb: op(a·x) = b·op'(x)."""
    op, type, out = data.draw(cases(cls))
    if any(t.dtype == "int" for t in tensors(type)):
        return
    count = len(type.members) if isinstance(type, TupleType) else 1
    if data.draw(st.booleans()):
        scalars = (data.draw(st.sampled_from(NUMBERS)),) * count
    else:
        scalars = tuple(data.draw(st.sampled_from(NUMBERS)) for _ in range(count))
    absorbed = op.absorb(scalars)
    if absorbed is None:
        return
    new, factor = absorbed
    new, new_out = new.resolve(type)
    assert new_out == out
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    x, w = samples.value(type, generator), samples.used(op, generator)
    scaled = (
        tuple(scale(m, a) for m, a in zip(x, scalars, strict=True))
        if isinstance(x, tuple)
        else scale(x, scalars[0])
    )
    expected = op.reference(scaled, w)
    close(samples.emitted(new, x, type, w), scale(expected, 1 / factor), 1e-7)


def scale(x: Any, by: Any) -> Any:
    """A value times a number; integers, which no scalar reaches, as they are."""
    if isinstance(x, tuple):
        return tuple(scale(m, by) for m in x)
    return float(by) * x if x.is_floating_point() else x


@every_op
@samples.examples(6, 200)
@given(data=st.data())
def test_fusing_changes_nothing(cls: type[Op], data: st.DataObject) -> None:
    """fuse: self after before is one operation."""
    before, type, middle = data.draw(cases(cls))
    for after in followers(before):
        try:
            after, out = after.resolve(middle)
        except Misfit:
            continue
        fused = after.fuse(before)
        if fused is None:
            continue
        fused, fused_out = fused.resolve(type)
        assert str(fused_out) == str(out)
        generator = torch.Generator().manual_seed(0)
        x = samples.value(type, generator)
        close(samples.emitted(fused, x, type, None), after.reference(before.reference(x)))


REQUIRED = {
    "size": 2, "sizes": (2, 2), "index": 0, "integer": 1, "axis": 1, "axes": -1, "number": 3,
    "window": 2, "pick": 0,
}  # fmt: skip


def followers(before: Op) -> list[Op]:
    """Operations to try after this one: defaults, and with the arguments of the same names."""
    found: list[Op] = []
    for cls in OPS:
        if issubclass(cls, Reader) or cls.__name__ == "WeightedSum":
            continue
        needed = {a.field: REQUIRED.get(a.kind) for a in cls.arguments() if a.required}
        found.append(cls(**needed))
        kinds = {a.field: a.kind for a in before.arguments()}
        shared = [a.field for a in cls.arguments() if kinds.get(a.field) == a.kind]
        same = [name for name in shared if name not in ("init_", "std")]  # not what it computes
        found.append(dataclasses.replace(found[-1], **{n: getattr(before, n) for n in same}))
    return found


def test_layer_norm_is_found() -> None:
    """The law above is not empty."""
    before = followers(OPS[0]())
    fused = [a.fuse(b) for b in before for a in followers(b)]
    assert {"LayerNorm"} <= {op.name for op in fused if op is not None}


@every_op
@samples.examples(6, 200)
@given(data=st.data())
def test_identities_and_scalars_are_what_they_say(cls: type[Op], data: st.DataObject) -> None:
    op, type, _ = data.draw(cases(cls))
    x = samples.value(type, torch.Generator().manual_seed(0))
    if op.is_identity:
        close(op.reference(x), x)
    if op.scalar is not None:
        close(op.reference(x), scale(x, op.scalar))
        assert op.sensitivity == abs(op.scalar)


@every_op
@samples.examples(5, 100)
@given(data=st.data())
def test_the_precision_is_kept(cls: type[Op], data: st.DataObject) -> None:
    """The emission keeps the input's precision."""
    op, type, out = data.draw(cases(cls))
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        x = cast(samples.value(type, generator), dtype)
        w = samples.used(op, generator)
        y = samples.emitted(op, x, type, None if w is None else cast(w, dtype))
        for t, inferred in zip(leaves(y), tensors(out), strict=True):
            assert t.dtype == {"float": dtype, "int": torch.int64}.get(inferred.dtype, torch.bool)


def cast(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, tuple):
        return tuple(cast(m, dtype) for m in x)
    if isinstance(x, dict):
        return {name: cast(m, dtype) for name, m in x.items()}
    return x.to(dtype) if x.is_floating_point() else x


@every_op
def test_nothing_but_atoms_and_readers_has_a_weight(cls: type[Op]) -> None:
    uses_weight = "own.weight" in emission(cls)
    assert uses_weight == issubclass(cls, Atom | Reader)


def emission(cls: type[Op]) -> str:
    from hypothesis import Phase, find, settings

    any_one = settings(phases=[Phase.generate])  # the least would take longer
    case: Case = find(cases(cls), lambda case: True, settings=any_one)
    x: Any = "x"
    if isinstance(case.type, TupleType):
        x = tuple(f"x{i}" for i in range(len(case.type.members)))
    return case.op.emit(x, case.type, "own")
