"""Checks that every `rename` is of a tensor that the compiled model has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from modnorm.diagnostics import Diagnostic, Diagnostics, Label, did_you_mean
from modnorm.graph.paths import starred
from modnorm.ops.base import Atom
from modnorm.passes.program import Program


@dataclass(frozen=True)
class Renames:
    """Report a rename of no weight, or of one that another rename is of."""

    name: ClassVar[str] = "renames"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        known = list(dict.fromkeys(tensors(program))) if program.renames else []
        patterns = [re.escape(name).replace(r"\*", r"(\d+|\*)") for name in known]
        seen: dict[str, Label] = {}
        for rename in program.renames:
            if not rename.weight:  # what no weight is made of
                continue
            name = rename.weight
            if not any(re.fullmatch(pattern, name) for pattern in patterns):
                hint = did_you_mean(name, known) or "the names are those of the model's state_dict"
                message = f"the model has no weight `{name}`"
                diagnostics.add(Diagnostic("E310", message, rename.span, hint=hint))
            if name in seen:
                message = f"`{name}` is renamed twice"
                diagnostics.add(Diagnostic("E310", message, rename.span, others=(seen[name],)))
            seen.setdefault(name, Label(rename.span, "first here"))
        return program

    def verify(self, program: Program) -> None:
        """Nothing is filled in."""


def tensors(program: Program) -> Iterator[str]:
    """The names in the compiled model's state_dict, with `*` for the numbers of copies."""
    for apply in program.flow.applies():
        held = ("weight",) if isinstance(apply.op, Atom) else apply.op.buffers
        yield from (f"{starred(apply.holder)}.{name}" for name in held)
