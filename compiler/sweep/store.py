"""Finished runs in an SQLite file: each is there whole, from the moment it is over."""

from __future__ import annotations

import math
import os
import sqlite3
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
                    f"SELECT key, {COLUMNS} FROM runs WHERE key IN ({marks})", part
                )
                found.update((key, _outcome(values)) for key, *values in rows)
        return found

    def add(self, key: str, name: str, outcome: Outcome) -> None:
        """Keep a run that is over; it is on the disk when this returns.

        Raises:
            StoreError: if it cannot be kept, or is there already.
        """
        row = (
            key,
            name,
            outcome.status,
            outcome.first_loss,
            outcome.train_loss,
            outcome.held_out_loss,
            outcome.accuracy,
            outcome.steps,
            outcome.seconds,
        )
        with self._told(), self._connection:
            marks = ", ".join("?" * len(row))
            self._connection.execute(
                f"INSERT INTO runs (key, name, {COLUMNS}) VALUES ({marks})", row
            )

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"the store `{self.path}` fails: {error}") from error


def _outcome(values: list[Any]) -> Outcome:
    status, first_loss, *others = values
    return Outcome(status, math.nan if first_loss is None else first_loss, *others)


@contextmanager
def opened(path: str) -> Iterator[Store]:
    """The store in a file, which is made where there is none.

    Raises:
        StoreError: if the file is no store, is damaged, or is in use by another sweep.
    """
    if not path or os.path.isdir(path):
        raise StoreError(f"the store `{path}` is a folder: give --store the name of a file")
    try:
        connection = sqlite3.connect(path, timeout=1, isolation_level="IMMEDIATE")
    except sqlite3.Error as error:
        raise StoreError(f"the store `{path}` cannot be opened: {error}") from None
    try:
        _make_ready(path, connection)
        yield Store(path, connection)
    finally:
        connection.close()


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
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (mark, version, tables) == (0, 0, 0):
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif mark != APPLICATION:
            raise StoreError(f"`{path}` is a database of something else: give another --store")
        elif version != VERSION:
            raise StoreError(
                f"the store `{path}` was written by another version of modnorm (its layout is "
                f"{version}, this one's {VERSION}): give another --store"
            )
        elif (said := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise StoreError(
                f"the store `{path}` is damaged ({said.splitlines()[-1]}): give another --store"
            )
        connection.commit()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InUse(
                f"the store `{path}` is in use by another sweep: wait for it, or give another "
                "--store"
            ) from None
        raise StoreError(f"the store `{path}` cannot be used: {error}") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"`{path}` is no store of runs, or is damaged ({error}): give another --store"
        ) from None
