"""The model's own operations refute logical weights that are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import modnorm
from modnorm.adopting.pieces import Signs

WIDTH, HEADS = 12, 3


class Attention(nn.Module):
    """q, k and v of each head one after the other, or each for all heads."""

    def __init__(self, by_head: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.by_head = by_head

    def forward(self, x: Tensor) -> Tensor:
        sizes = (HEADS, 3, WIDTH // HEADS) if self.by_head else (3, HEADS, WIDTH // HEADS)
        heads = self.qkv(x).unflatten(-1, sizes)
        q, k, v = heads.movedim(3 if self.by_head else 2, 0).transpose(2, 3)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 16), nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(x).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up)


class Drawn(Gated):
    """What is drawn by chance stands between the weight and what reads its features."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (self.up(x) * torch.rand(1).add(1)).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "by head": lambda: Attention(True),
    "one after the other": lambda: Attention(False),
    "gated": Gated,
    "drawn": Drawn,
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_right_passes(name: str, recwarn: pytest.WarningsRecorder) -> None:
    torch.manual_seed(0)
    plan = modnorm.adopt(MODELS[name](), torch.randn(2, 4, WIDTH), plan_only=True)
    assert {w.role for w in plan} <= {"matrix", "readout", "bias"}
    assert len([w for w in plan if w.layout is not None]) == (6 if "qkv" in plan[0].name else 4)
    assert not recwarn.list


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wrong", [1, -1])
def test_one_row_too_many_is_refuted(
    name: str, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs that are those of the next row, or of the one before."""
    right = Signs.of

    def shifted(self: Signs, labels: Tensor) -> Sequence[int]:
        found = right(self, labels)
        return found[wrong:] + found[:wrong]

    monkeypatch.setattr(Signs, "of", shifted)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"(qkv|up)\.weight.* is not understood"):
        plan = modnorm.adopt(MODELS[name](), torch.randn(2, 4, WIDTH), plan_only=True)
    assert [w.name for w in plan if w.role == "opaque"][:1] == [
        "up.weight" if name in ("gated", "drawn") else "qkv.weight"
    ]
