"""Which operations there are: those of this package, and those that users register.

A package offers operations of its own through the entry-point group `modnorm.ops`, one entry a
class, or a module that calls `register`. Entry points are read only when a file uses a name that
is not built in, since looking for them takes longer than compiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from modnorm.ops.base import Op

GROUP = "modnorm.ops"

_ops: dict[str, type[Op]] = {}
_plugins_loaded = False

O = TypeVar("O", bound=type[Op])  # noqa: E741


def register(op: O) -> O:
    """Class decorator: make an operation known under its name.

    Raises:
        ValueError: if the name is missing, not an identifier, or taken by another class.
    """
    name = getattr(op, "name", "")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{op.__qualname__}: an operation needs a `name` that is an identifier")
    known = _ops.get(name)
    if known is not None and known.__qualname__ != op.__qualname__:
        raise ValueError(f"{op.__qualname__}: the name {name} is taken by {known.__qualname__}")
    _ops[name] = op
    return op


def builtin() -> Mapping[str, type[Op]]:
    """Every operation registered so far, by name."""
    return MappingProxyType(_ops)


def find(name: str) -> type[Op] | None:
    """The operation of that name, looking among installed plugins if it is not built in."""
    if name not in _ops:
        load_plugins()
    op = _ops.get(name)
    return None if op is None or op.internal else op


def names() -> list[str]:
    """The names that the language knows, plugins included if they were loaded."""
    return [name for name, op in _ops.items() if not op.internal]


def load_plugins() -> None:
    """Load the operations of installed packages, once.

    Raises:
        ImportError, ValueError: whatever a plugin's import or registration raises.
    """
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        loaded = entry.load()
        if isinstance(loaded, type) and issubclass(loaded, Op) and loaded.name not in _ops:
            register(loaded)
