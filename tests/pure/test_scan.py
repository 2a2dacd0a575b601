"""`Scan`: what its state is, what is declared of it, what is proved, and what is wrong."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from modnorm.codegen.assemble import generate
from modnorm.codegen.plan import records
from modnorm.diagnostics import Diagnostic, ModnormError
from modnorm.ops.edges import Measure
from modnorm.ops.types import Tensor
from modnorm.passes.gains import endless, series
from modnorm.pipeline import Analysis, analyse_text
from modnorm.report.explain import explain, render

X = "input x: float[batch, seq, 16]\n"


def analysed(text: str, given: str = X) -> Analysis:
    return analyse_text(f"{given}{text}")


def mistakes(text: str, given: str = X) -> list[Diagnostic]:
    with pytest.raises(ModnormError) as caught:
        analysed(text, given)
    return [d for d in caught.value.diagnostics if d.severity == "error"]


def shown(text: str, given: str = X) -> str:
    program = analysed(text, given).program
    return str(program.types[program.tree.id][1])


# --- its state ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "state"),
    [
        (
            "Tanh @ (1/2 * (Linear(32) @ Select(0)) + Linear(32) @ Select(1))",
            "float[batch, seq, 32]",
        ),
        ("1/2 * Select(0) + 1/2 * Select(1)", "float[batch, seq, 16]"),
        ("1/2 * Select(0) * (Linear(8) @ Select(1))", "float[batch, seq, 8]"),
        ("1/2 * (Linear(8, 8) @ Select(0)) + Linear(8) @ Select(1)", "float[batch, seq, 8]"),
        ("Linear(1) @ (1/2 * Select(0)) + Linear(1) @ Select(1)", "float[batch, seq, 1]"),
        (
            "1/2 * Select(0) + 1/2 * (MatMul @ (Unsqueeze(-1), Unsqueeze(1)) @ Select(1))",
            "float[batch, seq, 16, 16]",
        ),
        (
            "(1/2 * Select(0) @ Select(0) + Linear(3) @ Select(1), 1/2 * Select(1))",
            "(float[batch, seq, 3], float[batch, seq, 16])",
        ),
    ],
)
def test_the_state_follows_from_the_cell(cell: str, state: str) -> None:
    assert shown(f"model M = Scan({cell}, carry = 1/2)") == state


def test_the_state_of_a_scan_that_is_read_by_another() -> None:
    """The outer state is known only once the inner scan has one, whatever is wrong with a guess."""
    inner = "Scan(1/2 * (Linear(2, 2) @ Select(0)) + 1/2 * (Linear(2, 2) @ Select(1)))"
    outer = f"1/2 * ({inner} @ Select(0)) + 1/2 * (Linear(2) @ Select(1))"
    given = "input x: float[batch, 2, seq, 4]\n"
    assert shown(f"model M = Scan({outer}, carry = 1)", given) == "float[batch, 2, seq, 2]"


def test_a_sequence_may_hold_integers_beside_real_numbers() -> None:
    given = f"{X}input t: int[batch, seq] < 7\n"
    cell = "def cell = 1/2 * Select(0) + f @ Select(1)\n"
    cell += "def f = 1/4 * Select(0) + 1/4 * (Embed(7, 16) @ Select(1))\n"
    assert shown(f"{cell}model M = Scan(cell)", given) == "float[batch, seq, 16]"
    (found,) = mistakes("model M = Scan(Embed(7, 16) @ Select(1)) @ t", given)
    assert (found.code, found.hint) == (
        "E402",
        "turn integers into vectors before it: `Scan(cell) @ Embed(count, dim)`",
    )


@pytest.mark.parametrize(
    ("model", "code", "message", "hint"),
    [
        ("Scan(Tanh @ Select(0))", "E401", "follows from nothing in its cell", "Linear(32)"),
        ("Scan(Concat)", "E403", "turns a state", "Linear(32) @"),
        ("Scan(Mean(0) @ Select(1))", "E402", "a state for each example", "`batch`"),
        ("Scan(Add) @ Mean(1)", "E402", "takes sequences", "float[batch, seq, 16]"),
        ("Scan(BatchNorm @ Select(1))", "E402", "all steps would share its", "LayerNorm"),
        ("Scan(Linear(3) @ Select(1) + Linear(4) @ Select(0))", "E401", "sizes 3 and 4 clash", ""),
        ("Scan(Select(1)) @ (x, Slice(1, 3, 1) @ x)", "E401", "of one length", ""),
        ("Scan(((Select(1), Select(1)), Select(1)))", "E402", "or a tuple of such", ""),
        ("Scan(Enumerate)", "E402", "", ""),
        ("Scan(3)", "E302", "takes a module, its cell", ""),
        ("Scan(f)", "E302", "`f` is a definition with arguments", "`def f = Tanh @"),
        ("scan(g)", "E201", "unknown name `scan`", "write `Scan(cell, carry = 3/4)`"),
        ("Scan", "E102", "without its arguments", "`Scan(cell)`"),
        ("Scan(g, 1, 2)", "E301", "takes a cell", "`Scan(cell, carry = 3/4)`"),
        ("Scan(g, mass = 2)", "E301", "takes a cell", "`Scan(cell, carry = 3/4)`"),
        ("Scan(g, carry = 0)", "E501", "positive and finite", "fades"),
        ("Scan(g, carry = g)", "E302", "`carry` of `Scan` must be a number", ""),
        ("Scan(g)", "E501", "which `seq` leaves open", "`carry = 3/4` is a memory of 4 steps"),
        ("RNN(8)", "E501", "which `seq` leaves open", "`carry = 3/4` is a memory of 4 steps"),
        ("Scan(Scan(Scan(Scan(Select(1)))))", "E402", "takes sequences", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_what_to_write(
    model: str, code: str, message: str, hint: str
) -> None:
    text = "def f(h) = Linear(4) @ h\ndef g = Linear(4) @ Select(0) + Linear(4) @ Select(1)\n"
    (found,) = mistakes(f"{text}model M = {model}")
    assert found.code == code
    assert message in found.message
    assert hint in found.hint


def test_scans_are_at_most_three_deep() -> None:
    """Each asks its cell what its state is, again and again."""
    cell = "1/2 * Select(0) + 1/2 * Select(1)"
    for depth, good in ((3, True), (4, False)):
        inner = cell
        for _ in range(depth - 1):
            inner = f"1/2 * Select(0) + 1/2 * (Last @ Scan({inner}) @ Select(1))"
        given = f"input x: float[batch, {', '.join(['5'] * depth)}, 16]\n"
        if good:
            analysed(f"model M = Scan({inner})", given)
        else:
            assert [d.code for d in mistakes(f"model M = Scan({inner})", given)] == ["E305"]


# --- what is declared ---------------------------------------------------------------------------

FIXED = "input x: float[batch, 10, 16]\n"
CELL = "def cell = 1/2 * (Linear(4) @ Select(0)) + 1/3 * (Tanh @ Linear(4) @ Select(1))\n"


def sums(ratio: Fraction | int, count: int) -> Fraction:
    """1 + ratio + … , term by term."""
    return sum((Fraction(ratio) ** k for k in range(count)), Fraction(0))


@pytest.mark.parametrize(
    ("given", "scan", "total"),
    [
        (FIXED, "Scan(cell)", sums(Fraction(1, 2), 10)),
        (X, "Scan(cell)", Fraction(2)),
        (FIXED, "Scan(cell, carry = 1)", Fraction(10)),
        (FIXED, "Scan(cell, carry = 3/4)", sums(Fraction(3, 4), 10)),
        (X, "Scan(cell, carry = 3/4)", Fraction(4)),
        (FIXED, "Scan(cell, 2)", Fraction(1023)),
    ],
)
def test_a_weight_counts_at_every_step(given: str, scan: str, total: Fraction) -> None:
    found = analysed(f"{CELL}model M = 1/5 * Linear(2) @ {scan} @ Linear(16)", given)
    program = found.program
    state, entry, last, first = (
        next(w for w in program.weights if w.path == path)
        for path in ("cell.linear", "cell.linear_1", "linear_1", "linear")
    )
    assert state.downstream == Fraction(1, 2) * total / 5
    assert entry.downstream == Fraction(1, 3) * total / 5
    assert first.downstream == Fraction(1, 3) * total / 5  # before the scan
    assert last.downstream == Fraction(1, 5)
    assert [w.mass for w in program.weights] == [1] * 4
    assert [w.code for w in found.diagnostics] == (["W604"] if total == 1023 else [])
    text = render(explain(program, next(r for r in records(program) if r.path == "cell.linear")))
    what = "used at 10 steps of cell" if given is FIXED else "used at every step of cell"
    assert what in text


def test_members_of_a_tuple_count_by_themselves() -> None:
    """A cell's state and its entry; and of what is beside it each for what is made of it."""
    text = (
        "model M = Scan(1/2 * (Select(0) + Select(1) @ Select(1)) + 1/8 * (Select(0) @ Select(1)))"
    )
    program = analysed(f"{text} @ (Linear(4), Linear(4))").program
    assert [w.downstream for w in program.weights] == [1, 1]  # 1/2 / (1 - 1/2), for both


def test_a_long_sequence_takes_no_time() -> None:
    given = "input x: float[batch, 2000000000, 16]\n"
    program = analysed(f"{CELL}model M = Scan(cell, carry = 0.9999999)", given).program
    assert float(program.steps[program.tree.id].total) == pytest.approx(1e7, rel=1e-6)
    assert program.certificate is not None
    analysed("model M = Scan(Lerp @ (Select(1), Select(0), Sigmoid @ Select(1)), carry = 1)", given)


# --- what is proved -----------------------------------------------------------------------------


def test_the_closed_form_of_the_certificate_is_that_of_the_declared_one() -> None:
    """Where every declared sensitivity is certified, κ is at most 1: less, as the states are."""
    text = "def cell = Tanh @ (1/2 * (Linear(4) @ Select(0)) + 1/2 * (Linear(4) @ Select(1)))\n"
    for given in (FIXED, X):
        program = analysed(f"{text}model M = Scan(cell)", given).program
        found: Any = program.certificate
        assert 0.9 < found.kappa <= 1
        assert found.sensitivity == pytest.approx(float(program.sensitivity), rel=1e-9)
        assert found.sharpness.alpha == float("inf")  # nothing is said of it


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("4 * Select(0) + 1/2 * Select(1)", "its states may outgrow floats"),
        ("Tanh @ (4 * Select(0) + Select(1))", "its states may move further than floats can say"),
    ],
)
def test_a_bound_that_no_float_holds_is_told_as_one(state: str, reason: str) -> None:
    """4 to the power of 1000; to the power of 100 there is a bound."""
    for steps in (1000, 100):
        given = f"input x: float[batch, {steps}, 16]\n"
        text = f"model M = Linear(2) @ Scan({state}, carry = 1) @ Linear(4)"
        certificate = analysed(text, given).program.certificate
        assert certificate is not None
        if steps == 100:
            assert certificate.kappa is not None
            assert certificate.kappa >= 4.0**99 / 1e3
            continue
        (found,) = certificate.reasons
        assert found.op == "Scan"
        assert found.text.startswith(f"over 1,000 steps {reason}")


def test_a_sum_without_end() -> None:
    """Of a matrix that shrinks only in the long run, with two tensors: against its inverse."""
    types = [Tensor("float", (2, 3))] * 2
    keys = [(i, Measure((1,))) for i in range(2)]
    entries = [[0.5, 2.0], [0.05, 0.25]]
    matrix = {a: dict(zip(keys, row, strict=True)) for a, row in zip(keys, entries, strict=True)}
    found = endless(matrix, types, keys)
    assert found is not None
    determinant = 0.5 * 0.75 - 2.0 * 0.05
    exact = [[0.75, 2.0], [0.05, 0.5]]
    for key, row in zip(keys, exact, strict=True):
        for out, value in zip(keys, row, strict=True):
            assert series(matrix, 64, 1.0, types)[key][out] <= value / determinant * (1 + 1e-9)
            assert value / determinant <= found[key][out] < 1.2 * value / determinant
    half = endless({keys[0]: {keys[0]: 0.5}}, types[:1], keys[:1])
    assert half is not None
    assert half[keys[0]][keys[0]] == 2
    assert endless({keys[0]: {keys[0]: 1.0}}, types[:1], keys[:1]) is None


# --- the file -----------------------------------------------------------------------------------


def test_the_loop_is_written_once() -> None:
    text = generate(analysed("model M = Linear(2) @ LSTM(8)").program, "cpu")
    body = text.split("def forward(self, x: Tensor) -> Tensor:")[-1]
    assert "for entry_0, entry_1, entry_2, entry_3 in zip(" in body
    assert "state_0, state_1 = cell, c" in body
    assert text == generate(analysed("model M = Linear(2) @ LSTM(8)").program, "cpu")
    assert max(map(len, body.split("# ----")[0].splitlines())) <= 100


def test_what_a_cell_makes_of_inputs_alone_is_computed_before_it() -> None:
    given = f"{X}input c: float[batch, 16]\n"
    text = (
        "shared mem = Tanh @ Linear(16) @ c\ndef cell = 1/2 * Select(0) + 1/2 * (Select(1) + mem)\n"
    )
    body = generate(analysed(f"{text}model M = Scan(cell) @ x", given).program, "cpu")
    body = body.split("def forward(self, x: Tensor, c: Tensor) -> Tensor:")[-1]
    assert body.count("self.mem.linear(c)") == 1
    assert body.index("self.mem.linear(c)") < body.index("for entry in x.unbind(1):")
