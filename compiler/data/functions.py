"""Data from a function of one's own, named as `module:function`.

    def draw(split, batch, generator): ...

`split` is "train" or "held_out", `batch` the number of examples and `generator` a seeded
torch.Generator, from which all that is random has to come. It returns two tensors, the input and
the target: class numbers (integers), or numbers of the shape of the model's output.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from modnorm.data.fetch import DataError

NAME = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


@dataclass(frozen=True)
class Function:
    """`call(split, batch, generator)` gives a batch; `sha256` is of its module's source file."""

    name: str
    call: Callable[..., Any]
    source: Path
    sha256: str

    def __call__(self, split: str, batch: int, generator: Any) -> Any:
        """What the function returns. Raises DataError where it raises anything."""
        try:
            return self.call(split, batch, generator)
        except Exception as error:  # whatever a stranger's function raises
            raise DataError(
                f"{self.name}({split!r}, {batch}, generator) raised {told(error, self.source)}"
            ) from error


def is_function(name: str) -> bool:
    """Whether this has the form module:function."""
    return NAME.fullmatch(name) is not None


def told(error: BaseException, source: Path | None) -> str:
    """The error in one line, with the last line of `source` that it passed through."""
    text = str(error).strip()
    said = type(error).__name__ + (f": {text.splitlines()[0]}" if text else "")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if source is not None and Path(frame.filename) == source:
            return f"{said} ({source.name}, line {frame.lineno})"
    return said


def named(name: str) -> tuple[Callable[..., Any], Path | None]:
    """The function `module:function`, and its module's file, if it has one.

    The module may also lie in the current folder. Raises DataError where there is no such module or
    function, and where importing it raises.
    """
    parts = NAME.fullmatch(name)
    if parts is None:
        raise DataError(f"{name!r} is not module:function, as in own:draw")
    module = imported(parts[1])
    file = getattr(module, "__file__", None) or ""  # a namespace or a part of Python has none
    found: Any = module
    for attribute in parts[2].split("."):
        if not hasattr(found, attribute):
            raise DataError(f"there is no function {parts[2]} in {file or parts[1]}")
        found = getattr(found, attribute)
    if not callable(found):
        raise DataError(f"{name} is no function, but {type(found).__name__}")
    return found, Path(file) if file else None


def from_function(name: str) -> Function:
    """Data from the function `module:function`.

    The checksum is that of the module's source: of what it imports or reads it sees nothing.
    Raises DataError where there is no such function, or no source.
    """
    found, file = named(name)
    try:
        content = file.read_bytes() if file is not None else None
    except OSError:
        content = None
    if file is None or content is None:
        module = name.partition(":")[0]
        raise DataError(
            f"{module} has no source file to take a checksum of: put the function into a .py file"
        )
    return Function(name, found, file, hashlib.sha256(content).hexdigest())


def see_folder() -> None:
    """Let modules of the current folder be found. It stays so: a function may import more later."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()


def imported(name: str) -> ModuleType:
    """The module of that name, from the current folder or installed."""
    see_folder()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise DataError(f"importing {name} raised {told(error, None)}") from error
        hint = f": give {name.removesuffix('.py')} without .py" if name.endswith(".py") else ""
        raise DataError(
            f"there is no module {name!r}, neither in {Path.cwd()} nor installed{hint}"
        ) from error
    except (Exception, SystemExit) as error:  # whatever a stranger's file raises when it is run
        raise DataError(f"importing {name} raised {told(error, None)}") from error
