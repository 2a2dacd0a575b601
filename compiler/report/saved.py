"""Plans in files, as `modnorm.adopt(…).plan.save` writes them."""

from __future__ import annotations

import os

import msgspec

from modnorm.codegen.sections import file_format
from modnorm.kernels.weight import Weight
from modnorm.report.planned import Planned
from modnorm.report.typed import decoded
from modnorm.report.unusable import Unusable


class Saved(msgspec.Struct, forbid_unknown_fields=True):
    """A plan as JSON: a record is a row, with the fields of `Weight` in order."""

    format: int
    model: str
    weights: list[Weight]


def read_plan(path: str | os.PathLike[str]) -> Planned:
    """A plan that `save` wrote, from its file, without torch.

    Raises:
        Unusable: if it cannot be read, or is something else.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            found = decoded(file.read(), Saved)
        if found.format != file_format():
            age = "an older" if found.format < file_format() else "a newer"
            raise Unusable(f"{age} modnorm wrote it (format {found.format}); save it anew")
    except (OSError, Unusable) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unusable(f"`{name}` is no plan that modnorm can read: {reason}") from None
    return Planned(found.model, tuple(found.weights), os.path.basename(name))
