"""Programs that mean ill: each has its right answer, and has it soon."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from limits import no_hanging

from modnorm.codegen.assemble import generate
from modnorm.diagnostics import Diagnostic, ModnormError
from modnorm.ops import registry
from modnorm.ops.base import LINEAR, Bond
from modnorm.pipeline import Analysis, analyse, analyse_text
from modnorm.report.diagnostics import render

X = "input x: float[batch, 8]\n"
IMAGE = "input x: float[batch, 3, 8, 8]\n"


def defs(word: str, first: str, step: Callable[[int], str], count: int) -> str:
    """`count` definitions, each from the one before it."""
    rest = (f"{word} a{i + 1} = {step(i)}" for i in range(count))
    return "\n".join([f"{word} a0 = {first}", *rest]) + "\n"


def wheres(first: str, step: Callable[[int], str], count: int) -> str:
    return f" where a0 = {first} " + " ".join(f"a{i + 1} = {step(i)}" for i in range(count))


def calls(step: Callable[[int], str]) -> str:
    """Sixty definitions with an argument, each from the one before it."""
    rest = "\n".join(f"def f{i + 1}(m) = {step(i)}" for i in range(60))
    return f"{X}def f0(m) = m\n{rest}\nmodel M = f60(Linear(8))"


def compiled(text: str, **options: object) -> tuple[Analysis, str]:
    """The analysis and the generated source, which Python can read."""
    with no_hanging():
        analysis = analyse_text(text, "main.mod", **options)  # type: ignore[arg-type]
        source = generate(analysis.program)
        compile(source, "main.py", "exec")
        render(analysis.diagnostics).encode()
    return analysis, source


def refused(text: str, **options: object) -> tuple[Diagnostic, ...]:
    """The errors of a program that does not compile."""
    with pytest.raises(ModnormError) as caught, no_hanging():
        analyse_text(text, "main.mod", **options)  # type: ignore[arg-type]
    with no_hanging():
        assert render(caught.value.diagnostics).encode()
    return tuple(d for d in caught.value.diagnostics if d.severity == "error")


REFUSED = {
    "a huge power": (X + "model M = Linear(8) ** 10 ** 9", "E305"),
    "a huge number": (X + "model M = Linear(2 ** 10 ** 9)", "E303"),
    "a tower of powers": (X + "model M = Linear(9 ** 9 ** 9 ** 9 ** 9)", "E303"),
    "a huge exponent": (X + "model M = Linear(1e999999999)", "E103"),
    "powers of powers": (X + "model M = ((Linear(8) ** 1000) ** 1000) ** 1000", "E305"),
    "more weights than Python writes digits of": (
        X
        + defs("def", "Linear(8)", lambda i: "(" * 20 + f"a{i}" + " ** 100000)" * 20, 60)
        + "model M = a60",
        "E305",
    ),
    "numbers that square": (
        defs("param", "2", lambda i: f"a{i} * a{i}", 60) + X + "model M = Linear(a60)",
        "E303",
    ),
    "numbers that double, evaluated again and again": (
        defs("def", "2", lambda i: f"a{i} + a{i}", 60) + X + "model M = Linear(a60)",
        "E305",
    ),
    "definitions that double": (
        X + defs("def", "Linear(8)", lambda i: f"a{i} @ a{i}", 60) + "model M = a60",
        "E305",
    ),
    "shared modules that double": (
        X + defs("shared", "Linear(8)", lambda i: f"a{i} @ a{i}", 60) + "model M = a60",
        "E305",
    ),
    "local definitions that double": (
        X + "model M = a60" + wheres("Linear(8)", lambda i: f"a{i} @ a{i}", 60),
        "E305",
    ),
    "arguments that double": (calls(lambda i: f"f{i}(m @ m)"), "E305"),
    "arguments that double in sums": (calls(lambda i: f"f{i}(m + m)"), "E305"),
    "calls that double": (calls(lambda i: f"f{i}(f{i}(m))"), "E305"),
    "a thousand definitions in each other": (
        X + defs("def", "Linear(8)", lambda i: f"a{i}", 1000) + "model M = a1000",
        "E305",
    ),
    "two hundred local definitions in each other": (
        X + "model M = a200" + wheres("Linear(8)", lambda i: f"a{i}", 200),
        "E305",
    ),
    "brackets": (X + f"model M = {'(' * 5000}Linear(8){')' * 5000}", "E104"),
    "signs": (X + f"model M = {'-' * 5000}Linear(8)", "E104"),
    "a chain": (X + "model M = " + " @ ".join(["Linear(8)"] * 7_000), "E104"),
    "tuples in tuples": (
        X + defs("def", "ReLU", lambda i: "(" * 100 + f"a{i}" + ",)" * 100, 60) + "model M = a60",
        "E305",
    ),
    "a wide tuple": (X + f"model M = Add @ ({', '.join(['ReLU'] * 5000)})", "E305"),
    "loops in loops": (
        X + defs("def", "Linear(8)", lambda i: f"a{i} ** 1", 60) + "model M = a60",
        "E305",
    ),
    "a range of a million": (X + "model M = compose(ReLU for i in range(10 ** 6))", "E305"),
    "a range of 100,000 different modules": (
        X + "model M = compose(Linear(8, mass = i + 1) for i in range(100000))",
        "E305",
    ),
    "2,000 different modules": (
        X + "model M = compose(Linear(8, mass = i + 1) for i in range(2000))",
        "E305",
    ),
    "bonds with 2,000 different constants": (
        X
        + "bond F(x, c) = tanh(x / (c + 1)) sensitivity 1\n"
        + "model M = compose(F(i) for i in range(2000))",
        "E305",
    ),
    "a formula of a thousand parts": (
        X + f"bond F(x) = {' + '.join(['x'] * 399)} sensitivity 400\nmodel M = F",
        "E305",
    ),
    "a formula with a huge power": (
        X + "bond F(x) = x ** 9 ** 9 ** 9 sensitivity 1\nmodel M = F",
        "E303",
    ),
    "a formula with a huge constant": (
        X + "bond F(x) = x * 3 ** 10 ** 10 sensitivity 1\nmodel M = F",
        "E303",
    ),
    "a size of 10^30": (X + f"model M = Linear({10**30})", "E305"),
    "a size of 0": (X + "model M = Linear(0)", "E304"),
    "a negative size": (X + "model M = Linear(-8)", "E304"),
    "half a size": (X + "model M = Linear(7 / 2)", "E304"),
    "a root": (X + "model M = Linear(sqrt(2))", "E304"),
    "an input of size 0": ("input x: float[0, 8]\nmodel M = Linear(8)", "E304"),
    "an input of 10^30": ("input x: float[batch, 10 ** 30]\nmodel M = Linear(8)", "E305"),
    "a kernel of 500,000": (
        IMAGE + "model M = Conv2D(8, 3, kernel = 500000, padding = 250000)",
        "E305",
    ),
    "a weight beyond all memory": ("input x: float[b, 2 ** 30]\nmodel M = Linear(2 ** 30)", "E305"),
    "a shared module that mentions itself": (X + "shared s = s @ ReLU\nmodel M = s", "E205"),
    "shared modules in a circle": (X + "shared s = t\nshared t = s\nmodel M = s @ t", "E205"),
    "Unembed of what it is in": (X + "shared s = Unembed(s)\nmodel M = s", "E205"),
    "Unembed of no Embed": (X + "shared s = Linear(8)\nmodel M = Unembed(s) @ s", "E308"),
    "Unembed of a definition": (X + "def s = Embed(8, 8)\nmodel M = Unembed(s)", "E308"),
    "a pole": (X + "bond F(x) = 1 / x sensitivity 1\nmodel M = F", "E309"),
    "a logarithm": (X + "bond F(x) = log(x) sensitivity 1\nmodel M = F", "E309"),
    "a pole that is far out": (X + "bond F(x) = 1 / (x - 64) sensitivity 1\nmodel M = F", "E309"),
    "zero sensitivity": (X + "bond F(x) = x sensitivity 0\nmodel M = F", "E501"),
    "a scalar of 0": (X + "param n = 1\nmodel M = (1 - 1/n) * Identity", "E306"),
    "a model without mass": (X + "model M = tare(Linear(8), 0)", "E307"),
    "sensitivities that overflow": (X + "model M = Mul(1e200) @ Mul(1e200) @ Linear(8)", "E501"),
    "sensitivities that underflow": (X + "model M = Mul(1e-200) @ Mul(1e-200)", "E501"),
    "copies that overflow": (X + "model M = (2 * Linear(8)) ** 5000", "E501"),
    "copies that underflow": (X + "model M = (1/2 * Linear(8)) ** 5000", "E501"),
    "a sum that overflows": (
        X + f"def f = 10 ** 308 * ReLU\nmodel M = {' + '.join(['f'] * 3)}",
        "E501",
    ),
    "a target that underflows": (
        X + "model M = Linear(8, mass = 1e-200) @ Mul(1e-200) @ Linear(8, mass = 1e200)",
        "E501",
    ),
    "masses of tares of tares": (
        X
        + "def inner = tare(Linear(8, mass = 1e-300) @ Linear(8, mass = 1e300), 1e-300)\n"
        + "model M = tare(inner @ Linear(8), 1e300)",
        "E501",
    ),
    "a model without an input": ("model M = Linear(8)", "E404"),
    "no model": (X, "E206"),
    "several models": (X + "model M = ReLU\nmodel N = ReLU", "E206"),
    "Select out of range": (X + "model M = Select(2) @ (ReLU, Tanh)", "E401"),
    "Select of one value": (X + "model M = Select(0)", "E402"),
    "params in a circle": ("param a = b\nparam b = a\n" + X + "model M = Linear(a)", "E205"),
    "a name with no end": (X + f"model M = {'a' * 900_000}", "E103"),
    "no step": (X + "model M = compose(ReLU for i in range(0, 9, 0))", "E304"),
    "a local name with a dot": (X + "def f(a) = a.b\nmodel M = f(ReLU)", "E201"),
    "a formula that counts": (
        X + "bond F(x) = compose(i for i in range(3)) sensitivity 1\nmodel M = F",
        "E302",
    ),
}


@pytest.mark.parametrize(("text", "code"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, code: str) -> None:
    assert {d.code for d in refused(text)} == {code}


COMPILED = {
    "a power of 100,000": X + "model M = Linear(8) ** 100000",
    "200,000 weights": X + "model M = (Linear(8) ** 1000) ** 200",
    "a power of 0": X + "model M = Linear(8) @ (ReLU ** 0) @ Linear(4) ** 0",
    "a model that does nothing": X + "model M = Linear(8) ** 0",
    "loops in loops, as deep as they may": (
        X + defs("def", "Linear(8)", lambda i: f"a{i} ** 1", 16) + "model M = a16"
    ),
    "loops without weights in loops": (
        X + defs("def", "ReLU", lambda i: f"a{i} ** 1", 16) + "model M = Linear(8) @ a16"
    ),
    "tuples in tuples, as deep as they may": X + f"model M = {'(' * 32}ReLU{',)' * 32}",
    "a wide tuple": X + f"model M = Add @ ({', '.join(['Linear(8)'] * 1000)})",
    "brackets": X + f"model M = {'(' * 190}Linear(8){')' * 190}",
    "minus signs": X + f"model M = {'-' * 190}Linear(8)",
    "conditionals": X + f"model M = {'Linear(8) if true else ' * 190}ReLU",
    "a chain": X + f"model M = {' @ '.join(['Linear(8)'] * 400)}",
    "a sum": X + f"model M = {' + '.join(['Linear(8)'] * 400)}",
    "sums in sums": X + f"model M = {'Linear(8) + (' * 150}Identity{')' * 150}",
    "sixty definitions in each other": (
        X + defs("def", "Linear(8)", lambda i: f"a{i} @ ReLU", 60) + "model M = a60"
    ),
    "sixty local definitions in each other": (
        X + "model M = a60" + wheres("Linear(8)", lambda i: f"a{i} @ ReLU", 60)
    ),
    "a thousand params": (
        defs("param", "8", lambda i: f"a{i}", 60)
        + "\n".join(f"param b{i} = a{i % 60}" for i in range(1000))
        + f"\n{X}model M = Linear(b999)"
    ),
    "masses with long fractions": (
        X
        + defs(
            "def",
            "Linear(8)",
            lambda i: "tare(" * 100 + f"a{i}" + ", (2 ** 4000 + 1) / (2 ** 4000 + 3))" * 100,
            6,
        )
        + "model M = a6 @ Linear(8)"
    ),
    "scalars with long fractions": (
        X + f"model M = {' + '.join(f'(2 ** 900 + {i}) / 3 ** 600 * ReLU' for i in range(1, 300))}"
    ),
    "100,000 equal modules": X + "model M = compose(Linear(8) for i in range(100000))",
    "1,000 different modules": (
        X + "model M = compose(Linear(8, mass = i) for i in range(1000, 0, -1))"
    ),
    "an empty range": X + "model M = Linear(8) @ compose(Linear(i) for i in range(3, 3))",
    "a range that goes down": X + "model M = compose(Linear(i) for i in range(10, 7, -1))",
    "a range that never begins": X + "model M = compose(Linear(i) for i in range(3, 9, -1))",
    "a huge kernel": "input x: float[batch, 1, 8, 8]\nmodel M = Conv2D(1, kernel = 10 ** 5, "
    "padding = 10 ** 6, stride = 10 ** 6)",
    "an embedding that fills a graphics card": (
        "input x: int[batch] < 2 ** 31 - 1\nmodel M = Embed(2 ** 31 - 1, 512)"
    ),
    "sharing in sharing": (
        X + "shared s = Linear(8)\nshared t = s @ ReLU @ s\nmodel M = t @ s @ t ** 3"
    ),
    "sharing in copies": X + "shared s = Linear(8)\nmodel M = (s @ Linear(8)) ** 3 @ s",
    "sharing that is never used": X + "shared s = Linear(8)\nmodel M = ReLU",
    "sharing a tuple": X + "shared s = (Linear(8), Linear(8))\nmodel M = Add @ s @ Add @ s",
    "sharing a repetition": X + "shared s = Linear(8) ** 3\nmodel M = s @ s",
    "sharing nothing": X + "shared s = Identity\nmodel M = s @ s",
    "several models, one chosen": X + "model M = ReLU\nmodel N = Tanh",
    "inputs that are not used": X + "input y: float[batch, 9]\nmodel M = Linear(8) @ Select(0)",
    "inputs that are only handed on": X + "input y: float[batch, 9]\nmodel M = Identity",
    "a model without weights": X + "model M = ReLU",
    "a model that is a tuple": X + "model M = (Linear(8), ReLU, (Tanh, Abs))",
    "a formula without its tensor": X + "bond F(x) = 3 sensitivity 1\nmodel M = F @ Linear(8)",
    "a formula of 190 functions": (
        X + f"bond F(x) = {'tanh(' * 190}x{')' * 190} sensitivity 1\nmodel M = F"
    ),
    "a tiny sensitivity": X + "bond F(x) = 0 * x sensitivity 1e-300\nmodel M = F @ Linear(8)",
    "tare to 0": X + "model M = Linear(8) @ tare(Linear(8), 0)",
    "masses far apart": X + "model M = Linear(8, mass = 1e300) @ Linear(8, mass = 1e-7)",
    "sensitivities that meet again": (
        X + "model M = Mul(1e-200) @ Mul(1e200) @ Mul(1e200) @ Mul(1e-200) @ Linear(8)"
    ),
    "copies whose certified sensitivity overflows": (
        X + "model M = (sqrt(2) * GELU @ Linear(8)) ** 100000"
    ),
    "copies whose sensitivity is nearly 1": (
        X + "model M = ((1 - 1 / 10 ** 15) * Linear(8)) ** 100000"
    ),
    "a batch of 2^31": "input x: float[2 ** 31 - 1, 2 ** 31 - 1, 8]\nmodel M = Linear(8) @ Flatten",
    "a counter named self": X + "model M = compose(Linear(self) for self in range(3, 6))",
}


@pytest.mark.parametrize("text", COMPILED.values(), ids=COMPILED)
def test_compiled(text: str) -> None:
    compiled(text, model="M")


def test_what_is_never_reached_costs_nothing() -> None:
    """Definitions are evaluated when they are mentioned, and branches when they are taken."""
    text = X + defs("def", "Linear(8)", lambda i: f"a{i} @ a{i}", 60)
    compiled(text + "model M = Linear(8) if 1 < 2 else a60")


NAMES = (
    "class lambda yield async None print torch F self forward type train weight Linear PLAN "
    "NormedAdam i Part __init__ _modules nn Tensor linear layer_norm requires_grad_ Class"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_names_of_others(name: str) -> None:
    """Whatever it names, the file is valid Python; tests/torch runs such files."""
    for text in (
        f"def {name} = Linear(8) >> ReLU\nmodel M = {name} ** 3 >> {name}",
        f"def {name} = ReLU >> Tanh\nmodel M = {name} + Linear(8) >> {name}",
        f"model M = {name} >> {name} where {name} = Linear(8, 8)",
        f"shared {name} = Linear(8)\nmodel M = {name} ** 2 >> {name}",
        f"model {name} = Bias ** 2",
        f"param {name} = 8\nmodel M = Conv2D({name}) if {name} == 9 else Bias({name})",
        f"bond {name}(t, c) = t / c sensitivity 1\nmodel M = {name}(3)",
    ):
        if name == "Linear":  # what is defined hides the operation
            text = text.replace("Linear(8, 8)", "Bias").replace("Linear(8)", "Bias")
        compiled(X + text)
    compiled(f"input {name}: float[batch, 8]\nmodel M = Bias")


# --- files ------------------------------------------------------------------------------------


def codes(path: Path) -> list[str]:
    with no_hanging():
        try:
            return [d.code for d in analyse(path).diagnostics]
        except ModnormError as error:
            render(error.diagnostics).encode()
            return [d.code for d in error.diagnostics]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "E102"),
        (b"\0", "E101"),
        (b"param n = 1\0\n", "E101"),
        (b"\xff\xfe\x00", "E101"),
        (b"# caf\xe9\n", "E101"),
        (b"\x00" * 1_000_000, "E101"),
        (b"#" * 2_000_000, "E101"),
        (bytes(range(1, 128)), "E102"),
        (b"model M = ReLU \xe2\x80\xae", "E102"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_bytes(content: bytes, code: str, tmp_path: Path) -> None:
    file = tmp_path / "main.mod"
    file.write_bytes(content)
    assert code in codes(file)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_and_marks(mark: bytes, end: bytes, tmp_path: Path) -> None:
    file = tmp_path / "main.mod"
    lines = (b"input x: float[batch, 8]", b"# a comment", b"model M =", b"  Linear(8)", b"")
    file.write_bytes(mark + end.join(lines))
    assert codes(file) == []
    file.write_bytes(mark + end.join((*lines, b"def f = Linera(8)")))
    with pytest.raises(ModnormError) as caught:
        analyse(file)
    (problem,) = [d for d in caught.value.diagnostics if d.code == "E201"]
    assert problem.span is not None
    assert (problem.span.line, problem.span.column) == (6, 9)


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_imports_in_a_circle(count: int, tmp_path: Path) -> None:
    for i in range(count):
        text = f'import "f{(i + 1) % count}.mod" as next\n'
        (tmp_path / f"f{i}.mod").write_text(text + X + "model M = ReLU\n", "utf-8")
    assert "E204" in codes(tmp_path / "f0.mod")


def test_a_long_row_of_imports(tmp_path: Path) -> None:
    for i in range(500):
        text = f'from "f{i + 1}.mod" import width\n'
        (tmp_path / f"f{i}.mod").write_text(text, "utf-8")
    (tmp_path / "f500.mod").write_text("param width = 8\n", "utf-8")
    main = tmp_path / "main.mod"
    main.write_text(f'from "f0.mod" import width\n{X}model M = Linear(width)\n', "utf-8")
    assert codes(main) == []


def test_a_file_imported_under_many_names(tmp_path: Path) -> None:
    (tmp_path / "a.mod").write_text("shared s = Linear(8)\ndef f = s @ ReLU\n", "utf-8")
    lines = [f'import "a.mod" as a{i}' for i in range(100)]
    chain = " @ ".join(f"a{i}.f" for i in range(100))
    main = tmp_path / "main.mod"
    main.write_text("\n".join([*lines, X, f"model M = {chain}"]), "utf-8")
    program = analyse(main).program
    assert [weight.uses for weight in program.weights] == [100]


# --- many mistakes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        X + "\n".join(f"def f{i} = y{i}" for i in range(9_000)) + "\nmodel M = f0",
        X + "\n".join("def f = y" for _ in range(9_000)) + "\nmodel M = f",
        X + f"model M = ({', '.join(['Linear(0)'] * 7_000)})",
        X + f"model M = ({', '.join(['Linear(8, 3)'] * 1_000)})",
        X + f"model M = ({', '.join(['1e999'] * 19_000)})",
        X + f"model M = {' @ '.join(['f(a = 3)'] * 399)}\ndef f(b) = ReLU",
        "\n".join(f"input x{i}: float[0, -1]" for i in range(2_000)) + "\nmodel M = ReLU",
    ],
    ids=["names", "definitions", "arguments", "shapes", "numbers", "calls", "inputs"],
)
def test_a_flood_of_mistakes(text: str) -> None:
    with pytest.raises(ModnormError) as caught, no_hanging():
        analyse_text(text, "main.mod")
    with no_hanging():
        said = render(caught.value.diagnostics)
    assert len(said) < 200_000


def test_a_flood_of_warnings() -> None:
    text = X + "\n".join(f"def f{i} = ReLU" for i in range(9_000)) + "\nmodel M = ReLU"
    analysis, _ = compiled(text)
    assert len(analysis.diagnostics) == 9_000
    assert render(analysis.diagnostics).endswith("9000 warnings; 100 are shown\n")


# --- operations of others ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "sensitivity",
    [0, -1, math.inf, math.nan, 10**400, Fraction(1, 10**400)],
    ids=["zero", "negative", "infinite", "undefined", "huge", "tiny"],
)
def test_an_operation_that_declares_nonsense(
    sensitivity: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nonsense(Bond):
        name = "Nonsense"
        sharpness = LINEAR
        certified = 1

        def resolve(self, x: object) -> tuple[object, object]:
            return self, x

        reference = emit = resolve

    Nonsense.sensitivity = sensitivity
    Nonsense.__abstractmethods__ = frozenset()
    monkeypatch.setattr(registry, "_ops", {**registry.builtin(), "Nonsense": Nonsense})
    (problem,) = refused(X + "model M = Nonsense @ Linear(8)")
    assert problem.code == "E501"
    assert "must be positive and finite" in problem.message
