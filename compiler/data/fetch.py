"""The cache of the data, and the downloaders that fill it (pip, apt-get).

The cache is $MODNORM_CACHE, or ~/.cache/modnorm. Files are written whole or not at all, and used
only where their checksum is right. Every failure is a `DataError` whose message says what to do.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from modnorm.files import write_whole


class DataError(Exception):
    """The data cannot be had; the message says why and what to do."""


class Unreachable(DataError):
    """The registry cannot be reached, so that other data may stand in."""


def cache_folder() -> Path:
    """$MODNORM_CACHE, or ~/.cache/modnorm. It need not exist yet."""
    chosen = os.environ.get("MODNORM_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "modnorm"


def read_checked(path: Path, sha256: str) -> bytes | None:
    """The file's bytes where they are there and have that checksum, else None."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def keep(path: Path, content: bytes) -> None:
    """Put a file into the cache."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise cache_error(error) from error


def cache_error(error: OSError) -> DataError:
    return DataError(
        f"the cache {cache_folder()} cannot be written: {error.strerror or error}; "
        "make room or set MODNORM_CACHE to another folder"
    )


def scratch_folder() -> TemporaryDirectory[str]:
    """A folder inside the cache for a download; removed afterwards."""
    root = cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=root, prefix=".part-", ignore_cleanup_errors=True)
    except OSError as error:
        raise cache_error(error) from error


def run(command: list[str], folder: Path) -> tuple[bool, str]:
    """Runs a downloader: whether it succeeded, and all it printed."""
    environment = {**os.environ, "LC_ALL": "C", "PIP_NO_INPUT": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=600, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"ERROR: {command[0]} did not finish in ten minutes"
    except OSError as error:
        return False, f"ERROR: {command[0]}: {error.strerror or error}"
    if done.returncode != 0 and shutil.disk_usage(folder).free < 2**20:
        raise DataError(
            f"no space left in the cache {cache_folder()}: "
            "make room or set MODNORM_CACHE to another folder"
        )
    return done.returncode == 0, done.stdout


OUT_OF_REACH = re.compile(
    r"resolv|name or service|connection|network is unreachable|timed out|proxy", re.IGNORECASE
)


def reason(output: str) -> str:
    """Why a downloader failed, in a few words taken from what it printed."""
    if OUT_OF_REACH.search(output):
        return "the registry cannot be reached"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    marked = [line for line in lines if re.match(r"(error|err|e):", line, re.IGNORECASE)]
    line = re.sub(r"^\w+:\s*", "", marked[0]) if marked else (lines or ["it said nothing"])[-1]
    return line[:200].rstrip(".")
