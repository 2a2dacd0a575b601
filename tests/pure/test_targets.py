"""Masses, sensitivities, targets and sharpness of small programs, by hand or by writing out."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from modnorm.codegen.plan import records
from modnorm.diagnostics import ModnormError
from modnorm.ops.base import Sharpness
from modnorm.passes.program import Program
from modnorm.passes.sharpness import Second, after
from modnorm.pipeline import analyse_text
from tests.plain import targets, unroll

THIRD = Fraction(1, 3)


def program(body: str, *, before: str = "", declaration: str = "float[batch, 4]") -> Program:
    """The analysed program `model M = body`."""
    text = f"{before}\ninput x: {declaration}\nmodel M = {body}\n"
    return analyse_text(text).program


def found(program: Program) -> dict[str, float]:
    return {record.path: record.target for record in records(program)}


def exact(program: Program) -> list[object]:
    """The targets as exact numbers, of repetitions that of the last copy."""
    return [weight.target for weight in program.weights]


def masses(program: Program) -> dict[str, object]:
    return {weight.path: weight.mass for weight in program.weights}


# -- modula's architectures, whose targets are known -------------------------------------------


def test_a_network_with_three_layers() -> None:
    p = program(
        "Linear(10, 100) @ ReLU @ Linear(100, 100) @ ReLU @ Linear(100, 20)",
        declaration="float[batch, 20]",
    )
    assert p.mass == 3
    assert p.sensitivity == pytest.approx(1 / 2, rel=1e-15)
    assert exact(p) == pytest.approx([2 / 3, math.sqrt(2) / 3, 1 / 3], rel=1e-15)


@pytest.mark.parametrize(("blocks", "depth"), [(3, 2), (2, 1), (7, 3), (50, 4)])
def test_resmlp(blocks: int, depth: int) -> None:
    p = program(
        f"modula.ResMLP(8, {blocks}, {depth}, 5, 4)",
        before="import std.modula",
        declaration="float[batch, 5]",
    )
    assert (p.mass, p.sensitivity) == (3, 1)
    assert exact(p) == [THIRD, Fraction(1, 3 * depth), THIRD]
    inner = [Fraction(1, 3 * depth)] * (blocks * depth)
    assert [r.target for r in records(p)] == pytest.approx(
        [THIRD, *map(float, inner), THIRD], rel=1e-15
    )


def test_rescnn() -> None:
    p = program(
        "modula.ResCNN(8, 4, 2, 3, 10)",
        before="import std.modula",
        declaration="float[batch, 3, 6, 6]",
    )
    assert (p.mass, p.sensitivity) == (22, 1)
    assert exact(p) == [Fraction(1, 22), Fraction(5, 11), Fraction(1, 22)]
    expected = [1 / 22, *[5 / 11] * 8, 1 / 22]
    assert list(found(p).values()) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("blocks", "mass"), [(4, 5), (12, 5), (1, 3), (1000, 2)])
def test_gpt(blocks: int, mass: int) -> None:
    p = program(
        f"modula.GPT(65, 64, 4, 128, 32, 32, {blocks}, {mass})",
        before="import std.modula",
        declaration="int[batch, seq] < 65",
    )
    assert p.mass == mass + 2
    assert p.sensitivity == pytest.approx(1, rel=1e-12)
    one = Fraction(1, mass + 2)
    wide, narrow = one * mass, one * mass / 3
    expected = [one, one, *([wide] * 3 + [narrow] * 3) * blocks, one]
    assert [r.target for r in records(p)] == pytest.approx(list(map(float, expected)), rel=1e-12)


# -- masses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Linear(4) @ Linear(4, mass = 3)", [3, 1]),
        ("tare(Linear(4) @ Linear(4, mass = 3), 2)", [Fraction(3, 2), Fraction(1, 2)]),
        ("tare(tare(Linear(4), 5) @ Linear(4), 3)", [Fraction(1, 2), Fraction(5, 2)]),
        ("tare(tare(tare(Linear(4), 2) @ Linear(4), 9) @ Linear(4), 20)", [2, 6, 12]),
        ("tare(Linear(4) ** 5, 2)", [Fraction(2, 5)]),
        ("tare(tare(Linear(4), 2) ** 3 @ Linear(4), 14)", [2, 4]),
        ("tare(Linear(4), 0) @ Linear(4)", [1, 0]),
        ("tare(Linear(4, mass = 0) @ Linear(4), 3)", [3, 0]),
        ("(Linear(4) ** 0) @ Linear(4)", [1]),
    ],
)  # fmt: skip
def test_tare(body: str, expected: list[object]) -> None:
    p = program(body)
    assert list(masses(p).values()) == expected
    assert p.mass == sum(m * w.copies for m, w in zip(expected, p.weights, strict=True))  # type: ignore[operator]


SHARED = "shared s = Linear(4)\nshared t = s @ Linear(4)"


@pytest.mark.parametrize(
    ("body", "expected", "whole"),
    [
        ("s @ s", {"s.linear": 1}, 1),
        ("s ** 7", {"s.linear": 1}, 1),
        ("s @ Linear(4) @ s", {"s.linear": 1, "linear": 1}, 2),
        # the tare holds both mentions
        ("tare(s @ Linear(4) @ s, 6)", {"s.linear": 3, "linear": 3}, 6),
        # it holds one of two: s counts outside, and is not rescaled
        ("tare(s @ Linear(4), 6) @ s", {"s.linear": 1, "linear": 6}, 7),
        ("tare(tare(s @ Linear(4), 6) @ s, 14)", {"s.linear": 2, "linear": 12}, 14),
        # once for all copies, the others once a copy
        ("(s @ Linear(4)) ** 3", {"s.linear": 1, "{0}.linear": 1}, 4),
        ("tare((s @ Linear(4)) ** 3, 8)", {"s.linear": 2, "{0}.linear": 2}, 8),
        ("tare(s @ Linear(4), 2) ** 1", {"s.linear": 1, "{0}.linear": 1}, 2),
        ("tare(s @ Linear(4), 2) ** 2", {"s.linear": 1, "{0}.linear": 2}, 5),
        # a shared module inside a shared one
        ("t @ t", {"t.linear": 1, "s.linear": 1}, 2),
        ("tare(t @ t, 6) @ s", {"t.linear": 6, "s.linear": 1}, 7),
    ],
)
def test_a_shared_weight_counts_once(body: str, expected: dict[str, object], whole: int) -> None:
    p = program(body, before=SHARED)
    assert masses(p) == expected
    assert p.mass == whole


@pytest.mark.parametrize(
    "body",
    [
        "tare(Tanh, 1)",
        "tare(Linear(4, mass = 0), 2)",
        "tare(s, 2) @ s",
        "tare(t, 6) @ t",
        "Linear(4, mass = 0)",
    ],
)
def test_mass_from_nothing_is_an_error(body: str) -> None:
    with pytest.raises(ModnormError) as caught:
        program(body, before=SHARED)
    assert "E307" in {d.code for d in caught.value.diagnostics}


# -- targets -----------------------------------------------------------------------------------


def test_copies_of_a_growing_module_differ() -> None:
    p = program("Linear(4) @ (2 * Linear(4)) ** 5")
    first = [Fraction(1, 6) / 2 ** (5 - i) for i in range(5)]
    assert list(found(p).values()) == [float(t) for t in [*first, Fraction(1, 6)]]
    (weight, _) = p.weights
    assert [(level.count, level.ratio) for level in weight.levels] == [(5, 2)]


def test_copies_of_copies_differ() -> None:
    p = program("(1/3 * Linear(4) @ (2 * Linear(4)) ** 2) ** 3")
    one = Fraction(4, 3)
    for record in records(p):
        outer, *inner = (int(part) for part in record.path.split(".") if part.isdigit())
        downstream = one ** (2 - outer) / 3 * (2 ** (2 - inner[0]) if inner else 1)
        assert record.target == pytest.approx(float(Fraction(1, 9) / downstream), rel=1e-15)


def test_runs_of_different_copies() -> None:
    p = program("compose((i + 1) * Linear(4) for i in range(3)) >> Linear(4)")
    assert list(found(p).values()) == [float(Fraction(1, 4) / d) for d in (6, 6, 3, 1)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("s", 1),
        ("s @ s", Fraction(1, 2)),
        ("s + s", Fraction(1, 2)),
        ("s ** 4", Fraction(1, 4)),
        # 1 + 2 + 4 + 8
        ("(2 * s) ** 4", Fraction(1, 2 * 15)),
        ("(1/2 * s) ** 3", 1 / (Fraction(1, 2) + Fraction(1, 4) + Fraction(1, 8))),
        # two uses in every copy: sensitivity 3 each, 3·1 and then 3·3
        ("(s @ (3 * s)) ** 2", Fraction(1, 1 + 3 + 3 + 9)),
        ("((2 * s) ** 2) ** 2", Fraction(1, 30)),
        ("s @ Abs @ (s + 3 * s)", Fraction(1, 1 + 1 + 3)),
    ],
)
def test_the_pooled_rule(body: str, expected: Fraction) -> None:
    p = program(body, before="shared s = Linear(4)")
    assert exact(p) == [expected]


def test_a_tied_readout() -> None:
    p = program(
        "Unembed(e) @ (2 * Tanh) @ e",
        before="shared e = Embed(5, 4)",
        declaration="int[batch, seq] < 5",
    )
    assert exact(p) == [THIRD]


PROGRAMS = [
    ("s @ (s @ Linear(4) + 1/2 * s) ** 3", "shared s = Linear(4)"),
    ("(1/2 * s + 1/2 * t) ** 2 @ t", "shared s = Linear(4)\nshared t = Linear(4) @ (2 * s) ** 2"),
    ("tare((t + s + Linear(4)) ** 3, 5) @ t", "shared s = Linear(4)\nshared t = (s @ Bias) ** 2"),
    ("compose(1/(i + 1) * s @ Linear(4) for i in range(4))", "shared s = Linear(4, mass = 2)"),
    ("((s ** 2 @ Linear(4)) ** 2 + sqrt(2) * s) ** 2", "shared s = 1/3 * Linear(4) @ ReLU"),
    ("f(f(Bias, 2), 3)", "shared s = tare(Linear(4), 3)\ndef f(g, n) = (g @ s + 1/n * g) ** n"),
    ("Select(0) @ (s @ Linear(4), s) + Linear(4)", "shared s = Scale @ Bias"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "before"), PROGRAMS, ids=range(len(PROGRAMS)))
def test_sharing_is_as_if_written_out(body: str, before: str) -> None:
    p = program(body, before=before)
    mass, expected = targets(unroll(p.tree))
    own = {record.name: record for record in records(p)}
    assert len(own) == len(expected)
    assert float(p.mass) == pytest.approx(float(mass), rel=1e-14)
    for target in expected:
        record = own[str(target.key)]
        assert float(record.weight.mass) == pytest.approx(float(target.mass), rel=1e-14)
        assert record.downstream == pytest.approx(float(target.downstream), rel=1e-13)
        assert record.target == pytest.approx(float(target.target), rel=1e-13)
    assert sum(r.target * r.downstream for r in own.values()) == pytest.approx(1, rel=1e-14)


def test_names_are_in_execution_order() -> None:
    p = program(
        "b @ (Linear(4) + a) @ Linear(4)",
        before="def a = Linear(4) @ Linear(4)\ndef b = Linear(4) ** 2",
    )
    assert [r.name for r in records(p)] == [
        "linear.weight",
        "linear_1.weight",
        "a.linear.weight",
        "a.linear_1.weight",
        "b.0.linear.weight",
        "b.1.linear.weight",
    ]


# -- sharpness ---------------------------------------------------------------------------------

TANH = 0.769801
ONE = {  # a layer of sensitivity 1 or 2, and its (α, β, γ) by hand
    "Tanh @ Linear(4)": (1.0, (TANH, 1 + TANH, TANH)),
    "2 * Tanh @ Linear(4)": (2.0, (TANH / 2, 1 + TANH, 2 * TANH)),
    "Linear(4) @ Tanh": (1.0, (0.0, 1.0, TANH)),
    "1/2 * Linear(4) @ Tanh": (0.5, (0.0, 1.0, TANH / 2)),
}  # fmt: skip


def sharpness(p: Program) -> tuple[float, float, float]:
    value = p.sharpness[p.tree.id]
    assert value is not None
    return value.alpha, value.beta, value.gamma


@pytest.mark.parametrize("layer", ONE)
def test_sharpness_of_a_layer(layer: str) -> None:
    mu, expected = ONE[layer]
    p = program(layer)
    assert p.sensitivity == mu
    a, b, g = sharpness(p)
    # of `λ·M`: α/|λ|, β, |λ|γ
    assert (a, b, g) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 17, 100])
@pytest.mark.parametrize("layer", ONE)
def test_sharpness_of_a_power(layer: str, count: int) -> None:
    mu, (a, b, g) = ONE[layer]
    n = range(count)
    alpha = sum((a + 2 * b * i / mu + g * i**2 / mu**2) / mu ** (count - 1 - i) for i in n)
    beta = sum(mu**i * (b + g * i / mu) for i in n)
    gamma = sum(g * mu ** (count - 1 - i) * mu ** (2 * i) for i in n)
    found = sharpness(program(f"({layer}) ** {count}"))
    assert found == pytest.approx((alpha / count**2, beta / count, gamma), rel=1e-11)
    if mu == 1:
        closed = (
            a / count + b * (count - 1) / count + g * (count - 1) * (2 * count - 1) / (6 * count),
            b + g * (count - 1) / 2,
            count * g,
        )
        assert found == pytest.approx(closed, rel=1e-11)


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
@pytest.mark.parametrize("layer", [layer for layer, (mu, _) in ONE.items() if mu == 1])
def test_sharpness_of_residual_blocks(layer: str, count: int) -> None:
    _, (a, b, g) = ONE[layer]
    block = f"(1 - 1/{count}) * Identity + 1/{count} * {layer}"
    assert sharpness(program(block)) == pytest.approx((count * a, b, g / count), rel=1e-12)
    expected = (
        a + b * (count - 1) / count + g * (count - 1) * (2 * count - 1) / (6 * count**2),
        b + g * (count - 1) / (2 * count),
        g,
    )
    found = sharpness(program(f"({block}) ** {count}"))
    assert found == pytest.approx(expected, rel=1e-10)
    if count == 1000:  # near its limit
        assert found == pytest.approx((a + b + g / 3, b + g / 2, g), rel=2e-3)


def test_composition_is_associative() -> None:
    a = Second(1.0, 0.5, Sharpness(0.3, 1.2, 0.7))
    b = Second(2.0, 3.0, Sharpness(1.3, 0.2, 0.4))
    c = Second(0.5, 0.7, Sharpness(0.1, 2.0, 1.1))
    left, right = after(after(a, b), c), after(a, after(b, c))
    assert (left.mass, left.mu) == pytest.approx((right.mass, right.mu), rel=1e-15)
    assert vars(left.sharp) == pytest.approx(vars(right.sharp), rel=1e-14)


@pytest.mark.parametrize(
    ("body", "before"),
    [("ReLU @ Linear(4)", ""), ("Linear(4) @ Abs", ""), ("s @ Tanh @ s", "shared s = Linear(4)")],
)
def test_no_sharpness_where_there_is_none(body: str, before: str) -> None:
    p = program(body, before=before)
    assert p.sharpness[p.tree.id] is None


# -- the range of numbers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "(3 * Linear(4)) ** 1000",
        "(1/3 * Linear(4)) ** 1000",
        "(sqrt(2) * Linear(4)) ** 100000",
        "(sqrt(2) / 2 * Linear(4)) ** 100000",
        "Linear(4) @ ((2 * Linear(4)) ** 900) ** 2",
        "(Identity + Linear(4)) ** 5000",
    ],
)
def test_sensitivities_out_of_range_are_an_error(body: str) -> None:
    with pytest.raises(ModnormError) as caught:
        program(body)
    errors = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert {d.code for d in errors} == {"E501"}
    assert all(d.span is not None and d.hint for d in errors)


@pytest.mark.parametrize("body", ["(3 * Linear(4)) ** 600", "(1/3 * Linear(4)) ** 600"])
def test_sensitivities_just_in_range_are_exact(body: str) -> None:
    p = program(body)
    base = Fraction(3) if body.startswith("(3") else THIRD
    for record in records(p):
        downstream = base ** (600 - int(record.path.split(".")[0]))
        assert record.target == pytest.approx(float(Fraction(1, 600) / downstream), rel=1e-12)


def test_a_thousand_residual_blocks_keep_sensitivity_one_exactly() -> None:
    p = program("(999/1000 * Identity + 1/1000 * Linear(4) @ Tanh) ** 1000 @ Linear(4)")
    assert p.sensitivity == 1
    assert exact(p)[1] == Fraction(1000, 1001)
