"""Files of a training run: checkpoints with a checksum, written whole, and what may be replaced."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from modnorm.measure.seal import END, END_SIZE, Broken, add_seal, is_sealed


class Trouble(click.ClickException):
    """An error that the user can mend: one line on stderr (or text as it is), exit 1."""

    def __init__(self, message: str, as_it_is: bool = False) -> None:
        super().__init__(message)
        self.as_it_is = as_it_is

    def show(self, file: Any = None) -> None:
        click.echo(self.message if self.as_it_is else f"error: {self.message}", err=True)


def expect_free(path: Path | None, option: str, resume: bool, force: bool) -> None:
    """Raises Trouble where a file is there that this run would lose."""
    if path is None or not path.exists():
        return
    if not path.is_file():
        raise Trouble(f"{path} is no ordinary file: give another {option}")
    if not resume and not force:
        raise Trouble(
            f"{path} is there already: add --resume to go on with it, or --force to replace it"
        )


def expect_apart(read: Mapping[str, Path | None], written: Mapping[str, Path | None]) -> None:
    """Raises Trouble where a file that a run writes is one that it reads, or has a second use."""
    seen: dict[str, str] = {}
    for what, path in {**read, **written}.items():
        if path is None:
            continue
        real = os.path.realpath(path)
        with contextlib.suppress(OSError):  # other names of one file, where it is there
            found = path.stat()
            real = f"{found.st_dev}:{found.st_ino}"
        if real in seen and what in written:
            raise Trouble(f"{path} is {seen[real]} and {what} at once: give another {what}")
        seen[real] = what


def beside(path: Path) -> Path:
    """The file that becomes the one at a path when it is whole; those of ended runs are removed."""
    parts = re.compile(re.escape(f".{path.name}.") + r"\d+\.part")
    with contextlib.suppress(OSError):
        for left in path.parent.iterdir():
            if parts.fullmatch(left.name):
                left.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def write(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all. Raises Trouble where it can't."""
    temporary = beside(path)
    try:
        with temporary.open("w+b") as file:
            torch.save(state, file)
            add_seal(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise Trouble(f"the checkpoint {path} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read(path: Path) -> tuple[Any, bool]:
    """What a checkpoint holds, and whether it has a checksum, which is right then.

    Raises Trouble for what is no checkpoint, or is damaged.
    """
    if not path.is_file():
        raise Trouble(f"{path} is no ordinary file: give another --checkpoint")
    try:
        with path.open("rb") as file:
            marked = is_sealed(file)
            file.seek(max(file.seek(0, os.SEEK_END) - END_SIZE, 0))
            record = file.read()
            if not marked and not (record.startswith(END) and record.endswith(b"\0\0")):
                raise Trouble(
                    f"{path} is damaged or no checkpoint of this program (its end is cut)"
                )
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True), marked
    except OSError as error:
        raise Trouble(f"{path} cannot be read: {error.strerror or error}") from error
    except Trouble:
        raise
    except Broken as error:
        raise Trouble(f"{path} is damaged: {error}") from error
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise Trouble(
            f"{path} is damaged or no checkpoint of this program ({type(error).__name__})"
        ) from error


def differences(found: Any, wanted: Any, name: str) -> Iterator[str]:
    """Where a state is not of the same kind as another, in words: keys, types, shapes, finite."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            yield f"{name} is {type(found).__name__}, no dict"
            return
        for key in wanted:
            if key not in found:
                yield f"{name} has no {key}"
            else:
                yield from differences(found[key], wanted[key], f"{name} {key}")
        for key in found:
            if key not in wanted:
                yield f"{name} has {key!r:.40}, which is not known"
    elif isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            yield f"{name} is no list of {len(wanted)}"
            return
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from differences(one, other, f"{name} {number}")
    elif isinstance(wanted, torch.Tensor):
        yield from _tensor(found, wanted, name)
    elif isinstance(wanted, float):
        number = isinstance(found, int | float) and not isinstance(found, bool)
        if not number or not math.isfinite(found):
            yield f"{name} is {found!r:.40}, no finite number"
    elif type(found) is not type(wanted):
        yield f"{name} is {found!r:.40}, not of type {type(wanted).__name__}"
    elif isinstance(wanted, int) and not 0 <= found < 2**63:
        yield f"{name} is {found!r:.40}, which cannot be"


def _tensor(found: Any, wanted: torch.Tensor, name: str) -> Iterator[str]:
    if not isinstance(found, torch.Tensor):
        yield f"{name} is {type(found).__name__}, no tensor"
    elif (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        kinds = (f"{tuple(x.shape)} of {x.dtype}" for x in (found, wanted))
        yield f"{name} is {' instead of '.join(kinds)}"
    elif found.layout is not torch.strided or found.is_meta:
        yield f"{name} is sparse or has no values"
    elif not bool(found.isfinite().all()):
        yield f"{name} is not finite"
