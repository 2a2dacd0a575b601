"""The normalisations of the library are torch.nn's: outputs, gradients and buffers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import modnorm

VECTOR, SEQUENCE = "float[batch, 12]", "float[batch, seq, 12]"
SIGNAL, IMAGE = "float[batch, 12, time]", "float[batch, 12, 5, 5]"
SHAPES = {VECTOR: (7, 12), SEQUENCE: (4, 3, 12), SIGNAL: (4, 12, 9), IMAGE: (4, 12, 5, 5)}


def along(module: nn.Module, declared: str) -> Any:
    """A module of torch that takes channels along axis 1, for values that may have them last."""
    if declared != SEQUENCE:
        return module
    return lambda x: module(x.movedim(-1, 1)).movedim(1, -1)


def pair(declared: str, written: str, module: nn.Module, dtype: torch.dtype) -> tuple[Any, Any]:
    """The compiled model, and torch's module with the same gain and bias."""
    model = modnorm.load(f"input x: {declared}\nmodel M = {written}").M(dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    for p, theirs in zip(model.parameters(), module.parameters(), strict=True):
        with torch.no_grad():
            p.copy_(torch.randn(p.shape, generator=generator) + 1)
            theirs.copy_(p)
    return model, module.to(dtype)


FUNCTIONS: list[tuple[str, str, Any]] = [
    (VECTOR, "LayerNorm", nn.LayerNorm(12)),
    (SEQUENCE, "LayerNorm(eps = 0.1)", nn.LayerNorm(12, eps=0.1)),
    (SEQUENCE, "LayerNorm(affine = false)", nn.LayerNorm(12, elementwise_affine=False)),
    (SEQUENCE, "RMSNorm", nn.RMSNorm(12, eps=1e-5)),
    (VECTOR, "RMSNorm(affine = false)", nn.RMSNorm(12, eps=1e-5, elementwise_affine=False)),
    (IMAGE, "GroupNorm(3)", nn.GroupNorm(3, 12)),
    (IMAGE, "GroupNorm(12, eps = 0.1)", nn.GroupNorm(12, 12, eps=0.1)),
    (SIGNAL, "GroupNorm(4, affine = false)", nn.GroupNorm(4, 12, affine=False)),
    (VECTOR, "GroupNorm(2)", nn.GroupNorm(2, 12)),
]


@pytest.mark.parametrize(("declared", "written", "module"), FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_are_torchs(declared: str, written: str, module: nn.Module, dtype: Any) -> None:
    model, other = pair(declared, written, copy.deepcopy(module), dtype)
    close = 1e-5 if dtype == torch.float32 else 1e-12
    x = (3 * torch.randn(SHAPES[declared], dtype=dtype) + 1).requires_grad_()
    y, expected = model(x), other(x)
    torch.testing.assert_close(y, expected, rtol=close, atol=close)
    weight = torch.randn(y.shape, dtype=dtype)
    found, wanted = (torch.autograd.grad((out * weight).sum(), x)[0] for out in (y, expected))
    torch.testing.assert_close(found, wanted, rtol=10 * close, atol=10 * close)


BATCHES: list[tuple[str, str, Any]] = [
    (VECTOR, "BatchNorm", nn.BatchNorm1d(12)),
    (SEQUENCE, "BatchNorm(1/4, eps = 0.1)", nn.BatchNorm1d(12, momentum=0.25, eps=0.1)),
    (SIGNAL, "BatchNorm(affine = false)", nn.BatchNorm1d(12, affine=False)),
    (IMAGE, "BatchNorm", nn.BatchNorm2d(12)),
]


@pytest.mark.parametrize(("declared", "written", "module"), BATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_are_torchs(declared: str, written: str, module: nn.Module, dtype: Any) -> None:
    model, other = pair(declared, written, copy.deepcopy(module), dtype)
    close = 1e-6 if dtype == torch.float32 else 1e-12
    torch.manual_seed(0)

    def same(x: torch.Tensor) -> None:
        expected = along(other, declared)(x)
        torch.testing.assert_close(model(x), expected, rtol=10 * close, atol=10 * close)

    other.train(), model.train()
    for _ in range(4):
        same(3 * torch.randn(SHAPES[declared], dtype=dtype) + 1)
    buffers, theirs = dict(model.named_buffers()), dict(other.named_buffers())
    for name in ("running_mean", "running_var"):
        (key,) = (key for key in buffers if key.endswith(f".{name}"))
        torch.testing.assert_close(buffers[key], theirs[name], rtol=close, atol=close)
    other.eval(), model.eval()
    same(torch.randn(SHAPES[declared], dtype=dtype))
    kept = {k: v.clone() for k, v in buffers.items()}
    assert all(torch.equal(v, kept[k]) for k, v in model.named_buffers())


def test_one_value_has_no_deviation() -> None:
    model = modnorm.load(f"input x: {VECTOR}\nmodel M = BatchNorm").M()
    with pytest.raises(ValueError, match="more than one value"):
        model.train()(torch.zeros(1, 12))


def test_they_are_there_with_and_without_an_import() -> None:
    texts = [
        "from std.nn import LayerNorm, GroupNorm\n{}",
        "{}",
        "def LayerNorm = Bias @ Scale @ RMSDivide(-1, 1e-5) @ MeanSubtract\n{}",
    ]
    body = "input x: float[batch, 4, 6]\nmodel M = LayerNorm @ Linear(3) @ GroupNorm(2)"
    hashes = {modnorm.load(text.format(body)).PLAN_HASH for text in texts}
    assert len(hashes) == 1
    model = modnorm.load("import std.nn\n" + body.replace("LayerNorm", "nn.LayerNorm"))
    assert model.PLAN_HASH in hashes


RESNET = """
input images: float[batch, 3, 32, 32]
def block = ReLU @ (Identity + branch)
  where branch = BatchNorm @ Conv2D(8) @ ReLU @ BatchNorm @ Conv2D(8)
model R = Linear(10) @ Flatten @ AdaptiveAvgPool @ block ** 2 @ MaxPool(3, 2, 1) @ ReLU
    @ BatchNorm @ Conv2D(8, kernel = 7, stride = 2, padding = 3)
"""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(self.two(self.norm(self.one(x)).relu()))
        return (x + y).relu()


def test_a_residual_network_is_torchs() -> None:
    module = modnorm.load(RESNET)
    model = module.R(dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10, bias=False),
    ).double()  # fmt: skip
    held = dict(model.named_parameters())
    with torch.no_grad():
        for w, theirs in zip(module.PLAN, other.parameters(), strict=True):
            theirs.copy_(held[w.name].view_as(theirs))
    optimizer = module.NormedAdam(model.named_parameters(), lr=0.1)
    torch.manual_seed(0)
    for _ in range(2):  # in training, and by the buffers
        x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(model(x), other(x), rtol=1e-12, atol=1e-12)
        model.eval(), other.eval()
    model.train()(x).square().sum().backward()
    optimizer.step()
    assert model(x).isfinite().all()
