"""Which plugin an unexpected exception comes from."""

from __future__ import annotations

from traceback import walk_tb

from modnorm.ops import registry
from modnorm.ops.base import Op


def culprit(error: BaseException) -> str:
    """The plugin whose code an exception passed through, in words; empty where there is none.

    A plugin fails when it is loaded, or later in a method of one of its operations.
    """
    found = ""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code is registry.load_plugins.__code__:
            entry = frame.f_locals.get("entry")
            if entry is not None:
                package = f" of the package {entry.dist.name}" if entry.dist else ""
                found = f"the plugin `{entry.name} = {entry.value}`{package}"
        owner = frame.f_locals.get("self", frame.f_locals.get("cls"))
        kind = owner if isinstance(owner, type) else type(owner)
        if issubclass(kind, Op) and not kind.__module__.startswith("modnorm."):
            found = f"the operation `{kind.__name__}` of the plugin {kind.__module__}"
    return found
