"""Finished runs in an SQLite file: each is there whole, from the moment it is over."""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from modnorm.sweep.problems import SweepError
from modnorm.sweep.records import Outcome

APPLICATION = 0x4D4E5452
"""Marks the file as a store of runs."""
VERSION = 1
MAGIC = b"SQLite format 3\0"
HEADER = 72
"""Bytes up to the end of the mark."""
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
COLUMNS = "status, first_loss, train_loss, held_out_loss, accuracy, steps, seconds"
AT_ONCE = 500
"""Keys in one question."""
TRIES = 20
Result = TypeVar("Result")


class StoreError(SweepError):
    """The file cannot keep runs, or keeps something else."""


class InUse(StoreError):
    """Another sweep has the file open."""


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
                marks = ", ".join("?" * len(part))
                rows = self._connection.execute(
                    f"SELECT key, name, {COLUMNS} FROM runs WHERE key IN ({marks})", part
                ).fetchall()
                sums = dict[str, str]()
                if self._has_sums():
                    query = f"SELECT key, sum FROM sums WHERE key IN ({marks})"
                    sums = dict(self._connection.execute(query, part))
                for key, name, *values in rows:
                    outcome, sum_ = _outcome(values), _sum(key, values)
                    if key not in part or outcome is None or sums.get(key, sum_) != sum_:
                        raise StoreError(
                            f"the store `{self.path}` is damaged, in the run {name!r:.80}: give "
                            "another --store"
                        )
                    found[key] = outcome
        return found

    def _has_sums(self) -> bool:
        """Whether there are checksums: one that is only looked at may be an earlier version's."""
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'sums'"
        return bool(self._connection.execute(query).fetchone()[0])

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
            marks = ", ".join("?" * len(row))
            self._connection.execute(
                f"INSERT INTO runs (key, name, {COLUMNS}) VALUES ({marks})", row
            )
            self._connection.execute(
                "INSERT OR REPLACE INTO sums VALUES (?, ?)", (key, _sum(key, values))
            )

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:  # the latter of what is damaged
            raise StoreError(f"the store `{self.path}` fails: {_line(error)}") from error


def _outcome(values: list[Any]) -> Outcome | None:
    """A row's outcome, or None where a column has what cannot be in it."""
    status, *losses, steps, seconds = values
    numbers = [seconds, *(loss for loss in losses if loss is not None)]
    if (
        status not in ("done", "diverged")
        or not all(isinstance(number, float) for number in numbers)
        or not isinstance(steps, int)
        or steps < 0
        or not 0 <= seconds < math.inf
    ):
        return None
    first, train, held_out, accuracy = losses
    first = math.nan if first is None else first
    return Outcome(status, first, train, held_out, accuracy, steps, seconds)


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
    if not path or os.path.isdir(path):
        raise StoreError(f"the store `{path}` is a folder: give --store the name of a file")
    if (foreign := _foreign(path)) and not force:
        raise StoreError(f"{foreign}: give another --store, or --force to begin one in its place")
    try:
        if foreign:
            if any(os.path.exists(path + end) for end in BESIDE):
                raise StoreError(f"{foreign}, and it is in use: give another --store")
            os.unlink(path)
        connection = sqlite3.connect(path, timeout=1, isolation_level="IMMEDIATE")
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the store `{path}` cannot be opened: {error}") from None
    try:
        _make_ready(path, connection)
        yield Store(path, connection)
    finally:
        connection.close()


def _foreign(path: str) -> str:
    """What a file is that is no store, in words; it is read, and nothing else.

    Raises:
        StoreError: if it cannot be read, or is no ordinary file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise StoreError(f"the store `{path}` is no ordinary file: give another --store")
        with open(path, "rb") as file:
            head = file.read(HEADER)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"the store `{path}` cannot be opened: {reason.lower()}") from None
    if head and not head.startswith(MAGIC):
        return f"`{path}` is no store of runs, or is damaged"
    if head and head[HEADER - 4 :] != APPLICATION.to_bytes(4, "big"):
        return f"`{path}` is a database of something else"
    return ""


def peek(path: str, read: Callable[[Store], Result]) -> Result:
    """What is read from a store, even while a sweep has it open.

    Raises:
        StoreError: if the file is no store, or is damaged.
    """
    try:
        with opened(path) as store:
            return read(store)
    except InUse:
        pass
    for left in reversed(range(TRIES)):
        address = f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1"  # looks past the lock
        connection = sqlite3.connect(address, uri=True)
        try:
            return read(Store(path, connection))
        except StoreError:  # in the middle of the other's writing
            if not left:
                raise
            time.sleep(0.1)
        finally:
            connection.close()
    raise AssertionError


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
            raise StoreError(
                f"the store `{path}` was written by another version of modnorm (its layout is "
                f"{version}, this one's {VERSION}): give another --store"
            )
        elif (said := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise StoreError(
                f"the store `{path}` is damaged ({said.splitlines()[-1]}): give another --store"
            )
        connection.execute(SUMS)
        connection.commit()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InUse(
                f"the store `{path}` is in use by another sweep: wait for it, or give another "
                "--store"
            ) from None
        raise StoreError(f"the store `{path}` cannot be used: {_line(error)}") from None
    except (sqlite3.DatabaseError, UnicodeError) as error:
        raise StoreError(
            f"`{path}` is no store of runs, or is damaged ({_line(error)}): give another --store"
        ) from None
