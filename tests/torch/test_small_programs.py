"""Small programs, each of which is difficult in its own way: all that holds for random ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import check_function, check_plan, check_steps, check_targets
from pythonic import Text, read

import modnorm
from modnorm.codegen.assemble import generate
from modnorm.pipeline import analyse_text

VECTOR = "input x: float[batch, 4]\n"
SEQUENCE = "input x: float[batch, seq, 4]\n"
PROGRAMS = {
    "loops without weights, one after the other": VECTOR
    + "model M = (Tanh ** 2) >> Linear(4) >> (Tanh ** 2) >> (Tanh ** 3)",
    "a loop in which nothing happens": VECTOR
    + "model M = Linear(4) @ compose(1 * Identity for i in range(4))",
    "a loop beside values that live on": VECTOR
    + "model M = Linear(4) + ((Tanh + Abs @ (Tanh - ReLU)) ** 3) - Identity",
    "loops in loops without weights": SEQUENCE
    + "model M = ((Tanh + RoPE ** 2) ** 2 - 1/2 * Identity) ** 2 @ Linear(4)",
    "shared weights in a loop without weights of its own": VECTOR
    + "shared s = Bias\nshared t = Add @ (tare(Scale, 1/3), s ** 3)\nmodel M = t @ t",
    "shared weights first used in a loop": VECTOR
    + "shared s = Linear(4)\nmodel M = (Linear(4) @ (s + 1/2 * s)) ** 3 @ (s ** 2)",
    "a shared loop in a loop": VECTOR
    + "shared s = Linear(4) >> Linear(4) ** 2\nmodel M = (Linear(4) + 1/2 * s) ** 2 @ s",
    "a shared loop that is called x": VECTOR.replace("x:", "y:")
    + "shared x = Linear(4) ** 2\nmodel M = (Linear(4) + 1/2 * x) ** 2 @ x",
    "names that become one with underscores": VECTOR
    + "def b_c = Linear(4)\ndef c = Linear(4)\nshared a = b_c\nshared a_b = c\n"
    "model M = (a >> a_b >> Linear(4)) ** 2",
    "an input named like a loop variable": VECTOR.replace("x:", "i:")
    + "def block = Linear(4) ** 2\nmodel M = (Linear(4) ** 2 + block) @ (Linear(4) ** 2) + Tanh",
    "a shared vector along different axes": "input x: float[batch, 4, 6, 6]\n"
    "shared b = Bias\nmodel M = b @ Flatten @ AdaptiveAvgPool @ b @ Conv2D(4)",
    "a shared loop along different axes": "input x: float[batch, 4, 6, 6]\n"
    "shared c = Bias ** 2\nshared b = (c >> Bias >> c >> Tanh) ** 2\n"
    "model M = (b @ Linear(4)) ** 2 @ b @ Flatten @ AdaptiveAvgPool @ b",
    "shared loops of several kinds of copies": SEQUENCE
    + "shared b = compose((Linear(4) if i == 1 else (i + 1) * Linear(4)) >> Scale"
    " for i in range(4))\nmodel M = (b + Identity) ** 2 @ Linear(4) @ b",
    "tuples in tuples": VECTOR + "input y: float[batch, 3]\n"
    "model M = ((-(Identity, (Select(1), -Identity)) >> (Select(1), Select(0)) >> 2 * Identity"
    " >> (Select(1), Select(0))) @ ((-Identity >> (Linear(4) @ Select(0), Select(1))) ** 1))"
    " >> ((3 * Identity) ** 2)",
    "a loop over tuples": VECTOR + "input y: float[batch, 3]\n"
    "model M = ((Linear(4) @ Select(0), -(Linear(3) @ Select(1))) ** 2) >> (Select(1), Select(0))",
    "a member that nobody takes": VECTOR
    + "model M = Linear(4) @ Select(0) @ (Tanh, Linear(7) @ Linear(5)) + Select(1) @ (Bias, Abs)",
    "attention whose logits change sign": SEQUENCE + "def heads = SplitHeads(2)\n"
    "model M = MergeHeads @ Attention(true) @ (-heads @ Linear(4), heads, 1/2 * heads)"
    " + MergeHeads @ Attention(true, 0) @ (heads, heads, heads)"
    " + MergeHeads @ Attention(true, -2) @ (heads, heads, heads)"
    " - MergeHeads @ Attention(scale = -1) @ (heads, heads, heads)",
    "heads split and merged": SEQUENCE
    + "model M = Linear(4) @ MergeHeads @ SplitHeads(2) @ (MergeHeads >> SplitHeads(2)) ** 2"
    " @ SplitHeads(2) >> MergeHeads",
    "factors that cancel": VECTOR
    + "model M = (1/2 * Linear(4) @ (2 * Abs @ (-3 * Linear(4))) / 3) * -1 + (2 * (1/2 * Tanh))",
    "negative factors before what is not linear": VECTOR
    + "def f(g) = 1/2 * Linear(4) @ g @ (-3 * Linear(4))\n"
    "model M = f(Abs) + f(ReLU) + f(Tanh) + f(GELU) + f(SiLU) + f(Bias) + f(Scale) + f(Softmax)"
    " + f(MeanSubtract) + f(RMSDivide(eps = 0.1))",
    "factors on both sides of a normalisation": VECTOR
    + "model M = 3 * RMSDivide(eps = 0.01) @ (-1/2 * Linear(4)) / 7 + RMSDivide(eps = 1/4) * -2",
    "a tied readout in a loop": "input x: int[batch, seq] < 5\n"
    "shared e = tare(Embed(5, 4), 2)\n"
    "model M = Unembed(e) @ (Linear(4) @ (Unembed(e) >> Softmax >> Linear(4))) ** 2 @ e",
    "modules as arguments": VECTOR + "def twice(f, n = 2) = (1 - 1/n) * f + 1/n * (f @ f)\n"
    "model M = twice(twice(Linear(4), 3)) @ twice(f = Bias, n = 4)",
    "no weights at all": VECTOR + "model M = (Tanh, -Abs) >> Add",
    "copies of which the first takes another size": VECTOR
    + "def f = Tanh @ Linear(3)\nmodel M = Linear(4) @ (f ** 3) ** 2 @ (Bias @ Linear(6)) ** 3",
    "a shared weight in copies of which the first takes another size": VECTOR
    + "shared s = Linear(3)\nmodel M = (1/2 * s @ Linear(3) @ Linear(5)) ** 3",
    "products of modules": VECTOR
    + "model M = -Linear(4) * (2 * Tanh @ Linear(4)) * Bias @ (1/3 * Tanh * Linear(4)) ** 2",
    "a token of its own before others": SEQUENCE + "shared token = Parameter(1, 4, mass = 2)\n"
    "model M = Linear(3) @ Squeeze(1) @ Slice(0, 1, 1) @ (Linear(4) + Parameter(1, 4)) ** 2"
    " @ Concat(1) @ (token, Linear(4), token)",
    "weights beside what ignores its input": VECTOR
    + 'model M = (Parameter(4) + 1/2 * Linear(4)) ** 3 @ (2 * Parameter(init = "one")'
    " * Linear(4)) @ (Parameter(2, 2, 4) >> Mean((1, 2))) ** 1",
    "axes that are mixed in turn": "input x: float[batch, 6, 4]\n"
    "def mix(n) = Transpose @ Linear(n) @ Tanh @ Transpose\n"
    "model M = Reshape(-1) @ ((1/2 * Identity + 1/2 * mix(6)) @ Linear(4)) ** 2",
    "pieces that are joined anew": SEQUENCE
    + "model M = Stack(2) @ (Select(1), -Select(0)) @ (1/2 * Split(2)) @ Concat @ (Linear(4),"
    " 2 * Slice(1, 3)) + Parameter(1, 2, 3, mass = 1/2)",
    "a gate over all places": SEQUENCE
    + "model M = Linear(4) * (Sigmoid @ Linear(4) @ Mean(1, keepdim = true)) * Softcap(2)",
    "a scan in a scan": "input x: float[batch, 2, seq, 4]\nshared s = Linear(3, 3)\n"
    "def inner = Scan(1/2 * (s @ Select(0)) + 1/3 * (Linear(3, 3) @ Select(1)))\n"
    "model M = Last @ Scan(Tanh @ (inner @ Select(0) + 1/2 * (s @ Linear(3) @ Select(1))), 1/2)",
    "two states along two sequences": SEQUENCE
    + "def cell = (1/3 * (Select(0) @ Select(0)) + Linear(3) @ Select(1) @ Select(1), "
    "1/3 * (Tanh @ Select(1) @ Select(0)) + 1/5 * (Linear(2) @ Select(0) @ Select(1)))\n"
    "model M = Linear(2) @ Select(1) @ Scan(cell) @ (Linear(2), Linear(6))",
    "a scan in a loop, and a loop in its cell": SEQUENCE
    + "def cell = Lerp @ (Select(1), (Tanh @ Linear(4)) ** 2 @ Select(0), Sigmoid @ Select(1))\n"
    "model M = (Identity + 1/2 * Scan(cell, carry = 3/4)) ** 2",
    "an input by its name in a cell": SEQUENCE + "input c: float[batch, 4]\n"
    "def cell = 1/3 * (Linear(4) @ Select(0)) + (assume sensitivity 2: Linear(4) + c) @ Select(1)\n"
    "model M = Last @ Scan(cell) @ Linear(4) @ x",
    "members by their names": VECTOR
    + 'def pair = (mean = Linear(3), logvar = Linear(3) @ Tanh)\ndef take(n) = Select("mean") @ n\n'
    'model M = (Select("logvar") - take(Identity) * (1 + Select("mean"))) @ pair @ take(pair)',
    "assumptions in a loop and of a shared weight": VECTOR
    + "shared s = (assume sensitivity 3: Linear(4) @ Tanh)\n"
    "model M = s @ (assume sensitivity 1/2: (assume sensitivity 2: s + Linear(4)) ** 2) ** 2 + s",
    "constants in sums": VECTOR
    + "model M = Linear(4) @ (1 - Tanh @ (2 * (Linear(4) - 1/2))) ** 2 - (0.3 + Linear(4) * -2)",
    "a formula for a range": VECTOR + "bond Half(x) = x ** 2 / 2 on [-1, 1] sensitivity 1\n"
    "model M = Half @ Tanh @ Linear(4)",
    "frozen weights": VECTOR
    + "model M = Linear(4) @ tare(Linear(4) ** 2, 0) @ Linear(4, mass = 0)",
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("check", [check_targets, check_function, check_plan, check_steps])
def test_program(name: str, check: Callable[[Text], None]) -> None:
    check(read(PROGRAMS[name]))


def test_what_nobody_takes_is_not_computed() -> None:
    source = generate(analyse_text(PROGRAMS["a member that nobody takes"]).program)
    model = source[source.index("class M(nn.Module):") : source.index("- Optimizers -")]
    made, computed = model.split("def forward")
    assert re.findall(r"self\.(\w+) = ", made) == ["linear", "linear_1", "linear_2", "bias"]
    assert re.findall(r"self\.(\w+)\(", computed) == ["linear_2"]


@pytest.mark.parametrize("value", ['a"""b', "\\", "\n", "\x00", "\u2028", "'", "#"])
def test_any_string_may_be_a_param(value: str, tmp_path: Path) -> None:
    path = tmp_path / "m.mod"
    path.write_text('param s = "x"\n' + VECTOR + 'model M = Linear(4 if s == "x" else 5)\n')
    module = modnorm.load(path, s=value)
    assert module.PLAN[0].shape == (5, 4)
    assert module.__doc__ is not None
