"""Parts of well-known models, of values joined, cut and turned, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import modnorm
from modnorm.pipeline import analyse_text


def made(text: str) -> Any:
    """The model of a program, in float64, with weights that are drawn anew."""
    module: Any = modnorm.load(text)
    model = getattr(module, module.MODEL)(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_vision_transformers_tokens() -> None:
    model = made(
        "input images: float[batch, 3, 8, 8]\n"
        "def patches = Transpose @ Reshape(6, -1) @ Bias @ Conv2D(6, kernel = 4, stride = 4,"
        " padding = 0)\n"
        "model ViT = Linear(5) @ Squeeze(1) @ Slice(0, 1, dim = 1) @ Softmax @ (Identity +"
        " Parameter(5, 6)) @ Concat(1) @ (Parameter(1, 6), patches)"
    )
    x, w = draw(2, 3, 8, 8), dict(model.named_parameters())
    y = F.conv2d(x, w["patches.conv2d.weight"], w["patches.bias.weight"], stride=4)
    y = torch.cat((w["parameter.weight"].expand(2, 1, 6), y.flatten(2).mT), 1)
    y = (y + w["parameter_1.weight"]).softmax(-1)[:, 0]
    same(model(x), F.linear(y, w["linear.weight"]))


def test_a_mixers_two_directions() -> None:
    model = made(
        "input patches: float[batch, 4, 6]\n"
        "def mlp(n, e) = Linear(n) @ GELU @ Linear(e)\n"
        "model M = Mean(1) @ (Identity + Transpose @ mlp(4, 8) @ Transpose) @ Linear(6)"
    )
    x, (first, up, down) = draw(2, 4, 6), list(model.parameters())
    y = F.linear(x, first)
    same(model(x), (y + F.linear(F.gelu(F.linear(y.mT, up)), down).mT).mean(1))


def test_a_recommenders_features_side_by_side() -> None:
    model = made(
        "input user: int[batch] < 7\ninput item: int[batch] < 5\ninput dense: float[batch, 3]\n"
        "model D = Linear(1) @ ReLU2 @ Concat @ (Embed(7, 2) @ Select(0), Embed(5, 4) @ Select(1),"
        " Sigmoid @ Select(2))"
    )
    user, item, dense = torch.tensor([1, 6]), torch.tensor([4, 0]), draw(2, 3)
    one, two, top = model.parameters()
    y = torch.cat((one[user], two[item], dense.sigmoid()), -1)
    same(model(user, item, dense), F.linear(y.relu() ** 2, top))


def test_an_images_channels_side_by_side() -> None:
    model = made(
        "input images: float[batch, 2, 4, 4]\n"
        "model U = Bias @ Conv2D(1, kernel = 1, padding = 0) @ Concat(1) @ (Identity, Softplus @"
        " Conv2D(3))"
    )
    x, (inner, last, bias) = draw(2, 2, 4, 4), list(model.parameters())
    y = torch.cat((x, F.softplus(F.conv2d(x, inner, padding=1))), 1)
    same(model(x), F.conv2d(y, last, bias))


def test_a_condition_that_scales_every_place() -> None:
    model = made(
        "input x: float[batch, n, 4]\ninput c: float[batch, 3]\n"
        "def condition = Unsqueeze(1) @ Linear(4) @ Select(1)\n"
        'model D = Select(0) * (Parameter(init = "one") + condition) + condition'
    )
    x, c, (one, scale, shift) = draw(2, 5, 4), draw(2, 3), list(model.parameters())
    same(model(x, c), x * (one + F.linear(c, scale)[:, None]) + F.linear(c, shift)[:, None])


def test_a_gate_by_halves_is_torchs() -> None:
    model = made("input x: float[batch, 8]\nmodel G = Product @ (Select(0), Sigmoid @ Select(1))"
                 " @ Split(2)")  # fmt: skip
    x = draw(3, 8)
    same(model(x), F.glu(x))


ATTENTION = """
input x: float[batch, seq, 8]
def heads = HeadedLinear(8, 2)
model A = {}
"""


def test_attention_by_hand_is_the_operation() -> None:
    """And with logits of weight 1/d its certificate is no better than that of the operation."""
    by_hand = ATTENTION.format(
        "MatMul @ (Softmax @ (1/4 * MatMul @ (heads, Transpose @ heads)), heads)"
    )
    whole = ATTENTION.format("Attention @ (heads, heads, heads)")
    x = draw(2, 5, 8)
    same(made(by_hand)(x), made(whole)(x))
    one, two = (analyse_text(t.replace("seq", "5")).program for t in (by_hand, whole))
    assert one.certificate is not None
    assert two.certificate is not None
    assert isinstance(one.certificate.sensitivity, float)
    assert two.certificate.sensitivity <= one.certificate.sensitivity


def test_a_learned_value_trains_in_its_norm() -> None:
    module: Any = modnorm.load(
        'input x: float[batch, 4]\nmodel M = (Identity + Parameter(4, init = "zero", mass = 3)) *'
        ' Parameter(init = "one")'
    )
    model = module.M()
    optimizer = module.NormedSGD(model.named_parameters(), lr=0.5)
    before = [p.detach().clone() for p in model.parameters()]
    assert [p.tolist() for p in before] == [[[0.0] * 4], [[1.0]]]
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    pairs = zip(model.parameters(), before, strict=True)
    steps = [(p - b).square().mean().sqrt().item() for p, b in pairs]
    assert steps == pytest.approx([0.5 * 3 / 4, 0.5 * 1 / 4])


def test_too_few_places_are_an_error_when_the_model_runs() -> None:
    model = made("input x: float[batch, seq, 4]\nmodel M = Slice(0, 3, dim = 1)")
    same(model(draw(2, 5, 4)), draw(2, 5, 4)[:, :3])
    with pytest.raises(RuntimeError, match="exceeds dimension size"):
        model(draw(2, 2, 4))


def test_what_stands_beside_a_parameter_keeps_its_target() -> None:
    """A token that is put before others takes nothing from what makes them."""
    text = "input x: float[batch, n, 4]\nmodel M = Concat(1) @ (Parameter(1, 4), Linear(4))"
    targets = {w.path: w.target for w in analyse_text(text).program.weights}
    assert targets == {"parameter": 0.5, "linear": 0.5}
