"""Counts: how many weights there are, and how many numbers they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from modnorm.diagnostics import Diagnostics
from modnorm.passes.program import Program


@dataclass(frozen=True)
class Counts:
    """Count the model's weights and their entries, every copy."""

    name: ClassVar[str] = "counts"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        entries = sum(prod(w.op.weight_shape) * w.copies for w in program.weights)
        return replace(program, entries=entries)

    def verify(self, program: Program) -> None:
        assert (program.entries > 0) == bool(program.weights)
