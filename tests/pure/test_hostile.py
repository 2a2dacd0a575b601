"""Programs that ask for too much, or use names that mean something elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from modnorm.codegen.assemble import generate
from modnorm.diagnostics import ModnormError
from modnorm.pipeline import analyse, analyse_text

HEAD = "input x: float[batch, 8]\n"
DOUBLING = "def a0 = Linear(8)\n" + "".join(
    f"def a{i} = a{i - 1} @ a{i - 1}\n" for i in range(1, 61)
)
CALLS = "def c0 = Linear(8)\n" + "".join(f"def c{i} = c{i - 1}\n" for i in range(1, 1001))

WRONG = {
    "a huge power of a module": ("model M = Linear(8) ** 10**9", "E305"),
    "a huge power of a number": ("param n = 2 ** 10**9\nmodel M = Linear(n)", "E303"),
    "powers of powers": ("model M = ((Linear(8) ** 1000) ** 1000) ** 1000", "E305"),
    "definitions that double": (DOUBLING + "model M = a60", "E305"),
    "definitions in definitions": (CALLS + "model M = c1000", "E305"),
    "brackets": ("model M = " + "(" * 5000 + "Linear(8)" + ")" * 5000, "E104"),
    "signs": ("param n = " + "-" * 5000 + "1\nmodel M = Linear(n)", "E104"),
    "a long chain": ("model M = " + " @ ".join(["Linear(8)"] * 10_000), "E104"),
    "a size of 10^30": (f"model M = Linear({10**30})", "E305"),
    "a size of 0": ("model M = Linear(0)", "E304"),
    "a broken size": ("model M = Linear(7 / 2)", "E304"),
    "an exponent": ("param n = 1e999999999\nmodel M = Linear(n)", "E103"),
    "itself": ("def a = a @ Linear(8)\nmodel M = a", "E205"),
    "a zero": ("model M = 0 * Linear(8)", "E306"),
    "no mass": ("model M = Linear(8, mass = 0)", "E307"),
    "a pole": ("bond B(x) = 1 / x sensitivity 1\nmodel M = B @ Linear(8)", "E309"),
    "an underflow": ("model M = (1/2 * Linear(8)) ** 100000", "E501"),
}


@pytest.mark.parametrize("case", WRONG)
def test_too_much_is_a_diagnostic(case: str) -> None:
    program, code = WRONG[case]
    with pytest.raises(ModnormError) as caught:
        analyse_text(HEAD + program)
    assert code in {d.code for d in caught.value.diagnostics if d.severity == "error"}


def test_bytes_and_cycles(tmp_path: Path) -> None:
    for name, content in {
        "latin.mod": b"# caf\xe9\n",
        "nul.mod": b"param n = 1\0\n",
        "a.mod": b'from "b.mod" import y\ndef x = y\nmodel M = x\ninput t: float[batch, 8]',
        "b.mod": b'from "c.mod" import z\ndef y = z',
        "c.mod": b'from "a.mod" import x\ndef z = x',
    }.items():
        (tmp_path / name).write_bytes(content)
    for name, code in {"latin.mod": "E101", "a.mod": "E204", "none.mod": "E101"}.items():
        with pytest.raises(ModnormError) as caught:
            analyse(tmp_path / name)
        assert code in {d.code for d in caught.value.diagnostics}
    with pytest.raises(ModnormError):
        analyse(tmp_path / "nul.mod")


@pytest.mark.parametrize(
    "name",
    "class lambda yield async None print torch F self forward type train weight PLAN NormedAdam "
    "i Part __init__ _modules nn Tensor linear layer_norm".split(),
)
def test_names_of_others_compile(name: str) -> None:
    """As a definition, repeated or not, and as a model; the file is valid Python."""
    for program in (
        f"def {name} = Linear(8) >> ReLU\nmodel M = {name} ** 3 >> {name}",
        f"model M = {name} >> {name} where {name} = Linear(8)",
        f"shared {name} = Linear(8)\nmodel M = {name} ** 2 >> {name}",
        f"model {name} = Linear(8) ** 2",
    ):
        compile(generate(analyse_text(HEAD + program).program), "generated.py", "exec")
