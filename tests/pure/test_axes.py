"""What the axes of values count: what inputs say, and what operations make of it."""

from __future__ import annotations

import pytest

from modnorm.codegen.assemble import generate
from modnorm.graph.modules import Leaf, walk
from modnorm.ops.edges import Measure, letter, natural, slots
from modnorm.ops.types import Type
from modnorm.passes.program import Program
from modnorm.pipeline import ANALYSIS, analyse_text
from tests.plain import leaves, unroll

IMAGE = "float[batch, 3, 8, 8]"
CLIPS = "int[batch, 3, tokens] < 9"
SEQUENCE = "float[batch, tokens, 8]"
MAYBE = "float[batch, 3, 16, 32]"


def analysed(declared: str, model: str) -> Program:
    return analyse_text(f"input x: {declared}\nmodel M = {model}", passes=ANALYSIS).program


def output(declared: str, model: str) -> Type:
    program = analysed(declared, model)
    return program.types[program.tree.id][1]


def roles(declared: str, model: str = "Identity") -> str:
    """The first letters of the roles of an output's axes; `-` for `other`."""
    members = ["".join(r[0] for r in t.roles) for t in slots(output(declared, model))]
    return " ".join(members).replace("o", "-")


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("float[8]", "c"),
        ("float[batch, 8]", "bc"),
        ("float[4, 8]", "-c"),
        (SEQUENCE, "b-c"),
        (IMAGE, "bcss"),
        ("float[batch, channels, h, w]", "bcss"),
        ("float[batch, 3, tokens, 8]", "b--c"),
        ("float[batch, 3, 8, tokens]", "b---"),
        ("float[batch, 3, time]", "bcs"),
        ("float[batch, 3, 100]", "b--"),
        (MAYBE, "b---"),
        ("float[batch, 2, 3, 4, 5]", "b---c"),
        ("int[tokens] < 9", "-"),
        ("int[batch, tokens] < 9", "b-"),
        ("int[batch, 3, 8, 8] < 9", "b---"),
        ("int[2, edges] < 9", "--"),
    ],
)
def test_an_input_says_what_its_axes_are_by_its_sizes(declared: str, expected: str) -> None:
    assert roles(declared) == expected


@pytest.mark.parametrize(
    ("declared", "model", "expected"),
    [
        (IMAGE, "Conv2D(4)", "bcss"),
        (IMAGE, "Tanh @ Bias @ AdaptiveAvgPool(2) @ MaxPool(2)", "bcss"),
        (MAYBE, "AvgPool(2)", "bcss"),
        (IMAGE, "Flatten", "bc"),
        (IMAGE, "Mean((2, 3))", "bc"),
        (IMAGE, "Mean(1, keepdim = true)", "bcss"),
        (IMAGE, "Flatten(2)", "bc-"),
        (IMAGE, "Transpose @ Flatten(2)", "b-c"),
        (IMAGE, "Transpose(1, 3)", "bssc"),
        (SEQUENCE, "Transpose", "bc-"),
        ("float[batch, 16, 8]", "Tanh @ Linear(3) @ Transpose", "b-c"),
        (SEQUENCE, "Reshape(-1, 2, 4)", "b--c"),
        (SEQUENCE, "Squeeze(2) @ Unsqueeze(2)", "b-c"),
        (SEQUENCE, "Concat(1) @ (Parameter(1, 8), Identity)", "b-c"),
        (SEQUENCE, "Stack(2) @ (Tanh, Abs) @ Slice(1)", "b--c"),
        (SEQUENCE, "MatMul @ (Identity, Transpose)", "b-c"),
        (IMAGE, "Mean(-1)", "bcs"),
        (IMAGE, "Mean(1)", "bss"),
        (IMAGE, "Linear(5)", "b-sc"),
        (CLIPS, "Embed(9, 8)", "b--c"),
        (CLIPS, "SplitHeads(2) @ Embed(9, 8)", "b-h-c"),
        (SEQUENCE, "HeadedLinear(8, 2)", "bh-c"),
        (SEQUENCE, "MergeHeads @ SplitHeads(2)", "b-c"),
        (SEQUENCE, "(RoPE @ Softmax, RoPE) @ HeadedLinear(8, 2)", "bh-c bh-c"),
        (SEQUENCE, "Attention @ (h, h, h) where h = HeadedLinear(8, 2)", "bh-c"),
        (SEQUENCE, "Enumerate", "-"),
        (SEQUENCE, "Embed(64, 8) @ Enumerate", "-c"),
        (SEQUENCE, "Identity + Embed(64, 8) @ Enumerate", "b-c"),
        ("float[batch, 1, 8]", "Identity + Embed(64, 8) @ Enumerate", "b--"),
        ("float[batch, 3, 100]", "Upsample(2) @ MaxPool(2) @ Conv1D(4)", "bcs"),
        ("float[batch, 3, 100]", "Linear(5) @ Conv1D(4)", "bmc"),
        ("float[batch, 3, 100]", "Linear(5) @ Mean(2) @ Linear(6) @ Conv1D(4)", "bc"),
        (IMAGE, "Identity + Conv2D(3)", "bcss"),
        (IMAGE, "Identity + Linear(8)", "b-s-"),
        (MAYBE, "Identity + Linear(32)", "b---"),
        (IMAGE, "Product @ (Tanh, Tanh @ Conv2D(3))", "bcss"),
        (IMAGE, "Select(1) @ (Flatten, Identity)", "bcss"),
        (MAYBE, "RMSDivide @ Linear(8)", "b--c"),
    ],
)
def test_operations_say_what_the_axes_of_their_outputs_are(
    declared: str, model: str, expected: str
) -> None:
    assert roles(declared, model) == expected


def test_roles_are_not_shown() -> None:
    assert str(output(SEQUENCE, "HeadedLinear(8, 2)")) == "float[batch, 2, tokens, 4]"


@pytest.mark.parametrize(
    ("declared", "model", "measure"),
    [
        (SEQUENCE, "Identity", "P"),
        (SEQUENCE, "HeadedLinear(8, 2)", "H"),
        (SEQUENCE, "Mean(0) @ HeadedLinear(8, 2)", "H"),
        (CLIPS, "Embed(9, 8)", "P"),
        (CLIPS, "SplitHeads(2) @ Embed(9, 8)", "H"),
        (IMAGE, "Conv2D(4)", "P"),
        (IMAGE, "Mean(3)", "P"),
        ("float[batch, 8]", "Identity", "R"),
    ],
)
def test_values_are_spoken_of_by_what_their_axes_are(
    declared: str, model: str, measure: str
) -> None:
    (type,) = slots(output(declared, model))
    assert letter(natural(type), type) == measure
    assert natural(type) == Measure((type.channels,))


def test_only_of_images_there_is_another_norm() -> None:
    (image,), (clips,) = (slots(output(*a)) for a in ((IMAGE, "Tanh"), (CLIPS, "Embed(9, 8)")))
    assert natural(image, by_image=True) == Measure((1, 2, 3))
    assert natural(clips, by_image=True) == Measure((3,))


# -- vectors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "model", "axis", "code"),
    [
        (IMAGE, "Bias", 1, "x + self.weight[:, None, None]"),
        (IMAGE, "Bias @ Linear(5)", 3, "x + self.weight"),
        (IMAGE, "Scale @ Mean(3)", 1, "x * self.weight[:, None]"),
        (CLIPS, "Scale @ Embed(9, 8)", 3, "x * self.weight"),
        (CLIPS, "Bias(axis = 1) @ Embed(9, 8)", 1, "x + self.weight[:, None, None]"),
        (SEQUENCE, "Bias @ SplitHeads(2)", 3, "x + self.weight"),
        (SEQUENCE, "Bias(axis = -3) @ SplitHeads(2)", 1, "x + self.weight[:, None, None]"),
        ("float[batch, 3, 8]", "Scale(axis = 1)", 1, "x * self.weight[:, None]"),
        (MAYBE, "Bias", 1, "x + self.weight[:, None, None]"),
        (MAYBE, "Bias(axis = 3)", 3, "x + self.weight"),
    ],
)
def test_a_vector_stands_along_the_channels_or_the_axis_that_is_named(
    declared: str, model: str, axis: int, code: str
) -> None:
    program = analysed(declared, model)
    (leaf,) = (m for m in walk(program.tree) if isinstance(m, Leaf) and m.path in ("bias", "scale"))
    (x,) = slots(program.types[leaf.id][0])
    assert leaf.op.weight_shape == (x.shape[axis],)
    assert f"return {code}\n" in generate(program)


# -- repetitions -----------------------------------------------------------------------------


def operations(declared: str, model: str) -> list[object]:
    """Every operation, once for each copy."""
    return [leaf.op for leaf in leaves(unroll(analysed(declared, model).tree))]


BODIES = [
    (MAYBE, "(Linear(32) @ Bias)"),
    (MAYBE, "(Bias @ Linear(32))"),
    (MAYBE, "(Bias @ AdaptiveAvgPool(8))"),
    (IMAGE, "(Linear(8) @ Bias)"),
    (IMAGE, "(Bias @ (1/2 * Identity + 1/2 * Conv2D(3)))"),
    (SEQUENCE, "(MergeHeads @ Scale @ SplitHeads(2))"),
]


@pytest.mark.parametrize(("declared", "body"), BODIES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_copies_are_what_they_are_written_out(declared: str, body: str, count: int) -> None:
    written = " @ ".join([body] * count)
    assert operations(declared, f"{body} ** {count}") == operations(declared, written)


ROUND = "(Select(1), Tanh @ Select(0))"


@pytest.mark.parametrize("count", [2, 3, 7])
def test_what_moves_through_a_tuple_is_followed(count: int) -> None:
    body, start = "(Select(1), Linear(32) @ Select(1))", "(Bias, Identity)"
    written = f"Bias @ Select(0) @ {' @ '.join([body] * count)} @ {start}"
    repeated = f"Bias @ Select(0) @ {body} ** {count} @ {start}"
    assert operations(MAYBE, repeated) == operations(MAYBE, written)


@pytest.mark.parametrize("count", [2, 3, 1000])
def test_what_goes_round_in_a_tuple_is_not_known(count: int) -> None:
    """Of two values that change places one has known axes: no copy is the same as the next."""
    program = analysed(MAYBE, f"{ROUND} ** {count} @ (Linear(32), Identity)")
    (left, right) = slots(program.types[program.tree.id][1])
    assert len(generate(program).splitlines()) < 1000
    if count > 3:
        assert {*left.roles[1:], *right.roles[1:]} == {"other"}
