"""A residual stream and the running mean that it is taken for compute the same."""

from __future__ import annotations

import pytest
import torch

import modnorm

PARTS = """
input tokens: int[batch, seq] < 11
def norm(eps = 1e-5) = Bias @ Scale @ RMSDivide(eps = eps) @ MeanSubtract
def attention = Linear(16) @ MergeHeads @ Attention(true, scale = 2) @ (q, k, v)
  where
    q = SplitHeads(4) @ Linear(16)
    k = SplitHeads(4) @ Linear(16)
    v = SplitHeads(4) @ Linear(16)
def mlp = Linear(16) @ GELU @ Linear(32)
"""
PLAIN = (
    PARTS
    + """
param depth = 3
def block = (Identity + mlp @ norm) @ (Identity + attention @ norm)
model M = Linear(11) @ norm @ block ** depth @ Embed(11, 16)
"""
)
MEAN = (
    PARTS
    + """
param depth = 3
def mean(f, k) = (1 - 1 / (k + 1)) * Identity + 1 / (k + 1) * f @ norm(1e-5 / k ** 2)
def block(i) = mean(mlp, 2 * i + 2) @ mean(attention, 2 * i + 1)
model M = Linear(11) @ norm(1e-5 / (2 * depth + 1) ** 2) @ compose(block(i) for i in range(depth))
  @ Embed(11, 16)
"""
)


@pytest.mark.parametrize("depth", [1, 4, 40])
def test_a_stream_computes_what_its_running_mean_does(depth: int) -> None:
    plain, mean = (modnorm.load(text, depth=depth) for text in (PLAIN, MEAN))
    one, other = plain.M(dtype=torch.float64), mean.M(dtype=torch.float64)
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    with torch.no_grad():
        for a, b in pairs:
            b.copy_(a)
        tokens = torch.arange(14).reshape(2, 7) % 11
        torch.testing.assert_close(other(tokens), one(tokens), rtol=1e-9, atol=1e-9)
    assert [w.target for w in plain.PLAN] == pytest.approx([w.target for w in mean.PLAN], rel=1e-12)


@pytest.mark.parametrize("kind", ["NormedAdam", "DualizedSGD"])
def test_every_weight_of_a_deep_stream_moves_by_its_target(kind: str) -> None:
    module = modnorm.load(PLAIN, depth=24)
    model = module.M(generator=torch.Generator().manual_seed(0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = getattr(module, kind)(model.named_parameters(), lr=0.1)
    tokens = torch.arange(14).reshape(2, 7) % 11
    torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    optimizer.step()
    targets = {w.name: w.target for w in module.PLAN}
    assert min(targets.values()) > 1e-3 * max(targets.values())
    for name, p in model.named_parameters():
        assert not torch.equal(p, before[name]), name
