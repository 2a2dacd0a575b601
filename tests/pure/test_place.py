"""Paths of positions and weights: the names on the way, indices of copies, the operation's name."""

from __future__ import annotations

import keyword

import pytest
from evaluated import module
from hypothesis import given
from hypothesis import strategies as st

from modnorm.codegen.plan import records
from modnorm.diagnostics import Diagnostics, Source, Span
from modnorm.graph.modules import Leaf, Module, Repeat, Scope, walk
from modnorm.graph.paths import (
    depth,
    first,
    indices,
    instance,
    last_copy,
    pattern,
    starred,
    template,
)
from modnorm.graph.place import (
    MAX_LOOPS,
    MAX_WEIGHTS,
    Measure,
    camel,
    is_reserved,
    measure,
    place,
    snake,
)
from modnorm.ops.base import Atom
from modnorm.pipeline import ANALYSIS, analyse_text

HERE = Span(Source("test.mod", "model M = …"), 1, 7, 1, 8)


def placed(expression: str, before: str = "") -> tuple[Module | None, Diagnostics]:
    diagnostics = Diagnostics()
    return place(module(expression, before), HERE, diagnostics), diagnostics


def weights(model: str, before: str = "") -> list[str]:
    """The paths of all weights, every copy, in execution order."""
    text = f"input x: float[batch, 4]\n{before}\nmodel M = {model}\n"
    return [record.path for record in records(analyse_text(text, passes=ANALYSIS).program)]


def positions(expression: str, before: str = "") -> list[str]:
    """The paths of all operations, copies as templates."""
    tree, diagnostics = placed(expression, before)
    assert tree is not None
    assert not diagnostics.errors
    return [node.path for node in walk(tree) if isinstance(node, Leaf)]


A = "def a = Linear(4)\n"
TWO = "def two = out @ ReLU @ inside\n  where\n    inside = Linear(8)\n    out = Linear(4)\n"


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "before", "paths"),
    [
        # an operation by itself: its name
        ("Linear(4)", "", ["linear"]),
        ("Linear(4) >> Scale >> Bias", "", ["linear", "scale", "bias"]),
        # equal siblings get _1, _2 in execution order, which is from the right for `@`
        ("Linear(2) @ Linear(3) @ Linear(4)", "", ["linear", "linear_1", "linear_2"]),
        ("Add @ (Linear(4), Bias, Linear(4))", "", ["linear", "bias", "linear_1"]),
        ("Linear(4) + Linear(4)", "", ["linear", "linear_1"]),
        # operations without weights take no name from others
        ("Linear(4) @ ReLU @ ReLU @ Linear(4)", "", ["linear", "linear_1"]),
        # definitions and where bindings
        ("a", A, ["a.linear"]),
        ("a @ Linear(4) @ a @ a", A, ["a.linear", "a_1.linear", "linear", "a_2.linear"]),
        ("two", TWO, ["two.inside.linear", "two.out.linear"]),
        ("two @ two", TWO, ["two.inside.linear", "two.out.linear",
                            "two_1.inside.linear", "two_1.out.linear"]),
        ("head @ head where head = Linear(4)", "", ["head.linear", "head_1.linear"]),
        # arithmetic, `tare` and conditions have no name
        ("1/2 * a + tare(1/2 * a, 3)", A, ["a.linear", "a_1.linear"]),
        ("-a if 1 < 2 else Identity", A, ["a.linear"]),
        ("both(a, Linear(4))", A + "def both(f, g) = f @ g\n",
         ["both.linear", "both.a.linear"]),
    ],
)  # fmt: skip
def test_names_on_the_way(model: str, before: str, paths: list[str]) -> None:
    assert weights(model, before) == paths


@pytest.mark.parametrize(
    ("model", "before", "paths"),
    [
        ("Linear(4) ** 3", "", ["0.linear", "1.linear", "2.linear"]),
        ("a ** 3", A, ["a.0.linear", "a.1.linear", "a.2.linear"]),
        ("(a @ Linear(4)) ** 2", A, ["0.linear", "0.a.linear", "1.linear", "1.a.linear"]),
        ("f @ a", A + "def f = a ** 2\n", ["a.linear", "f.a.0.linear", "f.a.1.linear"]),
        ("(a ** 2) ** 2", A, [f"{i}.a.{j}.linear" for i in "01" for j in "01"]),
        # several repetitions side by side
        ("a ** 2 @ a ** 2", A, ["a.0.linear", "a.1.linear", "a_1.0.linear", "a_1.1.linear"]),
        ("Linear(4) ** 2 @ Bias @ (ReLU @ Linear(4)) ** 2", "",
         ["0.linear", "1.linear", "bias", "0_1.linear", "1_1.linear"]),
        # one factor is a repetition too, none is nothing
        ("a ** 1", A, ["a.0.linear"]),
        ("a ** 0 @ a", A, ["a.linear"]),
        # `compose`: index 0 first; indices go on where copies differ
        ("compose(Linear(i + 2) for i in range(3))", "", ["0.linear", "1.linear", "2.linear"]),
        ("compose(a for i in range(2))", A, ["a.0.linear", "a.1.linear"]),
        ("compose(f(max(i, 1)) for i in range(3))", "def f(n) = Linear(n) >> Linear(4)\n",
         [f"f.{i}.{name}" for i in "012" for name in ("linear", "linear_1")]),
        ("compose(a if i < 1 else Linear(4) for i in range(2))", A, ["0.a.linear", "1.linear"]),
    ],
)  # fmt: skip
def test_an_index_for_each_copy(model: str, before: str, paths: list[str]) -> None:
    assert weights(model, before) == paths


@pytest.mark.parametrize(
    ("model", "before", "paths"),
    [
        # one set of weights, under the name itself, wherever it is mentioned
        ("e @ ReLU @ e", "shared e = Linear(4)\n", ["e.linear"]),
        ("f @ f", "shared e = Linear(4)\ndef f = e @ Linear(4)\n",
         ["f.linear", "e.linear", "f_1.linear"]),
        ("(e @ Linear(4)) ** 2", "shared e = Linear(4)\n", ["e.linear", "0.linear", "1.linear"]),
        ("e ** 3", "shared e = a @ a\n" + A, ["e.a.linear", "e.a_1.linear"]),
        ("e @ linear", "shared linear = Linear(4)\nshared e = Linear(4)\n",
         ["linear.linear", "e.linear"]),
        # names at the root are kept apart from those of shared modules
        ("e @ Linear(4)", "shared e = linear @ Linear(4)\n  where\n    linear = Linear(4)\n",
         ["linear", "e.linear", "e.linear_1.linear"]),
    ],
)  # fmt: skip
def test_shared_modules_have_one_path(model: str, before: str, paths: list[str]) -> None:
    assert sorted(weights(model, before)) == sorted(paths)


def test_a_shared_module_and_a_part_of_one_name() -> None:
    before = "shared linear = Linear(4)\n"
    assert sorted(weights("Linear(4) @ linear", before)) == ["linear.linear", "linear_1"]
    assert sorted(weights("linear @ Linear(4)", before)) == ["linear", "linear_1.linear"]


def test_a_reader_has_the_path_of_what_it_reads() -> None:
    text = """
input tokens: int[batch, seq] < 7
shared e = Embed(7, 4)
model M = Unembed(e) @ Linear(4) @ e
"""
    program = analyse_text(text, passes=ANALYSIS).program
    reader = [x for x in walk(program.tree) if isinstance(x, Leaf) and x.op.name == "Unembed"]
    assert [(x.path, x.weight) for x in reader] == [("unembed", "e.embed")]
    assert [record.path for record in records(program)] == ["e.embed", "linear"]


def test_suffixes_never_meet_a_name() -> None:
    before = A + "def a_1 = Linear(4)\ndef a_2 = Linear(4)\n"
    assert weights("a @ a @ a_1", before) == ["a_1.linear", "a.linear", "a_2.linear"]
    assert weights("a_1 @ a @ a", before) == ["a.linear", "a_1.linear", "a_1_1.linear"]


names = st.sampled_from(["a", "a_1", "a_1_1", "a_2", "b", "Linear(4)"])


@given(st.lists(st.tuples(names, st.integers(0, 2)), min_size=1, max_size=8))
def test_paths_are_different(parts: list[tuple[str, int]]) -> None:
    """And as many as there are weights, and as good for torch as for people."""
    definitions = "".join(f"def {n} = Linear(4)\n" for n in ("a", "a_1", "a_1_1", "a_2", "b"))
    steps = [name if not count else f"{name} ** {count}" for name, count in parts]
    found = weights(" @ ".join(steps), definitions)
    assert len(found) == len(set(found)) == sum(max(count, 1) for _, count in parts)
    assert not any(part.startswith("_") for path in found for part in path.split("."))
    # no weight's path is a part of another's: torch keeps both in one tree
    assert not any(b.startswith(f"{a}.") for a in found for b in found)


def test_names_do_not_depend_on_depth_or_width() -> None:
    pair = "def pair(n) = f @ g\n  where\n    f = Linear(n)\n    g = Linear(4)\n"
    before = pair + "def block(n) = pair(n) >> Linear(4)\n"
    few, many = (weights(f"block({n}) ** {depth}", before) for n, depth in ((3, 2), (8, 5)))
    assert few == many[: len(few)]


def test_operations_without_weights_have_paths_too() -> None:
    found = positions("act @ two ** 2 @ act", TWO + "def act = ReLU\n")
    assert found == [
        "act.re_lu",
        "two.{0}.inside.linear",
        "two.{0}.re_lu",
        "two.{0}.out.linear",
        "act.re_lu",
    ]


def test_runs_go_on_counting() -> None:
    tree, _ = placed("compose(Linear(max(i, 2) + 1) for i in range(5))")
    assert isinstance(tree, Repeat)
    assert [(run.path, run.count) for run in tree.runs] == [("{0}", 3), ("{3}", 1), ("{4}", 1)]


def test_ids_count_positions_in_execution_order() -> None:
    tree, _ = placed("two ** 3 @ (Linear(4) + two)", TWO)
    assert tree is not None
    assert [node.id for node in walk(tree)] == list(range(len(list(walk(tree)))))


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Linear", "linear"),
        ("Conv2D", "conv2d"),
        ("RMSDivide", "rms_divide"),
        ("MeanSubtract", "mean_subtract"),
        ("SplitHeads", "split_heads"),
        ("GELU", "gelu"),
    ],
)
def test_snake_case(name: str, short: str) -> None:
    assert snake(name) == short


def test_camel_case() -> None:
    assert [camel(x) for x in ("attention_block", "mlp", "a__b", "_", "")] == [
        "AttentionBlock",
        "Mlp",
        "AB",
        "Part",
        "Part",
    ]


def test_instances() -> None:
    assert instance("a.linear", ()) == "a.linear"
    assert instance("a.{0}.b.{3}_1.linear", (1, 2)) == "a.1.b.5_1.linear"
    assert indices("a.{0}.b.{3}_1.linear", "a.1.b.5_1.linear") == (1, 2)
    assert first("a.{0}.b.{3}_1.linear") == "a.0.b.3_1.linear"


def test_patterns() -> None:
    """An index that says which of several runs it is stays; with `starred` none does."""
    assert starred("a.{0}.b.{3}_1.linear") == "a.*.b.*_1.linear"
    assert pattern("a.{0}.b.{3}_1.linear") == "a.*.b.3_1.linear"
    assert starred("linear") == pattern("linear") == "linear"


def test_templates_are_read_as_they_are_written() -> None:
    path = template("a.{0}.b", 3, "_1")
    assert (path, depth(path)) == ("a.{0}.b.{3}_1", 2)
    assert last_copy(path) == (3, "_1")
    assert template("", 0) == "{0}"
    assert last_copy("a.{0}.linear") is None


@pytest.mark.parametrize("word", ["forward", "lambda", "train", "self", "class", "parameters"])
def test_names_that_torch_has_already(word: str) -> None:
    assert is_reserved(word)
    assert not is_reserved(f"{word}_")
    if not keyword.iskeyword(word):
        text = f"input x: float[batch, 4]\ndef {word} = Linear(4)\nmodel M = {word} @ {word}\n"
        analysis = analyse_text(text, passes=ANALYSIS)
        assert [r.path for r in records(analysis.program)] == [
            f"{word}_.linear",
            f"{word}__1.linear",
        ]
        assert "W605" in {d.code for d in analysis.diagnostics}


# --- bounds --------------------------------------------------------------------------------------


def test_the_size_of_a_tree() -> None:
    tree = module("(two ** 3 @ ReLU) ** 4 @ Bias", TWO)
    steps = [x for x in walk(tree) if isinstance(x, Leaf) and isinstance(x.op, Atom)]
    assert len(steps) == 3
    found = measure(tree)
    assert (found.weights, found.loops) == (1 + 4 * 3 * 2, 2)
    assert found.parts == len(list(walk(tree)))


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("ReLU", Measure(1, 1, 0, 0)),
        ("Linear(4)", Measure(1, 1, 1, 0)),
        ("Linear(4) @ Linear(4)", Measure(3, 2, 2, 0)),
        ("Linear(4) ** 5", Measure(2, 2, 5, 1)),
        ("(Linear(4) ** 5) ** 5", Measure(3, 3, 25, 2)),
        ("tare((ReLU, Linear(4)), 2)", Measure(4, 3, 1, 0)),
    ],
)
def test_measures(expression: str, wanted: Measure) -> None:
    assert measure(module(expression)) == wanted


def test_too_many_weights() -> None:
    tree, diagnostics = placed(f"Linear(4) ** {MAX_WEIGHTS // 2} @ Linear(4) ** {MAX_WEIGHTS // 2}")
    assert tree is not None
    half = MAX_WEIGHTS // 4
    tree, diagnostics = placed(f"(Linear(4) @ Bias @ Scale @ Linear(4)) ** {half} @ Bias")
    assert tree is None
    (error,) = diagnostics
    assert (error.code, error.span) == ("E305", HERE)
    assert error.message == "this model has 200,001 weights; at most 200,000 are allowed"


def test_too_many_loops() -> None:
    nested = "ReLU"
    for _ in range(MAX_LOOPS):
        nested = f"({nested} @ Abs) ** 2"
    tree, diagnostics = placed(nested)
    assert tree is not None
    tree, diagnostics = placed(f"({nested} @ Abs) ** 2")
    assert tree is None
    (error,) = diagnostics
    assert (
        error.message == "this model has 17 repetitions inside each other; at most 16 are allowed"
    )


def test_a_reader_of_nothing() -> None:
    tree, diagnostics = placed("Unembed(e)", "shared e = Embed(7, 4)\n")
    assert [d.code for d in diagnostics] == ["E308"]
    assert isinstance(tree, Leaf)
    assert tree.weight is None


def test_a_tree_is_not_changed() -> None:
    tree = module("two @ two", TWO)
    place(tree, HERE, Diagnostics())
    scopes = [x for x in walk(tree) if isinstance(x, Scope)]
    assert scopes
    assert all(x.id == -1 and x.path == "" for x in scopes)
