"""Programs for the tests of the command line and the reports, and golden files.

`MODNORM_GOLDEN=1 pytest tests/pure` writes the golden files anew.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from modnorm.pipeline import Analysis, analyse_text
from modnorm.report import formats

GOLDEN = Path(__file__).parent / "golden"

GPT = """\
param d_embed = 128  param heads = 4
param blocks = 4
param blocks_mass = 5
param vocab = 65
param context = 64
input tokens: int[batch, seq] < vocab
def norm = RMSDivide @ MeanSubtract
def residual(f, n) = (1 - 1/n) * Identity + 1/n * f
def split(d) = Linear(d) >> SplitHeads(heads)
def attention(d) = Linear(d) @ MergeHeads @ Attention(causal = true) * 1/3 @ (q, k, v) @ norm
  where q = split(d)  k = split(d)
        v = split(d)
def mlp(d, expansion = 4) = Linear(d) @ (sqrt(2) * GELU) @ Linear(expansion * d) @ norm
def block(d) = residual(mlp(d), 2 * blocks) @ residual(attention(d), 2 * blocks)
model GPT = Linear(vocab) @ norm @ body @ embed
  where embed = tare(1/2 * token + 1/2 * position, 1)
        token = Embed(vocab, d_embed)
        position = Embed(context, d_embed) @ Enumerate
        body = tare(block(d_embed) ** blocks, blocks_mass)
"""

MLP = """\
input x: float[batch, 20]
model MLP = Linear(10, 100) @ ReLU @ Linear(100, 100) @ ReLU @ Linear(100, 20)
"""

RESMLP = """\
param num_blocks = 3
param block_depth = 2
input x: float[batch, 5]
def residue = MeanSubtract @ Abs @ Linear(8, 8) @ RMSDivide
def block = (1 - 1/num_blocks) * Identity + 1/num_blocks * residue ** block_depth
model ResMLP = Linear(4, 8) @ tare(block ** num_blocks, 1) @ Linear(8, 5) @ Flatten
"""

RESCNN = """\
param num_blocks = 4
input images: float[batch, 3, 12, 12]
def residue = MeanSubtract((1, 2, 3)) @ Abs @ Conv2D(8, 8) @ RMSDivide((1, 2, 3))
def block = (1 - 1/num_blocks) * Identity + 1/num_blocks * residue ** 2
model ResCNN = Linear(10, 8) @ Flatten @ AdaptiveAvgPool
             @ tare(block ** num_blocks, 20) @ Conv2D(8, 3)
"""

ODD = """\
param n = 3
input x: float[batch, 16]
shared cell = Linear(16)
def f(i) = Linear(16 * (i + 1)) >> Linear(16)
def blk = Linear(16) >> (2 * ReLU)
def deep = (blk >> (Identity + 1/2 * Linear(16))) ** n
model M = tare(cell ** 4 >> cell, 2)
       >> compose(f(0) if i < 2 else f(i) for i in range(4))
       >> deep
       >> (Linear(16) >> 1/2 * ReLU) ** 5
       >> Linear(16, mass = 0)
       >> tare(tare(blk ** 3, 1/2) >> Scale, 4)
       >> Linear(10)
"""

TIED = """\
input tokens: int[batch, seq] < 11
shared embed = Embed(11, 8)
def head = 1/2 * Unembed(embed)
model Tied = head @ Tanh @ Linear(8) @ tare(embed, 3)
"""

BROKEN = """\
input x: float[batch, 20]
model Broken = Linear(10, 99) @ ReLU @ Linear(100, 21)
"""

SECOND = 1 / math.sqrt(2)

ORACLES: dict[str, tuple[str, float, float, list[float]]] = {
    "MLP": (MLP, 3, 1 / 2, [2 / 3, 2 / 3 * SECOND, 1 / 3]),
    "ResMLP": (RESMLP, 3, 1, [1 / 3, *[1 / 6] * 6, 1 / 3]),
    "ResCNN": (RESCNN, 22, 1, [1 / 22, *[5 / 11] * 8, 1 / 22]),
    "GPT": (GPT, 7, 1, [1 / 7, 1 / 7, *[5 / 7, 5 / 7, 5 / 7, 5 / 21, 5 / 21, 5 / 21] * 4, 1 / 7]),
}
"""Program, mass, sensitivity and targets in execution order, as in modula's PyTorch release."""


def analysed(text: str, name: str = "model.mod", **params: object) -> Analysis:
    return analyse_text(text, name, params)


def as_text(analysis: Analysis, **look: Any) -> str:
    """The report as a terminal of 80 columns, or as `look` says, shows it."""
    return formats.render(analysis, "text", **look)


def check_golden(name: str, text: str) -> None:
    """Compare a text with the golden file of that name, to the letter."""
    path = GOLDEN / name
    if os.environ.get("MODNORM_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
