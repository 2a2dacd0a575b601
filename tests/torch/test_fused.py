"""Atoms whose weights stand in one parameter: as a tuple of atoms with parameters of their own."""

from __future__ import annotations

import json
from typing import Any

import guide
import pytest
import torch
from torch import nn

import modnorm
from modnorm.diagnostics import ModnormError
from modnorm.kernels import NormedSGD
from modnorm.ops import registry
from modnorm.ops.fused import QKV
from modnorm.ops.types import Symbol, Tensor
from modnorm.pipeline import analyse_text
from modnorm.sweep.axes import read_label
from modnorm.sweep.optimizers import build
from modnorm.sweep.parts import with_body_mass

FUSED = "QKV(32, 4)"
SPLIT = "(q, k, v) where q = HeadedLinear(32, 4)  k = HeadedLinear(32, 4)  v = HeadedLinear(32, 4)"
PROGRAM = """\
input x: float[batch, seq, 32]
def qkv = {qkv}
def attention = Linear(32) @ MergeHeads @ Attention(causal = true) @ qkv
model Net = Linear(10) @ (1/2 * Identity + 1/2 * attention) ** 2 @ {first}
"""
KINDS = ("NormedAdam", "NormedSGD", "DualizedSGD")


def program(form: str, first: str = "Identity") -> str:
    return PROGRAM.format(qkv=form, first=first)


def renamed(name: str) -> str:
    """What the weight of the split form is called in the fused one."""
    return name.replace("qkv.", "qkv.qkv.")


def twins(**options: Any) -> tuple[Any, Any, nn.Module, nn.Module]:
    """Both forms with the same weights."""
    fused, split = (modnorm.load(program(form), **options) for form in (FUSED, SPLIT))
    one = fused.Net(generator=torch.Generator().manual_seed(0))
    two = split.Net()
    held = dict(one.named_parameters())
    values = {w.name: w.cut(held[w.layout.parameter if w.layout else w.name]) for w in fused.PLAN}
    two.load_state_dict({name: values[renamed(name)] for name, _ in two.named_parameters()})
    return fused, split, one, two


def test_the_report_is_that_of_the_tuple() -> None:
    reports = [modnorm.report(program(form), format="json") for form in (FUSED, SPLIT)]
    fused, split = (json.loads(str(report)) for report in reports)
    for key in ("mass", "sensitivity", "certified_sensitivity", "kappa", "sharpness", "weights"):
        assert fused[key] == split[key], key
    parts = [atom for atom in fused["atoms"] if "parameter" in atom]
    assert len(parts) == 6
    for one, two in zip(fused["atoms"], split["atoms"], strict=True):
        assert one["weight"] == renamed(two["weight"])
        for key in ("op", "shape", "mass", "downstream_sensitivity", "target", "norm"):
            assert one[key] == two[key]
    assert parts[1]["parameter"] == "0.attention.qkv.qkv.weight"


def test_one_product_computes_what_three_did() -> None:
    _, _, one, two = twins()
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(one(x), two(x))
    names = [name for name, _ in one.named_parameters()]
    assert names[0] == "0.attention.qkv.qkv.weight"
    assert one.get_parameter(names[0]).shape == (96, 32)
    source = modnorm.compile(program(FUSED))
    assert "q, k, v = self.attention.qkv.qkv(x)" in source


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("standalone", [False, True])
def test_training_goes_as_with_parameters_of_their_own(kind: str, standalone: bool) -> None:
    fused, split, one, two = twins()
    one, two = one.double(), two.double()  # sums are taken in another order
    if standalone:
        source = modnorm.compile(program(FUSED), standalone=True, device="cpu")
        namespace: dict[str, Any] = {"__name__": "standalone"}
        exec(compile(source, "standalone.py", "exec"), namespace)
        made = namespace[kind]
    else:
        made = getattr(fused, kind)
    optimizers = (
        made(one.named_parameters(), lr=0.3),
        getattr(split, kind)(two.named_parameters(), lr=0.3),
    )
    for step in range(4):
        x = torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(step)).double()
        for model, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    held, other = dict(one.named_parameters()), dict(two.named_parameters())
    for w in fused.PLAN:
        own = w.cut(held[w.layout.parameter if w.layout else w.name])
        name = w.name.replace("qkv.qkv.", "qkv.")
        torch.testing.assert_close(own, other[name], rtol=0, atol=1e-11)
    slack = [optimizer.slack() for optimizer in optimizers]
    assert slack[0] == pytest.approx({renamed(k): v for k, v in slack[1].items()}, rel=1e-4)


def test_weights_begin_with_norm_one() -> None:
    module = modnorm.load(program(FUSED))
    model = module.Net(generator=torch.Generator().manual_seed(0))
    for w in module.PLAN:
        if w.layout:
            for head in w.cut(model.get_parameter(w.layout.parameter).detach()):
                assert float(torch.linalg.matrix_norm(head, 2)) * 2 == pytest.approx(1, rel=1e-5)


def test_a_factor_before_it_and_a_part_that_is_not_used() -> None:
    text = """\
input x: float[batch, seq, 8]
model Net = Linear(3) @ MergeHeads @ ((Select(0) + 2 * Select(2)) @ QKV(8, 2) @ (3 * Identity))
"""
    module = modnorm.load(text)
    model = module.Net()
    x = torch.randn(2, 5, 8)
    w = model.qkv.weight
    q, _, v = (torch.nn.functional.linear(3 * x, part) for part in w.chunk(3))
    out = torch.nn.functional.linear(q + 2 * v, model.linear.weight)
    torch.testing.assert_close(model(x), out)
    model(x).sum().backward()
    assert [bool(part.any()) for part in w.grad.chunk(3)] == [True, False, True]
    (warning,) = (d for d in analyse_text(text).diagnostics if d.code == "W614")
    assert warning.message == "nothing depends on `k` of this `QKV`: it never learns"


def test_shared_and_frozen() -> None:
    text = """\
input x: float[batch, seq, 8]
shared heads = QKV(8, 2, mass = 0)
model Net = Linear(3) @ MergeHeads @ Attention @ heads @ MergeHeads @ Attention @ heads
"""
    module = modnorm.load(text)
    model = module.Net()
    assert [p.requires_grad for p in model.parameters()] == [False, True]
    assert [w.target for w in module.PLAN[:3]] == [0, 0, 0]
    optimizer = module.NormedAdam(model.named_parameters())
    model(torch.randn(2, 4, 8)).square().sum().backward()
    optimizer.step()


def test_certificates_hold() -> None:
    found = modnorm.check(program(FUSED), effort=1)
    assert found, str(found)
    assert "qkv.qkv.v.headed" in str(found)


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    module = modnorm.load(program(FUSED))
    model = module.Net()
    optimizer = module.NormedAdam(model.named_parameters())
    saved = optimizer.state_dict()
    assert len(saved["state"]) == len(list(model.parameters()))
    assert all(len(record) == 7 for record in saved["plan"][:3])
    other = modnorm.load(program(SPLIT))
    fresh = other.NormedAdam(other.Net().named_parameters())
    with pytest.raises(ValueError, match="a state_dict of something else"):
        fresh.load_state_dict(saved)


def test_mistakes_are_said_once() -> None:
    text = "input x: float[batch, seq, 8]\nmodel Net = MergeHeads @ Attention @ QKV(9, 2)\n"
    with pytest.raises(ModnormError) as caught:
        analyse_text(text)
    (one,) = caught.value.diagnostics
    assert one.message == "`QKV` cannot split 9 outputs into 2 equal heads"
    assert one.span is not None
    assert one.span.line == 2


def test_the_operation_by_itself() -> None:
    op, out = QKV(8, 2).resolve(Tensor("float", (Symbol(("batch",)), 3, 6)))
    assert str(out) == "(" + ", ".join(["float[batch, 2, 3, 4]"] * 3) + ")"
    assert (op.sensitivity, op.certified) == (3, 3)
    weight, x = torch.randn(24, 6), torch.randn(5, 3, 6)
    for part, own in zip(weight.chunk(3), op.reference(x, weight), strict=True):
        heads = torch.nn.functional.linear(x, part).view(5, 3, 2, 4).transpose(1, 2)
        torch.testing.assert_close(own, heads)


def test_the_gated_layer_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interleaved rows compute, start and move as two matrices of their own do."""
    monkeypatch.setattr(registry, "_ops", dict(registry._ops))
    guide.module("compiler/ops/gated.py", "modnorm.ops")
    text = guide.FILES["gated.mod"]
    fused = modnorm.load(text)
    split = modnorm.load(text.replace("GateUp(16)", "(Linear(16), Linear(16))"))
    one = fused.Net(dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    two, held = split.Net(dtype=torch.float64), dict(one.named_parameters())
    values = [w.cut(held[w.layout.parameter if w.layout else w.name]) for w in fused.PLAN]
    for w, value in zip(fused.PLAN, values, strict=True):
        rows, width = w.shape
        size = torch.linalg.matrix_norm(value.detach(), 2) * (width / rows) ** 0.5
        assert float(size) == pytest.approx(1)
    names = [w.name for w in split.PLAN]
    two.load_state_dict({n: v.detach().clone() for n, v in zip(names, values, strict=True)})
    assert [w.target for w in fused.PLAN] == [w.target for w in split.PLAN]
    optimizers = [
        module.DualizedSGD(model.named_parameters())
        for module, model in ((fused, one), (split, two))
    ]
    for step in range(3):
        seed = torch.Generator().manual_seed(step)
        x = torch.randn(8, 10, generator=seed, dtype=torch.float64)
        for model, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for w, name in zip(fused.PLAN, names, strict=True):
        own = w.cut(held[w.layout.parameter if w.layout else w.name])
        torch.testing.assert_close(own, two.get_parameter(name), rtol=0, atol=1e-11)


def test_peers_get_the_parameter() -> None:
    """Other optimizers of a sweep know parameters only: Muon takes a fused matrix as one."""
    text = """\
input ids: int[batch, seq] < 9
model Net = Linear(9) @ (MergeHeads >> Linear(8)) @ Attention @ QKV(8, 2) @ Embed(9, 8)
"""
    module = modnorm.load(text)
    model = module.Net()
    hidden, rest = build(module, model, read_label("muon"), 0.1)
    assert sum(len(group["params"]) for group in hidden.param_groups) == 2
    before = model.qkv.weight.detach().clone()
    model(torch.randint(9, (2, 5))).square().sum().backward()
    for optimizer in (hidden, rest):
        optimizer.step()
    assert not torch.equal(model.qkv.weight, before)
    plan = with_body_mass(module.PLAN, 4)
    assert sum(w.mass for w in plan) == 6
    NormedSGD(model.named_parameters(), plan=plan).step()
