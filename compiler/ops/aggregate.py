"""`Aggregate`: what the nodes of a graph get over the edges into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from modnorm.ops.base import LINEAR, Advice, Bond, Misfit, Op, Sharpness, argument, expect_tensor
from modnorm.ops.edges import LARGEST, Edge, Matrix, Measure, between
from modnorm.ops.families import ratio_root
from modnorm.ops.registry import register
from modnorm.ops.text import copied, expression, parts
from modnorm.ops.types import Real, Tensor, TupleType, Type

if TYPE_CHECKING:
    import torch

HOWS = ("mean", "sum", "max", "gcn")
DECLARE = "declare it as `input edges: int[2, n] < nodes`, with the nodes' size as the bound"


@register
@dataclass(frozen=True)
class Aggregate(Bond):
    """For a tuple (x, edges) of (…, nodes, d) and int[2, n], each node's mean of x over the edges
    into it; zero for a node without any. An edge goes from node edges[0] to node edges[1], as in
    PyTorch Geometric.

    `how` is `"mean"`, `"sum"`, `"max"`, or `"gcn"`: the sum with weights 1/√(dᵢdⱼ) over an edge
    from j to i, and one from each node to itself, where d counts the edges into a node, that one
    too (Kipf & Welling 2017, arXiv 1609.02907). `degree` is the largest number of edges into a
    node, where that is known, and nothing checks it when the model runs.

    In the largest norm of a node a mean has 1, and a sum has `degree`. So has a maximum, by its
    root, and never more than √d; of largest entries it has 1. `"gcn"` has √(degree + 1), and 1 in
    the RMS over all nodes where each edge is there both ways; 1 is declared. Where no `degree` is
    given, 1 is declared of a sum, and nothing is proved.

    The indices are below the number of nodes, which the bound of the input says: only a CPU raises
    an error where they are not.
    """

    name = "Aggregate"
    origin = "1 for averages, in the largest norm of a node; `degree` for a sum"

    how: str = argument("choice", "mean", choices=HOWS)
    degree_: int | None = argument("size", None)
    width: int | None = field(default=None, kw_only=True)
    """The size of a vector, once it is known, and only for a maximum."""

    def resolve(self, x: Type) -> tuple[Self, Type]:
        if not isinstance(x, TupleType) or len(x.members) != 2:
            what = f"a tuple of {len(x.members)}" if isinstance(x, TupleType) else "one value"
            raise Misfit(
                f"`Aggregate` takes a tuple (x, edges), but its input is {what}: {x}",
                hint="write `Aggregate @ (x, edges)`, with the edges by the name of their input",
                code="E402",
            )
        value = expect_tensor(self.name, x.members[0], rank=2)
        self._check(x.members[1], value)
        width = value.shape[-1]
        known = width if self.how == "max" and isinstance(width, int) else None
        return dataclasses.replace(self, width=known), value

    def _check(self, edges: Type, value: Tensor) -> None:
        if isinstance(edges, TupleType) or edges.dtype != "int" or len(edges.shape) != 2:
            raise Misfit(
                f"the edges of `Aggregate` are two rows of integers, but they are {edges}",
                hint=DECLARE,
                code="E402",
            )
        if edges.shape[0] != 2:
            turned = edges.shape[1] == 2
            raise Misfit(
                f"the edges of `Aggregate` are two rows, the sources and the targets, but they are"
                f" {edges}",
                hint="write `Transpose(0, 1) @ edges`" if turned else DECLARE,
            )
        nodes, bound = value.shape[-2], edges.bound
        fits = isinstance(bound, int) and isinstance(nodes, int) and bound <= nodes
        if bound is not None and bound != nodes and not fits:
            raise Misfit(
                f"the edges of `Aggregate` are below `{bound}`, but x has `{nodes}` nodes: it is"
                f" {value}",
                hint=DECLARE.replace("nodes`", f"{nodes}`"),
            )

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        if self.how != "mean" or self.degree_ is None:
            return ()
        what = "`degree` says nothing of a mean, which has sensitivity 1 whatever it is"
        return (Advice("W609", what, "leave it out"),)

    @property
    def sensitivity(self) -> Real:
        return self.degree_ or 1 if self.how == "sum" else 1

    @property
    def certified(self) -> Real | str:
        """In the largest norm of a node."""
        if self.how == "mean":
            return 1
        if self.how == "max":
            most = min((n for n in (self.degree_, self.width) if n), default=None)
            return ratio_root(Fraction(most)) if most else "it is the root of a size not known here"
        if self.degree_ is None:
            return "it depends on how many edges go into a node: `degree` says the largest number"
        return self.degree_ if self.how == "sum" else ratio_root(Fraction(self.degree_ + 1))

    @property
    def sharpness(self) -> Sharpness | None:
        return None if self.how == "max" else LINEAR

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        return {}

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        bound, value = self.certified, x[0]
        if self.how == "max":
            last = [] if isinstance(bound, str) else [(value.last, value.last, float(bound))]
            return between((LARGEST, LARGEST, 1.0), *last)
        if isinstance(bound, str):
            return bound
        nodes = len(value.type.shape) - 2
        return between(*((m, m, float(bound)) for m in value.tracked if nodes not in m.axes))

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        return (self, scalars[0]) if self.how != "max" or scalars[0] > 0 else None

    def reference(self, x: Any, weight: torch.Tensor | None = None) -> Any:
        import torch

        value, (source, target) = x
        every = torch.arange(value.shape[-2])
        ends = (target == every[:, None], source[:, None] == every)
        into = ends[0].to(value.dtype) @ ends[1].to(value.dtype)
        if self.how == "max":
            sent = value.unsqueeze(-3).masked_fill((into == 0).unsqueeze(-1), -torch.inf)
            most = sent.amax(-2)
            return most.masked_fill(most == -torch.inf, 0)
        if self.how == "gcn":
            into = into - into.diag().diag() + torch.eye(len(into)).to(into)
            root = into.sum(1).sqrt()
            into = into / root / root[:, None]
        if self.how == "mean":
            into = into / into.sum(1, keepdim=True).clamp_min(1)
        return into @ value

    def emit(self, x: Any, type: Type, own: str) -> str:
        return f"over_edges_{self.how}({', '.join(map(expression, parts(x, 2)))})"

    def helpers(self) -> tuple[str, ...]:
        return (copied("widened"), copied(f"over_edges_{self.how}"))
