"""Attention that is written out in products and a softmax: where it is in a run."""

from __future__ import annotations

from dataclasses import dataclass

from modnorm.adopting.operations import KEEPS
from modnorm.adopting.trace import Node, Trace
from modnorm.importing.functions import active


@dataclass(frozen=True)
class Scores:
    """An attention that is written out: q, k, v, the product of the first two, and what softmax
    reads; `inputs` are the values that writing it down takes."""

    q: int
    k: int
    v: int
    product: int
    logits: int

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.q, self.k, self.v


def scores_of(trace: Trace, node: Node) -> Scores | None:
    """What a product of matrices is, if its first factor is a softmax of products."""
    if node.name not in ("matmul", "bmm") or len(node.inputs) != 2:
        return None
    number = node.inputs[0]
    made = maker(trace, number)
    while made is not None and made.name in KEEPS | {"view", "reshape", "_unsafe_view"}:
        number = made.inputs[0]
        made = maker(trace, number)
    if made is None or made.name not in ("softmax", "_softmax"):
        return None
    if int(made.args[1]) not in (-1, len(trace.values[number].shape) - 1):
        return None
    logits = at = made.inputs[0]
    for _ in range(12):
        step = maker(trace, at)
        if step is None:
            return None
        own = [n for n in step.inputs if active(trace, n)]
        if step.name in ("matmul", "bmm", "baddbmm") and len(own) == 2:
            q, k = own
            return Scores(q, k, node.inputs[1], at, logits)
        if len(own) != 1:
            return None
        at = own[0]
    return None


def maker(trace: Trace, number: int) -> Node | None:
    node = trace.values[number].node
    return None if node is None else trace.nodes[node]
