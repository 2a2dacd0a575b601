"""Attention, rotary embedding and stochastic depth against torch and the formulas of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_samples import emitted

import modnorm
from modnorm.ops.attention import Attention
from modnorm.ops.effects import DropPath
from modnorm.ops.rope import RoPE
from modnorm.ops.runtime import DropPath as Module
from modnorm.ops.types import Symbol, Tensor, TupleType

B, T, S, H, D = 2, 7, 5, 4, 8


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def run(op: Attention | RoPE, *x: torch.Tensor) -> Any:
    """What the emission gives, for an input whose lengths are free."""
    types = []
    for t in x:
        dtype: Any = {torch.bool: "bool"}.get(t.dtype, "float")
        names = {T: "t", S: "s"}
        shape = tuple(Symbol((names[n],)) if n in names else n for n in t.shape)
        types.append(Tensor(dtype, shape))
    if len(x) == 1:
        resolved, _ = op.resolve(types[0])
        return emitted(resolved, x[0], types[0], None)
    resolved, _ = op.resolve(TupleType(tuple(types)))
    return emitted(resolved, x, TupleType(tuple(types)), None)


def qkv(queries: int = T, keys: int = T, groups: int = H) -> tuple[torch.Tensor, ...]:
    q = drawn(B, H, queries, D)
    return q, drawn(B, groups, keys, D, seed=1), drawn(B, groups, keys, 3, seed=2)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("keys", [T, S])
@pytest.mark.parametrize("causal", [False, True])
def test_heads_are_grouped_and_lengths_differ_as_in_torch(
    groups: int, keys: int, causal: bool
) -> None:
    q, k, v = qkv(keys=keys, groups=groups)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    found = run(Attention(causal, "1/sqrt(d)"), q, k, v)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for head in range(H):  # by hand: query head h reads key head h // (H/G)
        one, at = slice(head, head + 1), head // (H // groups)
        alone = F.scaled_dot_product_attention(
            q[:, one], k[:, at : at + 1], v[:, at : at + 1], is_causal=causal
        )
        torch.testing.assert_close(found[:, one], alone, rtol=1e-12, atol=1e-12)


def test_a_window_is_the_last_keys_up_to_the_query() -> None:
    q, k, v = qkv()
    i, j = torch.arange(T)[:, None], torch.arange(T)
    mistral = (j <= i) & (j > i - 3)
    wanted = F.scaled_dot_product_attention(q, k, v, mistral, scale=1 / D)
    torch.testing.assert_close(run(Attention(True, window=3), q, k, v), wanted)
    wanted = F.scaled_dot_product_attention(q, k, v, (i - j).abs() < 3, scale=1 / D)
    torch.testing.assert_close(run(Attention(window=3), q, k, v), wanted)


@pytest.mark.parametrize("heads", [4, 6])
def test_alibi_has_the_slopes_of_its_paper(heads: int) -> None:
    q, k, v = (drawn(B, heads, T, D, seed=n) for n in range(3))
    slopes = {4: [2**-2, 2**-4, 2**-6, 2**-8], 6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]}
    i, j = torch.arange(T)[:, None], torch.arange(T)
    bias = torch.tensor(slopes[heads], dtype=torch.float64)[:, None, None] * (j - i)
    bias = bias.masked_fill(j > i, -torch.inf)
    wanted = F.scaled_dot_product_attention(q, k, v, bias, scale=1 / D)
    torch.testing.assert_close(run(Attention(True, alibi=True), q, k, v), wanted)


def test_a_cap_is_that_of_gemma_2() -> None:
    q, k, v = qkv(groups=2)
    repeated = [t.repeat_interleave(2, 1) for t in (k, v)]
    logits = q @ repeated[0].mT * D**-0.5
    logits = torch.tanh(logits / 0.3) * 0.3
    logits = logits + torch.full((T, T), -torch.inf).triu(1)
    wanted = logits.softmax(-1) @ repeated[1]
    found = run(Attention(True, "1/sqrt(d)", softcap=0.3), q, k, v)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


MASKS = {
    "of keys": lambda seen: seen[:, None, None, :].expand(B, 1, 1, S),
    "of everything": lambda seen: seen[:, None, None, :].expand(B, H, T, S).clone(),
    "added": lambda seen: (
        torch.zeros(B, 1, 1, S).double().masked_fill(~seen[:, None, None, :], -torch.inf)
    ),
}


@pytest.mark.parametrize("kind", list(MASKS))
@pytest.mark.parametrize("softcap", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_sees_no_key_is_zero_and_has_no_gradient(
    kind: str, softcap: int | None, dtype: torch.dtype
) -> None:
    """The second example is masked altogether; torch alone would average, or give nan."""
    q, k, v = (t.to(dtype).requires_grad_() for t in qkv(keys=S, groups=2))
    seen = torch.tensor([[True, True, False, True, False], [False] * 5])
    mask = MASKS[kind](seen)
    found = run(Attention(False, 1, softcap=softcap), q, k, v, mask)
    assert found.dtype == dtype
    assert (found[1] == 0).all()
    kept = seen[0].nonzero().flatten()
    wanted = run(Attention(False, 1, softcap=softcap), q[:1], k[:1, :, kept], v[:1, :, kept])
    tolerance = 1e-12 if dtype == torch.float64 else 2e-2
    torch.testing.assert_close(found[:1], wanted, rtol=tolerance, atol=tolerance)
    for gradient in torch.autograd.grad(found.float().square().sum(), (q, k, v)):
        assert gradient.isfinite().all()
        assert (gradient[1] == 0).all()


def test_queries_behind_the_last_window_see_nothing() -> None:
    q, k, v = qkv(keys=S)
    found = run(Attention(True, window=2), q, k, v)
    assert (found[:, :, S + 1 :] == 0).all()
    assert (found[:, :, S] != 0).all()


def llama(x: torch.Tensor, base: float) -> torch.Tensor:
    """As transformers' Llama and GPT-NeoX have it."""
    d = x.shape[-1]
    inverse = 1.0 / base ** (torch.arange(0, d, 2).double() / d)
    angles = torch.outer(torch.arange(x.shape[-2]).double(), inverse)
    cos, sin = (torch.cat((f, f), -1) for f in (angles.cos(), angles.sin()))
    half = torch.cat((-x[..., d // 2 :], x[..., : d // 2]), -1)
    return x * cos + half * sin


def gptj(x: torch.Tensor, base: float) -> torch.Tensor:
    """As transformers' GPT-J has it."""
    d = x.shape[-1]
    inverse = 1.0 / base ** (torch.arange(0, d, 2).double() / d)
    angles = torch.outer(torch.arange(x.shape[-2]).double(), inverse)
    cos, sin = (f.repeat_interleave(2, -1) for f in (angles.cos(), angles.sin()))
    every_two = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cos + every_two * sin


@pytest.mark.parametrize(("interleaved", "rotate"), [(False, llama), (True, gptj)])
def test_rotations_are_those_of_transformers(interleaved: bool, rotate: Any) -> None:
    x = drawn(B, H, T, 16)
    found = run(RoPE(500, interleaved=interleaved), x)
    torch.testing.assert_close(found, rotate(x, 500), rtol=1e-12, atol=1e-12)
    part = run(RoPE(fraction=0.25, interleaved=interleaved), x)  # GPT-NeoX's, and Phi's
    torch.testing.assert_close(part[..., :4], rotate(x[..., :4], 10000), rtol=1e-12, atol=1e-12)
    assert (part[..., 4:] == x[..., 4:]).all()
    longer = torch.cat((drawn(B, H, 3, 16), x), -2)
    found = run(RoPE(offset=3, interleaved=interleaved), x)
    wanted = rotate(longer, 10000)[..., 3:, :]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    spread = torch.zeros(B, H, 4 * T, 16).double()
    spread[..., ::4, :] = x  # position t/4 of x is position t of it
    found = run(RoPE(scale=0.25, interleaved=interleaved), spread)
    slow = rotate(spread.double(), 10000**1.0)
    assert not torch.allclose(found, slow)
    every = run(RoPE(scale=4, interleaved=interleaved), x)
    torch.testing.assert_close(every, rotate(spread, 10000)[..., ::4, :], rtol=1e-12, atol=1e-12)


def test_whole_examples_are_dropped() -> None:
    x = torch.ones(4000, 2, 3)
    drop = Module(0.25)
    torch.manual_seed(0)
    y = drop.train()(x)
    assert sorted(set(y.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert (y.flatten(1).amin(1) == y.flatten(1).amax(1)).all()
    assert y.mean() == pytest.approx(1, abs=0.04)
    assert drop.eval()(x) is x
    assert DropPath(0.25).certified == pytest.approx(4 / 3)


GROUPED = """
param h = 4
input x: float[batch, seq, 16]
def heads(n) = SplitHeads(n) @ Linear(4 * n)
def attention = Linear(16) @ MergeHeads @ Attention(true, "1/sqrt(d)", window = 3) @ (q, k, v)
  where
    q = RoPE @ heads(h)
    k = RoPE @ heads(2)
    v = heads(2)
model M = ((1 - 1/4) * Identity + 1/4 * DropPath(0.1) @ attention @ RMSDivide) ** 2
"""


def test_a_model_of_them_is_what_it_says(tmp_path: Any) -> None:
    path = tmp_path / "m.mod"
    path.write_text(GROUPED)
    module = modnorm.load(path)
    model = module.M(dtype=torch.float64).eval()
    x = drawn(B, T, 16)
    weights = dict(model.named_parameters())

    def block(x: torch.Tensor, i: int) -> torch.Tensor:
        y = F.rms_norm(x, (16,), eps=1e-12)
        w = [p for name, p in weights.items() if f".{i}." in f".{name}"]
        q, k, v = (F.linear(y, m).unflatten(-1, (-1, 4)).transpose(1, 2) for m in w[:3])
        seen = torch.ones(T, T, dtype=torch.bool).tril().triu(-2)
        y = F.scaled_dot_product_attention(
            llama(q, 10000), llama(k, 10000), v, seen, enable_gqa=True
        )
        return 0.75 * x + 0.25 * F.linear(y.transpose(1, 2).flatten(2), w[3])

    torch.testing.assert_close(model(x), block(block(x, 0), 1), rtol=1e-12, atol=1e-12)


MASKED = """
input x: float[batch, seq, 8]
input pad: bool[batch, 1, 1, seq]
def head = SplitHeads(2) @ Linear(8) @ Select(0)
model M = MergeHeads @ Attention @ (head, head, head, Select(1))
"""


def test_an_input_may_be_a_mask(tmp_path: Any) -> None:
    path = tmp_path / "m.mod"
    path.write_text(MASKED)
    module = modnorm.load(path)
    assert [spec.dtype for spec in module.INPUTS] == ["float", "bool"]
    model = module.M(dtype=torch.float64)
    x, pad = drawn(B, T, 8), torch.ones(B, 1, 1, T, dtype=torch.bool)
    pad[..., 4:] = False
    found = model(x, pad)
    torch.testing.assert_close(found[:, :4], model(x[:, :4], pad[..., :4])[:, :4])
