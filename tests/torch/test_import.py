"""`modnorm.import_model`: what is written compiles to a model that gives the same outputs."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional as F

import modnorm
from modnorm.cli import cli


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 40), nn.GELU(approximate="tanh"), nn.Linear(40, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class LanguageModel(nn.Module):
    """Its head is its table, its queries, keys and values stand head by head in one weight."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.wte = nn.Embedding(31, width)
        self.blocks = nn.ModuleList(Block(width, 3) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 31, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Any:
        x = self.wte(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.GroupNorm(2, 8), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


CASES: dict[str, tuple[Any, Any]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 4)),
        lambda: torch.randn(3, 8),
    ),
    "language": (LanguageModel, lambda: torch.randint(31, (2, 7))),
    "images": (convolutions, lambda: torch.randn(2, 3, 16, 16)),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True),
        lambda: torch.randn(2, 5, 16),
    ),
}


def moved(build: Any) -> nn.Module:
    """A model none of whose weights is as it began."""
    torch.manual_seed(0)
    model: nn.Module = build()
    with torch.no_grad():
        for x in (*model.parameters(), *model.buffers()):
            if x.is_floating_point():
                x.add_(0.1 * torch.rand_like(x))
    return model


@pytest.mark.parametrize("name", CASES)
def test_outputs(name: str) -> None:
    build, example = CASES[name]
    model, x = moved(build), example()
    text = modnorm.import_model(model, x, name="Net")
    assert model.training
    module = modnorm.load(text)
    other = module.Net()
    other.load_checkpoint(model.state_dict())
    found, wanted = other.eval()(x), model.eval()(x)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_plan_is_that_of_adopting() -> None:
    """Each logical weight has the norm and the shape that adopting finds, once."""
    model, tokens = moved(LanguageModel), torch.randint(31, (2, 7))
    adopted = modnorm.adopt(model, tokens, plan_only=True)
    compiled = modnorm.load(modnorm.import_model(model, tokens, name="Net")).PLAN
    assert sorted((w.norm, w.shape) for w in compiled) == sorted((w.norm, w.shape) for w in adopted)


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)


def test_what_has_no_words_is_listed_with_its_place() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Odd(), nn.Linear(4, 4), Odd())
    with pytest.raises(modnorm.ImportFailed, match="no words in the language") as caught:
        modnorm.import_model(model, torch.randn(2, 4))
    assert [part.module for part in caught.value.parts] == ["1", "3"]
    assert "cumsum" in caught.value.parts[0].what
    assert "test_import.py" in caught.value.parts[0].place


def test_checkpoints_that_do_not_fit() -> None:
    model, tokens = moved(LanguageModel), torch.randint(31, (2, 7))
    other = modnorm.load(modnorm.import_model(model, tokens, name="Net")).Net()
    before = {name: x.clone() for name, x in other.state_dict().items()}
    state = model.state_dict()
    missing = {name: x for name, x in state.items() if name != "blocks.1.attention.qkv.weight"}
    with pytest.raises(KeyError, match=r"no blocks\.1\.attention\.qkv\.weight, of which .*\.q\."):
        other.load_checkpoint(missing)
    with pytest.raises(ValueError, match="no weight of the model is made of more"):
        other.load_checkpoint(state | {"more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"norm\.LayerNorm\.bias\.weight has the shape \(24,\)"):
        other.load_checkpoint(state | {"norm.bias": torch.zeros(5)})
    assert all(torch.equal(x, before[name]) for name, x in other.state_dict().items())


def test_a_shape_that_means_something_else_is_refused() -> None:
    text = 'input x: float[batch, 1]\nmodel Net = Linear(8)\nrename "linear.weight" = "w"\n'
    net = modnorm.load(text).Net()
    net.load_checkpoint({"w": torch.ones(8, 1)})
    net.load_checkpoint({"w": torch.ones(8)})
    with pytest.raises(ValueError, match=r"the shape \(8, 1\), but the checkpoint has \(1, 8\)"):
        net.load_checkpoint({"w": torch.zeros(1, 8)})
    turned = modnorm.load(text.replace('"w"', 'transposed("w")')).Net()
    turned.load_checkpoint({"w": torch.ones(1, 8)})
    with pytest.raises(ValueError, match=r"made of a transposed tensor of shape \(8,\)"):
        turned.load_checkpoint({"w": torch.zeros(8)})
    assert torch.equal(net.linear.weight, turned.linear.weight)


class Chance(nn.Module):
    """Attention with dropout inside of it, and a frozen table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.table.weight.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Any:
        x = self.table(tokens)
        return self.attention(x, x, x, need_weights=False)[0]


def test_chance_inside_of_attention_is_said_to_be_left_out() -> None:
    text = modnorm.import_model(Chance(), torch.randint(9, (2, 5)))
    assert text.startswith("# Left out: what is drawn by chance in training in attention.\n")
    layers = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2))
    text = modnorm.import_model(layers, torch.randn(2, 4))
    assert "# Left out" not in text
    assert "Dropout(1/5)" in text


def test_frozen_weights_stay_frozen() -> None:
    plan = modnorm.load(modnorm.import_model(Chance(), torch.randint(9, (2, 5)))).PLAN
    assert [w.atom for w in plan if not w.target] == ["Embed"]


def test_another_length() -> None:
    """A length of the example is no part of what is written."""
    model = moved(LanguageModel).eval()
    text = modnorm.import_model(model, torch.randint(31, (2, 7)), name="Net")
    other = modnorm.load(text).Net().eval()
    other.load_checkpoint(model.state_dict())
    tokens = torch.randint(31, (3, 5))
    assert (other(tokens) - model(tokens)).abs().max() <= 1e-5 * model(tokens).abs().max()


def test_example_that_shows_nothing_of_a_weight_norm() -> None:
    """What equals its parameter at the beginning only is not taken for it."""
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    with pytest.raises(modnorm.ImportFailed, match="as a weight norm is"):
        modnorm.import_model(model, torch.randn(2, 4))


OWN = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

class Sum(nn.Module):
    def forward(self, x):
        return x.cumsum(-1)

def sums():
    return nn.Sequential(nn.Linear(8, 8), Sum())

def batch():
    return torch.randn(3, 8)

def wide():
    return torch.randn(3, 9)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_import", raising=False)
    (tmp_path / "own_import.py").write_text(OWN)
    (tmp_path / "odd.json").write_text('{"model_type": "gpt2", "architectures": ["pipeline"]}')
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, ["import", *words])


def test_command(folder: Path) -> None:
    words = ("own_import:model", "--example", "own_import:batch", "-o", "own.mod")
    for _ in range(2):  # what it has written may be written over
        done = run(*words)
        assert done.exit_code == 0, done.output
    assert len(modnorm.load("own.mod").PLAN) == 4
    (folder / "own.mod").write_text("# mine\n")
    assert run(*words).exit_code == 1
    assert (folder / "own.mod").read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("own_import:sums", "--example", "own_import:batch"), "  1 (own_import.py:10): cumsum"),
        (("own_import:model",), "give --example MODULE:FUNCTION"),
        (
            ("own_import:model", "--example", "own_import:wide"),
            "the model, called with the example, raised RuntimeError: ",
        ),
        (("hf:none.json",), "none.json is no configuration"),
        pytest.param(
            ("hf:odd.json",),
            "odd.json names no model of transformers in `architectures`",
            marks=pytest.mark.skipif(not find_spec("transformers"), reason="needs transformers"),
        ),
        (("own_import:batch", "--example", "own_import:batch"), "which is no torch.nn.Module"),
    ],
)
def test_command_refuses(folder: Path, words: tuple[str, ...], said: str) -> None:
    done = run(*words, "-o", "out.mod")
    assert done.exit_code == 1
    assert said in done.output
    assert not (folder / "out.mod").exists()
