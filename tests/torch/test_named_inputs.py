"""Inputs by their names: what a model computes, its targets, and what is computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from certified import Measured, case_of
from torch import Tensor

import modnorm
from modnorm.codegen.assemble import generate
from modnorm.pipeline import analyse_text


def loaded(text: str, tmp_path: Path) -> Any:
    path = tmp_path / "m.mod"
    path.write_text(text)
    module = modnorm.load(path)
    return getattr(module, module.MODEL)(dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ENCDEC = """
param d = 8
param h = 2
input src: int[batch, s] < 50
input tgt: int[batch, t] < 50
input pad: bool[batch, 1, 1, s]
def heads = SplitHeads(h) @ Linear(d)
def own(c) = 1/3 * Linear(d) @ MergeHeads @ Attention(c) @ (heads, heads, heads)
def cross = 1/3 * Linear(d) @ MergeHeads @ Attention @ (heads, heads @ memory, heads @ memory, pad)
def residual(f) = 1/2 * Identity + 1/2 * f
shared memory = Dropout(0.5) @ residual(own(false)) ** 2 @ Embed(50, d) @ src
model S = Linear(50) @ (residual(cross) @ residual(own(true))) ** 3 @ Embed(50, d) @ tgt
"""


def attention(w: list[Tensor], q: Tensor, kv: Tensor, **how: Any) -> Tensor:
    """As the text has it: logits over d, heads of 4."""
    q, k, v = (
        F.linear(x, m).unflatten(-1, (2, 4)).transpose(1, 2)
        for x, m in zip((q, kv, kv), w, strict=False)
    )
    y = F.scaled_dot_product_attention(q, k, v, scale=1 / 4, **how)
    return F.linear(y.transpose(1, 2).flatten(2), w[3]) / 3


def test_an_encoder_and_a_decoder_are_those_of_plain_torch(tmp_path: Path) -> None:
    model = loaded(ENCDEC, tmp_path).eval()
    w = dict(model.named_parameters())

    def of(start: str) -> list[Tensor]:
        return [p for name, p in w.items() if name.startswith(start)]

    src = torch.randint(50, (2, 5), generator=torch.Generator().manual_seed(1))
    tgt = torch.randint(50, (2, 4), generator=torch.Generator().manual_seed(2))
    pad = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    pad[1, ..., 3:] = False
    memory = F.embedding(src, w["memory.embed.weight"])
    for i in range(2):
        memory = (memory + attention(of(f"memory.residual.{i}."), memory, memory)) / 2
    x = F.embedding(tgt, w["embed.weight"])
    for i in range(3):
        x = (x + attention(of(f"{i}.residual."), x, x, is_causal=True)) / 2
        x = (x + attention(of(f"{i}.residual_1."), x, memory, attn_mask=pad)) / 2
    wanted = F.linear(x, w["linear.weight"])
    torch.testing.assert_close(model(src, tgt, pad), wanted, rtol=1e-12, atol=1e-12)


def test_a_shared_module_of_an_input_is_computed_once(tmp_path: Path) -> None:
    """It draws its random numbers once, too: 3 copies, that mention it twice, agree on them."""
    model = loaded(ENCDEC, tmp_path)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.memory.embed.register_forward_hook(count)
    model.memory.dropout.register_forward_hook(count)
    src = torch.randint(50, (2, 5))
    model.train()(src, src[:, :4], torch.ones(2, 1, 1, 5, dtype=torch.bool))
    assert calls == 2


NESTED = """
input x: float[batch, 4]
input y: float[batch, 4]
shared g = Tanh @ Linear(4) @ y
shared drop = Dropout(0.5)
def inner = 1/2 * Identity + 1/2 * Linear(4) @ g
def outer = 1/2 * inner ** 2 + 1/2 * (ReLU @ y + Linear(4) @ g)
model M = outer ** 3 @ x + drop @ x - drop @ x
"""


def test_what_is_common_leaves_all_repetitions(tmp_path: Path) -> None:
    source = generate(analyse_text(NESTED).program)
    assert source.count("self.g.linear(") == 1
    assert source.count("self.drop.dropout(x)") == 2  # shared, but not of an input: each use draws
    model = loaded(NESTED, tmp_path).eval()
    w = dict(model.named_parameters())
    x, y = drawn(3, 4), drawn(3, 4, seed=1)
    g, z = torch.tanh(F.linear(y, w["g.linear.weight"])), x
    for i in range(3):
        inside = z
        for j in range(2):
            own = w[f"outer.{i}.inner.{j}.linear.weight"]
            inside = inside / 2 + F.linear(g, own) / 2
        z = inside / 2 + (y.relu() + F.linear(g, w[f"outer.{i}.linear.weight"])) / 2
    torch.testing.assert_close(model(x, y), z, rtol=1e-12, atol=1e-12)


def test_targets_are_those_of_paths() -> None:
    """S of a weight is the sum over its paths; none leads through the name of an input."""
    text = """
input x: float[batch, 4]
model M = (2 * Identity + 3 * Linear(4) @ x) ** 2 @ Linear(4)
"""
    program = analyse_text(text).program
    first, copies = program.weights
    assert (first.downstream, first.target) == (4, pytest.approx(1 / 12))
    assert copies.downstream == 3  # of the last copy; twice that of the first
    assert program.sensitivity == 2 * 2 + 3 + 2 * 3


def test_the_certificate_counts_every_mention() -> None:
    text = """
input x: float[batch, 4]
input y: float[batch, 4]
def block = 1/2 * Identity + Linear(4) @ Tanh @ y
model M = block ** 3 @ Linear(4) @ Select(0)
"""
    case = case_of(text)
    bound = case.program.certificate.sensitivity  # type: ignore[union-attr]
    assert bound == pytest.approx(1 + 1 / 2 + 1 / 4)  # in y; in x it is 1/8
    assert Measured(case, 0).certificate.kappa is not None


@pytest.mark.parametrize("named", [True, False])
def test_a_residual_block_by_name_is_one_without(named: bool, tmp_path: Path) -> None:
    body = "1/2 * x + 1/2 * Linear(4) @ x" if named else "1/2 * Identity + 1/2 * Linear(4)"
    text = f"input x: float[batch, 4]\nmodel M = {body}\n"
    program = analyse_text(text).program
    assert (program.sensitivity, program.certificate.sensitivity) == (1, 1)  # type: ignore[union-attr]
    assert program.weights[0].target == 2
    model, x = loaded(text, tmp_path), drawn(3, 4)
    torch.testing.assert_close(model(x), x / 2 + F.linear(x, model.linear.weight) / 2)


MASKED = """
input x: float[batch, n, 12]
input pad: bool[batch, 1, 1, n]
input bias: float[n, n]
def h = SplitHeads(3) @ Linear(12)
def of(f) = Linear(12) @ MergeHeads @ f
model M = of(ATTEND) ** 2 @ x
"""


@pytest.mark.parametrize(
    ("named", "beside", "how"),
    [
        ("Attention(mask = pad) @ (h, h, h)", "Attention @ (h, h, h, pad)", "pad"),
        ("Attention(true, mask = pad) @ (h, h, h)", "Attention(true) @ (h, h, h, pad)", "causal"),
        ("Attention(mask = bias) @ (h, h, h)", "Attention @ (h, h, h, bias)", "bias"),
        (
            "Attention(mask = Tanh @ bias * 2) / 3 @ (h, h, h)",
            "Attention @ (1/3 * h, 1/3 * h, 1/3 * h, 2 * Tanh @ bias)",
            "",
        ),
        (
            "Attention(mask = MatMul @ (Select(0), Transpose @ Select(1))) @ (h, h, h)",
            "Attention @ (Select(0), Select(1), Select(2), MatMul @ (Select(0), Transpose @"
            " Select(1))) @ (h, h, h)",
            "own",
        ),
    ],
)
def test_a_mask_by_name_is_a_fourth_value(
    named: str, beside: str, how: str, tmp_path: Path
) -> None:
    model = loaded(MASKED.replace("ATTEND", named), tmp_path)
    other = loaded(MASKED.replace("ATTEND", beside), tmp_path)
    other.load_state_dict(model.state_dict())
    x, bias = drawn(2, 5, 12), drawn(5, 5, seed=1)
    pad = torch.arange(5) < torch.tensor([[3], [5]])
    found = model(x, pad[:, None, None], bias)
    torch.testing.assert_close(found, other(x, pad[:, None, None], bias), rtol=1e-12, atol=1e-12)
    one, two = (analyse_text(MASKED.replace("ATTEND", t), "m.mod").program for t in (named, beside))
    if how != "own":  # q and k enter a mask of their own by way of the tuple
        assert [w.target for w in one.weights] == [w.target for w in two.weights]
    weights = list(model.parameters())
    for q, k, v, out in (weights[:4], weights[4:]) if how in ("pad", "causal", "bias") else ():
        q, k, v = (F.linear(x, w).unflatten(-1, (3, 4)).transpose(1, 2) for w in (q, k, v))
        seen = {
            "pad": pad[:, None, None],
            "causal": pad[:, None, None] & torch.ones(5, 5, dtype=torch.bool).tril(),
            "bias": bias,
        }[how]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1 / 4)
        x = F.linear(y.transpose(1, 2).flatten(2), out)
    if how in ("pad", "causal", "bias"):
        torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
