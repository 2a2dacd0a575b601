"""Residual streams: plain sums read by norms have the targets of the running mean written out."""

from __future__ import annotations

import math

import pytest

from modnorm.codegen.assemble import generate
from modnorm.codegen.plan import records
from modnorm.kernels.streams import residual_stream
from modnorm.passes.program import Program
from modnorm.pipeline import ANALYSIS, CERTIFIED, analyse_text
from modnorm.report.explain import explain, explanation

PARTS = """
input x: float[batch, 8]
def norm(eps = 0) = Scale @ RMSDivide(eps = eps)
def f = Linear(8) @ ReLU @ Linear(16)
def g = Bias @ Linear(8) @ Tanh @ Linear(8)
def mean(f, k, of = 1) = (1 - of / (k + of)) * Identity + 1 / (k + of) * f
"""
"""`mean(f, k)` takes the mean of k terms to that of k + 1."""


def program(model: str) -> Program:
    more = "input y: float[batch, 8]\n" if "@ y" in model else ""
    return analyse_text(more + PARTS + model, passes=CERTIFIED).program


def targets(found: Program) -> list[float]:
    return [record.target for record in records(found)]


PAIRS = {
    "one sum": (
        "model M = Linear(3) @ norm @ (Identity + f @ norm) @ Linear(8)",
        "model M = Linear(3) @ norm @ mean(f @ norm, 1) @ Linear(8)",
    ),
    "copies of two": (
        "model M = Linear(3) @ norm @ ((Identity + g @ norm) @ (f @ norm + Identity)) ** 5"
        " @ Linear(8)",
        "def block(i) = mean(g @ norm, 2 * i + 2) @ mean(f @ norm, 2 * i + 1)\n"
        "model M = Linear(3) @ norm @ compose(block(i) for i in range(5)) @ Linear(8)",
    ),
    "copies in copies": (
        "model M = Linear(3) @ norm @ ((Identity + g @ norm) @ (Identity + f @ norm) ** 3) ** 2"
        " @ Linear(8)",
        "def block(i) = mean(g @ norm, 4 * i + 4) @ compose(mean(f @ norm, 4 * i + j + 1)"
        " for j in range(3))\n"
        "model M = Linear(3) @ norm @ compose(block(i) for i in range(2)) @ Linear(8)",
    ),
    "several runs": (
        "def wide(i) = Identity + (f if i < 2 else g) @ norm\n"
        "model M = Linear(3) @ norm @ compose(wide(i) for i in range(4)) @ Linear(8)",
        "def wide(i) = mean((f if i < 2 else g) @ norm, i + 1)\n"
        "model M = Linear(3) @ norm @ compose(wide(i) for i in range(4)) @ Linear(8)",
    ),
    "branches side by side": (
        "model M = Linear(3) @ norm @ (Identity + f @ norm + g @ norm) ** 3 @ Linear(8)",
        "def both(k) = (1 - 2 / (k + 2)) * Identity + 1 / (k + 2) * (f @ norm + g @ norm)\n"
        "model M = Linear(3) @ norm @ compose(both(2 * i + 1) for i in range(3)) @ Linear(8)",
    ),
    "branches with a factor": (
        "model M = Linear(3) @ norm @ (Identity + 1/4 * f @ norm) ** 4 @ Linear(8)",
        "def part(k) = (1 - 1 / (4 * k + 1)) * Identity + 1 / (4 * k + 1) * f @ norm\n"
        "model M = Linear(3) @ norm @ compose(part(1 + i / 4) for i in range(4)) @ Linear(8)",
    ),
    "a weight before the norm": (
        "model M = Linear(3) @ norm @ (Identity + f @ norm @ Linear(8)) ** 3 @ Linear(8)",
        "def part(k) = mean(f @ norm @ Linear(8), k)\n"
        "model M = Linear(3) @ norm @ compose(part(i + 1) for i in range(3)) @ Linear(8)",
    ),
    "a weight on the stream": (
        "model M = Linear(3) @ norm @ ((Identity + f @ norm) @ Linear(8) @ (Identity + g @ norm))"
        " ** 2 @ Linear(8)",
        "def block(i) = mean(f @ norm, 2 * i + 2) @ Linear(8) @ mean(g @ norm, 2 * i + 1)\n"
        "model M = Linear(3) @ norm @ compose(block(i) for i in range(2)) @ Linear(8)",
    ),
    "a shared block": (
        "shared one = Identity + f @ norm\nmodel M = Linear(3) @ norm @ one ** 3 @ one @ Linear(8)",
        "shared one = f @ norm\ndef part(k) = mean(one, k)\n"
        "model M = Linear(3) @ norm @ compose(part(i + 1) for i in range(4)) @ Linear(8)",
    ),
    "a stream in a branch": (
        "def inner = Linear(8) @ norm @ (Identity + g @ norm) ** 2 @ Linear(8) @ norm\n"
        "model M = Linear(3) @ norm @ (Identity + inner) ** 2 @ Linear(8)",
        "def inner = Linear(8) @ norm @ compose(mean(g @ norm, j + 1) for j in range(2))"
        " @ Linear(8) @ norm\n"
        "model M = Linear(3) @ norm @ compose(mean(inner, i + 1) for i in range(2)) @ Linear(8)",
    ),
    "a weight before the last norm": (
        "model M = Linear(3) @ norm @ Linear(8) @ (Identity + f @ norm) ** 2 @ Linear(8)",
        "def part(k) = mean(f @ norm, k)\n"
        "model M = Linear(3) @ norm @ Linear(8) @ compose(part(i + 1) for i in range(2))"
        " @ Linear(8)",
    ),
    "a shared module of an input's name in every branch": (
        "shared memory = Linear(8) @ Tanh @ Linear(8) @ y\n"
        "model M = Linear(3) @ norm @ (Identity + f @ norm + g @ memory) ** 3 @ Linear(8) @ x",
        "shared memory = Linear(8) @ Tanh @ Linear(8) @ y\n"
        "def both(k) = (1 - 2 / (k + 2)) * Identity + 1 / (k + 2) * (f @ norm + g @ memory)\n"
        "model M = Linear(3) @ norm @ compose(both(2 * i + 1) for i in range(3)) @ Linear(8) @ x",
    ),
    "two heads": (
        "model M = (Linear(3) @ norm, Linear(2) @ norm @ Dropout(0.1))"
        " @ (Identity + f @ norm) ** 3 @ Linear(8)",
        "model M = (Linear(3) @ norm, Linear(2) @ norm @ Dropout(0.1))"
        " @ compose(mean(f @ norm, i + 1) for i in range(3)) @ Linear(8)",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_targets_are_those_of_the_running_mean(name: str) -> None:
    plain, mean = (program(text) for text in PAIRS[name])
    assert targets(plain) == pytest.approx(targets(mean), rel=1e-12)
    assert float(plain.sensitivity) == pytest.approx(float(mean.sensitivity), rel=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_the_plan_and_explain_say_the_same_targets(name: str) -> None:
    found = program(PAIRS[name][0])
    written = dict[str, object]()
    source = generate(found)
    plan = source[source.index("STREAM") if "STREAM" in source else source.index("PLAN = ") :]
    plan = plan[: plan.index("PLAN_HASH = ")]
    names = {
        "residual_stream": residual_stream,
        "Weight": lambda *fields: written.__setitem__(fields[0], fields[5]),
        "Plan": lambda *fields, **more: None,
    }
    exec(plan, names)
    for record in records(found):
        assert written[record.name] == pytest.approx(record.target, rel=1e-14)
        assert float(explain(found, record).target) == pytest.approx(record.target, rel=1e-12)


@pytest.mark.parametrize("depth", [2, 24, 200])
def test_depth_moves_targets_as_in_the_running_mean(depth: int) -> None:
    plain = program(f"model M = Linear(3) @ norm @ (Identity + f @ norm) ** {depth} @ Linear(8)")
    mean = program(
        "model M = Linear(3) @ norm @ compose(mean(f @ norm, i + 1) for i in"
        f" range({depth})) @ Linear(8)"
    )
    assert targets(plain) == pytest.approx(targets(mean), rel=1e-12)
    assert min(targets(plain)) > 1e-3 * max(targets(plain))


def test_sharpness_is_that_of_the_running_mean() -> None:
    smooth = PARTS.replace("@ ReLU", "")
    texts = (
        "model M = Linear(3) @ norm @ (Identity + f @ norm + g @ norm) ** 4 @ Linear(8)",
        "def both(k) = (1 - 2 / (k + 2)) * Identity + 1 / (k + 2) * (f @ norm + g @ norm)\n"
        "model M = Linear(3) @ norm @ compose(both(2 * i + 1) for i in range(4)) @ Linear(8)",
    )
    plain, mean = (analyse_text(smooth + t, passes=ANALYSIS).program for t in texts)
    one, other = plain.sharpness[plain.tree.id], mean.sharpness[mean.tree.id]
    assert one is not None
    assert other is not None
    found = (one.alpha, one.beta, one.gamma)
    assert found == pytest.approx((other.alpha, other.beta, other.gamma), rel=1e-12)


def test_warnings_count_what_stands_still_in_a_stream() -> None:
    text = "model M = Linear(3) @ norm @ (Identity + f @ norm) ** 6 @ tare(Linear(8), 1e-8)"
    found = analyse_text(PARTS + text, passes=ANALYSIS)
    (warning,) = [d for d in found.diagnostics if d.code == "W615"]
    assert "1 of 21 weights" in warning.message


@pytest.mark.parametrize(
    ("model", "reader"),
    [
        ("model M = Linear(3) @ (Identity + f @ norm) ** 3 @ Linear(8)", "Linear"),
        ("model M = Linear(3) @ norm @ (Identity + f) ** 3 @ Linear(8)", "Linear"),
        ("model M = (Identity + f @ norm) ** 3 @ Linear(8)", ""),
        ("model M = Linear(3) @ norm @ Bias @ (Identity + f @ norm) ** 3 @ Linear(8)", "Bias"),
        ("model M = Linear(3) @ norm @ (ReLU @ (Identity + f @ norm)) ** 3 @ Linear(8)", "ReLU"),
    ],
)
def test_a_sum_that_something_else_reads_is_no_stream(model: str, reader: str) -> None:
    found = analyse_text(PARTS + model, passes=ANALYSIS)
    assert not found.program.streams.streams
    warning = next(d for d in found.diagnostics if d.code == "W603")
    said = [label.message for label in warning.others if "without a norm" in label.message]
    assert said == ([f"`{reader}` reads the sum without a norm"] if reader else [])
    for record in records(found.program):
        explained = explain(found.program, record)
        assert float(explained.target) == pytest.approx(record.target, rel=1e-12)


def test_explain_says_that_it_was_done_and_both_forms() -> None:
    found = program("model M = Linear(3) @ norm @ (Identity + f @ norm) ** 3 @ Linear(8)")
    text = explanation(found, "0.f.linear")
    assert "residual stream, 2 sums on" in text
    assert "RMSDivide(eps = 0) of 4 terms" in text
    assert "x + f(norm(x))" in text
    assert "(1 - 1/(n+1))·y + f(norm(y))/(n+1)" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_convex_sums_have_the_sensitivities_that_they_had() -> None:
    """Where sums are means already, nothing changes."""
    found = program(
        "def residual(f, n) = (1 - 1/n) * Identity + 1/n * f\n"
        "model M = Linear(3) @ norm @ residual(f @ norm, 3) ** 3 @ Linear(8)"
    )
    assert not found.streams.streams
    half = 1 / math.sqrt(2)
    assert float(found.sensitivity) == pytest.approx((2 / 3 + half / 3) ** 3)


@pytest.mark.parametrize(
    "body",
    [
        "Identity + h",
        "Linear(8, mass = 99) @ (Identity + h)",
        "Identity + h @ Linear(8, mass = 99)",
    ],
)
def test_a_repetition_is_certified_for_no_less_than_its_copies_written_out(body: str) -> None:
    """Targets of what takes the sum itself may fall along a stream; others rise."""
    parts = f"""
input x: float[batch, 8]
def h = Linear(8) @ ReLU @ ReLU @ ReLU @ RMSDivide(eps = 1)
def b = {body}
"""
    ends = "Readout(3) @ RMSDivide(eps = 1) @"
    one = analyse_text(f"{parts}model M = {ends} b ** 6 @ Linear(8)", passes=CERTIFIED).program
    copies = " @ ".join(["b"] * 6)
    other = analyse_text(f"{parts}model M = {ends} {copies} @ Linear(8)", passes=CERTIFIED).program
    assert len(one.streams.streams) == len(other.streams.streams) == 1
    assert targets(one) == pytest.approx(targets(other), rel=1e-12)
    assert one.certificate is not None
    assert other.certificate is not None
    exact, proved = other.certificate.kappa, one.certificate.kappa
    assert exact is not None
    assert proved is not None
    assert exact * (1 - 1e-9) <= proved < 1.5 * exact
