"""Layers whose shift, scale and gate come from a condition: a block of a DiT, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_named_inputs import drawn, loaded
from torch import Tensor, nn

from modnorm.pipeline import analyse_text

DIT = """
from std.nn import LayerNorm
param d = 12
input x: float[batch, n, d]
input c: float[batch, d]
def modulation = Unsqueeze(1) @ Bias @ Linear(d, init = "zero") @ SiLU @ c
def adaptive(f) = Identity + gate * f @ (LayerNorm(affine = false) * (1 + scale) + shift)
  where
    shift = modulation
    scale = modulation
    gate = modulation
def heads = SplitHeads(3) @ Linear(d)
def attention = Bias @ Linear(d) @ MergeHeads @ Attention(scale = "1/sqrt(d)") @ qkv
  where qkv = (heads, heads, heads)
def mlp = Bias @ Linear(d) @ GELU @ Bias @ Linear(4 * d)
model DiT = (adaptive(mlp) @ adaptive(attention)) ** 2 @ x
"""


class Block(nn.Module):
    """A block with adaLN-Zero, as in the DiT of Peebles & Xie 2023 (arXiv 2212.09748)."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(d, elementwise_affine=False)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shifts = self.modulation(c)[:, None].chunk(6, dim=-1)
        for f, (shift, scale, gate) in (
            (self.attention, shifts[:3]),
            (self.mlp, shifts[3:]),
        ):
            x = x + gate * f(self.norm(x) * (1 + scale) + shift)
        return x


def filled(block: Block, w: dict[str, Tensor], copy: str) -> None:
    """Give a block the weights of a copy of the model."""

    def at(*paths: str, kind: str = "linear") -> Tensor:
        return torch.cat([w[f"{copy}.{path}.{kind}.weight"] for path in paths])

    chunks = [
        f"{branch}.{part}.modulation"
        for branch in ("adaptive", "adaptive_1")
        for part in ("shift", "scale", "gate")
    ]
    attention, mlp = "adaptive.attention", "adaptive_1.mlp"
    heads = [f"{attention}.qkv.{name}" for name in ("heads", "heads_1", "heads_2")]
    found = {
        "modulation.1.weight": at(*chunks),
        "modulation.1.bias": at(*chunks, kind="bias"),
        "qkv.weight": at(*heads),
        "out.weight": at(attention),
        "out.bias": at(attention, kind="bias"),
        "mlp.0.weight": at(mlp),
        "mlp.0.bias": at(mlp, kind="bias"),
        "mlp.2.weight": at(mlp, kind="linear_1"),
        "mlp.2.bias": at(mlp, kind="bias_1"),
    }
    block.load_state_dict(found)


def test_blocks_of_a_dit_are_those_of_plain_torch(tmp_path: Path) -> None:
    model = loaded(DIT, tmp_path)
    x, c = drawn(2, 5, 12), drawn(2, 12, seed=1)
    assert torch.equal(model(x, c), x)  # its gates begin at zero
    with torch.no_grad():
        for seed, p in enumerate(model.parameters()):
            p.copy_(0.5 * drawn(*p.shape, seed=seed))
    w = dict(model.named_parameters())
    wanted = x
    for copy in ("0", "1"):
        block = Block(12, 3).double()
        filled(block, w, copy)
        wanted = block(wanted, c)
    torch.testing.assert_close(model(x, c), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 + f", lambda x, y: 1 + y),
        ("f + 1/2", lambda x, y: y + 0.5),
        ("f - 2", lambda x, y: y - 2),
        ("2 - f", lambda x, y: 2 - y),
        ("-1 - f", lambda x, y: -1 - y),
        ("3 - 2 * f", lambda x, y: 3 - 2 * y),
        ("x * (1 - f) + 0", lambda x, y: x * (1 - y)),
        ("sqrt(2) + f / 4", lambda x, y: 2**0.5 + y / 4),
        ("1/2 * (1 + Tanh @ f)", lambda x, y: (1 + y.tanh()) / 2),
        ("Tanh @ (1 - 1/3 * f) - 1", lambda x, y: (1 - y / 3).tanh() - 1),
        ("x / 3 + x * 2 - f", lambda x, y: x / 3 + x * 2 - y),
    ],
)
def test_constants_in_sums_are_those_of_plain_torch(
    text: str, wanted: Callable[[Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    model = loaded(f"input x: float[batch, 6]\ndef f = Linear(6)\nmodel M = {text}\n", tmp_path)
    x = drawn(3, 6)
    (weight,) = model.parameters()
    torch.testing.assert_close(model(x), wanted(x, F.linear(x, weight)), rtol=1e-12, atol=1e-12)


def test_what_is_proved_of_constants_holds() -> None:
    """An entry of x has at most √8: its norm is at most 1. So 3 + x has 2 at least, in RMS."""
    program = analyse_text("input x: float[batch, 8]\nmodel M = 3 + x\n", "m.mod").program
    assert program.sensitivity == 1
    assert program.certificate is not None
    bound = program.certificate.parts[program.tree.id]
    assert (bound.low, bound.high, bound.sensitivity) == (2, 4, 1)
