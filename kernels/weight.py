"""The record of one weight, and where it is stored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # the compiler makes layouts, and imports no torch
    from torch import Tensor


# modnorm: begin
class Layout(NamedTuple):
    """Where a weight is stored, when that is not a parameter of its own in its own shape.

    It is parameter.view(split), cut to [start, end) along each axis, with its axes in another
    order, reshaped to the weight's shape. So one parameter can hold rows of several weights, one
    after the other or head by head, and matrices can be stored transposed.
    """

    parameter: str  # as in model.state_dict()
    shape: tuple[int, ...]  # of that
    split: tuple[int, ...]  # its axes, cut into finer ones; the same for all of its weights
    take: tuple[tuple[int, int], ...]  # start and end along each of these
    order: tuple[int, ...]  # these axes, as the weight has them

    def view(self, x: Tensor) -> Tensor:
        """The weight's part of a tensor of the parameter's shape, before it is reshaped."""
        x = x.view(self.split)
        for axis, (start, end) in enumerate(self.take):
            x = x.narrow(axis, start, end - start)
        return x.permute(self.order)


class Weight(NamedTuple):
    """What the plan says of one weight."""

    name: str  # as in model.state_dict(), unless it has a layout
    atom: str  # the operation that owns it, such as "Linear"
    shape: tuple[int, ...]
    norm: str  # the norm that measures it: a key of NORMS
    mass: float  # its share of feature learning, before division by the model's mass
    target: float  # the size of its part of an update of modular norm 1; 0 if it is frozen
    layout: Layout | None = None  # None: it is the parameter of its name
    # Of models that were written in PyTorch:
    role: str = ""  # what it is: "matrix", "table", "bias", …
    sensitivity: str = ""  # whether the one downstream is "declared" or "measured"
    place: str = ""  # where it is first used: a module and a line

    def part(self, x: Tensor) -> Tensor:
        """Its entries of a tensor of the parameter's shape: a view, whose shape may be another."""
        return x if self.layout is None else self.layout.view(x)

    def cut(self, x: Tensor) -> Tensor:
        """Its part of a tensor of the parameter's shape: contiguous, a view of x where it can be.

        Where it is the whole, x as it is.
        """
        return x if self.layout is None else self.part(x).reshape(self.shape).contiguous()


def as_weight(record: Iterable[Any]) -> Weight:
    """A record from what `plain_record` makes of it, or as it is."""
    w = record if isinstance(record, Weight) else Weight(*record)
    return w if w.layout is None else w._replace(layout=Layout(*w.layout))


def plain_record(w: Weight) -> tuple[Any, ...]:
    """A record as a tuple of tuples, without a layout where it has none."""
    rest = () if w.layout is None else (tuple(w.layout),)
    return (w.name, w.atom, tuple(w.shape), w.norm, float(w.mass), float(w.target), *rest)


WRAPPERS = (
    *("_orig_mod", "module", "_module"),
    *("_checkpoint_wrapped_module", "_fsdp_wrapped_module"),
)


def bare(name: str) -> str:
    """A parameter's name without what torch.compile, checkpointing and the like put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def plan_names(names: list[str], plan: Iterable[Weight]) -> list[str]:
    """What the plan calls parameters of these names; the names of others, as they are.

    Wrappers' parts do not count, nor does what the names of most weights have in front of them:
    that of the module which holds the model.
    """
    plan = list(plan)
    records = {bare(w.name): w.name for w in plan} | {w.name: w.name for w in plan}
    fronts: dict[str, int] = {"": 0}
    found = list[dict[str, str]]()  # of each name, the weights it may be, by what stands in front
    for name in names:
        known = dict[str, str]()
        for text in (bare(name), name):
            parts = text.split(".")
            for i in range(len(parts)):
                if weight := records.get(".".join(parts[i:])):
                    known["".join(f"{part}." for part in parts[:i])] = weight
        found.append(known)
        for front in known:
            fronts[front] = fronts.get(front, 0) + 1
    best = max(fronts, key=lambda front: fronts[front])  # of equals the first: nothing, if it may
    return [known.get(best, name) for name, known in zip(names, found, strict=True)]


PARTS = "parts"  # in place of a norm, of a parameter whose weights have layouts


def stored_weights(
    plan: Iterable[Weight],
) -> tuple[tuple[Weight, ...], dict[str, tuple[Weight, ...]]]:
    """The records of parameters, and by name the weights of those that have layouts.

    A parameter of several has the sum of their masses and the largest of their targets.

    Raises ValueError unless they hold every entry of it once.
    """
    stored, parts = dict[str, Weight](), dict[str, tuple[Weight, ...]]()
    for w in plan:
        if w.layout is None:
            stored[w.name] = w
            continue
        name, shape = w.layout.parameter, w.layout.shape
        parts[name] = own = (*parts.get(name, ()), w)
        mass, target = sum(x.mass for x in own), max(x.target for x in own)
        stored[name] = Weight(name, w.atom, shape, PARTS, mass, target)
    for name, own in parts.items():
        if wrong := layout_fault([w.layout for w in own if w.layout], [w.shape for w in own]):
            names = ", ".join(w.name for w in own)
            raise ValueError(f"the weights of {name} ({names}) {wrong}")
    return tuple(stored.values()), parts


def layout_fault(layouts: list[Layout], shapes: list[tuple[int, ...]]) -> str:
    """What is wrong with the layouts of a parameter; "" if each entry is of one weight."""
    first, count = layouts[0], math.prod(layouts[0].shape)
    if not {*accumulate(first.shape, mul)} <= {*accumulate(first.split, mul)}:
        return f"split {first.split}, which does not cut the axes of {first.shape} into finer ones"
    if any((x.shape, x.split) != (first.shape, first.split) for x in layouts):
        return "do not cut it in the same way: shape and split have to be equal"
    for layout, shape in zip(layouts, shapes, strict=True):
        inside = len(layout.take) == len(layout.split) and all(
            0 <= start < end <= size
            for (start, end), size in zip(layout.take, layout.split, strict=True)
        )
        size = math.prod(end - start for start, end in layout.take)
        whole = math.prod(layout.split) == count and size == math.prod(shape)
        if not (inside and whole and sorted(layout.order) == list(range(len(layout.split)))):
            return f"have a layout that does not fit: {tuple(layout)} for a weight {tuple(shape)}"
    for i, one in enumerate(layouts):
        for other in layouts[:i]:
            pairs = zip(one.take, other.take, strict=True)
            if all(a < d and c < b for (a, b), (c, d) in pairs):
                return "overlap in it"
    return "" if sum(map(math.prod, shapes)) == count else "leave out some of its entries"


# modnorm: end
