"""Masses of the weights of a model that was written in PyTorch, by its structure.

A repetition of blocks has a mass of its own, which its blocks share, as `tare(block ** n, mass)`
gives them. What is added up before the first of them, such as token and position tables, has mass 1
together; other matrices and tables have 1 each, and biases and gains less. A table that is the
readout too has both masses.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from modnorm.adopting.flow import scalar
from modnorm.adopting.operations import KEEPS, MOVES
from modnorm.adopting.roles import Found
from modnorm.adopting.trace import Trace
from modnorm.kernels.state import some

SMALL = 0.1
"""The mass of a bias or gain, or of what is not understood, where that of a matrix is 1."""
BLOCKS = 4.0
"""The mass of a repetition of blocks; docs/adopt.md compares losses."""


def blocks(trace: Trace, weights: Sequence[Found]) -> dict[str, tuple[str, str]]:
    """By name of a weight, the repetition and the block that it is in, for those in some.

    A repetition is that of modules of one class under numbers in one module, as in a ModuleList,
    which have two matrices or more each. Of one in another the outer one counts.
    """
    members: dict[tuple[str, str], dict[str, list[Found]]] = {}
    for weight in weights:
        parts = weight.parameter.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdigit():
                holder, block = ".".join(parts[:i]), ".".join(parts[: i + 1])
                key = holder, trace.classes.get(block, "")
                members.setdefault(key, {}).setdefault(block, []).append(weight)
    found: dict[str, tuple[str, str]] = {}
    for (holder, kind), inside in sorted(members.items(), key=lambda item: item[0][0].count(".")):
        heavy = [
            block for block, own in inside.items()
            if sum(len(w.shape) > 1 and w.role != "vector" for w in own) > 1
        ]  # fmt: skip
        if len(heavy) > 1:
            for block in heavy:
                for weight in inside[block]:
                    found.setdefault(weight.name, (f"{holder} {kind}", block))
    return found


def added_up(trace: Trace, weights: Sequence[Found]) -> dict[str, int]:
    """By name of a table or vector that is added to others, the number of their sum."""
    made_of: dict[int, list[str]] = {}  # of values made of these alone, their names
    groups: dict[str, int] = {}
    starts = {
        n: w.name
        for w in weights if w.role in ("table", "tied", "vector")
        for use in w.uses if use.kind in ("table", "vector")
        for n in ([*trace.nodes[use.node].outputs] if use.kind == "table" else [use.number])
    }  # fmt: skip
    for node in trace.nodes:
        for out in node.outputs:
            if out in starts:
                made_of[out] = [starts[out]]
                continue
            own = [n for n in node.inputs if trace.values[n].live]
            names = [made_of.get(n, [starts[n]] if n in starts else []) for n in own]
            passes = node.name in KEEPS | MOVES | {"add"} or scalar(node) is not None
            if passes and names and all(names):
                made_of[out] = [name for part in names for name in part]
                if node.name == "add" and len(own) > 1:
                    first = next((groups[n] for n in made_of[out] if n in groups), out)
                    groups.update(dict.fromkeys(made_of[out], first))
    return groups


def find_masses(
    trace: Trace, weights: Sequence[Found], given: Mapping[str, float],
    blocks_mass: float, small: float,
) -> dict[str, float]:  # fmt: skip
    """The mass of each weight by name; `given` has those of patterns of names.

    Raises ValueError for a pattern that fits none, and for a mass that is none.
    """
    for mass in (blocks_mass, small, *given.values()):
        if not 0 <= mass < math.inf:
            raise ValueError(f"a mass is a number of at least 0, not {mass!r}")
    names = [w.name for w in weights]
    for pattern in given:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"no weight is called {pattern!r}: the plan has {some(names)}")
    own = {w.name: small if w.role in ("bias", "gain", "opaque") else 1.0 for w in weights}
    located = blocks(trace, weights)
    inside: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, (repetition, path) in located.items():
        inside[repetition][path].append(name)
    for members in inside.values():
        for block in members.values():
            total = sum(own[name] for name in block)
            for name in block:
                own[name] *= blocks_mass / len(members) / total
    together: dict[int, list[str]] = defaultdict(list)
    for name, group in added_up(trace, weights).items():
        if name not in located:
            together[group].append(name)
    for group_names in together.values():
        own.update(dict.fromkeys(group_names, 1 / len(group_names)))
    own.update({w.name: own[w.name] + 1.0 for w in weights if w.role == "tied"})
    for name in own:
        for pattern, mass in given.items():
            if fnmatchcase(name, pattern):
                own[name] = float(mass)
    return own
