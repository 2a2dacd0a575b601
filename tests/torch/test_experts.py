"""Mixtures of experts: those of plain loops and of transformers, in training and in every form."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import modnorm
from modnorm.kernels import Monitor
from modnorm.ops.experts import Experts, Routed, Unrouted
from modnorm.pipeline import analyse_text

DENSE = """
input x: float[batch, seq, 6]
def expert = Linear(6) @ (SiLU @ Linear(5) * Linear(5))
model M = Experts(expert, 4) @ (Identity, Readout(4))
"""
SPARSE = DENSE.replace("expert, 4)", "expert, 4, 2)")
SWITCH = DENSE.replace("expert, 4)", "expert, 4, 2, normalize = false)")
DEEP = """
input x: float[batch, seq, 6]
def expert = Linear(6) >> Bias >> (1/2 * Identity + 1/2 * GELU @ Linear(6)) ** 2 >> Scale
model M = Experts(RMSDivide(eps = 0.01) @ expert, 3, 2) @ (Identity, Readout(3))
"""
FORMS = {"dense": DENSE, "sparse": SPARSE, "switch": SWITCH}


def generated(text: str, tmp_path: Path) -> Any:
    path = tmp_path / "m.mod"
    path.write_text(text)
    return modnorm.load(path)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def looped(model: Any, x: Tensor, top: int, normalize: bool) -> Tensor:
    """Token by token, and expert by expert, as the papers write it."""
    w = dict(model.named_parameters())
    router = w["readout.weight"]
    up, gate, down = (w[f"experts.expert.linear{n}.weight"] for n in ("_1", "", "_2"))
    rows = []
    for token in x.flatten(0, -2):
        scores = router @ token
        chosen = sorted(range(len(scores)), key=lambda e: -scores[e].item())[:top]
        shares = scores[chosen].softmax(0) if normalize else scores.softmax(0)[chosen]
        rows.append(
            sum(
                share * (down[e] @ (F.silu(gate[e] @ token) * (up[e] @ token)))
                for share, e in zip(shares, chosen, strict=True)
            )
        )
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_mixture_is_that_of_a_loop(
    form: str, dtype: torch.dtype, close: float, tmp_path: Path
) -> None:
    model = generated(FORMS[form], tmp_path).M(dtype=dtype)
    top, normalize = (4 if form == "dense" else 2), form != "switch"
    x = drawn(2, 7, 6, dtype=dtype).requires_grad_()
    inputs = [x, *model.parameters()]
    along = drawn(2, 7, 6, seed=1, dtype=dtype)
    got, expected = model(x), looped(model, x, top, normalize)
    torch.testing.assert_close(got, expected, rtol=close, atol=close)
    for one, other in zip(
        torch.autograd.grad(got, inputs, along),
        torch.autograd.grad(expected, inputs, along),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=close, atol=10 * close)


def test_a_mixture_is_mixtrals(tmp_path: Path) -> None:
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    from transformers import MixtralConfig

    config = MixtralConfig(hidden_size=6, intermediate_size=5, num_local_experts=4)
    config._experts_implementation = "eager"
    block = mixtral.MixtralSparseMoeBlock(config).double()
    model = generated(SPARSE, tmp_path).M(dtype=torch.float64)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for weight in block.parameters():
            weight.copy_(drawn(*weight.shape, seed=weight.numel()))
        own["readout.weight"].copy_(block.gate.weight)
        gate, up = block.experts.gate_up_proj.chunk(2, 1)
        own["experts.expert.linear.weight"].copy_(gate)
        own["experts.expert.linear_1.weight"].copy_(up)
        own["experts.expert.linear_2.weight"].copy_(block.experts.down_proj)
    x = drawn(2, 7, 6)
    found = block(x)
    expected = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)


def test_all_experts_of_equal_weights_are_one(tmp_path: Path) -> None:
    """The gates sum to 1, so that copies of one expert make that expert."""
    model = generated(DEEP, tmp_path).M(dtype=torch.float64)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("experts."):
                weight.copy_(drawn(*weight.shape[1:]).expand_as(weight))
    one = generated(
        DEEP.replace("Experts(", "").replace(", 3, 2) @ (Identity, Readout(3))", ""), tmp_path
    ).M(dtype=torch.float64)
    of_one = dict(one.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("experts."):
                of_one[name.removeprefix("experts.")].copy_(weight[0])
    x = drawn(2, 3, 6)
    torch.testing.assert_close(model(x), one(x), rtol=1e-12, atol=1e-12)


def test_targets_count_a_stack_once() -> None:
    """Mass 1 for each of three weights; y moves by 1 with the scores, and with what experts give.

    What is before all moves it through the router and through the experts, of sensitivity 2.
    """
    text = DENSE.replace("SiLU @ Linear(5) * Linear(5)", "Tanh @ Linear(5)")
    program = analyse_text(text.replace("4", "64")).program
    assert {w.path: w.target for w in program.weights} == {
        "experts.expert.linear": Fraction(1, 3),
        "experts.expert.linear_1": Fraction(1, 3),
        "readout": Fraction(1, 3),
    }
    assert {w.path: w.op.weight_shape for w in program.weights} == {
        "experts.expert.linear": (64, 5, 6),
        "experts.expert.linear_1": (64, 6, 5),
        "readout": (64, 6),
    }
    before = DENSE.replace("model M = ", "model M = 5 * ") + " @ Linear(6)"
    program = analyse_text(before).program
    # SwiGLU has sensitivity 2: of x and scores the larger counts, and both are of the same value
    assert {w.path: w.target for w in program.weights} == {
        "linear": Fraction(1, 5) / (5 * 2 * 2),
        "readout": Fraction(1, 5) / (5 * 2),
        "experts.expert.linear": Fraction(1, 5) / 5,
        "experts.expert.linear_1": Fraction(1, 5) / 5,
        "experts.expert.linear_2": Fraction(1, 5) / 5,
    }


def test_all_experts_have_a_certificate_and_some_a_reason() -> None:
    text = DENSE.replace("(SiLU @ Linear(5) * Linear(5))", "Linear(5)")
    found = analyse_text(text).program.certificate
    assert found is not None
    # what scores move is as large as an expert's output, which is at most 1
    assert found.kappa == pytest.approx(1.0)
    assert found.sensitivity == pytest.approx(2.0)
    some = analyse_text(text.replace("expert, 4)", "expert, 4, 2)")).program.certificate
    assert some is not None
    assert some.kappa is None
    assert [r.text for r in some.reasons] == [
        "which experts are chosen jumps where two scores are equal"
    ]


KINDS = [("NormedAdam", 0.3), ("NormedSGD", 0.3), ("DualizedSGD", 0.1)]


@pytest.mark.parametrize(("kind", "lr"), KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_training_lowers_the_loss(form: str, kind: str, lr: float, tmp_path: Path) -> None:
    module = generated(FORMS[form], tmp_path)
    model = module.M(generator=torch.Generator().manual_seed(0))
    optimizer = getattr(module, kind)(model.named_parameters(), lr=lr)
    x, y = drawn(8, 16, 6).float(), drawn(8, 16, 6, seed=1).float().tanh()
    losses = []
    for _ in range(20):
        loss = (model(x) - y).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.97 * losses[0]
    assert min(losses[-5:]) < min(losses[:5])


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_an_expert_that_nothing_goes_to_stays(kind: str, tmp_path: Path) -> None:
    text = DEEP.replace("Readout(3)", "Readout(3, mass = 0)")
    module = generated(text, tmp_path)
    model = module.M(generator=torch.Generator().manual_seed(0))
    x = drawn(4, 5, 6).float().abs()
    with torch.no_grad():
        model.readout.weight.copy_(torch.tensor([[1.0], [2.0], [-9.0]]).expand(3, 6))
    before = {name: w.clone() for name, w in model.named_parameters()}
    optimizer = getattr(module, kind)(model.named_parameters(), lr=0.1)
    text_out = tmp_path / "log.jsonl"
    monitor = Monitor(optimizer, text_out)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    monitor.close()
    for name, w in model.named_parameters():
        assert w.isfinite().all()
        if name.startswith("experts."):
            assert torch.equal(w[2], before[name][2]), name
            moved = (w[:2] != before[name][:2]).flatten(1).any(1)
            assert moved.all(), name
    assert "nan" not in text_out.read_text().lower()


def test_experts_that_are_not_chosen_are_not_computed(tmp_path: Path) -> None:
    model = generated(SPARSE, tmp_path).M()
    with torch.no_grad():
        model.readout.weight.copy_(torch.tensor([[1.0], [2.0], [-9.0], [-9.0]]).expand(4, 6))
        model.experts.expert.linear.weight[2:] = torch.nan
    assert model(drawn(2, 3, 6).float().abs()).isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_it_compiles_whole_and_exports(form: str, tmp_path: Path) -> None:
    model = generated(FORMS[form], tmp_path).M()
    x = drawn(2, 5, 6).float()
    expected = model(x)
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x), expected)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), expected)


@pytest.mark.parametrize("form", FORMS)
def test_it_runs_in_bfloat16_autocast(form: str, tmp_path: Path) -> None:
    model = generated(FORMS[form], tmp_path).M(generator=torch.Generator().manual_seed(0))
    x = drawn(2, 5, 6).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    y.float().square().sum().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in model.parameters())
    near = (y.float() - model(x)).abs().mean() / model(x).abs().mean()
    assert near < 0.05


def test_the_balancing_loss_of_the_recipes_is_transformers() -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python balance.py\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    for top in (1, 2, 3):
        scores = drawn(4, 9, 8, seed=top)
        expected = mixtral.load_balancing_loss_func((scores.flatten(0, 1),), 8, top)
        found = names["balance"](scores, top).float()
        torch.testing.assert_close(found, expected)
        even = torch.eye(8).repeat(3, 1) * 50
        assert names["balance"](even, 1).item() == pytest.approx(1.0)


@pytest.mark.parametrize("normalize", [True, False])
def test_what_is_routed_sums_up_to_the_mixture(normalize: bool) -> None:
    """Only chosen vectors are sent to an expert, and what it makes of them counts as before."""
    generator = torch.Generator().manual_seed(0)
    x, scores = (torch.randn(2, 5, n, generator=generator).double() for n in (6, 4))
    weight = torch.randn(4, 3, 6, generator=generator).double()
    experts = Experts(None, 4, 2, normalize)
    y = torch.einsum("bsi,eoi->bseo", x, weight)
    rows, sizes, places, shares = Routed(4, 2, normalize).reference((x, scores))
    assert sizes.sum() == len(rows) == 2 * 10
    made = torch.cat([r @ w.mT for r, w in zip(rows.split(sizes.tolist()), weight, strict=True)])
    found = Unrouted().reference((made, x, places, shares))
    torch.testing.assert_close(found, experts.reference((y, scores)), rtol=0, atol=1e-12)
