"""Names and arguments of other libraries: what is offered instead compiles, and says what it is."""

from __future__ import annotations

import re

import pytest

import modnorm.ops  # noqa: F401  (registers the operations)
from modnorm.diagnostics import ModnormError
from modnorm.graph import equivalents
from modnorm.graph.equivalents import EQUIVALENTS, LEFT_OUT, PREFIXES, RENAMED, Equivalent
from modnorm.graph.names import in_library
from modnorm.ops import registry
from modnorm.pipeline import ANALYSIS, analyse_text

INPUTS = ("float[batch, seq, 12]", "float[batch, 3, 28, 28]", "int[batch, seq] < 10",
          "float[batch, 3, time]", "float[nodes, 12]")  # fmt: skip
GIVEN = """
param out = 12  param d = 12  param heads = 4  param blocks = 2  param size = 4  param kernel = 2
param count = 10  param dim = 12  param context = 16  param n = 2  param groups = 3
param hidden = 12
def a = Linear(12)  def b = Linear(12)  def f = Linear(12)
def q = HeadedLinear(d, heads)  def k = HeadedLinear(d, heads)  def v = HeadedLinear(d, heads)
"""
"""What the names in the table stand for."""
CODE = [row for row in EQUIVALENTS if row.write]


def first(row: Equivalent) -> str:
    return row.names.split()[0]


def compiles(statements: str, expression: str) -> bool:
    """Whether an expression compiles on some kind of input."""
    for declared in INPUTS:
        text = f"{statements}\n{GIVEN}\ninput x: {declared}\nmodel M = {expression}\n"
        try:
            analyse_text(text, passes=ANALYSIS)
        except ModnormError:
            continue
        return True
    return False


@pytest.mark.parametrize("row", CODE, ids=first)
def test_what_is_offered_compiles(row: Equivalent) -> None:
    assert compiles(row.add, row.write)


@pytest.mark.parametrize("row", EQUIVALENTS, ids=first)
def test_code_in_notes_is_of_this_language(row: Equivalent) -> None:
    """A note's code has no names that nothing stands for."""
    for code in re.findall(r"`([^`]*)`", row.note):
        names = re.findall(r"[A-Za-z_]\w*", re.sub(r"…|\bNAME\b", "", code))
        for name in names:
            known = registry.find(name) or in_library(name) or name in GIVEN or name in row.write
            assert known or name in NOTED, (first(row), name)


NOTED = set(
    "in causal false kernel mass stride model def input x float batch tare bond affine"
    " NormedAdam NormedSGD DualizedSGD".split()
)
"""Words of notes that are keywords, arguments, or of the generated file."""


def test_every_name_stands_once() -> None:
    names = [name.replace("_", "").lower() for row in EQUIVALENTS for name in row.names.split()]
    assert len(names) == len(set(names)) > 200


def test_names_that_exist_here_are_offered_as_they_are() -> None:
    """An operation that is added to the project, or to its library, has to leave the table."""
    for row in EQUIVALENTS:
        for name in row.names.split():
            if registry.find(name) is not None or in_library(name).endswith(f" {name} at the top"):
                assert name in row.write, name


@pytest.mark.parametrize("row", EQUIVALENTS, ids=first)
def test_an_unknown_name_is_answered_from_the_table(row: Equivalent) -> None:
    here = {op.lower() for op in registry.names()}
    for name in row.names.split():
        forms = [f"nn.{name}", f"torch.nn.functional.{name}"]
        for written in forms if name.lower() in here else [name, *forms]:
            try:
                analyse_text(f"input x: float[batch, 12]\nmodel M = {written}")
            except ModnormError as error:
                (found,) = error.diagnostics
                assert (found.code, found.hint) == ("E201", row.hint(name))
                assert "did you mean" not in found.hint
            else:
                raise AssertionError(written)


@pytest.mark.parametrize("prefix", sorted(PREFIXES))
def test_operations_stand_without_a_prefix(prefix: str) -> None:
    with pytest.raises(ModnormError) as caught:
        analyse_text(f"input x: float[batch, 12]\nmodel M = {prefix}.relu")
    (found,) = caught.value.diagnostics
    assert found.message == f"unknown name `{prefix}.relu`"
    assert found.hint == "operations stand without a prefix: write `ReLU`"


def test_a_definition_of_the_file_comes_before_the_table() -> None:
    with pytest.raises(ModnormError) as caught:
        analyse_text("input x: float[batch, 12]\ndef dense(n) = Linear(n)\nmodel M = Dense(3)")
    assert [d.hint for d in caught.value.diagnostics] == ["did you mean `dense`?"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("linear", "did you mean `Linear`?"),
        ("conv2d", "did you mean `Conv2D`?"),
        ("relu", "did you mean `ReLU`?"),
        ("flatten", "did you mean `Flatten`?"),
        ("mul", "write `a * b`: entry by entry"),
        ("Lineer", "did you mean `Linear`?"),
        ("return", "leave it out: the expression after `=` is the result"),
    ],
)
def test_another_case_is_not_another_operation(name: str, hint: str) -> None:
    with pytest.raises(ModnormError) as caught:
        analyse_text(f"input x: float[batch, 12]\nmodel M = {name}")
    assert [d.hint for d in caught.value.diagnostics] == [hint]


# --- arguments --------------------------------------------------------------------------------

CALLS = {
    "Linear(1, bias=True)": "Bias @ Linear(1)",
    "Linear(1, bias=False)": "Linear(1)",
    "Linear(in_features=12, out_features=3)": "Linear(in = 12, out = 3)",
    "Linear(in_features=12, out_features=3, bias=True, dtype=1)": "Bias @ Linear(in = 12, out = 3)",
    "Linear(units=3, use_bias=True)": "Bias @ Linear(out = 3)",
    "Linear(features=3, kernel_init=1)": "Linear(out = 3)",
    "Readout(num_classes=3)": "Readout(out = 3)",
    "Conv2D(in_channels=3, out_channels=8, kernel_size=5)": "Conv2D(in = 3, out = 8, kernel = 5)",
    "Conv2D(filters=8, strides=2, padding=0)": "Conv2D(out = 8, stride = 2, padding = 0)",
    "Conv2D(8, dilation_rate=2, padding_mode=1)": "Conv2D(8, dilation = 2)",
    "Upsample(scale_factor=2, mode=1)": "Upsample(factor = 2)",
    "Embed(num_embeddings=10, embedding_dim=4)": "Embed(count = 10, dim = 4)",
    "Embed(input_dim=10, output_dim=4)": "Embed(count = 10, dim = 4)",
    "LayerNorm(elementwise_affine=False, epsilon=1)": "LayerNorm(affine = False, eps = 1)",
    "GroupNorm(num_groups=2, num_channels=8)": "GroupNorm(groups = 2)",
    "BatchNorm(num_features=8, momentum=1)": "BatchNorm(momentum = 1)",
    "MaxPool(kernel_size=2)": "MaxPool(kernel = 2)",
    "AdaptiveAvgPool(output_size=2)": "AdaptiveAvgPool(size = 2)",
    "Softmax(inplace=True)": "Softmax",
    "ReLU(inplace=True)": "ReLU",
    "RMSDivide(axis=1, epsilon=1)": "RMSDivide(dim = 1, eps = 1)",
    "Attention(is_causal=True, dropout_p=0)": "Attention(causal = True)",
    "RoPE(theta=100)": "RoPE(base = 100)",
    "SplitHeads(num_heads=4)": "SplitHeads(heads = 4)",
    "GRU(hidden_size=8, num_layers=2, batch_first=True)": "GRU(hidden = 8)",
}
"""Calls with the arguments of other libraries, and what is offered."""


@pytest.mark.parametrize("call", CALLS)
def test_a_call_with_foreign_arguments_is_translated(call: str) -> None:
    with pytest.raises(ModnormError) as caught:
        analyse_text(f"input x: float[batch, 12]\nmodel M = {call}")
    found = [d for d in caught.value.diagnostics if d.code == "E301"]
    assert found
    assert all(d.hint.endswith(f": write `{CALLS[call]}`") for d in found), found


def test_every_foreign_argument_is_answered() -> None:
    """Each name of the table has an operation for which it says something."""
    names = {"in", "count", "out", "dim", "size", "kernel", "stride", "heads", "causal", "base"}
    names |= {"dilation", "factor", "groups", "affine", "hidden", "mask", "i"}
    for name, here in RENAMED.items():
        assert names | {"eps", "p", "axis", "fraction", "window", "softcap"} >= set(here) - {"d"}
        assert f"it is `{here[0]}` here" in equivalents.argument("f", name, [], here)
    for name in LEFT_OUT:
        assert "leave it out, " in equivalents.argument("f", name, [], ())


def test_an_own_definition_with_such_an_argument_keeps_it() -> None:
    text = "input x: float[batch, 12]\ndef f(units, bias = true) = Linear(units)\n"
    analyse_text(f"{text}model M = f(units = 3, bias = false) @ f(4, bias = true)")
    with pytest.raises(ModnormError) as caught:
        analyse_text(f"{text}model M = f(unitz = 3)")
    assert caught.value.diagnostics[0].hint == "did you mean `units`?"
