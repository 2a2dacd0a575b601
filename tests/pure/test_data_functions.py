"""Data from `module:function`: finding the function, without calling it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modnorm.data import texts
from modnorm.data.__main__ import main
from modnorm.data.fetch import DataError
from modnorm.data.functions import Function


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder of the test's own; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0].startswith("my"):
            del sys.modules[name]


DRAW = "def draw(split, batch, generator):\n    return split, batch, generator\n"


def found(name: str) -> Function:
    function = texts.load(name)
    assert isinstance(function, Function)
    return function


def test_a_function_of_the_current_folder_is_found(folder: Path) -> None:
    (folder / "my_data.py").write_text(DRAW)
    function = found("my_data:draw")
    assert function("train", 3, None) == ("train", 3, None)
    assert function.name == "my_data:draw"
    assert function.sha256 == hashlib.sha256(DRAW.encode()).hexdigest()
    assert texts.describe(function) == "my_data:draw: batches drawn by the function in my_data.py"


def test_a_function_may_lie_in_a_package_and_in_a_class(folder: Path) -> None:
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("")
    inside = "class Words:\n    @staticmethod\n    def draw(*given):\n        return given\n"
    (folder / "my_package" / "words.py").write_text(inside)
    assert found("my_package.words:Words.draw")("train", 1, None) == ("train", 1, None)


def test_what_the_function_imports_when_called_is_found(folder: Path) -> None:
    (folder / "my_data.py").write_text(
        "def draw(*_):\n    import my_other\n    return my_other.N\n"
    )
    (folder / "my_other.py").write_text("N = 7")
    assert found("my_data:draw")("train", 1, None) == 7


def test_a_path_that_exists_wins(folder: Path) -> None:
    (folder / "my_data.py").write_text(DRAW)
    (folder / "my_data:draw").write_text("a text with a colon in its name")
    loaded = texts.load("my_data:draw")
    assert isinstance(loaded, texts.Text)
    assert loaded.name == "my_data:draw"


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (DRAW, "my_other:draw", r"^there is no module 'my_other', neither in .* nor installed$"),
        (DRAW, "my_data.deep:draw", r"^there is no module 'my_data.deep', neither in"),
        (DRAW, "my_data.py:draw", r"nor installed: give my_data without \.py$"),
        (DRAW, "my_data:sample", r"^there is no function sample in .*my_data\.py$"),
        ("draw = 3", "my_data:draw", "^my_data:draw is no function, but int$"),
        ("import my_gone", "my_data:draw", "^importing my_data raised ModuleNotFoundError: No mod"),
        ("1 / 0", "my_data:draw", "^importing my_data raised ZeroDivisionError: division by zero$"),
        ("raise SystemExit(3)", "my_data:draw", "^importing my_data raised SystemExit: 3$"),
        ("def draw(:", "my_data:draw", "^importing my_data raised SyntaxError: "),
        (DRAW, "sys:exit", "^sys has no source file to take a checksum of"),
        (DRAW, "my data:draw", "^there is no data set and no file named 'my data:draw'"),
        (DRAW, "my_data:", "or a function of your own, module:function$"),
        (DRAW, ":draw", "or a function of your own, module:function$"),
    ],
)
def test_what_cannot_be_found_is_refused(
    folder: Path, source: str, name: str, message: str
) -> None:
    (folder / "my_data.py").write_text(source)
    with pytest.raises(DataError, match=message):
        texts.load(name)


def test_what_the_function_raises_is_told_with_its_line(folder: Path) -> None:
    text = "def draw(split, batch, generator):\n    return [][batch]\n"
    (folder / "my_data.py").write_text(text)
    message = r"^my_data:draw\('train', 3, generator\) raised IndexError: list index out of range "
    with pytest.raises(DataError, match=message + r"\(my_data\.py, line 2\)$"):
        found("my_data:draw")("train", 3, None)


def test_the_command_describes_a_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_data.py").write_text(DRAW)
    assert main(["my_data:draw"]) == 0
    assert "batches drawn by the function" in capsys.readouterr().out
    assert main(["my_data:gone"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no function gone in")
