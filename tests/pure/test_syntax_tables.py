"""The cached parse tables: a shortcut that can be wrong in every way without doing harm."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import lark
import pytest

from modnorm.syntax import tables


class Recorder:
    """Callbacks that keep what they are called with."""

    def number(self, children: list[lark.Token]) -> str:
        return f"number {children[0]}"


def works(parser: lark.Lark) -> bool:
    return bool(parser.parse("3", start="expression") == "number 3")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "modnorm"


def cached(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_the_second_parser_comes_from_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert works(tables.build(Recorder()))
    assert cached(folder).stat().st_size > 1000

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the grammar was read again")

    monkeypatch.setattr(lark.Lark, "__init__", fail)
    assert works(tables.build(Recorder()))


def test_a_damaged_file_is_written_anew(folder: Path) -> None:
    tables.build(Recorder())
    file = cached(folder)
    whole = file.read_bytes()
    for damaged in (b"", b"x" * 10, whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        file.write_bytes(damaged)
        assert works(tables.build(Recorder()))
        assert file.read_bytes() != damaged


class Trap:
    """Anything but plain data in a pickle runs code when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("the cache ran code",))


def test_a_file_of_somebody_else_runs_nothing(folder: Path) -> None:
    tables.build(Recorder())
    sealed(cached(folder), pickle.dumps(Trap()))
    assert works(tables.build(Recorder()))


def sealed(file: Path, payload: bytes) -> None:
    """Write a cache file whose checksum is right, whatever it holds."""
    file.write_bytes(tables._digest(tables._key(tables.grammar()), payload) + payload)


@pytest.mark.parametrize(
    "content", [None, 3, [], {}, {"memo": {}, "data": {}}, {"memo": {"1": 2}, "data": [4]}, "cut"]
)
def test_wrong_content_under_a_right_checksum_is_made_anew(folder: Path, content: object) -> None:
    tables.build(Recorder())
    file = cached(folder)
    whole = file.read_bytes()
    if content == "cut":
        known = pickle.loads(whole[32:])
        del known["data"]["parser"]["parser"]
        content = known
    sealed(file, pickle.dumps(content))
    assert works(tables.build(Recorder()))
    assert file.read_bytes()[32:] != pickle.dumps(content)
    assert pickle.loads(file.read_bytes()[32:]).keys() == pickle.loads(whole[32:]).keys()


def test_another_grammars_tables_are_made_anew(folder: Path) -> None:
    tables.build(Recorder())
    file = cached(folder)
    payload = file.read_bytes()[32:]
    file.write_bytes(hashlib.sha256(b"another" + payload).digest() + payload)
    assert works(tables.build(Recorder()))
    assert file.read_bytes()[:32] != hashlib.sha256(b"another" + payload).digest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    tables.build(Recorder())
    file = cached(folder)
    file.unlink()
    os.mkfifo(file)
    assert works(tables.build(Recorder()))
    assert file.is_file(), "made anew"


def test_a_folder_in_the_files_place_is_passed_over(folder: Path) -> None:
    tables.build(Recorder())
    file = cached(folder)
    file.unlink()
    file.mkdir()
    assert works(tables.build(Recorder()))
    assert list(folder.iterdir()) == [file], "nothing is left beside it"


def test_another_grammar_has_another_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.build(Recorder())
    text = tables.grammar()
    monkeypatch.setattr(tables, "grammar", lambda: text + "\n// changed\n")
    assert works(tables.build(Recorder()))
    assert len(list(folder.iterdir())) == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert works(tables.build(Recorder()))


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tables, "cache_folder", nowhere)
    assert works(tables.build(Recorder()))
