"""Files and their imports, as far as a Markdown case cannot hold them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modnorm.diagnostics import Diagnostic, Diagnostics
from modnorm.report.diagnostics import render
from modnorm.syntax import loader, tree
from modnorm.syntax.loader import Loaded, load, load_text


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def well(path: Path) -> Loaded:
    found = Diagnostics()
    loaded = load(path, found)
    assert render(found) == ""
    assert loaded is not None
    return loaded


def ill(path: Path | str) -> Diagnostic:
    found = Diagnostics()
    load(path, found)
    (problem,) = found
    render(found)
    return problem


def imports(file: tree.File) -> list[loader.Import]:
    return [s for s in file.statements if isinstance(s, tree.ImportModule | tree.ImportNames)]


def test_every_import_leads_to_its_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "main.mod": 'import "parts/a.mod" from "common.mod" import f',
            "parts/a.mod": 'import "../common.mod" import "b.mod"',
            "parts/b.mod": "param x = 3",
            "common.mod": "def f = Identity",
        },
    )
    loaded = well(tmp_path / "main.mod")
    a, common = [loaded.imported(loaded.main, s) for s in imports(loaded.main)]
    assert a is not None
    again, b = [loaded.imported(a, s) for s in imports(a)]
    assert b is not None
    assert again is common
    assert b.source.name == str(tmp_path / "parts" / "b.mod")
    assert len(loaded.files) == 4
    assert loaded.files[0] is loaded.main


def test_names_are_as_the_user_would_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"x/main.mod": 'import "../y/a.mod"', "y/a.mod": "param a = 1"})
    monkeypatch.chdir(tmp_path)
    assert [f.source.name for f in well(Path("x/main.mod")).files] == ["x/main.mod", "y/a.mod"]


def test_a_file_under_two_names_is_one_file(tmp_path: Path) -> None:
    write(tmp_path, {"main.mod": 'import "a.mod" import "b.mod"', "a.mod": "param x = 3"})
    (tmp_path / "b.mod").symlink_to(tmp_path / "a.mod")
    assert len(well(tmp_path / "main.mod").files) == 2


def test_a_cycle_through_a_link_is_a_cycle(tmp_path: Path) -> None:
    write(tmp_path, {"main.mod": 'import "b.mod"'})
    (tmp_path / "b.mod").symlink_to(tmp_path / "main.mod")
    assert ill(tmp_path / "main.mod").code == "E204"


def test_an_import_that_fails_is_missing_and_the_rest_is_there(tmp_path: Path) -> None:
    write(tmp_path, {"main.mod": 'import "a.mod" import "b.mod"', "b.mod": "param x = 3"})
    found = Diagnostics()
    loaded = load(tmp_path / "main.mod", found)
    assert loaded is not None
    assert [d.code for d in found] == ["E203"]
    assert [loaded.imported(loaded.main, s) is None for s in imports(loaded.main)] == [True, False]


def test_a_long_row_of_imports_does_not_recurse(tmp_path: Path) -> None:
    count = 1500
    write(tmp_path, {f"f{i}.mod": f'import "f{i + 1}.mod"' for i in range(count)})
    write(tmp_path, {f"f{count}.mod": "param x = 3"})
    assert len(well(tmp_path / "f0.mod").files) == count + 1


def test_a_long_circle_is_told_once(tmp_path: Path) -> None:
    write(tmp_path, {f"f{i}.mod": f'import "f{(i + 1) % 30}.mod"' for i in range(30)})
    problem = ill(tmp_path / "f0.mod")
    assert problem.code == "E204"
    assert len(problem.others) == 29


# --- files that cannot be read ----------------------------------------------------------------


def test_empty_name_and_folder(tmp_path: Path) -> None:
    assert ill("").message == "the file's name is empty"
    assert "it is a folder" in ill(tmp_path).message


def test_a_path_that_is_none() -> None:
    assert "embedded null" in ill("a\0b.mod").message
    assert "cannot read" in ill("a" * 5000).message
    assert "cannot read" in ill("\udcff.mod").message


def test_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "a.mod").symlink_to(tmp_path / "b.mod")
    (tmp_path / "b.mod").symlink_to(tmp_path / "a.mod")
    assert "cannot read" in ill(tmp_path / "a.mod").message
    write(tmp_path, {"main.mod": 'import "a.mod"'})
    assert ill(tmp_path / "main.mod").code == "E203"


def test_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "a.mod").symlink_to(tmp_path / "none.mod")
    assert "there is no such file" in ill(tmp_path / "a.mod").message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mod")
    assert "it is no ordinary file" in ill(tmp_path / "a.mod").message


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_device_is_not_read() -> None:
    assert "it is no ordinary file" in ill("/dev/zero").message


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.mod": "param x = 3"})

    def refuse(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read it all
    assert "permission denied" in ill(tmp_path / "a.mod").message


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.mod").write_bytes(b"#" * (loader.MAX_BYTES + 1))
    assert "it is larger than 1 MB" in ill(tmp_path / "a.mod").message
    write(tmp_path, {"main.mod": 'import "a.mod"'})
    assert ill(tmp_path / "main.mod").code == "E203"


def test_the_place_of_a_wrong_byte(tmp_path: Path) -> None:
    (tmp_path / "a.mod").write_bytes("\ufeff# größe\nparam a = '€' ".encode() + b"\xe9 3")
    problem = ill(tmp_path / "a.mod")
    assert problem.span is not None
    assert (problem.span.line, problem.span.column) == (2, 15)
    assert "at offset 29" in problem.message


# --- texts ------------------------------------------------------------------------------------


def test_texts_import_each_other() -> None:
    found = Diagnostics()
    loaded = load_text(
        'import "parts/a.mod"',
        "main.mod",
        found,
        others={"parts/a.mod": 'import "b.mod"', "parts/b.mod": "param x = 3"},
    )
    assert loaded is not None
    assert [f.source.name for f in loaded.files] == ["main.mod", "parts/a.mod", "parts/b.mod"]
    assert list(found) == []


def test_a_text_imports_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.mod": "param x = 3"})
    monkeypatch.chdir(tmp_path)
    found = Diagnostics()
    loaded = load_text('import "a.mod"', "<text>", found)
    assert loaded is not None
    assert len(loaded.files) == 2


def test_a_text_that_imports_itself() -> None:
    found = Diagnostics()
    load_text('import "b.mod"', "a.mod", found, others={"b.mod": 'import "a.mod"'})
    assert [d.code for d in found] == ["E204"]


def test_line_ends_and_a_byte_order_mark() -> None:
    found = Diagnostics()
    loaded = load_text("\ufeffparam a = 1 # one\rparam b = 2 # two\r\nparam c = 3", "a.mod", found)
    assert loaded is not None
    assert len(loaded.main.statements) == 3


# --- the library ------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of three modules in place of the real one."""
    write(
        tmp_path,
        {
            "mlp.mod": "def mlp = Identity",
            "transformer.mod": "import std.mlp from std.nothing import x",
            "files.mod": 'import "mlp.mod"',
        },
    )
    known = {file.stem: file for file in sorted(tmp_path.glob("*.mod"))}
    monkeypatch.setattr(loader, "library", lambda: known)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "import std",
            "`std` is the whole library",
            "import one of its modules: `std.files`, `std.mlp`, `std.transformer`",
        ),
        ("import std.mpl", "the library has no module `std.mpl`", "did you mean `std.mlp`?"),
        ("import std.MLP", "the library has no module `std.MLP`", "did you mean `std.mlp`?"),
        (
            "from std.a.b import c",
            "the library has no module `std.a.b`",
            "it has `std.files`, `std.mlp`, `std.transformer`",
        ),
        ("import mlp", "there is no module `mlp`", "did you mean `std.mlp`?"),
        ("import sdt.mlp", "there is no module `sdt.mlp`", "did you mean `std.mlp`?"),
        (
            "import std.files",
            "a file of the library imports from the library only",
            "",
        ),
    ],
)
def test_a_wrong_import_of_the_library(text: str, message: str, hint: str) -> None:
    found = Diagnostics()
    load_text(text, "main.mod", found)
    assert [(d.code, d.message, d.hint) for d in found] == [("E203", message, hint)]


@pytest.mark.usefixtures("library")
def test_the_library_is_read_once_and_from_itself() -> None:
    found = Diagnostics()
    loaded = load_text("import std.transformer import std.mlp", "main.mod", found)
    assert loaded is not None
    assert [f.source.name for f in loaded.files] == ["main.mod", "std.transformer", "std.mlp"]
    (problem,) = found
    assert problem.span is not None
    assert problem.span.source.name == "std.transformer"


def test_the_real_library_is_free_of_mistakes() -> None:
    found = Diagnostics()
    text = "".join(f"import std.{name}\n" for name in loader.library())
    load_text(text or "param x = 1", "main.mod", found)
    assert render(found) == ""
