"""`modnorm.compile` and `modnorm.report` from Python, and the lazy package."""

from __future__ import annotations

import html
import inspect
import io
import json
import pydoc
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from report_models import BROKEN, GPT, MLP, ODD
from report_models import as_text as render
from rich.console import Console

import modnorm
from modnorm import ModnormError, Report
from modnorm.codegen.assemble import generate
from modnorm.diagnostics import ModnormError as Base
from modnorm.pipeline import analyse
from modnorm.report import as_json
from modnorm.report.diagnostics import render as rendered
from modnorm.report.explain import explanation


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"gpt": GPT, "mlp": MLP, "odd": ODD, "broken": BROKEN}.items():
        Path(f"{name}.mod").write_text(text, encoding="utf-8")
    return tmp_path


# --- compile ---------------------------------------------------------------------------------


def test_compile_returns_the_source(folder: Path) -> None:
    before = list(folder.iterdir())
    assert modnorm.compile("gpt.mod") == generate(analyse("gpt.mod").program)
    expected = generate(analyse("gpt.mod", {"d_embed": 64}).program)
    assert modnorm.compile(Path("gpt.mod"), d_embed=64) == expected
    assert list(folder.iterdir()) == before


def test_compile_to_a_file(folder: Path) -> None:
    source = modnorm.compile("mlp.mod", output=Path("out.py"))
    assert Path("out.py").read_text(encoding="utf-8") == source
    with pytest.raises(OSError, match="it is the file that is being compiled"):
        modnorm.compile("mlp.mod", output="mlp.mod")
    with pytest.raises(OSError, match="there is no folder `no`"):
        modnorm.compile("mlp.mod", output="no/out.py")


def test_one_model_of_several() -> None:
    Path("two.mod").write_text(MLP + "model Other = Linear(2)\n", encoding="utf-8")
    assert "class Other(" in modnorm.compile("two.mod", model="Other")
    with pytest.raises(ModnormError, match="several models"):
        modnorm.compile("two.mod")


# --- params ----------------------------------------------------------------------------------

KINDS = """\
param a = 1
param f = "gelu"
param b = false
input x: float[batch, 8]
def act = GELU if f == "gelu" else ReLU if f == 'a "b" \\\\ c' else Tanh
model M = a * act @ Linear(8, mass = 1 if b else 2)
"""


@pytest.mark.parametrize(
    ("given", "kept"),
    [(3, 3), (0.25, 0.25), (Fraction(1, 3), 1 / 3), (1e-3, 1e-3), (2.0, 2)],
)
def test_numbers(given: object, kept: float) -> None:
    Path("kinds.mod").write_text(KINDS, encoding="utf-8")
    found = modnorm.report("kinds.mod", a=given).json
    assert found["params"]["a"] == kept
    assert found["sensitivity"] == pytest.approx(kept / 2**0.5)


def test_integers_and_floats_of_others() -> None:
    class Int64(int):
        """As numpy's: an integer of another type."""

    assert modnorm.report("gpt.mod", d_embed=Int64(64)).json["params"]["d_embed"] == 64


@pytest.mark.parametrize(
    ("given", "op"),
    [("gelu", "GELU"), ('a "b" \\ c', "ReLU"), ("1 + 1", "Tanh"), ("", "Tanh"), ("\n", "Tanh")],
)
def test_strings_are_strings_and_no_expressions(given: str, op: str) -> None:
    Path("kinds.mod").write_text(KINDS, encoding="utf-8")
    found = modnorm.report("kinds.mod", f=given).json
    assert found["params"]["f"] == given
    assert f'"op": "{op}"' in json.dumps(found)


def test_truth_values() -> None:
    Path("kinds.mod").write_text(KINDS, encoding="utf-8")
    assert modnorm.report("kinds.mod", b=True).json["mass"] == 1
    assert modnorm.report("kinds.mod", b=False).json["mass"] == 2


@pytest.mark.parametrize("given", [None, [1], object(), float("nan"), float("inf"), 1j])
def test_what_no_param_can_be(given: object) -> None:
    with pytest.raises(ModnormError, match="`d_embed`"):
        modnorm.compile("gpt.mod", d_embed=given)


def test_an_unknown_param() -> None:
    with pytest.raises(ModnormError, match="did you mean `d_embed`"):
        modnorm.compile("gpt.mod", d_embd=64)


# --- mistakes --------------------------------------------------------------------------------


def test_mistakes_are_shown_with_their_place() -> None:
    with pytest.raises(ModnormError) as caught:
        modnorm.compile("broken.mod")
    text = str(caught.value)
    assert text + "\n" == rendered(caught.value.diagnostics)
    assert "error[E401]" in text
    assert "broken.mod:2:" in text
    assert "^" in text
    assert isinstance(caught.value, Base)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "no second traceback"


def test_texts() -> None:
    analysis = modnorm.analyse_text(MLP, "mlp.mod")
    assert analysis.program.name == "MLP"
    analysis = modnorm.analyse_text(GPT, params={"blocks": 2}, model="GPT")
    assert len(as_json.report(analysis)["atoms"]) == 15
    with pytest.raises(ModnormError, match=r"broken\.mod:2:"):
        modnorm.analyse_text(BROKEN, "broken.mod")


# --- programs as text ------------------------------------------------------------------------

LINE = "input x: float[batch, 8] model M = Linear(4, 8)"


def test_a_program_may_be_given_as_text() -> None:
    (mark, text), (_, other) = (
        modnorm.compile(program).split("\n", 1) for program in (MLP, "mlp.mod")
    )
    assert mark.startswith("# made by modnorm, sha256")  # over the rest, the source's name included
    same = other.replace("modnorm compile mlp.mod", "modnorm compile FILE.mod")
    assert text == same.replace("mlp.mod", "<text>")
    assert "modnorm compile FILE.mod --model" in text
    assert "class M(" in modnorm.compile(LINE)
    assert modnorm.report(MLP).json["atoms"] == modnorm.report("mlp.mod").json["atoms"]
    assert modnorm.report(GPT, blocks=2).json["params"]["blocks"] == 2
    assert modnorm.explain(MLP, "*").weights == modnorm.explain("mlp.mod", "*").weights
    renamed = MLP.replace("model MLP", "model Other")
    assert "Other" in str(modnorm.report("mlp.mod", against=renamed))


def test_mistakes_in_a_text_say_so() -> None:
    for call in (modnorm.compile, modnorm.report, modnorm.check):
        with pytest.raises(ModnormError, match=r"--> <text>:2:"):
            call(BROKEN)
    with pytest.raises(ModnormError, match=r"--> <text>:2:"):
        modnorm.explain(BROKEN, "linear")
    with pytest.raises(ModnormError, match=r"--> <text>:2:"):
        modnorm.transfer(BROKEN, vary={"d": [1, 2]})
    with pytest.raises(ModnormError, match=r"--> <text>:1:"):
        modnorm.compile("nonsense\n")


def test_a_text_is_written_to_a_file_and_imports_from_the_working_directory() -> None:
    Path("part.mod").write_text("def act = ReLU\n", encoding="utf-8")
    program = 'from "part.mod" import act\n' + LINE.replace("= ", "= act @ ")
    source = modnorm.compile(program, output="out.py")
    assert Path("out.py").read_text(encoding="utf-8") == source


@pytest.mark.parametrize("name", ["input x: float[b] model M = 3", "two\nlines.mod"])
def test_a_path_is_a_path(name: str) -> None:
    Path(name).write_text(MLP, encoding="utf-8")
    assert modnorm.report(Path(name)).json["model"] == "MLP"
    if "\n" not in name:
        assert modnorm.report(name).json["model"] == "MLP"


@pytest.mark.parametrize("name", ["no.mod", "models/input.mod", "model of mine.mod"])
def test_a_name_that_is_no_program_is_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(ModnormError, match=r"there is no such file"):
        modnorm.compile(name)


# --- explain ---------------------------------------------------------------------------------


def test_an_explanation_shows_itself() -> None:
    found = modnorm.explain("gpt.mod", "q", blocks=2)
    assert isinstance(found, modnorm.Explained)
    program = analyse("gpt.mod", {"blocks": 2}).program
    assert str(found) + "\n" == explanation(program, "q")
    assert repr(found) == str(found)
    assert found._repr_html_() == f"<pre>{html.escape(str(found))}</pre>"
    assert len(found.weights) == 2
    several = modnorm.explain("gpt.mod", "*.q.*", blocks=3)
    assert len(several.weights) == 3
    assert set(several.weights) <= {
        r["weight"] for r in modnorm.report("gpt.mod", blocks=3).json["atoms"]
    }


def test_a_weight_that_is_not_there() -> None:
    with pytest.raises(ModnormError, match="did you mean `attention`"):
        modnorm.explain("gpt.mod", "attentoin")
    with pytest.raises(ModnormError, match="did you mean `d_embed`"):
        modnorm.explain("gpt.mod", "q", d_embd=3)


# --- report ----------------------------------------------------------------------------------


def test_a_report_shows_itself() -> None:
    found = modnorm.report("odd.mod")
    assert isinstance(found, Report)
    assert str(found) + "\n" == render(analyse("odd.mod"))
    assert repr(found) == str(found)
    assert found.json == as_json.report(analyse("odd.mod"))
    assert found.diagnostics == analyse("odd.mod").diagnostics
    assert "W602" in [d.code for d in found.diagnostics]


def test_a_report_as_json() -> None:
    found = modnorm.report("gpt.mod", format="json", blocks=2)
    assert json.loads(str(found)) == found.json
    with pytest.raises(ValueError, match="'yaml'"):
        modnorm.report("gpt.mod", format="yaml")  # type: ignore[arg-type]


def test_rich_shows_a_report() -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with console.capture() as captured:
        console.print(modnorm.report("gpt.mod"))
    shown = [line.rstrip().replace("\xa0", " ") for line in captured.get().splitlines()]
    assert shown == str(modnorm.report("gpt.mod")).splitlines()


# --- the package -----------------------------------------------------------------------------


def test_every_name_is_there() -> None:
    assert set(dir(modnorm)) == set(modnorm.__all__)
    for name in modnorm.__all__:
        assert getattr(modnorm, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = modnorm.nonsense


def test_the_package_has_the_functions_help() -> None:
    function = modnorm.report.__wrapped__  # type: ignore[attr-defined]
    assert inspect.signature(modnorm.report) == inspect.signature(function)
    shown = pydoc.plain(pydoc.render_doc(modnorm.report))
    path = "path: 'FilePath | tuple[Weight, ...]'"
    assert f"report({path}, /, *, model: 'str | None' = None" in shown
    assert '"mse" or "cross_entropy", to be told how smooth' in shown


@pytest.mark.parametrize(
    "imports",
    [
        "import modnorm",
        "import modnorm.report",
        "import modnorm.report.diagnostics",
        "from modnorm.report import document; import modnorm",
        "import modnorm; modnorm.compile('mlp.mod')",
        "import modnorm; import modnorm.report.formats as formats; formats.render",
        "import modnorm; from modnorm import report; modnorm.report = report",
    ],
)
def test_report_is_the_function_whatever_was_imported_before(imports: str) -> None:
    """The function has the name of a package."""
    code = f"{imports}\nprint(modnorm.report('mlp.mod').json['weights'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("13000\n", "")
