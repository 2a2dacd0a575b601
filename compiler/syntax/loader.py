"""Reads a file and all that it imports, each file once.

`std.*` is the library that comes with modnorm; an import in quotes is a file, found from the
folder of the file that imports it.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modnorm.diagnostics import Diagnostic, Diagnostics, Label, Source, Span, did_you_mean
from modnorm.grammar import library
from modnorm.syntax.parser import parse_partly
from modnorm.syntax.tree import File, ImportModule, ImportNames
from modnorm.syntax.words import cut

SUFFIX = ".mod"
STATEMENT = re.compile(r"^[ \t]*(?:input\s+\w+\s*:|model\s+\w+\s*=)", re.MULTILINE)
"""What a file of another name has if it is a program all the same."""
MAX_BYTES = 1_000_000
"""Bytes of a file."""

Import = ImportModule | ImportNames
Key = tuple[str, str, bool]


@dataclass(frozen=True)
class Loaded:
    """A file with every file reached by its imports.

    `imports` maps (importing source's name, path as written, is_file) to the file that is meant.
    An import that could not be read is missing there, and has its error among the diagnostics.
    """

    main: File
    imports: Mapping[Key, File]

    def imported(self, file: File, statement: Import) -> File | None:
        """The file that an import of a file means, or None where it could not be read."""
        return self.imports.get((file.source.name, statement.path, statement.is_file))

    def library(self, module: str) -> File:
        """A file of the library, whether the program imports it or not."""
        name = f"std.{module}"
        imported = (file for (_, path, _), file in self.imports.items() if path == name)
        return next(imported, None) or _parsed(name, Diagnostics())

    @property
    def files(self) -> tuple[File, ...]:
        """Every file once, the main one first."""
        return tuple({id(f): f for f in (self.main, *self.imports.values())}.values())


@dataclass(frozen=True)
class _Place:
    """Where a file is: `identity` is the same for two paths to one file."""

    identity: str
    name: str
    path: Path | None
    """None for a text that is in no file, or a file of the library."""


def load(
    path: str | os.PathLike[str],
    diagnostics: Diagnostics,
    root: str | os.PathLike[str] | None = None,
) -> Loaded | None:
    """The file at `path` and what it imports; None where not even the file itself can be read.

    With `root` no file is imported that is not in that folder, all links followed.
    All that is wrong is added to `diagnostics`; statements with a mistake are left out of the
    files returned, so a caller that wants whole files looks at `diagnostics.errors` first.
    """
    name = os.fspath(path)
    if not name:
        diagnostics.add(Diagnostic("E101", "the file's name is empty"))
        return None
    place = Path(name)
    try:
        text = _decode(_read(place))
        if place.suffix != SUFFIX and not STATEMENT.search(text):
            raise _Unreadable(f"it is no {SUFFIX} file: it has neither an `input` nor a `model`")
    except _Unreadable as error:
        message = f"cannot read `{name}`: {error}"
        hint = _meant(place) or error.hint
        diagnostics.add(Diagnostic("E101", message, error.span(name), hint=hint))
        return None
    source = Source(name, text)
    return _Loader(diagnostics, root=root).run(source, _Place(_identity(place), name, place))


def load_text(
    text: str,
    name: str,
    diagnostics: Diagnostics,
    *,
    others: Mapping[str, str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Loaded | None:
    """As `load`, for a text that is in no file.

    `others` are further files by path, used before the disk when the text imports a file.
    """
    path = Path(os.path.normpath(name))
    loader = _Loader(diagnostics, {**(others or {}), str(path): text}, root)
    return loader.run(Source(name, _lines(text)), _Place(f"text:{path}", name, path))


class _Unreadable(Exception):
    """Why a file cannot be read, in words that follow a colon."""

    def __init__(self, message: str, hint: str = "", text: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.hint = hint
        self.text = text
        self.offset = offset

    def span(self, name: str) -> Span | None:
        """Where in the file, if a place in it is at fault."""
        if not self.text:
            return None
        line = self.text.count("\n", 0, self.offset) + 1
        column = self.offset - self.text.rfind("\n", 0, self.offset)
        return Span(Source(name, self.text), line, column, line, column + 1)


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _Unreadable("it is a folder", "name a file in it")
        if not stat.S_ISREG(mode):
            raise _Unreadable("it is no ordinary file")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _Unreadable("there is no such file", _similar(path)) from None
    except PermissionError:
        raise _Unreadable("permission denied") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise _Unreadable(reason[:1].lower() + reason[1:]) from None
    if len(content) > MAX_BYTES:
        raise _Unreadable(f"it is larger than {MAX_BYTES // 1_000_000} MB")
    return content


def _decode(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Unreadable("it is UTF-16 text", "save it as UTF-8")
    mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    content = content[mark:]
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        start = error.start
        line = content.count(b"\n", 0, start) + 1
        raise _Unreadable(
            f"line {line} is not UTF-8 text (byte 0x{content[start]:02x} at offset {start + mark})",
            "save the file as UTF-8",
            content.decode(errors="replace"),
            len(content[:start].decode()),
        ) from None
    if "\0" in text:
        offset = text.index("\0")
        line = text.count("\n", 0, offset) + 1
        raise _Unreadable(
            f"line {line} holds a NUL character, so this is no text file", "", text, offset
        )
    return _lines(text)


def _lines(text: str) -> str:
    """The text with every line end as a newline, and without a byte order mark."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _meant(path: Path) -> str:
    """A hint at the program beside what is none, or at the only one in a folder."""
    if path.suffix == SUFFIX:
        return ""
    try:
        bare = str(path).removesuffix(path.suffix)
        names = (Path(bare), Path(f"{bare}{SUFFIX}"), Path(f"{path}{SUFFIX}"))
        found = [other for other in names if other.suffix == SUFFIX and other.is_file()]
        inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else []
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    if not found and len(inside) == 1:
        found = inside
    return f"did you mean `{found[0]}`?" if found else ""


def _similar(path: Path) -> str:
    try:
        if not path.parent.is_dir():
            return f"there is no folder `{path.parent}`"
        names = [entry.name for entry in path.parent.iterdir() if entry.name.endswith(".mod")]
    except OSError:
        return ""
    return did_you_mean(path.name, sorted(names))


def _identity(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a name that this system cannot have; reading says so
        return os.path.abspath(path)


def _parsed(name: str, diagnostics: Diagnostics) -> File:
    """The file of the library that is imported under a name."""
    content = library()[name.removeprefix("std.")].read_text(encoding="utf-8")
    return parse_partly(Source(name, content, library=True), diagnostics)[0]


class _Loader:
    """One run: files by identity, each parsed once."""

    def __init__(
        self,
        diagnostics: Diagnostics,
        texts: Mapping[str, str] | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.diagnostics = diagnostics
        self.root = None if root is None else Path(_identity(Path(root)))
        self.texts = texts or {}
        self.files: dict[str, File | None] = {}
        self.imports: dict[Key, File] = {}

    def run(self, source: Source, place: _Place) -> Loaded:
        """Depth first over the imports, with a stack of its own: a long row is no danger."""
        main, _ = parse_partly(source, self.diagnostics)
        self.files[place.identity] = main
        trail: list[tuple[_Place, File, list[Import]]] = [(place, main, _imports(main))]
        steps: list[Import] = []  # the import by which each file after the first was reached
        while trail:
            here, file, todo = trail[-1]
            if not todo:
                trail.pop()
                if steps:
                    steps.pop()
                continue
            statement = todo.pop(0)
            key = (file.source.name, statement.path, statement.is_file)
            if key in self.imports:
                continue
            target = self.locate(here, statement)
            if target is None:
                continue
            positions = [i for i, (p, _, _) in enumerate(trail) if p.identity == target.identity]
            if positions:
                files = [f for _, f, _ in trail[positions[0] :]]
                self.cycle(files, [*steps[positions[0] :], statement])
                continue
            known = self.files.get(target.identity)
            if target.identity not in self.files:
                known = self.files[target.identity] = self.open(target, statement)
                if known is not None:
                    trail.append((target, known, _imports(known)))
                    steps.append(statement)
            if known is not None:
                self.imports[key] = known
        return Loaded(main, self.imports)

    def problem(self, statement: Import, message: str, hint: str = "") -> None:
        self.diagnostics.add(Diagnostic("E203", message, statement.path_span, hint=hint))

    def locate(self, here: _Place, statement: Import) -> _Place | None:
        """The place that an import means, or None with its error reported."""
        if not statement.is_file:
            return self.locate_library(statement)
        written = statement.path
        if not written.strip():
            self.problem(statement, "an import of a file without a name")
            return None
        if not written.isprintable():
            self.problem(statement, "a path with a character that cannot be printed")
            return None
        if here.path is None:
            self.problem(statement, "a file of the library imports from the library only")
            return None
        if written.startswith(("/", "~")) or written[1:3] in (":/", ":\\"):
            self.problem(
                statement,
                f"`{cut(written)}` is an absolute path",
                "write the path from this file's folder, so that the files can move together",
            )
            return None
        path = Path(os.path.normpath(here.path.parent / written))
        if str(path) in self.texts:
            return _Place(f"text:{path}", str(path), path)
        identity = _identity(path)
        if self.root is not None and not Path(identity).is_relative_to(self.root):
            message = f"`{cut(written)}` is outside of the root, to which imports are confined"
            hint = "imports may read files in that folder only, wherever links lead"
            self.diagnostics.add(Diagnostic("E208", message, statement.path_span, hint=hint))
            return None
        return _Place(identity, str(path), path)

    def locate_library(self, statement: Import) -> _Place | None:
        first, _, rest = statement.path.partition(".")
        name = cut(statement.path)
        known = library()
        if first == "std" and rest in known:
            return _Place(f"std:{rest}", statement.path, None)
        names = ", ".join(f"`std.{module}`" for module in known)
        if statement.path == "std":
            self.problem(
                statement, "`std` is the whole library", f"import one of its modules: {names}"
            )
        elif first == "std":
            near = did_you_mean(cut(rest), known).replace("`", "`std.", 1)
            self.problem(
                statement,
                f"the library has no module `{name}`",
                near or f"it has {names}",
            )
        elif first in known and not rest:
            self.problem(statement, f"there is no module `{first}`", f"did you mean `std.{first}`?")
        else:
            file = name.replace(".", "/")
            self.problem(
                statement,
                f"there is no module `{name}`",
                did_you_mean(name, [f"std.{module}" for module in known])
                or f'the library is `std`; a file is written in quotes: `"{file}.mod"`',
            )
        return None

    def open(self, place: _Place, statement: Import) -> File | None:
        """Reads and parses an imported file; None with its error reported."""
        if place.path is None:
            return _parsed(place.name, self.diagnostics)
        if (text := self.texts.get(place.name)) is None:
            try:
                text = _decode(_read(place.path))
            except _Unreadable as error:
                message = f"cannot import `{cut(statement.path)}`: {error}"
                self.problem(statement, message, error.hint or _suffix(place))
                return None
        return parse_partly(Source(place.name, _lines(text)), self.diagnostics)[0]

    def cycle(self, files: list[File], steps: list[Import]) -> None:
        """E204 at the import that closes the circle, with a label at each of the others."""
        names = [file.source.name for file in files]
        chain = " → ".join([*names, names[0]])
        *before, last = steps
        message = f"`{names[0]}` imports itself" if len(names) == 1 else "files import each other"
        self.diagnostics.add(
            Diagnostic(
                "E204",
                f"{message}: {chain}",
                last.path_span,
                f"and this leads back to `{names[0]}`" if before else "this is the file itself",
                tuple(
                    Label(step.path_span, f"`{importing}` imports `{imported}`")
                    for step, importing, imported in zip(before, names, names[1:], strict=False)
                ),
                "move what both need into a third file" if before else "",
            )
        )


def _imports(file: File) -> list[Import]:
    return [s for s in file.statements if isinstance(s, ImportModule | ImportNames)]


def _suffix(place: _Place) -> str:
    assert place.path is not None
    longer = place.path.with_name(place.path.name + ".mod")
    try:
        return f"did you mean `{longer.name}`?" if longer.is_file() else ""
    except (OSError, ValueError):  # no file can have that name
        return ""
