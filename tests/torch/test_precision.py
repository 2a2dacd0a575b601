"""Generated models in narrow types give what float32 gives, and say what they are and miss."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modnorm
from modnorm.codegen import sections
from modnorm.codegen.assemble import generate
from modnorm.codegen.imports import import_source
from modnorm.graph.place import snake
from modnorm.ops import runtime
from modnorm.ops.registry import builtin
from modnorm.pipeline import ANALYSIS, analyse_text

NARROW = (torch.float16, torch.bfloat16)
IMAGES = "input x: float[batch, 4, 8, 8]"
ALONG = ["1", "2", "-1", "(1, 3)", "(2, 3)", "(1, 2, 3)"]


def compiled(model: str, inputs: str = IMAGES) -> ModuleType:
    program = analyse_text(f"{inputs}\n{model}", passes=ANALYSIS).program
    return import_source(generate(program, "cpu"), "precision")


def built(model: str, inputs: str = IMAGES) -> nn.Module:
    module = compiled(model, inputs)
    made = getattr(module, module.MODEL)(generator=torch.Generator().manual_seed(0))
    assert isinstance(made, nn.Module)
    return made


def values(kind: str, dtype: torch.dtype) -> torch.Tensor:
    """Values as a type holds them."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    made = {
        "300": torch.full_like(noise, 300),
        "zero": torch.zeros_like(noise),
        "odd": torch.full_like(noise, 171.3),
        "large": 300 * noise,
        "shifted": 300 + noise,
        "tiny": 1e-4 * noise,
    }
    return made[kind].to(dtype)


KINDS = ["300", "zero", "odd", "large", "shifted", "tiny"]
WHOLE = [
    *(f"RMSDivide({dim})" for dim in ALONG),
    *(f"RMSDivide({dim}) @ MeanSubtract({dim})" for dim in ALONG),
    *(f"MeanSubtract({dim})" for dim in ALONG),
    *(f"Mean({dim})" for dim in ALONG),
    "Softmax",
    "Softmax(300)",
    "Attention @ (Identity, Identity, Identity)",
    "Attention(causal = true, scale = 300) @ (Identity, Identity, Identity)",
    "AvgPool(3, 2, 1)",
    "MaxPool(2)",
    "AdaptiveAvgPool(3)",
]


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("model", WHOLE)
def test_sums_and_squares_give_what_float32_gives(model: str, dtype: torch.dtype) -> None:
    net = built(f"model M = {model}")
    for kind in KINDS:
        x = values(kind, dtype)
        expected, got = net(x.float()), net(x)
        assert got.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(got.float(), expected, rtol=2 * eps, atol=eps / 8, msg=kind)
        with torch.autocast("cpu", dtype=dtype):
            torch.testing.assert_close(
                net(x).float(), expected, rtol=2 * eps, atol=eps / 8, msg=kind
            )


@pytest.mark.parametrize("dim", [1, (2, 3), (1, 2, 3)], ids=str)
def test_norms_over_any_axes_are_torchs(dim: Any) -> None:
    """Against torch's own norms in float64, with the axes moved to the end."""
    axes = dim if isinstance(dim, tuple) else (dim,)
    x = values("shifted", torch.float64)
    last = x.movedim(axes, tuple(range(-len(axes), 0)))
    shape = last.shape[-len(axes) :]
    for model, norm in (
        (f"RMSDivide({dim})", F.rms_norm),
        (f"RMSDivide({dim}) @ MeanSubtract({dim})", F.layer_norm),
    ):
        expected = norm(last, shape, eps=1e-12).movedim(tuple(range(-len(axes), 0)), axes)
        torch.testing.assert_close(built(f"model M = {model}")(x), expected)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_an_input_of_300_is_not_lost_and_zero_is_not_nan(dtype: torch.dtype) -> None:
    net = built("model M = RMSDivide(1)")
    assert torch.equal(net(values("300", dtype)), torch.ones(2, 4, 8, 8, dtype=dtype))
    zero = torch.zeros(2, 4, 8, 8, dtype=dtype, requires_grad=True)
    assert torch.equal(net(zero), torch.zeros(2, 4, 8, 8, dtype=dtype))
    centred = built("model M = RMSDivide(1) @ MeanSubtract(1)")
    assert torch.equal(centred(values("300", dtype)), torch.zeros(2, 4, 8, 8, dtype=dtype))


def test_a_short_readout_of_wide_rows_does_not_overflow() -> None:
    """Two scores against rows of 4096 numbers: the factor 1/4096 comes before the sum."""
    rows = "input x: int[batch] < 2\nshared e = Embed(2, 4096)"
    net = built("model M = Unembed(e) @ (300 * e)", rows)
    scores = net.half()(torch.tensor([0, 1]))
    torch.testing.assert_close(
        scores.diagonal().float(), torch.full((2,), 300.0), rtol=2e-3, atol=0
    )


# -- a table and its rows ----------------------------------------------------------------------


def test_a_position_without_a_row_is_named_with_both_numbers() -> None:
    net = built("def place = Embed(16, 4) @ Enumerate\nmodel M = place", "input x: int[b, s] < 9")
    assert net(torch.zeros(2, 16, dtype=torch.long)).shape == (16, 4)
    with pytest.raises(IndexError, match=r"`place.embed` has rows 0 to 15, .* asks for 16"):
        net(torch.zeros(2, 17, dtype=torch.long))


@pytest.mark.parametrize("wrong", [65, -1, 10**9])
def test_a_token_without_a_row_is_named_with_both_numbers(wrong: int) -> None:
    net = built("def token = Embed(65, 4)\nmodel M = token", "input x: int[b, s] < 65")
    tokens = torch.tensor([[3, wrong], [0, 64]])
    with pytest.raises(IndexError, match=rf"`token.embed` has rows 0 to 64, .* asks for {wrong}$"):
        net(tokens)
    assert net(tokens.clamp(0, 64)).shape == (2, 2, 4)


def test_an_embedding_inside_copies_is_named() -> None:
    net = built(
        "def part = 0.5 * Identity + 0.5 * Embed(3, 4) @ Enumerate\n"
        "model M = part ** 2 @ Linear(4)",
        "input x: float[b, s, 8]",
    )
    with pytest.raises(IndexError, match=r"`part\.\*\.embed` has rows 0 to 2"):
        net(torch.zeros(2, 5, 8))


def test_looking_up_rows_compiles_without_a_graph_break() -> None:
    net = built("model M = Embed(65, 4)", "input x: int[b, s] < 65")
    tokens = torch.arange(10).reshape(2, 5)
    step = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(tokens), net(tokens))
    torch._dynamo.reset()


# -- printing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "inputs", "shown"),
    [
        ("Linear(5)", IMAGES, "Linear(out=5, in=8)"),
        ('Linear(5, norm = "row")', IMAGES, "Linear(out=5, in=8, norm=row)"),
        ("Conv2D(6)", IMAGES, "Conv2D(out=6, in=4, kernel=3)"),
        (
            "Conv2D(6, kernel = 2, stride = 2, padding = 0)",
            IMAGES,
            "Conv2D(out=6, in=4, kernel=2, stride=2, padding=0)",
        ),
        ("Bias", IMAGES, "Bias(size=4)"),
        ("Embed(9, 4)", "input x: int[b] < 9", "Embed(count=9, dim=4)"),
        ("HeadedLinear(6, 2)", IMAGES, "HeadedLinear(heads=2, d=3, in=8)"),
        ("Linear(5, mass = 2)", IMAGES, "Linear(out=5, in=8)"),
    ],
)
def test_a_layer_prints_its_sizes(model: str, inputs: str, shown: str) -> None:
    assert f": {shown}\n" in repr(built(f"model M = {model}", inputs))


def test_a_layer_prints_the_sizes_that_its_weight_has() -> None:
    net = built("model M = Linear(5) @ Linear(6)")
    assert [repr(layer) for layer in net.children()] == [
        "Linear(out=6, in=8)",
        "Linear(out=5, in=6)",
    ]


def test_copied_functions_have_names_of_their_own() -> None:
    """They stand in one file with the optimizers' sections."""
    names = [*(section.name for section in sections.SECTIONS), *sections.ON_GPU]
    defined = {defined for name in names for defined in sections.defines(name)}
    own = {n for n, v in vars(runtime).items() if getattr(v, "__module__", "") == runtime.__name__}
    assert {"widened", "looked_up"} <= own
    assert not own & defined
    # a variable that is named after `Lerp` has another name where that function is called
    assert own & set(map(snake, builtin())) == {"lerp"}


def test_a_part_is_not_hidden_by_a_function_of_its_name() -> None:
    text = """
    input x: float[batch, 5, 6]
    def NAME = Lerp @ (Linear(6), Identity, Sigmoid)
    def block = (2/3 * Identity + 1/3 * NAME) @ (1/2 * Identity + 1/2 * (NAME @ Tanh))
    model M = block ** 2
    """
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    made = [
        modnorm.load(text.replace("NAME", name)).M(generator=torch.Generator().manual_seed(1))
        for name in ("lerp", "other")
    ]
    assert torch.equal(made[0](x), made[1](x))
