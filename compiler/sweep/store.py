"""Finished runs in an SQLite file: each is there whole, from the moment it is over."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from modnorm.report.output import Read, reader_of
from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Outcome

APPLICATION = 0x4D4E5452
"""Marks the file as a store of runs."""
VERSION = 1
MAGIC = b"SQLite format 3\0"
HEADER = 72
"""Bytes up to the end of the mark."""
HEAD = 65536
"""Bytes at the beginning by which a store is told: those of the largest page, and so the layout."""
BESIDE = ("-journal", "-wal", "-shm")
"""Ends of the names of what SQLite keeps beside a database that is in use, or was left in haste."""
SCHEMA = """
CREATE TABLE runs (
    key TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    first_loss REAL,
    train_loss REAL,
    held_out_loss REAL,
    accuracy REAL,
    steps INTEGER NOT NULL,
    seconds REAL NOT NULL
) WITHOUT ROWID
"""
SUMS = "CREATE TABLE IF NOT EXISTS sums (key TEXT PRIMARY KEY, sum TEXT NOT NULL) WITHOUT ROWID"
"""Checksums of runs; those that an earlier version kept have none."""
AT_ONCE = 500
"""Keys in one question."""
TRIES = 20
LATELY = 60.0
"""Seconds."""
Result = TypeVar("Result")


LARGEST = sys.float_info.max
Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]


class Kept(Struct):
    """What a run gave, as it is kept: with None for a first loss that is no number."""

    status: Literal["done", "diverged"]
    first_loss: float | None
    train_loss: Finite | None
    held_out_loss: Finite | None
    accuracy: Finite | None
    steps: Annotated[int, Meta(ge=0)]
    seconds: Annotated[float, Meta(ge=0, le=LARGEST)]

    def outcome(self, unknown: float) -> Outcome:
        """The outcome; `unknown` is the first loss where there is none."""
        first = unknown if self.first_loss is None else self.first_loss
        losses = (first, self.train_loss, self.held_out_loss, self.accuracy)
        return Outcome(self.status, *losses, self.steps, self.seconds)


COLUMNS = Kept.__struct_fields__


class StoreError(SweepError):
    """The file cannot keep runs, or keeps something else."""


def _refused(path: str, why: str) -> StoreError:
    return StoreError(f"the store `{path}` {why}: give another --store")


class Store:
    """Outcomes by the keys of their trials. One sweep at a time has the file open."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def outcomes(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes that are there, of runs with these keys."""
        found: dict[str, Outcome] = {}
        wanted = list(keys)
        with self._told():
            for start in range(0, len(wanted), AT_ONCE):
                part = wanted[start : start + AT_ONCE]
                rows = self._connection.execute(
                    f"SELECT key, name, sum, {', '.join(COLUMNS)} FROM runs LEFT JOIN sums"
                    f" USING (key) WHERE key IN ({_marks(part)})",
                    part,
                )
                for key, name, sum_, *values in rows.fetchall():
                    try:
                        if key not in part or sum_ not in (None, _sum(key, values)):
                            raise ValueError
                        kept = msgspec.convert(dict(zip(COLUMNS, values, strict=True)), Kept)
                    except ValueError:  # as msgspec's errors are
                        raise _refused(self.path, f"is damaged, in the run {name!r:.80}") from None
                    found[key] = kept.outcome(math.nan)
        return found

    def add(self, key: str, name: str, outcome: Outcome) -> None:
        """Keep a run that is over; it is on the disk when this returns.

        Raises:
            StoreError: if it cannot be kept, or is there already.
        """
        numbers = (outcome.first_loss, outcome.train_loss, outcome.held_out_loss, outcome.accuracy)
        losses = (None if x is None or math.isnan(x) else float(x) for x in numbers)
        values = [outcome.status, *losses, outcome.steps, float(outcome.seconds)]
        row = (key, name, *values)
        with self._told(), self._connection:
            self._connection.execute(
                f"INSERT INTO runs (key, name, {', '.join(COLUMNS)}) VALUES ({_marks(row)})", row
            )
            self._connection.execute(
                "INSERT OR REPLACE INTO sums VALUES (?, ?)", (key, _sum(key, values))
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:  # the latter of what is damaged
            raise StoreError(f"the store `{self.path}` fails: {_line(error)}") from error


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _line(error: Exception) -> str:
    """What is wrong, on one line: SQLite quotes what it cannot read."""
    return " ".join(str(error).split())


def _sum(key: str, values: list[Any]) -> str:
    """The checksum of a run, as its columns are read."""
    return hashlib.sha256(repr((key, *values)).encode()).hexdigest()[:32]


@contextmanager
def opened(path: str, force: bool = False) -> Iterator[Store]:
    """The store in a file, which is made where there is none.

    With `force` it is made in the place of a file that is something else, but never of a store.

    Raises:
        StoreError: if the file is no store, is damaged, or is in use by another sweep.
    """
    if gives_way(path, force):
        try:
            os.unlink(os.path.realpath(path))  # a link stays, and leads to the store then
        except OSError as error:
            raise StoreError(f"the store `{path}` cannot be opened: {error}") from None
    with _connected(path, path) as store:
        yield store


@contextmanager
def _connected(file: str, path: str) -> Iterator[Store]:
    """The store in a file, which errors call by another name."""
    try:
        connection = sqlite3.connect(file, timeout=1, isolation_level="IMMEDIATE")
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the store `{path}` cannot be opened: {error}") from None
    try:
        _make_ready(path, connection)
        yield Store(path, connection)
    finally:
        connection.close()


def gives_way(path: str, force: bool) -> bool:
    """Whether a file is there that is no store, and may be replaced by one; nothing is changed.

    Raises:
        StoreError: if it must not be replaced, or no store can be there.
    """
    if not path or os.path.isdir(path):
        raise StoreError(f"the store `{path}` is a folder: give --store the name of a file")
    foreign = _foreign(path)
    if foreign and not force:
        raise StoreError(
            f"{foreign}: give another --store, or --store with --force to begin one in its place"
        )
    if foreign and any(os.path.exists(os.path.realpath(path) + end) for end in BESIDE):
        raise StoreError(f"{foreign}, and it is in use: give another --store")
    return bool(foreign)


def expect_apart(path: str, read: Read) -> None:
    """Refuse a store that is a file of the user's which the sweep reads.

    Raises:
        StoreError: if it is one.
    """
    if reader := reader_of(path, read):
        raise _refused(path, f"is {reader}")


def _foreign(path: str) -> str:
    """What a file is that is no store, in words; it is read, and nothing else.

    Raises:
        StoreError: if it cannot be read, is no ordinary file, or is a store whose beginning is
            damaged: there may be runs in it, which took hours.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _refused(path, "is no ordinary file")
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"the store `{path}` cannot be opened: {reason.lower()}") from None
    sound = head.startswith(MAGIC)
    marked = head[HEADER - 4 : HEADER] == APPLICATION.to_bytes(4, "big")
    if not head or (sound and marked):
        return ""
    if marked or SCHEMA.strip().encode() in head:
        raise _refused(path, "is damaged (its beginning is not that of a store)")
    if not sound:
        return f"`{path}` is no store of runs, or is damaged"
    return f"`{path}` is a database of something else"


def peek(path: str, read: Callable[[Store], Result]) -> Result:
    """What is read from a store, even while a sweep has it open, or where it cannot be written.

    Nothing is written to it, not even what SQLite does to one that was left in haste: a copy is
    looked at.

    Raises:
        StoreError: if the file is no store, or is damaged.
    """
    gives_way(path, False)
    for left in reversed(range(TRIES)):
        try:
            with _copied(path) as copy, _connected(copy, path) as store:
                return read(store)
        except StoreError:  # perhaps copied in the middle of another's writing
            if not left or not _changed_lately(path):
                raise
            time.sleep(0.1)
    raise AssertionError


@contextmanager
def _copied(path: str) -> Iterator[str]:
    """A copy of a store, with what SQLite keeps beside it."""
    source = os.path.realpath(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy.db")
        try:
            for end in BESIDE[:2]:  # first, so that it tells what to undo in the rest
                with suppress(FileNotFoundError):
                    shutil.copyfile(source + end, copy + end)
            shutil.copyfile(source, copy)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StoreError(f"the store `{path}` cannot be read: {reason}") from None
        yield copy


def _changed_lately(path: str) -> bool:
    """Whether a sweep may be writing to a file just now."""
    try:
        return abs(time.time() - os.stat(path).st_mtime) < LATELY
    except OSError:
        return False


def _make_ready(path: str, connection: sqlite3.Connection) -> None:
    """Lock the file until the connection is closed, and make sure of what is in it."""
    try:
        # the lock is the system's: it goes with the process, however that ends
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")
        mark, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if mark == 0:  # the file was empty
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise _refused(
                path,
                f"was written by another version of modnorm (its layout is {version}, this one's"
                f" {VERSION})",
            )
        elif (said := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _refused(path, f"is damaged ({said.splitlines()[-1]})")
        connection.execute(SUMS)
        connection.commit()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StoreError(
                f"the store `{path}` is in use by another sweep: wait for it, or give another "
                "--store"
            ) from None
        raise StoreError(f"the store `{path}` cannot be used: {_line(error)}") from None
    except (sqlite3.DatabaseError, UnicodeError) as error:
        raise StoreError(
            f"`{path}` is no store of runs, or is damaged ({_line(error)}): give another --store"
        ) from None
