"""Runs parts of a recorded model again: for one function of it, or for its gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from modnorm.adopting.trace import Node, Ref, Trace

FAILS = (RuntimeError, AssertionError, TypeError, ValueError, IndexError)
"""What operations raise that can't run on other numbers than the run's."""


def needed(trace: Trace, wanted: Iterable[int], given: Iterable[int]) -> list[Node]:
    """The operations that make values from given ones and from what nothing made, in order."""
    known, nodes = set(given), set[int]()
    open_ = [number for number in wanted if number not in known]
    while open_:
        number = open_.pop()
        node = trace.values[number].node
        if number in known or node is None:
            continue
        known.add(number)
        if node not in nodes:
            nodes.add(node)
            open_ += [n for n in trace.nodes[node].inputs if n not in known]
    return [trace.nodes[number] for number in sorted(nodes)]


def execute(trace: Trace, wanted: Iterable[int], given: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Values of the run, or of one in which `given` stand in their places."""
    wanted = set(wanted)
    values: dict[int, Any] = dict(given)
    nodes = needed(trace, wanted, given)
    last: dict[int, int] = {}
    for node in nodes:
        last.update(dict.fromkeys(node.inputs, node.number))

    def find(x: Any) -> Any:
        if not isinstance(x, Ref):
            return x
        if x.number not in values:
            leaf = trace.values[x.number].leaf
            assert leaf is not None
            values[x.number] = leaf
        return values[x.number]

    for node in nodes:
        args, kwargs = tree_map(find, node.args), tree_map(find, node.kwargs)
        if node.func == "write":  # the tensor is changed already
            values[node.outputs[0]] = args[0]
        else:
            if node.func._schema.is_mutable:  # parameters, buffers and what is given stay
                args, kwargs = fresh(node, args, kwargs, values, trace, given)
            writes = any(a.is_out for a in node.func._schema.arguments)  # knows no gradients
            with torch.set_grad_enabled(torch.is_grad_enabled() and not writes):
                out = node.func(*args, **kwargs)
            made = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
            values.update(zip(node.outputs, made, strict=True))
        for number in node.inputs:
            if last[number] == node.number and number not in wanted:
                values.pop(number, None)
    for number in wanted:
        find(Ref(number))
    return {number: values[number] for number in wanted}


def fresh(
    node: Node, args: Any, kwargs: Any, values: dict[int, Any], trace: Trace, given: Any
) -> tuple[Any, Any]:
    """Arguments of an operation in place, with copies of what is not this run's own."""
    refs = [x for x in tree_flatten((node.args, node.kwargs))[0] if isinstance(x, Ref)]
    foreign = {r.number for r in refs if r.number in given or trace.values[r.number].node is None}
    copies = {id(values[n]): values[n].clone() for n in foreign}
    swap = lambda x: copies.get(id(x), x) if isinstance(x, torch.Tensor) else x  # noqa: E731
    return tree_map(swap, args), tree_map(swap, kwargs)
