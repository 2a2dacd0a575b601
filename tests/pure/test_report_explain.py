"""`explain`: which weight is meant, and that the factors shown multiply out to its target."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from report_models import GPT, MLP, ODD, ORACLES, RESMLP, TIED, analysed, check_golden

from modnorm.codegen.plan import records
from modnorm.diagnostics import ModnormError
from modnorm.passes.program import Program
from modnorm.report.diagnostics import render as render_diagnostics
from modnorm.report.explain import Explanation, explain, explanation, find, render

EXACT = 1e-12


def check(program: Program) -> list[Explanation]:
    """Every weight's factors multiply out to its mass, downstream sensitivity and target."""
    found = []
    for record in records(program):
        e = explain(program, record)
        found.append(e)
        mass = float(e.weight.op.mass) * math.prod(float(factor.value) for factor in e.tares)
        assert mass == pytest.approx(float(program.leaf_masses[record.weight.path]), rel=EXACT)
        assert mass == pytest.approx(float(e.weight.mass), rel=EXACT)
        products = [math.prod(float(f.value) for f in use.factors) for use in e.uses]
        assert [float(use.product) for use in e.uses] == pytest.approx(products, rel=EXACT)
        assert math.fsum(products) == pytest.approx(record.downstream, rel=EXACT)
        assert len(e.uses) == e.weight.uses or e.weight.uses > len(e.uses) >= 1
        target = mass / float(program.mass) / math.fsum(products)
        assert target == pytest.approx(record.target, rel=EXACT, abs=0)
        assert float(e.target) == pytest.approx(record.target, rel=EXACT, abs=0)
        lines = render(e).splitlines()
        assert max(map(len, lines)) <= 80
    return found


# --- the factors -----------------------------------------------------------------------------


@pytest.mark.parametrize("program", [GPT, MLP, RESMLP, ODD, TIED])
def test_factors_multiply_out(program: str) -> None:
    assert check(analysed(program).program)


@pytest.mark.parametrize("name", ORACLES)
def test_explained_targets_are_those_of_the_reference_implementation(name: str) -> None:
    program, _, _, targets = ORACLES[name]
    found = [float(e.target) for e in check(analysed(program).program)]
    assert found == pytest.approx(targets, rel=1e-14)


class Writer:
    """Random programs of modules from 8 numbers to 8 numbers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names: list[str] = []

    def number(self) -> str:
        return self.random.choice(["1/2", "2", "3/4", "1", "5/3", "sqrt(2)", "1/7"])

    def module(self, depth: int) -> str:
        if depth <= 0:
            return self.random.choice(
                ["Linear(8)", "Linear(8, mass = 1/3)", "Linear(8, mass = 0)", "ReLU", "Tanh"]
                + ["Identity", "Bias", "Scale(mass = 2)", "Linear(8)"]
                + self.names * 2
            )
        one, two, small = self.module(depth - 1), self.module(depth - 1), self.module(depth - 2)
        count = self.random.randrange(1, 5)
        return self.random.choice(
            [
                f"({one} @ {two})",
                f"({one} >> {two} >> {small})",
                f"({one} + {two})",
                f"(Add @ ({one}, {small}, {self.number()} * {two}))",
                f"({one}) ** {count}",
                f"tare({one}, {self.number()})",
                f"tare({one} >> {small}, {self.number()})",
                f"({self.number()} * {one})",
                f"compose(({one} if i < {count} else {small}) for i in range({count + 1}))",
                small,
            ]
        )

    def program(self) -> str:
        lines = ["input x: float[batch, 8]"]
        for kind in ("shared", "def"):
            for number in range(self.random.randrange(3)):
                lines.append(f"{kind} {kind[0]}{number} = {self.module(2)}")
                self.names.append(f"{kind[0]}{number}")
        lines.append(f"model M = {self.module(self.random.randrange(1, 5))}")
        return "\n".join(lines)


@given(st.integers(0, 2**32))
def test_factors_of_random_programs_multiply_out(seed: int) -> None:
    program = Writer(seed).program()
    try:
        analysis = analysed(program)
    except ModnormError as error:
        # a tare around nothing that has a mass of its own, or a model without any
        errors = {d.code for d in error.diagnostics if d.severity == "error"}
        assert errors == {"E307"}, program
        assume(False)
        raise
    check(analysis.program)


def test_tares_inside_each_other() -> None:
    e = check(
        analysed(
            "input x: float[b, 8]\n"
            "model M = tare(tare(Linear(8, mass = 3) >> Linear(8), 2) >> Linear(8), 10)"
            " >> Linear(8)\n"
        ).program
    )[0]
    assert e.weight.op.mass == 3
    assert [factor.value for factor in e.tares] == [Fraction(1, 2), Fraction(10, 3)]
    assert [factor.what for factor in e.tares] == ["tare from 4 to 2", "tare from 3 to 10"]
    assert (e.weight.mass, e.program.mass, e.share) == (5, 11, Fraction(5, 11))


def test_a_shared_mass_is_scaled_by_the_tares_around_all_mentions() -> None:
    """`tare` to 3 holds one mention only; the one to 8 holds both."""
    program = (
        "input x: float[b, 8]\nshared s = tare(Linear(8) >> Linear(8), 4)\n"
        "model M = tare(tare(Linear(8) >> s, 3) >> s, 8) >> Linear(8)\n"
    )
    found = {e.record.path: e for e in check(analysed(program).program)}
    shared = found["s.linear"]
    assert [str(f.what) for f in shared.tares] == ["tare from 2 to 4", "tare from 7 to 8"]
    assert shared.weight.mass == 2 * Fraction(8, 7)
    assert len(shared.uses) == 2
    own = found["linear"]
    assert [f.value for f in own.tares] == [3, Fraction(8, 7)]


def test_a_shared_module_in_a_repetition() -> None:
    program = (
        "input x: float[b, 8]\nshared s = 1/2 * Linear(8)\nmodel M = tare((s >> Tanh) ** 3, 2)"
    )
    (e,) = check(analysed(program).program)
    (use,) = e.uses
    assert [f.value for f in e.tares] == [2]
    assert use.factors[-1].terms == "1 + … + 1/2^2"
    assert use.product == Fraction(1, 2) * (1 + Fraction(1, 2) + Fraction(1, 4))


def test_later_copies() -> None:
    program = "input x: float[b, 8]\nmodel M = (1/2 * Linear(8)) ** 4 >> (2 * ReLU) ** 3\n"
    found = check(analysed(program).program)
    later = [[f.what for f in e.uses[0].factors if "later" in f.what] for e in found]
    assert [len(names) for names in later] == [1, 1, 1, 0]
    assert later[0] == ["3 later copies of Linear(8, 8)"]
    assert found[0].uses[0].factors[1].terms == "1/2^3"
    assert found[0].uses[0].factors[-1].what == "3 copies of ReLU"


# --- which weight ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ("linear", 21),
        ("linear.weight", 21),
        ("body.block.2.residual.attention.q.split.linear", 1),
        ("body.block.2.residual.attention.q.split.linear.weight", 1),
        ("body.block.2", 6),
        ("block.2", 6),
        ("q", 4),
        ("*.q.*", 4),
        ("*.[qk].*", 8),
        ("embed", 2),
        ("embed.token", 1),
        ("token.embed", 1),
        ("body.block.{0}.residual_1.mlp.linear", 4),
        ("  embed.token.embed.weight ", 1),
        ("bod", 0),
        ("", 0),
        (".", 0),
        ("*", 27),
        ("body.block.4.residual", 0),
    ],
)
def test_find(wanted: str, count: int) -> None:
    # a whole name wins over parts of others: rename the readout to see both
    program = GPT.replace("Linear(vocab) @ norm", "head @ norm") + "        head = Linear(vocab)\n"
    assert len(find(analysed(program).program, wanted)) == count


def test_a_whole_path_wins_over_parts_of_others() -> None:
    (record,) = find(analysed(GPT).program, "linear")
    assert record.path == "linear"


def test_every_name_finds_its_weight() -> None:
    for text in (GPT, ODD, TIED):
        program = analysed(text).program
        for record in records(program):
            assert find(program, record.name) == [record]
            assert find(program, record.path) == [record]


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("body.block.9.residual.attention.q.split.linear", "`body.block.0.residual.attention.q"),
        ("attentoin", "did you mean `attention`?"),
        ("embed.tokn.embed.weight", "did you mean `embed.token.embed`?"),
        ("zzzzzz", "`modnorm report` shows the names of all"),
    ],
)
def test_no_such_weight(wanted: str, hint: str) -> None:
    with pytest.raises(ModnormError) as caught:
        explanation(analysed(GPT).program, wanted)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E201"
    assert wanted.removesuffix(".weight") in diagnostic.message
    assert hint in diagnostic.hint
    assert render_diagnostics(caught.value.diagnostics)


def test_no_weights_at_all() -> None:
    with pytest.raises(ModnormError) as caught:
        explanation(analysed("input x: float[b, 8]\nmodel M = ReLU\n").program, "linear")
    assert caught.value.diagnostics[0].hint == "it has no weights at all"


# --- as text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("golden", "program", "wanted"),
    [
        ("q", GPT, "q"),
        ("one", GPT, "body.block.2.residual_1.mlp.linear.weight"),
        ("list", GPT, "*linear*"),
        ("copies", ODD, "deep"),
        ("copy", ODD, "deep.1.blk"),
        ("shared", ODD, "cell"),
        ("tied", TIED, "embed"),
        ("frozen", ODD, "linear"),
        ("last", MLP, "linear_2"),
    ],
)
def test_golden(golden: str, program: str, wanted: str) -> None:
    text = explanation(analysed(program, "model.mod").program, wanted)
    assert max(map(len, text.splitlines())) <= 80
    check_golden(f"explain_{golden}.txt", text)
