"""Mistakes of every kind end in a diagnostic or a sentence, soon, and never in a traceback."""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import no_hanging

import modnorm
from modnorm.codegen.assemble import generate
from modnorm.codegen.classes import Classes
from modnorm.codegen.plan import records
from modnorm.diagnostics import Diagnostics, InternalError, ModnormError
from modnorm.ops import registry
from modnorm.ops.linear import Linear
from modnorm.ops.text import quoted
from modnorm.passes.frames import LOOKS, Frames
from modnorm.passes.program import Program
from modnorm.pipeline import ANALYSIS, CERTIFIED, analyse, analyse_text, reported
from modnorm.report.extras import NOTHING as NO_EXTRAS
from modnorm.report.formats import FORMATS, extras, render

X = "input x: float[batch, 8]\n"


def nested(inner: str, levels: int) -> str:
    for _ in range(levels):
        inner = f"({inner}) ** 2"
    return inner


def codes(text: str) -> list[str]:
    """The codes of the errors of a text."""
    try:
        analyse_text(text)
    except ModnormError as error:
        return [d.code for d in error.diagnostics if d.severity == "error"]
    return []


# --- syntax, imports, drawings ---------------------------------------------------------------


def test_a_line_behind_a_wrong_statement_hides_neither_mistake() -> None:
    with pytest.raises(ModnormError) as caught:
        analyse_text("bond F() = 1 sensitivity 1\noops\n")
    found = sorted((d.code, d.span.line) for d in caught.value.diagnostics if d.span)
    assert found == [("E102", 1), ("E102", 2)]


@pytest.mark.parametrize("behind", ["oops", ")", "a = 2", "1"])
@pytest.mark.parametrize(
    "wrong", ["bond F() = 1 sensitivity 1", "def a = 1__0", "param p = tare(1)"]
)
def test_a_wrong_statement_and_what_is_behind_it_are_both_told(wrong: str, behind: str) -> None:
    alone = codes(f"{wrong}\n{X}model M = Linear(8)\n")
    both = codes(f"{wrong}\n{behind}\n{X}model M = Linear(8)\n")
    assert len(both) > len(alone) >= 1
    assert set(alone) <= set(both)


@pytest.mark.parametrize(
    "body", ["Tanh @ act @ act", "act @ Tanh @ act @ Tanh", "Add @ (act, Tanh)"]
)
def test_a_shared_operation_inside_a_part_is_drawn(body: str) -> None:
    text = f"{X}shared act = ReLU\ndef mlp = {body}\nmodel M = Linear(8) @ mlp @ mlp @ Linear(8)\n"
    page = render(analyse_text(text), "html", NO_EXTRAS)
    assert '<svg id="graph-svg"' in page


@pytest.mark.parametrize("name", ["a" * 256, "a" * 252, "b/" * 3000 + "c", "ä" * 200])
def test_an_import_that_no_system_can_have_is_not_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.mod").write_text(f'from "{name}" import b\n{X}model M = b\n', "utf-8")
    with pytest.raises(ModnormError) as caught:
        analyse(tmp_path / "m.mod")
    assert "E203" in {d.code for d in caught.value.diagnostics}


# --- imports confined to a folder ------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two folders beside each other, a secret in one of them."""
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    for secret in (tmp_path / "secret.mod", tmp_path / "root2" / "secret.mod"):
        secret.write_text("def s = Linear(8) oh_no\n")
    (root / "in" / "good.mod").write_text("def s = Linear(8)\n")
    (root / "link.mod").symlink_to(tmp_path / "secret.mod")
    return root


def importing(root: Path, name: str) -> Path:
    path = root / "in" / "m.mod"
    path.write_text(f'from "{name}" import s\n{X}model M = s\n')
    return path


@pytest.mark.parametrize(
    "name",
    ["../../secret.mod", "../../root2/secret.mod", "../link.mod", "../../none.mod"],
)
def test_an_import_from_outside_the_root_is_refused_and_not_shown(folders: Path, name: str) -> None:
    path = importing(folders, name)
    with pytest.raises(modnorm.ModnormError) as caught:
        modnorm.compile(path, root=folders)
    assert [d.code for d in caught.value.diagnostics if d.severity == "error"] == ["E208"]
    assert "oh_no" not in str(caught.value)
    for read in (modnorm.load, modnorm.check, modnorm.report):
        with pytest.raises(modnorm.ModnormError, match="E208"):
            read(path, root=folders)
    with pytest.raises(modnorm.ModnormError, match="E208"):
        modnorm.transfer(path, vary={"n": [1, 2]}, root=folders)


@pytest.mark.parametrize("name", ["good.mod", "../in/good.mod", "../../root/in/good.mod"])
def test_an_import_from_inside_the_root_is_read(folders: Path, name: str) -> None:
    assert "class M(" in modnorm.compile(importing(folders, name), root=folders, device="cpu")


def test_imports_are_free_without_a_root(folders: Path) -> None:
    with pytest.raises(modnorm.ModnormError, match="oh_no"):
        modnorm.compile(importing(folders, "../../secret.mod"))


@pytest.mark.parametrize(
    "command",
    [
        ["compile"],
        ["report"],
        ["explain", "M"],
        ["check"],
        ["transfer", "--vary", "n=1,2"],
    ],
)
def test_every_command_confines_imports(folders: Path, command: list[str]) -> None:
    path = importing(folders, "../link.mod")
    name, *rest = command
    done = run([name, str(path), *rest, "--root", str(folders)])
    assert done.returncode == 1
    assert "E208" in done.stderr
    assert "oh_no" not in done.stderr


def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modnorm", *arguments]
    options = {"capture_output": True, **options}
    return subprocess.run(command, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


# --- streams and quotes ----------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["report", "--help"]])
def test_a_full_disk_ends_in_a_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run(arguments, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to the terminal: no space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_errors_that_cannot_be_shown_keep_their_status() -> None:
    with open("/dev/full", "w") as full:
        assert run(["compile"], stderr=full, capture_output=False).returncode == 2
        assert run(["compile", "none.mod"], stderr=full, capture_output=False).returncode == 1


@given(st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: f"a {text}"))
def test_a_docstring_holds_any_text(text: str) -> None:
    for one in (text, text + '"', text + "\\", text + '"""', text + "\\N", text + '\\"""'):
        found = eval(f'"""{quoted(one)}"""')
        assert found.rstrip(" ") == one.rstrip(" ")


DOC = 'Its """quotes""", \\N and the \\'


def test_a_plugin_with_any_docstring_compiles_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes and backslashes end no docstring of the generated file and begin no escape in it."""

    @dataclass(frozen=True)
    class Odd(Linear):
        name = "Odd"

    Odd.__doc__ = DOC
    monkeypatch.setattr(registry, "_ops", {**registry._ops, "Odd": Odd})
    source = generate(analyse_text(X + "model M = Odd(4)\n", "m.mod", passes=ANALYSIS).program)
    tree = ast.parse(source)
    compile(tree, "m.py", "exec")
    docs = [ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [doc for doc in docs if doc.startswith(DOC)]


def test_what_is_no_python_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    program = analyse_text(X + "model M = Linear(8)\n", "m.mod", passes=ANALYSIS).program
    monkeypatch.setattr(Classes, "write", lambda self: "class (")
    with pytest.raises(InternalError, match=r"m\.mod compiles to would be no Python"):
        generate(program)


# --- numbers at the ends of floats -----------------------------------------------------------

LARGE = "1e155 1e-155 1e300 1e-300 2**1023 2**-1074 2**-149 3**600 1/3**600 2**4000 sqrt(1e300) 1/3"
PARTS = (
    "Mul({n})",
    "Softmax({n})",
    "{n} * Identity",
    "Add @ ({n} * Identity, Identity)",
    "RMSDivide(eps = {n})",
    "Linear(8, mass = {n})",
    "tare(Linear(8), {n})",
    "(Linear(8) @ Mul({n})) ** 3",
    "(1/2 * Identity + {n} * Linear(8)) ** 2",
    "MergeHeads @ Attention(scale = {n}) @ (SplitHeads(2), {n} * SplitHeads(2), SplitHeads(2))",
    "F({n})",
    "Tanh",
    "GELU",
    "Bias",
    "RMSDivide",
)
SEQUENCE = "input x: float[batch, seq, 8]\nbond F(x, c) = c * tanh(x / c) sensitivity 1\n"
WITH_NUMBERS = st.builds(
    str.replace, st.sampled_from(PARTS), st.just("{n}"), st.sampled_from(LARGE.split())
)


def all_said(text: str) -> None:
    """Everything that is said of a program, or its errors, each with a place."""
    for loss in ("mse", "cross_entropy"):
        try:
            analysis = analyse_text(text, passes=reported(loss))
        except ModnormError as error:
            errors = [d for d in error.diagnostics if d.severity == "error"]
            assert {d.code for d in errors} <= {
                "E103",
                "E303",
                "E305",
                "E307",
                "E501",
                "E402",
                "E309",
            }
            assert all(d.span is not None for d in errors)
            return
        compile(generate(analysis.program), "m.py", "exec")
        for form in FORMATS:
            shown = render(analysis, form, extras(form, program=analysis.program))
            if form == "json":
                json.loads(shown, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "body",
    [
        "Softmax(1e155)",
        "(Add @ (3 ** 600 * Identity, Identity)) @ Mul(1e45) @ Softmax(2 ** -149)",
        " @ ".join([PARTS[9].replace("{n}", "1e300")] * 2),
        "Mul(2 ** 1023)",
        "Mul(2 ** 1023) @ Linear(8)",
    ],
)
def test_numbers_at_the_ends_of_floats(body: str) -> None:
    all_said(f"{SEQUENCE}model M = {body}\n")


@given(st.lists(WITH_NUMBERS, min_size=1, max_size=4))
def test_random_programs_of_numbers_at_the_ends_of_floats(parts: list[str]) -> None:
    all_said(f"{SEQUENCE}model M = {' @ '.join(f'({part})' for part in parts)}\n")


@dataclass(frozen=True)
class Overflowing:
    """A pass that leaves the floats."""

    name: ClassVar[str] = "overflowing"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        raise OverflowError

    def verify(self, program: Program) -> None: ...


def test_a_pass_that_leaves_the_floats_says_so_at_the_model() -> None:
    with pytest.raises(ModnormError) as caught:
        analyse_text(f"{X}model M = Linear(8)\n", passes=(*ANALYSIS, Overflowing()))
    (error,) = caught.value.diagnostics
    assert error.code == "E501"
    assert error.span is not None
    assert error.span.line == 2


# --- targets far apart -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "ends"),
    [
        ("(Linear(8) >> ReLU) ** 100", ("0.linear", "99.linear")),
        ("(Linear(8) >> 2 * Identity) ** 40", ("39.linear", "0.linear")),
        ("Linear(8, mass = 1e7) @ Linear(8)", ("linear_1", "linear")),
    ],
)
def test_targets_far_apart_are_warned_of(body: str, ends: tuple[str, str]) -> None:
    found = analyse_text(f"{X}model M = {body}\n", passes=ANALYSIS).diagnostics
    (warning,) = [d for d in found if d.code == "W611"]
    largest, least = ends
    assert f"that of `{largest}` is " in warning.message
    assert f"that of `{least}` " in warning.message
    assert "residual" in warning.hint


@pytest.mark.parametrize(
    "body",
    [
        "(1/2 * Identity + 1/2 * (Linear(8) >> ReLU)) ** 20",
        "(Linear(8) >> sqrt(2) * ReLU) ** 1000",
        "Linear(8, mass = 0) @ Linear(8)",
        "Tanh",
    ],
)
def test_targets_near_each_other_are_not_warned_of(body: str) -> None:
    found = analyse_text(f"{X}model M = {body}\n", passes=ANALYSIS).diagnostics
    assert not [d for d in found if d.code == "W611"]


def test_a_target_too_small_for_a_float_is_not_taken_for_frozen() -> None:
    """A share of 3e-42 over 1e300, which would be 0, as the target of a mass of 0 is."""
    body = "Linear(8) @ (1e10 * Linear(8)) ** 30 @ Linear(8, mass = 1e-40)"
    with pytest.raises(ModnormError) as caught:
        analyse_text(f"{X}model M = {body}\n", passes=ANALYSIS)
    (error,) = caught.value.diagnostics
    assert error.code == "E501"
    assert "the target of `linear` is more or less than a float can hold" in error.message


@pytest.mark.parametrize(
    ("body", "still"),
    [
        ("Linear(8) @ (2 * Linear(8)) ** 30", 11),
        ("Linear(8) @ (2 * Linear(8)) ** 15", 0),
        ("Linear(8) @ (2 * (2 * Linear(8)) ** 5) ** 4", 5),
        ("Linear(8, mass = 0) @ Linear(8)", 0),
    ],
)
def test_weights_that_will_hardly_move_are_counted(body: str, still: int) -> None:
    """Below 2⁻²⁴: of 31 with 2³⁰ behind the first, 11; of 21 with 2²⁴ behind the first, 5."""
    found = analyse_text(f"{X}model M = {body}\n", passes=ANALYSIS)
    targets = [record.target for record in records(found.program)]
    assert sum(0 < target < 2**-24 for target in targets) == still
    warnings = [d for d in found.diagnostics if d.code == "W615"]
    assert len(warnings) == (still > 0)
    for warning in warnings:
        assert warning.message.startswith(f"{still} of {len(targets)} weights will hardly move")
        assert f"{min(targets):.3g}" in warning.message


# --- work that grows with the program, not with its copies ------------------------------------

HEAVY = {
    "powers of a power": f"{X}model M = {nested('Tanh', 16)}\n",
    "powers of many": f"{X}model M = {nested(' @ '.join(['Tanh'] * 100), 12)}\n",
    "powers of a branch": f"{X}model M = {nested('1/2 * Identity + 1/2 * Linear(8)', 16)}\n",
    "doubling": f"{X}def f(a) = a @ a\nmodel M = {'f(' * 10}Linear(8){')' * 10}\n",
    "six axes": "input x: float[a, b, c, d, e, f]\ndef d = Tanh\nmodel M = (d @ d) ** 1000\n",
}


@pytest.mark.parametrize("text", HEAVY.values(), ids=list(HEAVY))
def test_what_repeats_costs_no_more_for_it(text: str) -> None:
    with no_hanging():
        generate(analyse_text(text, passes=CERTIFIED).program)


@pytest.mark.parametrize("form", ["text", "json", "html"])
def test_a_report_of_as_many_weights_as_there_may_be(form: str) -> None:
    with no_hanging():
        report = modnorm.report(HEAVY["powers of a branch"], format=form)
        assert "65,536" in str(report) or form == "json"
    assert form != "json" or len(report.json["atoms"]) == 65_536


@pytest.mark.parametrize(
    "text",
    [
        f"{X}def f(a) = a @ a\nmodel M = {'f(' * 12}Linear(8){')' * 12}\n",
        "".join(f"input x{i}: float[batch, 8]\n" for i in range(17_000)) + "model M = Select(0)\n",
        "".join(f"input x{i}: float[batch, 8]\n" for i in range(1_001)) + "model M = Select(0)\n",
    ],
)
def test_what_is_more_than_the_bounds_is_said_soon(text: str) -> None:
    with no_hanging():
        assert codes(text)[0] in ("E101", "E305")


@pytest.mark.parametrize("inner", ["Tanh", "Bias", "Bias @ Tanh", "1/2 * Identity + 1/2 * Bias"])
def test_the_looks_at_nested_repetitions_are_bounded(inner: str) -> None:
    program = analyse_text(f"{X}model M = {nested(inner, 14)}\n", passes=ANALYSIS).program
    frames = Frames(program, whole=False)
    frames.frame(program.tree, frames.entry(program.types[program.tree.id][0]))
    assert frames.looks < 2 * LOOKS


def test_nested_repetitions_of_a_settled_value_are_certified() -> None:
    deep, flat = (
        analyse_text(f"{X}model M = {body}\n").program.certificate
        for body in (
            nested("1/2 * Identity + 1/2 * Linear(8)", 8),
            "(1/2 * Identity + 1/2 * Linear(8)) ** 256",
        )
    )
    assert deep is not None
    assert flat is not None
    assert deep.kappa is not None
    assert flat.kappa is not None
    assert math.isclose(deep.kappa, flat.kappa, rel_tol=1e-9)
