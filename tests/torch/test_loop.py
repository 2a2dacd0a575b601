"""The training loop against steps that are written out, and when its hooks are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modnorm.train import falling, train


def made() -> tuple[nn.Linear, torch.Tensor, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, torch.randn(5, 3), torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


def test_it_is_the_loop_one_would_write() -> None:
    model, x, optimizer = made()
    factor = falling("linear", 4)
    losses = list(train(lambda: model(x).square().mean(), [optimizer], range(4), factor=factor))
    other, x, optimizer = made()
    for step in range(4):
        loss = other(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / 4)
        optimizer.step()
        assert torch.equal(losses[step], loss.detach())
    assert torch.equal(model.weight, other.weight)


def test_hooks_come_before_gradients_and_before_the_step() -> None:
    model, x, optimizer = made()
    said: list[str] = []
    start = model.weight.detach().clone()

    def seen(loss: torch.Tensor) -> None:
        assert model.weight.grad is None
        said.append("seen")

    def ready(loss: torch.Tensor) -> None:
        assert model.weight.grad is not None
        assert torch.equal(model.weight, start)
        said.append("ready")

    def objective() -> torch.Tensor:
        return model(x).square().mean()

    for _ in train(objective, [optimizer], range(1), seen=seen, ready=ready):
        assert not torch.equal(model.weight, start)
        said.append("stepped")
    assert said == ["seen", "ready", "stepped"]


def test_what_a_hook_raises_stops_it_before_the_step() -> None:
    model, x, optimizer = made()
    start = model.weight.detach().clone()

    def seen(loss: torch.Tensor) -> None:
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        list(train(lambda: model(x).square().mean(), [optimizer], range(3), seen=seen))
    assert torch.equal(model.weight, start)


def test_without_a_gradient_nothing_moves() -> None:
    model, _, optimizer = made()
    start = model.weight.detach().clone()
    (loss,) = train(lambda: torch.ones(()), [optimizer], range(1))
    assert loss == 1
    assert torch.equal(model.weight, start)
