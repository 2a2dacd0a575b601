"""What operations take and give: arguments, shapes, and what does not fit."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
from op_types import B, H, T, W, b, bare, f, i, tup

from modnorm.ops.attention import Attention
from modnorm.ops.axes import Flatten, Reshape, Squeeze, Transpose, Unsqueeze
from modnorm.ops.base import Atom, Bond, Misfit, Op, Reader
from modnorm.ops.conv import Conv1D, Conv2D, ConvTranspose1D, ConvTranspose2D
from modnorm.ops.effects import BatchMeanSubtract, BatchStandardize, Dropout, DropPath
from modnorm.ops.elementwise import Abs, LogSoftmax, ReLU, Sigmoid, Softcap, Softmax
from modnorm.ops.embed import Embed, Unembed
from modnorm.ops.fused import Fused
from modnorm.ops.headed import HeadedLinear
from modnorm.ops.joins import Add, Select, WeightedSum
from modnorm.ops.last import Last
from modnorm.ops.linear import Linear, Readout
from modnorm.ops.normalize import GroupStandardize, MeanSubtract, RMSDivide
from modnorm.ops.parameter import Parameter
from modnorm.ops.pieces import Concat, Slice, Split, Stack
from modnorm.ops.pooling import AdaptiveAvgPool, AvgPool, MaxPool, Mean, Upsample
from modnorm.ops.product import Lerp, MatMul, Product
from modnorm.ops.registry import builtin, find, names
from modnorm.ops.reshape import Enumerate, MergeHeads, SplitHeads
from modnorm.ops.rope import RoPE
from modnorm.ops.scalars import Identity, Mul
from modnorm.ops.types import Symbol, Type
from modnorm.ops.vectors import Bias, Scale

OPS = list(builtin().values())
every_op = pytest.mark.parametrize("cls", OPS, ids=lambda cls: cls.name)

# -- every operation ------------------------------------------------------------------------


@every_op
def test_every_operation_is_declared_completely(cls: type[Op]) -> None:
    assert cls.doc().endswith("."), cls.doc()
    assert cls.name == cls.__name__
    assert dataclasses.is_dataclass(cls)
    assert issubclass(cls, Atom | Bond | Reader | Fused)
    assert not cls.__abstractmethods__
    assert hash(cls(**required(cls))) == hash(cls(**required(cls)))
    assert cls.signature().startswith(cls.name)


@every_op
def test_every_operation_gives_its_values(cls: type[Op]) -> None:
    op = cls(**required(cls))
    assert op.sensitivity > 0 or op.certified == 0
    assert isinstance(op.certified, str) or op.certified >= 0
    assert op.certified != ""
    if op.sharpness is not None:
        assert min(dataclasses.astuple(op.sharpness)) >= 0
    if isinstance(op, Atom):
        assert op.mass == 1
        assert (op.norm.name, op.norm.formula, op.init, op.axes) > ("", "", "", ())
        assert all(map(str.isidentifier, op.axes))


def required(cls: type[Op]) -> dict[str, Any]:
    """Values for the arguments that must be given."""
    samples = {"size": 4, "index": 1, "number": 3, "axes": 1, "embed": "e", "flag": True, "pick": 1}
    samples |= {"sizes": (-1,), "integer": 1, "axis": 1, "window": 2, "module": None}
    values: dict[str, Any] = {a.field: samples[a.kind] for a in cls.arguments() if a.required}
    return values | ({"coefficients": (1, 2)} if cls is WeightedSum else {})


WRONG: list[Type] = [
    f(),
    f(4),
    i(2, 3),
    i(2, 3, bound=99),
    tup(),
    tup(f(2), f(3)),
    f(T),
    f(B, T),
    tup(i(2, 3), i(2, 3)),
    tup(tup(f(2, 2)), f(2)),
    f(2, 3, 4, 5, 6),
    i(),
]


@every_op
@pytest.mark.parametrize("type", WRONG, ids=str)
def test_a_wrong_input_is_a_misfit_or_none(cls: type[Op], type: Type) -> None:
    """Whatever comes in, `resolve` answers or raises Misfit, naming the operation."""
    written = cls(**required(cls))
    try:
        op, _ = written.resolve(type)
    except Misfit as error:
        misfit = error
    else:
        assert op.resolve(type)[0] == op
        return
    assert cls is WeightedSum or f"`{written.label}`" in misfit.message
    assert misfit.code in ("E401", "E402", "E305", "E306")
    assert misfit.argument in {"", *(a.name for a in cls.arguments())}


def test_names_and_signatures() -> None:
    assert find("LayerNorm") is None
    assert find("WeightedSum") is None
    assert find("Linear") is Linear
    assert {
        "Linear", "Conv2D", "Embed", "Unembed", "Bias", "Scale", "Identity", "Add", "Mul", "Select",
        "Flatten", "SplitHeads", "MergeHeads", "Enumerate", "Abs", "ReLU", "GELU", "SiLU", "Tanh",
        "Softmax", "MeanSubtract", "RMSDivide", "Mean", "AvgPool", "AdaptiveAvgPool", "Attention",
        "RoPE", "HeadedLinear", "Readout", "MaxPool", "Product", "Dropout", "BatchMeanSubtract",
        "DropPath", "QKV", "Concat", "Stack", "Slice", "Split", "Transpose", "Reshape", "Squeeze",
        "Unsqueeze", "Parameter", "MatMul", "Sigmoid", "Softplus", "Exp", "ReLU2", "Softcap",
        "LogSoftmax", "Conv1D", "ConvTranspose1D", "ConvTranspose2D", "Upsample",
        "GroupStandardize", "BatchStandardize", "Last", "Lerp", "Experts", "Aggregate",
        "EmbeddingBag", "Shift",
    } == set(names())  # fmt: skip
    assert Linear.signature() == 'Linear(out, in, mass = 1, norm = "spectral")'
    sizes = "(out, in, kernel = 3, stride = 1, padding = 1"
    assert Conv2D.signature() == f"Conv2D{sizes}, dilation = 1, groups = 1, mass = 1)"
    assert ConvTranspose2D.signature() == f"ConvTranspose2D{sizes}, output_padding = 0, mass = 1)"
    assert Upsample.signature() == "Upsample(factor)"
    assert RMSDivide.signature() == "RMSDivide(dim = -1, eps = 1e-12)"
    shown = "causal = false, scale = 1, window = …, softcap = …, alibi = false, mask = …"
    assert Attention.signature() == f"Attention({shown})"
    assert Dropout.signature() == "Dropout(p = 0.5)"
    assert BatchMeanSubtract.signature() == "BatchMeanSubtract(size, momentum = 0.1)"
    assert ReLU.signature() == "ReLU"
    assert Slice.signature() == "Slice(start, end = …, dim = -1)"
    assert Reshape.signature() == "Reshape(sizes…)"
    assert Parameter.signature() == 'Parameter(sizes…, mass = 1, init = "normal")'


def test_the_operations_do_not_import_torch() -> None:
    code = (
        "import sys, modnorm.ops, modnorm.ops.formula; print({'torch', 'numpy'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# -- shapes ---------------------------------------------------------------------------------

SHAPES: list[tuple[Op, Type, Type]] = [
    (Linear(8), f(B, 5), f(B, 8)),
    (Linear(8, 5), f(B, T, 5), f(B, T, 8)),
    (Linear(8), f(5), f(8)),
    (Linear(8, norm_="row"), f(B, T, 5), f(B, T, 8)),
    (Readout(8, 5), f(B, T, 5), f(B, T, 8)),
    (HeadedLinear(8, 2), f(B, T, 5), f(B, 2, T, 4)),
    (HeadedLinear(8, 8, 5), f(T, 5), f(8, T, 1)),
    (HeadedLinear(6, 1), f(2, 3, T, 5), f(2, 3, 1, T, 6)),
    (Conv2D(8), f(B, 3, 32, 32), f(B, 8, 32, 32)),
    (Conv2D(8, 3, 5, 2, 1), f(B, 3, 32, 17), f(B, 8, 15, 8)),
    (Conv2D(8), f(B, 3, H, W), f(B, 8, H, W)),
    (Conv2D(8, padding=0), f(B, 3, H, 9), f(B, 8, Symbol(("(h - 2)",)), 7)),
    (Conv2D(8, stride=2), f(B, 3, H, W),
     f(B, 8, Symbol(("((h + 1) // 2)",)), Symbol(("((w + 1) // 2)",)))),
    (Conv2D(8, kernel=2, stride=2, padding=0), f(B, 3, H, 6), f(B, 8, Symbol(("(h // 2)",)), 3)),
    (Conv2D(8, kernel=2, stride=2, padding=0), f(B, 3, Symbol(("h",), 4), 6),
     f(B, 8, Symbol(("h",), 2), 3)),
    (Conv2D(8, kernel=(3, 5), stride=(1, 2), padding=(0, 2)), f(B, 3, 8, 8), f(B, 8, 6, 4)),
    (Conv2D(6, groups=3, dilation=2), f(B, 3, H, 9), f(B, 6, Symbol(("(h - 2)",)), 7)),
    (Conv2D(8, kernel=(2, 3), padding="same"), f(B, 3, H, 9), f(B, 8, H, 9)),
    (Conv1D(8), f(B, 3, T), f(B, 8, T)),
    (Conv1D(8, kernel=4, padding="causal", dilation=3), f(B, 3, T), f(B, 8, T)),
    (Conv1D(8, kernel=9, stride=4, padding=0), f(B, 3, 100), f(B, 8, 23)),
    (ConvTranspose1D(8), f(B, 3, T), f(B, 8, T)),
    (ConvTranspose1D(8, kernel=2, stride=2, padding=0), f(B, 3, 9), f(B, 8, 18)),
    (ConvTranspose2D(8), f(B, 3, H, 9), f(B, 8, H, 9)),
    (ConvTranspose2D(8, kernel=2, stride=2, padding=0), f(B, 3, H, 9),
     f(B, 8, Symbol(("h",), 2), 18)),
    (ConvTranspose2D(8, 3, (3, 4), (1, 2), 0, 0), f(B, 3, H, 9),
     f(B, 8, Symbol(("(h + 2)",)), 20)),
    (Upsample(2), f(B, 3, H, 9), f(B, 3, Symbol(("h",), 2), 18)),
    (Upsample((1, 3)), f(B, 3, H, 9), f(B, 3, H, 27)),
    (Upsample(2), f(B, 3, T), f(B, 3, Symbol(("seq",), 2))),
    (MaxPool((2, 1)), f(B, 3, 8, 5), f(B, 3, 4, 5)),
    (MaxPool(3, 2, 1), f(B, 3, 9), f(B, 3, 5)),
    (AdaptiveAvgPool((1, 2)), f(B, 3, H, W), f(B, 3, 1, 2)),
    (AdaptiveAvgPool(4), f(B, 3, T), f(B, 3, 4)),
    (MaxPool(2), f(B, 3, 8, 5), f(B, 3, 4, 2)),
    (MaxPool(3, 2, 1), f(B, 3, 8, 5), f(B, 3, 4, 3)),
    (MaxPool(3, 2, 1), f(B, 3, H, H), f(B, 3, *2 * (Symbol(("((h + 1) // 2)",)),))),
    (AvgPool(4), f(B, 3, 8, 8), f(B, 3, 2, 2)),
    (AvgPool(3, 1), f(B, 3, 8, 8), f(B, 3, 6, 6)),
    (AvgPool(3, 1, 1), f(B, 3, H, 8), f(B, 3, H, 8)),
    (MaxPool(3), f(B, 3, H, 9), f(B, 3, Symbol(("(h // 3)",)), 3)),
    (Product(), tup(f(B, 4), f(B, 4)), f(B, 4)),
    (Product(), tup(f(B, T, 8), f(B, 1, 8), f()), f(B, T, 8)),
    (Lerp(), tup(f(B, 1, 8), f(B, T, 8), f()), f(B, T, 8)),
    (Last(), f(B, T, 8), f(B, 8)),
    (Last(), f(B, T, 4, 3, 8), f(B, 4, 3, 8)),
    (MatMul(), tup(f(B, 3, 4), f(B, 4, 5)), f(B, 3, 5)),
    (MatMul(), tup(f(B, 2, T, W), f(1, W, T)), f(B, 2, T, T)),
    (Concat(), tup(f(B, T, 3), f(B, T, 5)), f(B, T, 8)),
    (Concat(1), tup(f(B, 1, 8), f(B, T, 8)), f(B, Symbol(("(seq + 1)",)), 8)),
    (Concat(-2), tup(f(B, T, 8), f(B, T, 8)), f(B, Symbol(("seq",), 2), 8)),
    (Concat(1), tup(f(B, T, 8), f(B, W, 8)), f(B, Symbol(("(seq + w)",)), 8)),
    (Concat(1), tup(f(B, Symbol(("(seq + 1)",)), 8), f(B, T, 8)),
     f(B, Symbol(("(2*seq + 1)",)), 8)),
    (Stack(1), tup(f(B, 8), f(B, 8), f(B, 8)), f(B, 3, 8)),
    (Stack(-1), tup(f(B, 8), f(B, 8)), f(B, 8, 2)),
    (Slice(1), f(B, 8), f(B, 7)),
    (Slice(-3, -1), f(B, 8), f(B, 2)),
    (Slice(-6, 5), f(B, 8), f(B, 3)),
    (Slice(0, 2, 1), f(B, T, 8), f(B, 2, 8)),
    (Slice(1, dim=1), f(B, T, 8), f(B, Symbol(("(seq - 1)",)), 8)),
    (Slice(1, dim=1), f(B, Symbol(("(seq + 1)",)), 8), f(B, T, 8)),
    (Slice(2, -3, 1), f(B, T, 8), f(B, Symbol(("(seq - 5)",)), 8)),
    (Slice(-1, dim=1), f(B, T, 8), f(B, 1, 8)),
    (Slice(0, 1, 0), i(2, T, bound=9), i(1, T, bound=9)),
    (Split(2), f(B, T, 8), tup(f(B, T, 4), f(B, T, 4))),
    (Split(2, 1), f(B, Symbol(("seq",), 2), 8), tup(f(B, T, 8), f(B, T, 8))),
    (Transpose(), f(B, T, 8), f(B, 8, T)),
    (Transpose(1, -1), f(B, 2, T, 8), f(B, 8, T, 2)),
    (Reshape((2, 4)), f(B, 8), f(B, 2, 4)),
    (Reshape((-1,)), f(B, 3, T), f(B, Symbol(("seq",), 3))),
    (Reshape((-1, 2, 4)), f(B, T, 8), f(B, T, 2, 4)),
    (Reshape(()), f(B, 1), f(B)),
    (Reshape((4, -1)), i(B, 8, bound=9), i(B, 4, 2, bound=9)),
    (Parameter((3, 8)), f(B, T), f(B, 3, 8)),
    (Parameter((8,)), tup(tup(i(B, T), f(B)), f(2)), f(B, 8)),
    (Parameter(), f(B, T), f()),
    (Parameter(()), f(), f()),
    (Parameter((2, 3, 4)), i(5, bound=9), f(5, 2, 3, 4)),
    (Squeeze(1), f(B, 1, 8), f(B, 8)),
    (Squeeze(-1), f(B, 1), f(B)),
    (Unsqueeze(1), f(B, 8), f(B, 1, 8)),
    (Unsqueeze(-1), f(B, T), f(B, T, 1)),
    (LogSoftmax(1), f(B, T, 8), f(B, T, 8)),
    (Mean(1, keepdim=True), f(B, T, 8), f(B, 1, 8)),
    (Sigmoid(), f(B, T), f(B, T)),
    (Embed(65, 8), i(B, T), f(B, T, 8)),
    (Embed(65, 8), i(B, bound=65), f(B, 8)),
    (Embed(65, 8), i(B, bound=T), f(B, 8)),
    (Unembed("e", count=65, dim=8), f(B, T, 8), f(B, T, 65)),
    (Bias(), f(B, T, 8), f(B, T, 8)),
    (Bias(3), f(B, 3, H, W), f(B, 3, H, W)),
    (Scale(), f(8), f(8)),
    (Identity(), tup(f(B), i(B)), tup(f(B), i(B))),
    (Add(), tup(f(B, T, 8), f(T, 8)), f(B, T, 8)),
    (Add(), tup(f(B, 1, 8), f(T, 1), f()), f(B, T, 8)),
    (Add(), tup(f(B)), f(B)),
    (WeightedSum((1, 2)), tup(f(B, 8), f(B, 8)), f(B, 8)),
    (Mul(2), tup(f(B), tup(f(T), f(3))), tup(f(B), tup(f(T), f(3)))),
    (Select(1), tup(f(B), i(T, bound=9)), i(T, bound=9)),
    (Flatten(), f(B, 3, 4, 5), f(B, 60)),
    (Flatten(2), f(B, 3, H, W), f(B, 3, Symbol(("h", "w")))),
    (Flatten(-2), f(B, 3, 4, 5), f(B, 3, 20)),
    (Flatten(), f(B, T, 8), f(B, Symbol(("seq",), 8))),
    (Flatten(), i(B, 4, 5, bound=9), i(B, 20, bound=9)),
    (SplitHeads(4), f(B, T, 64), f(B, 4, T, 16)),
    (SplitHeads(1), f(T, 8), f(1, T, 8)),
    (SplitHeads(2), f(2, 3, T, 8), f(2, 3, 2, T, 4)),
    (MergeHeads(), f(B, 4, T, 16), f(B, T, 64)),
    (MergeHeads(), f(4, T, W), f(T, Symbol(("w",), 4))),
    (Enumerate(), i(B, T), i(T, bound=T)),
    (Enumerate(), f(B, 7, 3), i(7, bound=7)),
    (Abs(), f(B), f(B)),
    (Softmax(), f(B, T), f(B, T)),
    (MeanSubtract(), f(B, T, 8), f(B, T, 8)),
    (RMSDivide((1, 2, 3)), f(B, 3, H, W), f(B, 3, H, W)),
    (Mean(1), f(B, T, 8), f(B, 8)),
    (Mean((-1, 1)), f(B, T, 8), f(B)),
    (Mean(0), f(8), f()),
    (AdaptiveAvgPool(), f(B, 3, H, W), f(B, 3, 1, 1)),
    (AdaptiveAvgPool(2), f(B, 3, 8, 8), f(B, 3, 2, 2)),
    (Attention(True), tup(f(B, 4, T, 16), f(B, 4, T, 16), f(B, 4, T, 8)), f(B, 4, T, 8)),
    (Attention(), tup(f(B, 4, T, 16), f(B, 4, W, 16), f(B, 4, W, 8)), f(B, 4, T, 8)),
    (Attention(True), tup(f(B, 4, T, 16), f(B, 2, W, 16), f(B, 2, W, 8)), f(B, 4, T, 8)),
    (Attention(), tup(f(B, 4, T, 16), *[f(B, 2, W, 16)] * 2, b(B, 1, 1, W)), f(B, 4, T, 16)),
    (Attention(), tup(*[f(B, 4, T, 16)] * 3, f(T, T)), f(B, 4, T, 16)),
    (Attention(), tup(*[f(T, W, 16)] * 3), f(T, W, 16)),
    (RoPE(fraction=Fraction(1, 4)), f(B, T, 16), f(B, T, 16)),
    (DropPath(0.1), tup(f(B, T), f(B)), tup(f(B, T), f(B))),
    (RoPE(), f(B, 4, T, 16), f(B, 4, T, 16)),
    (RoPE(), tup(f(B, T, 16), f(B, W, 4)), tup(f(B, T, 16), f(B, W, 4))),
    (Dropout(), f(B, T), f(B, T)),
    (Dropout(), tup(f(B, T), tup(f(W), f(3))), tup(f(B, T), tup(f(W), f(3)))),
    (BatchMeanSubtract(), f(B, T, 8), f(B, T, 8)),
    (BatchStandardize(), f(B, T, 8), f(B, T, 8)),
    (BatchStandardize(3), f(B, 3, H, W), f(B, 3, H, W)),
    (GroupStandardize(2), f(B, 6, H, W), f(B, 6, H, W)),
    (GroupStandardize(6), f(B, 6, T), f(B, 6, T)),
    (GroupStandardize(2), f(B, 6), f(B, 6)),
    (BatchMeanSubtract(3), f(B, 3, H, W), f(B, 3, H, W)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "x", "y"), SHAPES, ids=[f"{s[0].name}-{n}" for n, s in enumerate(SHAPES)]
)
def test_shapes(op: Op, x: Type, y: Type) -> None:
    resolved, out = op.resolve(x)
    assert bare(out) == y
    assert resolved.resolve(x) == (resolved, out)


def test_inferred_sizes() -> None:
    assert Linear(8).resolve(f(B, 5))[0] == Linear(8, 5)
    assert Linear(8, mass=2).resolve(f(B, 5))[0].weight_shape == (8, 5)
    assert HeadedLinear(8, 2).resolve(f(B, T, 5))[0].weight_shape == (2, 4, 5)
    assert Conv2D(8, kernel=5).resolve(f(B, 3, H, W))[0].weight_shape == (8, 3, 5, 5)
    assert Bias().resolve(f(B, 3, H, W))[0].weight_shape == (3,)
    assert BatchMeanSubtract().resolve(f(B, 3, H, W))[0].buffer_shape == (3,)
    assert BatchMeanSubtract().resolve(f(B, T, 5))[0].buffer_shape == (5,)
    assert Scale().resolve(f(B, H, 3))[0].weight_shape == (3,)
    assert [Parameter(s).weight_shape for s in ((), (4,), (3, 4), (2, 3, 4))] == [
        (1, 1), (1, 4), (3, 4), (6, 4)
    ]  # fmt: skip


def test_axes_are_kept_in_one_way() -> None:
    x = f(B, 3, 8, 8)
    assert MeanSubtract(3).resolve(x)[0].dim == -1
    assert MeanSubtract(-2).resolve(x)[0].dim == 2
    assert MeanSubtract((-1, 1, 2)).resolve(x)[0].dim == (1, 2, 3)
    assert Mean((3,)).resolve(x)[0].dim == -1


# -- misfits: what is wrong, with both sizes, and how to mend it ------------------------------

MISFITS: list[tuple[Op, Type, str, str, str]] = [
    (Linear(8, 4), f(B, 5), "`Linear` expects 4 inputs but gets 5", "in", ""),
    (Linear(8), f(B, T), "the last axis of float[batch, seq] is `seq`", "", "`input` declaration"),
    (Linear(8), i(B), "`Linear` takes real numbers, but its input is int[batch]", "", "Embed"),
    (Linear(8), tup(f(2), f(3)), "its input is a tuple (float[2], float[3])", "", "Select"),
    (Readout(8, 4), f(B, 5), "`Readout` expects 4 inputs but gets 5", "in", ""),
    (Readout(8), f(B, T), "`Readout` needs a fixed input size", "", "`input` declaration"),
    (HeadedLinear(8, 2, 4), f(B, T, 5), "`HeadedLinear` expects 4 inputs but gets 5", "in", ""),
    (HeadedLinear(8, 2), f(B, T, W), "`HeadedLinear` needs a fixed input", "", "`input`"),
    (HeadedLinear(8, 3), f(B, T, 5), "cannot split 8 outputs into 3", "heads", "divides 8"),
    (HeadedLinear(8, 2), f(5), "at least 2 axes", "", ""),
    (Conv2D(8, 4), f(B, 3, 8, 8), "expects images of 4 channels but gets 3", "in", ""),
    (Conv2D(8), f(B, 3, 8), "`Conv2D` takes images (batch, channels,", "", "four axes"),
    (Conv2D(8), f(B, T, 8, 8), "the number of channels", "", "`input` declaration"),
    (Conv2D(8, kernel=5, padding=0), f(B, 3, 4, 9), "5 × 5 taps", "kernel", "`padding` larger"),
    (Conv1D(8), f(B, 3, 8, 8), "`Conv1D` takes signals (batch, channels,", "", "`Conv2D` takes"),
    (Conv1D(8, 4), f(B, 3, 8), "expects signals of 4 channels but gets 3", "in", ""),
    (Conv1D(8, kernel=(3, 3)), f(B, 3, 8), "`kernel` of `Conv1D` has 2 numbers", "kernel", ""),
    (Conv1D(8, kernel=5, dilation=3, padding=0), f(B, 3, 9), "5 taps over 13 places", "kernel", ""),
    (Conv2D(8, padding=(1,)), f(B, 3, 8, 8), "images have two axes", "padding", "one number, or 2"),
    (Conv2D(8, groups=2), f(B, 3, 8, 8), "cannot cut 3 channels, and 8 of the", "groups", "both"),
    (Conv2D(8, stride=2, padding="same"), f(B, 3, 8, 8), "a stride of 2", "padding", "a number"),
    (ConvTranspose1D(8, padding=3), f(B, 3, 4), "leaves nothing", "padding", "so many places"),
    (ConvTranspose2D(8, padding=3), f(B, 3, 4, 8), "leaves nothing", "padding", "smaller"),
    (ConvTranspose2D(8, output_padding=1), f(B, 3, 4, 8), "smaller than `stride`",
     "output_padding", ""),
    (Upsample((2, 2)), f(B, 3, 8), "`factor` of `Upsample` has 2 numbers", "factor", ""),
    (Upsample(2), f(B, 8), "takes images (batch, channels, height, width) or signals", "", ""),
    (MaxPool(4), f(B, 3, 3), "windows of 4 places", "kernel", ""),
    (Embed(64, 8), i(B, bound=65), "`Embed` has 64 rows but its input goes up to 65 (exclusive)",
     "count", "Embed(65, 8)"),
    (Embed(64, 8), f(B), "takes integers, but its input is float[batch]", "", "int[batch, seq]"),
    (Unembed("e", count=65, dim=8), f(B, 9), "rows of 8 numbers but its input has 9", "embed",
     "Linear(8)"),
    (Bias(4), f(B, 5), "`Bias` has 4 entries, but its input float[batch, 5] has 5", "size", ""),
    (Bias(), f(B, T), "the number of channels", "", "`input` declaration"),
    (Scale(4), f(B, 5, 4, 4), "has 5 channels", "size", ""),
    (Add(), f(B), "`Add` takes a tuple of values to add, but its input", "", "Add @ (a, b)"),
    (Add(), tup(f(B, 4), f(B, 5)), "their sizes 4 and 5 clash", "", "same sizes"),
    (Add(), tup(f(B, T), f(B, 5)), "their sizes seq and 5 clash", "", "always 5"),
    (Add(), tup(f(5), f(T)), "their sizes 5 and seq clash", "", "`seq` is always 5"),
    (Add(), tup(f(5), i(5)), "`Add` takes real numbers, but its input is int[5]", "", "Embed"),
    (Select(2), tup(f(B), f(B)), "member 2, but its input has 2 members", "i", "Select(1)"),
    (Select(0), f(B), "`Select` takes a tuple", "", "leave `Select` out"),
    (Flatten(), f(B), "at least 2 axes", "", ""),
    (Flatten(3), f(B, 8), "names axis 3", "start_dim", "-2 to 1"),
    (SplitHeads(5), f(B, T, 64), "cannot split 64 channels into 5", "heads", "divides 64"),
    (SplitHeads(4), f(B, T, W), "to know the size of the last axis", "", "`input`"),
    (MergeHeads(), f(B, T), "at least 3 axes", "", ""),
    (Mean(2), f(B, 8), "names axis 2, but its input float[batch, 8] has 2 axes", "dim", "-2 to 1"),
    (Mean((1, -1)), f(B, 8), "names axis -1 of float[batch, 8] twice", "dim", ""),
    (RMSDivide(eps=Fraction(-1)), f(B), "`eps` of `RMSDivide` must be at least 0", "eps", ""),
    (Softmax(0), f(B), "does not depend on its input", "scale", "positive"),
    (Mul(10**400), f(B), "`a` of `Mul` is too large for a float", "a", ""),
    (Mul(Fraction(1, 10**400)), f(B), "`a` of `Mul` is too small for a float", "a", ""),
    (AdaptiveAvgPool(), f(B, 8), "takes images", "", "four axes"),
    (AvgPool(2, padding=2), f(B, 3, 8, 8), "more than half of its 2", "padding", ""),
    (MaxPool(4), f(B, 3, 8, 3), "windows of 4 × 4 pixels", "kernel", ""),
    (Lerp(), tup(f(B, 8), f(B, 8)), "its input has 2 members", "", "Sigmoid"),
    (Last(), f(B, 8), "has 2 axes", "", "Slice(-1)"),
    (Product(), f(B, 8), "takes a tuple of values to multiply", "", ""),
    (Product(), tup(f(B, 8), f(B, 4)), "their sizes 8 and 4 clash", "", "same sizes"),
    (Product(), tup(f(B, 8), tup(f(B, 8), f(B, 8))), "a member of it is itself a tuple", "",
     "brackets inside brackets"),
    (MatMul(), tup(f(B, 3, 4), f(B, 3, 4)), "their sizes 4 and 3 clash", "", "Transpose @ b"),
    (MatMul(), tup(f(B, 3, 4), f(B, 4, 4), f(B, 4, 4)), "its input has 3 members", "", "(a, b)"),
    (MatMul(), tup(f(2, 3, 4), f(5, 4, 4)), "their sizes 2 and 5 clash", "", "same sizes"),
    (Concat(), f(B, 8), "takes a tuple of values to join", "", "(a, b)"),
    (Concat(), tup(f(B, 1, 8), f(B, T, 8)), "along axis 1 their sizes 1 and seq clash", "",
     "`Concat(1)`"),
    (Concat(), tup(f(B, 8), f(B, T, 8)), "as many axes as each other", "", "`Unsqueeze(dim)`"),
    (Concat(3), tup(f(B, 8), f(B, 8)), "names axis 3", "dim", "-2 to 1"),
    (Stack(0), tup(f(B, 8), f(B, 4)), "values of one shape", "", "`Concat(dim)`"),
    (Stack(4), tup(f(B, 8), f(B, 8)), "a new axis in place 4", "dim", "-3 to 2"),
    (Slice(8), f(B, 8), "`start` of `Slice` is 8, but axis 1", "start", "-8 to 7"),
    (Slice(0, 9), f(B, 8), "`end` of `Slice` is 9", "end", "leave `end` out"),
    (Slice(3, 3), f(B, 8), "from 3 to 3 of axis 1 of float[batch, 8] has no entries", "end",
     "exclusive"),
    (Slice(3, 1, 1), f(B, T, 8), "has no entries", "end", "exclusive"),
    (Slice(-3, 1, 1), f(B, T, 8), "to know the size of axis 1", "", "`input` declaration"),
    (Split(3), f(B, 8), "into 3 equal pieces", "count", "divides 8"),
    (Split(2, 1), f(B, T, 8), "into 2 equal pieces", "count", "`input` declaration"),
    (Split(2000), f(B, 4000), "makes 2,000 values", "count", "number of pieces"),
    (Transpose(), f(8), "at least 2 axes", "", ""),
    (Transpose(1, 1), f(B, 8), "names axis 1 of float[batch, 8] twice", "b", ""),
    (Transpose(1, 4), f(B, 8), "names axis 4", "b", "-2 to 1"),
    (Reshape((3, 3)), f(B, 8), "takes 9 entries an example, but its input float[batch, 8] has 8",
     "sizes", "-1"),
    (Reshape((3, -1)), f(B, 8), "takes 3 × … entries", "sizes", "divides 8"),
    (Reshape((-1, -1)), f(B, 8), "has -1 for 2 sizes", "sizes", "only one"),
    (Reshape((2, 2, 4)), f(2, 8), "takes 16 entries", "sizes", "the batch, is kept"),
    (Reshape((8, 8)), f(B, T, 8), "takes 64 entries", "sizes", "multiple of `seq`"),
    (Parameter((2, -1)), f(B, 8), "has -1 for a size", "sizes", "a number"),
    (Parameter((2, 3)), f(), "at least 1 axis", "", ""),
    (Squeeze(1), f(B, 8), "axis 1 of float[batch, 8] is `8`", "dim", "`Mean(1)`"),
    (Squeeze(1), f(B, T, 8), "is `seq`", "dim", "`Slice(0, 1, 1)`"),
    (Unsqueeze(4), f(B, 8), "a new axis in place 4", "dim", "-3 to 2"),
    (Softcap(0), f(B), "`c` of `Softcap` must be positive", "c", "`Softcap(30)`"),
    (Attention(), f(B), "takes a tuple (q, k, v), but its input is one value", "", "(q, k, v)"),
    (Attention(), tup(f(B), f(B)), "its input is a tuple of 2", "", "(q, k, v)"),
    (Attention(), tup(f(2, T, 8), f(2, T, 4), f(2, T, 8)),
     "the last axis of q and k to be equal, but they are 8 and 4", "", ""),
    (Attention(), tup(f(2, T, 8), f(2, T, 8), f(2, W, 8)), "they are seq and w", "", ""),
    (Attention(), tup(f(2, T, 8), f(3, T, 8), f(2, T, 8)), "leading axes of q and k", "", ""),
    (Attention(), tup(f(B, 4, T, 8), *[f(B, 3, T, 8)] * 2), "share 3 heads of keys among", "", ""),
    (Attention(), tup(f(B, 4, T, 8), f(B, 2, T, 8), f(B, 4, T, 8)), "heads of k and v", "", ""),
    (Attention(), tup(*[f(B, 4, T, 8)] * 3, b(B, T)), "broadcast to (batch, 4, seq, seq)", "",
     "`bool[batch, 1, 1, seq]`"),
    (Attention(), tup(*[f(B, 4, T, 8)] * 3, i(T, T)), "is `bool`", "", "bool[batch, 4, seq, seq]"),
    (Attention(alibi=True), tup(*[f(B, T, 8)] * 3), "without heads", "alibi", "SplitHeads"),
    (Attention(softcap=-1), tup(*[f(B, T, 8)] * 3), "must be positive", "softcap", ""),
    (RoPE(fraction=Fraction(1, 3)), f(B, T, 8), "is 8/3", "fraction", "2/8"),
    (RoPE(fraction=2), f(B, T, 8), "above 0 and at most 1", "fraction", ""),
    (RoPE(scale=0), f(B, T, 8), "must not be 0", "scale", ""),
    (DropPath(1), f(B), "`p` of `DropPath` must be", "p", "share of examples"),
    (Dropout(), b(B), "takes real numbers, but its input is bool[batch]", "", "mask"),
    (RoPE(), f(B, T, 7), "the last axis of float[batch, seq, 7] has 7", "", "even"),
    (RoPE(-1), f(B, T, 8), "must be positive", "base", ""),
    (Dropout(1), f(B), "`p` of `Dropout` must be at least 0 and below 1", "p", "`Dropout(0.1)`"),
    (Dropout(-0.1), f(B), "`p` of `Dropout` must be at least 0", "p", "share of entries"),
    (Dropout(1 - Fraction(1, 10**30)), f(B), "must be at least 0 and below 1", "p", ""),
    (Dropout(), i(B), "`Dropout` takes real numbers, but its input is int[batch]", "", "Embed"),
    (GroupStandardize(4), f(B, 6, T), "cannot cut 6 channels into 4 groups", "groups", "divides 6"),
    (GroupStandardize(6), f(B, 6), "of groups of one entry gives 0", "groups", "fewer groups"),
    (GroupStandardize(2), f(B, T, 6), "the number of channels", "", "`input` declaration"),
    (GroupStandardize(2, eps=-1), f(B, 6), "`eps` of `GroupStandardize` must be", "eps", ""),
    (BatchStandardize(eps=-1), f(B, 6), "`eps` of `BatchStandardize` must be at", "eps", ""),
    (BatchStandardize(momentum=0), f(B, 6), "above 0 and at most 1", "momentum", "such as 0.1"),
    (BatchMeanSubtract(), f(8), "at least 2 axes", "", ""),
    (BatchMeanSubtract(), f(B, T), "the number of channels", "", "`input` declaration"),
    (BatchMeanSubtract(4), f(B, 3, 8, 8), "4 entries, but its input float[batch, 3, 8, 8] has 3",
     "size", ""),
    (BatchMeanSubtract(momentum=0), f(B, 8), "above 0 and at most 1", "momentum", "such as 0.1"),
    (BatchMeanSubtract(momentum=1.5), f(B, 8), "above 0 and at most 1", "momentum", "share"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "x", "message", "argument", "hint"),
    MISFITS,
    ids=[f"{m[0].name}-{n}" for n, m in enumerate(MISFITS)],
)
def test_misfits(op: Op, x: Type, message: str, argument: str, hint: str) -> None:
    with pytest.raises(Misfit) as caught:
        op.resolve(x)
    assert message in caught.value.message
    assert caught.value.argument == argument
    assert hint in caught.value.hint
