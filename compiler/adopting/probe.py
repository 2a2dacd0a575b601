"""Asks the model itself whether the logical weights found in a parameter are as was said.

Which rows belong together is found from labels that are carried along a run. Here the first row of
a weight, and then the last, is changed, and the operations up to what reads its features are run
again: what reads the weight's features has to change, and what reads those of others must not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product

import torch
from torch import Tensor

from modnorm.adopting.execute import FAILS, execute, needed
from modnorm.adopting.roles import Found
from modnorm.adopting.trace import Read, Trace, Value
from modnorm.adopting.uses import Use

Place = tuple[int, int]
"""An operation's number, and which of its arguments."""


def refuted(trace: Trace, weights: Iterable[Found]) -> set[str]:
    """Names of parameters whose logical weights are not what was found."""
    leaves = trace.whole()
    together: dict[tuple[str, Use], list[Found]] = defaultdict(list)
    for weight in weights:
        for use in weight.uses:
            known = weight.rows is not None and use.x is not None
            if known and use.kind in ("matrix", "kernel") and weight.parameter in leaves:
                together[weight.parameter, use].append(weight)
    return {
        name
        for (name, use), pieces in together.items()
        if len(pieces) > 1 and not confirmed(trace, use, pieces, leaves[name])
    }


def confirmed(trace: Trace, use: Use, pieces: Sequence[Found], parameter: Value) -> bool:
    """Whether a change at each piece's ends comes where its features are read, and only there."""
    reads = [r for r in trace.reads if any(meets(r, piece) for piece in pieces)]
    readers: dict[Place, list[int]] = defaultdict(list)
    for read in reads:
        node = trace.nodes[read.node]
        readers[place(trace, read)] += [
            n for slot, n in node.slots()
            if n in trace.features and (slot == read.slot or place(trace, read)[1] < 0)
        ]  # fmt: skip
    wanted = {n for numbers in readers.values() for n in numbers}
    seed = torch.Generator().manual_seed(0)
    start, leaf = use.x, parameter.leaf
    assert start is not None
    assert leaf is not None

    def run(weight: Tensor) -> dict[int, Tensor]:
        with torch.random.fork_rng(devices=()):  # what is drawn on the way is the same each time
            torch.manual_seed(0)
            return execute(trace, wanted, {start: x, parameter.number: weight})

    try:
        x = torch.randn(trace.values[start].shape, generator=seed).to(leaf)
        with torch.no_grad():
            before = run(leaf)
            for piece, end in product(pieces, (0, -1)):
                changed = leaf.clone()
                row = one_row(piece, changed, end)
                row.add_(torch.randn(row.shape, generator=seed).to(row))
                after = run(changed)
                moved = {n for n in wanted if not torch.equal(before[n], after[n])}
                own = {place(trace, read) for read in reads if meets(read, piece)}
                for at, numbers in readers.items():
                    if moved.isdisjoint(numbers):
                        as_said = at not in own
                    else:
                        as_said = at in own or behind(trace, numbers, start, own)
                    if not as_said:
                        return False
    except FAILS:  # which says nothing
        return True
    return True


def one_row(piece: Found, parameter: Tensor, end: int) -> Tensor:
    """The first or last row of a weight in its parameter, of all copies where there are some."""
    part = parameter if piece.layout is None else piece.layout.view(parameter)
    index: list[int | slice] = [end] * (part.ndim - 1)
    if piece.role == "experts":  # an example may need only some of them
        index[next(i for i, size in enumerate(part.shape) if size > 1)] = slice(None)
    return part[tuple(index)]


def behind(trace: Trace, numbers: Iterable[int], start: int, readers: Iterable[Place]) -> bool:
    """Whether values are made of what some operations give."""
    nodes = {node for node, _ in readers}
    return any(node.number in nodes for node in needed(trace, numbers, [start]))


def meets(read: Read, piece: Found) -> bool:
    assert piece.rows is not None
    return bool(torch.isin(piece.rows, read.rows).any())


def place(trace: Trace, read: Read) -> Place:
    """Where features are read; both sides of a sum are one place, as of halves that are turned."""
    node = trace.nodes[read.node]
    return read.node, -1 if node.name in ("add", "sub") else read.slot
