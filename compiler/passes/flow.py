"""The data flow: the module tree lowered to a networkx graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from modnorm.diagnostics import Diagnostics
from modnorm.graph.dataflow import Loop, Recurrence, Region, lower
from modnorm.passes.program import Program


@dataclass(frozen=True)
class Flow:
    """Lower the typed module tree to regions of values."""

    name: ClassVar[str] = "flow"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        factors = {i: found.factor for i, found in program.assumptions.items()}
        return replace(program, graph=lower(program.tree, program.types, factors))

    def verify(self, program: Program) -> None:
        verify_region(program.flow)


def verify_region(region: Region) -> None:
    """Assert that a region is acyclic, numbered in topological order, and well formed."""
    assert nx.is_directed_acyclic_graph(region.graph)
    for number in region.numbers():
        value = region[number]
        assert all(i < number for i in value.inputs), (number, value)
        edges = sorted((key, a) for a, _, key in region.graph.in_edges(number, keys=True))
        assert [a for _, a in edges] == list(value.inputs), (number, value)
        if isinstance(value, Loop | Recurrence):
            for inner in value.regions:
                verify_region(inner)
