"""`assume`: what it does to targets, what it leaves alone, and where it is said."""

from __future__ import annotations

from fractions import Fraction

import pytest

from modnorm.codegen.assemble import generate
from modnorm.codegen.plan import records
from modnorm.passes.program import Program
from modnorm.pipeline import analyse_text
from modnorm.report import markdown, terminal
from modnorm.report.as_json import report
from modnorm.report.document import document
from modnorm.report.explain import explain
from modnorm.report.html import page

X = "input x: float[batch, 8]\n"


def program(text: str) -> Program:
    return analyse_text(X + text, "m.mod").program


def targets(text: str) -> dict[str, float]:
    return {r.path: float(r.target) for r in records(program(text))}


def test_what_stands_before_sees_what_is_assumed_and_what_is_inside_its_own_path() -> None:
    found = program("model M = 3 * Linear(8) @ (assume sensitivity 1/5: 2 * F) @ Linear(8)"
                    " where F = Linear(8) @ ReLU @ Linear(8)\n")  # fmt: skip
    before, first, second, after = found.weights
    share, root = Fraction(1, 4), 2**-0.5
    assert float(before.target) == pytest.approx(float(share / (Fraction(1, 5) * 3)), rel=1e-15)
    assert float(first.target) == pytest.approx(float(share) / (root * 2 * 3), rel=1e-15)
    assert second.target == share / (2 * 3)
    assert after.target == share / 3
    assert float(found.sensitivity) == pytest.approx(3 / 5, rel=1e-15)


BLOCKS = """
def block = (Identity + ONE) @ (Identity + TWO)
def one = 1/2 * Linear(8) @ GELU @ Linear(8) @ RMSDivide
model M = Linear(8) @ RMSDivide @ block ** 3 @ Linear(8)
"""


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("one", "Linear(8) @ RMSDivide"),
        ("one", "1/3 * Linear(8) @ (Identity + Linear(8) @ ReLU) @ RMSDivide"),
        ("(Linear(8) @ (Identity + one) @ RMSDivide + Linear(8) @ RMSDivide)", "one"),
    ],
)
def test_to_assume_what_is_declared_changes_nothing(one: str, two: str) -> None:
    def model(one: str, two: str) -> str:
        return BLOCKS.replace("ONE", one).replace("TWO", two)

    plain = model(one, two)
    one_of = "def one = 1/2 * Linear(8) @ GELU @ Linear(8) @ RMSDivide\nmodel M = "
    own = [float(program(f"{one_of}{f}\n").sensitivity) for f in (one, two)]
    assumed = (f"(assume sensitivity {s!r}: {f})" for s, f in zip(own, (one, two), strict=True))
    found, wanted = targets(model(*assumed)), targets(plain)
    assert found.keys() == wanted.keys()
    assert found == pytest.approx(wanted, rel=1e-12)
    assert len(set(wanted.values())) > 3  # of a stream: they fall along it


@pytest.mark.parametrize("norm", ["RMSDivide", "Standardize"])
def test_in_a_residual_stream_a_branch_counts_by_what_is_assumed(norm: str) -> None:
    """As if a bond of that sensitivity stood in it; what is inside sees its own way out."""
    stack = f"model M = Linear(8) @ {norm} @ (Identity + f) ** 5 @ Linear(8)\n"
    quarter = "bond Quarter(x) = tanh(x) / 4 sensitivity 1/4\n"
    wanted = targets(f"{quarter}def f = Linear(8) @ Quarter @ Linear(8) @ {norm}\n{stack}")
    assumed = f"def f = assume sensitivity 1/4: Linear(8) @ ReLU @ Linear(8) @ {norm}\n"
    for text in (assumed, assumed.replace(f" @ {norm}\n", f") @ {norm}\n").replace("=", "= (", 1)):
        found = targets(text + stack)
        for path, target in wanted.items():
            inside = path.endswith(".f.linear")
            factor = 2**0.5 / 4 if inside else 1  # behind it 1/√2 instead of 1/4
            assert found[path] == pytest.approx(target * factor, rel=1e-12), path


def test_copies_are_those_that_are_written_out() -> None:
    body = "def b = assume sensitivity 1/3: Linear(8) @ Tanh @ Linear(8)\n"
    rolled = targets(f"{body}model M = Linear(8) @ b ** 3 @ Linear(8)\n")
    written = targets(f"{body}model M = Linear(8) @ b @ b @ b @ Linear(8)\n")
    assert [*rolled.values()] == pytest.approx([*written.values()], rel=1e-15)


def test_of_named_inputs_too() -> None:
    """x moves f(x) and Tanh(x); what is assumed is said of both together."""
    text = "def f = Linear(8) @ (Linear(8) @ x + Tanh @ x)\n"
    plain, found = (
        program(f"{text}model M = f\n"),
        program(f"{text}model M = assume sensitivity 1: f\n"),
    )
    assert (plain.sensitivity, found.sensitivity) == (2, 1)
    assert [w.target for w in plain.weights] == [w.target for w in found.weights]


def test_nothing_is_proved_by_it() -> None:
    """The certificate is that of the same file without it, but for the targets in κ."""
    text = "model M = Linear(8) @ ({}Tanh @ Linear(8) @ Abs)\n"
    plain = program(text.format("")).certificate
    found = program(text.format("assume sensitivity 1/100: ")).certificate
    assert plain is not None
    assert found is not None
    assert found.sensitivity == plain.sensitivity == 1
    assert found.kappa == plain.kappa
    text = "model M = Linear(8) @ ({}Linear(8)) @ Linear(8)\n"
    found = program(text.format("assume sensitivity 1/100: ")).certificate
    assert found is not None
    assert found.kappa == pytest.approx((100 + 1 + 1) / 3)


def test_where_it_is_said() -> None:
    text = "def f = assume sensitivity 1/4: 2 * Linear(8)\n"
    text += "model M = f @ f ** 2 @ (assume sensitivity 3: RMSDivide)\n"
    analysis = analyse_text(X + text, "m.mod")
    one, two = report(analysis)["assumptions"]
    assert (one["line"], two["line"]) == (3, 2)
    assert (two["sensitivity"], two["otherwise"], two["certified_sensitivity"]) == (0.25, 2, 2)
    assert (one["sensitivity"], one["certified_sensitivity"]) == (3, None)
    kinds = {node["kind"] for node in _nodes(report(analysis)["tree"])}
    assert "assume" in kinds
    first, *_ = records(analysis.program)
    (use,) = explain(analysis.program, first).uses
    assert any("assumed to be 1/4" in factor.what for factor in use.factors)
    assert use.product == first.downstream == 2 * Fraction(1, 4) ** 2
    said = "sensitivity 0.25 at m.mod:2, where 2 would be declared; certified 2"
    found = document(analysis)
    for shown in (terminal.render(found, width=200), markdown.render(found), page(analysis)):
        assert said in shown
    assert "Assumed: sensitivity 0.25 at m.mod:2, where 2 is declared." in generate(
        analysis.program, "cpu"
    )


def _nodes(node: dict) -> list[dict]:  # type: ignore[type-arg]
    return [node, *(inner for child in node["children"] for inner in _nodes(child))]
