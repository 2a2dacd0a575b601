"""Warnings about axes stay away from models that mean what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modnorm.pipeline import ANALYSIS, analyse, analyse_text

ROOT = Path(__file__).resolve().parents[2]
AXES = {"W606", "W607", "W608", "W609", "W610"}
IMAGES = "input x: float[batch, 3, 32, 32]"
LIBRARY = [
    f"{IMAGES}\nimport std.modula\nmodel M = modula.ResCNN(8, 2, 2, 3, 10)",
    f"{IMAGES}\nimport std.modula\nmodel M = modula.ResMLP(8, 2, 2, 3072, 10)",
    "input t: int[b, s] < 9\nimport std.modula\nmodel M = modula.GPT(9, 8, 2, 8, 4, 4, 2)",
    f"{IMAGES}\nimport std.nn\nmodel M = nn.mlp(64, 3, 10) @ Linear(64) @ Flatten",
    "input t: int[b, s] < 9\nimport std.transformer\n"
    "model M = transformer.block(8, 2, 1) @ transformer.embedding(9, 8, 8)",
    f"{IMAGES}\nmodel M = Conv2D(3) @ Bias @ MaxPool(3, 2, 1) @ Conv2D(4)",
    f"{IMAGES}\nmodel M = Transpose @ Flatten(2) @ Conv2D(4)",
    f"{IMAGES}\nmodel M = Transpose(1, 3) @ Conv2D(4)",
    "input x: float[batch, heads, seq, 8]\nmodel M = Linear(4) @ RMSDivide",
]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.mod")), ids=lambda p: p.name)
def test_examples_get_none(path: Path) -> None:
    assert not AXES & {d.code for d in analyse(path, passes=ANALYSIS).diagnostics}


@pytest.mark.parametrize("text", LIBRARY)
def test_the_library_and_images_as_outputs_get_none(text: str) -> None:
    assert not AXES & {d.code for d in analyse_text(text, passes=ANALYSIS).diagnostics}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_pages_show_none_but_by_their_titles(page: Path) -> None:
    said = re.findall(r"warning\[(W\d+)\]", page.read_text(encoding="utf-8"))
    assert not AXES & set(said)
