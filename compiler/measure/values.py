"""Values as flat lists of tensors, their norms, and the balls that inputs are kept in.

A norm is a `Measure`: an RMS over some axes, the largest over the others (Large et al. 2024, arXiv
2405.14813). A tuple's norm is the sum of its members'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from modnorm.ops.edges import Measure
from modnorm.ops.types import TupleType, Type

Tensors: TypeAlias = list[torch.Tensor]

TINY = 1e-200
"""Added to squares below a root, so that a zero has a slope."""
SMOOTH = 8
"""The power of the mean that stands for the largest of the groups while a search goes on."""
SLACK = 1e-9
"""By how much, relatively, an input may miss its bounds through rounding."""


def flatten(value: Any) -> Tensors:
    """The tensors of a value, a tuple's members flattened."""
    if isinstance(value, tuple):
        return [tensor for member in value for tensor in flatten(member)]
    return [value]


def pack(type: Type, tensors: Iterable[torch.Tensor]) -> Any:
    """Tensors as a value of a type: the inverse of `flatten`."""
    source = iter(tensors)

    def one(part: Type) -> Any:
        if isinstance(part, TupleType):
            return tuple(one(member) for member in part.members)
        return next(source)

    return one(type)


def groups(x: torch.Tensor, measure: Measure) -> torch.Tensor:
    """The norm of every group of entries: what the measure takes the largest of."""
    if measure.total:
        return x.abs().sum(measure.axes, keepdim=True)
    if not measure.axes:
        return x.abs()
    return (x.square().mean(measure.axes, keepdim=True) + TINY).sqrt()


def norm(tensors: Sequence[torch.Tensor], measures: Sequence[Measure]) -> torch.Tensor:
    """The norm of a value: the sum over its tensors; a scalar tensor."""
    return torch.stack([m.of(t) for t, m in zip(tensors, measures, strict=True)]).sum()


def smooth_norm(tensors: Sequence[torch.Tensor], measures: Sequence[Measure]) -> torch.Tensor:
    """A mean of the groups' norms in place of their largest, so that each of them has a slope."""
    total = torch.zeros((), dtype=tensors[0].dtype)
    for tensor, measure in zip(tensors, measures, strict=True):
        sizes = groups(tensor, measure)
        largest = sizes.detach().amax()
        if largest > math.sqrt(TINY) * 10:
            total = total + largest * (sizes / largest).pow(SMOOTH).mean().pow(1 / SMOOTH)
    return total


def steepest(gradient: torch.Tensor, measure: Measure) -> torch.Tensor:
    """The tensor of norm 1 with the largest inner product with a gradient."""
    if measure.total:
        flat = gradient.abs()
        axis = measure.axes[0]
        best = flat.argmax(axis, keepdim=True)
        chosen = torch.zeros_like(gradient).scatter_(axis, best, 1.0)
        return chosen * gradient.sign()
    if not measure.axes:
        return gradient.sign()
    sizes = gradient.square().mean(measure.axes, keepdim=True).sqrt()
    return gradient / sizes.masked_fill(sizes == 0, 1)


def steepest_all(gradients: Tensors, measures: Sequence[Measure]) -> Tensors:
    """The same for a value whose norm is the sum over its tensors: only one of them moves."""
    best = [steepest(g, m) for g, m in zip(gradients, measures, strict=True)]
    gains = [float((g * b).sum()) for g, b in zip(gradients, best, strict=True)]
    winner = max(range(len(gains)), key=gains.__getitem__)
    return [b if i == winner else torch.zeros_like(b) for i, b in enumerate(best)]


def derivative(
    ys: Sequence[torch.Tensor], xs: Sequence[torch.Tensor], hs: Sequence[torch.Tensor]
) -> Tensors:
    """J·h for the derivative J of ys in xs, as something to differentiate further.

    Jᵀ·v is linear in v, so J·h is its derivative in v along h; this takes two ways back, which are
    faster for small tensors than torch's way forward.
    """
    found = [torch.zeros_like(y) for y in ys]
    moving = [i for i, y in enumerate(ys) if y.requires_grad]
    if not moving:
        return found
    vs = [torch.zeros_like(ys[i], requires_grad=True) for i in moving]
    outputs = [ys[i] for i in moving]
    back = torch.autograd.grad(outputs, xs, vs, create_graph=True, allow_unused=True)
    reached = [(g, h) for g, h in zip(back, hs, strict=True) if g is not None and g.requires_grad]
    if not reached:
        return found
    gs, along = zip(*reached, strict=True)
    forth = torch.autograd.grad(gs, vs, along, create_graph=True, allow_unused=True)
    for i, change in zip(moving, forth, strict=True):
        if change is not None:
            found[i] = change
    return found


@dataclass(frozen=True)
class Ball:
    """Where a tensor may be: for every measure, bounds on the norms of its groups.

    An infinite upper bound is none; so is a lower one of 0.
    """

    bounds: Mapping[Measure, tuple[float, float]]

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor with each group scaled into its bounds: first up, then down."""
        for measure, (low, _) in self.bounds.items():
            if low > 0 and measure.axes and not measure.total:
                sizes = x.square().mean(measure.axes, keepdim=True).sqrt()
                x = torch.where(sizes < low, x * (low / sizes.clamp_min(TINY)), x)
        for measure, (_, high) in self.bounds.items():
            if not math.isfinite(high):
                continue
            if not measure.axes and not measure.total:
                x = x.clamp(-high, high)
                continue
            sizes = groups(x, measure)
            x = torch.where(sizes > high, x * (high / sizes.clamp_min(TINY)), x)
        return x

    def has(self, x: torch.Tensor) -> bool:
        """Whether a tensor is within the bounds, to rounding."""
        return self.broken(x) is None

    def broken(self, x: torch.Tensor, slack: float = SLACK) -> Measure | None:
        """A measure whose bounds a tensor breaks by more than rounding; None where it keeps all."""
        for measure, (low, high) in self.bounds.items():
            sizes = groups(x, measure)
            if float(sizes.amax()) > high * (1 + slack) or float(sizes.amin()) < low * (1 - slack):
                return measure
        return None

    def radius(self, measure: Measure) -> float:
        """The upper bound in one measure; infinite where there is none."""
        return self.bounds.get(measure, (0.0, math.inf))[1]


def extent(tensors: Sequence[torch.Tensor], measures: Sequence[Measure]) -> tuple[float, float]:
    """The norm of a value's smallest group, and its norm; each the sum over the value's tensors."""
    smallest = [float(groups(t, m).amin()) for t, m in zip(tensors, measures, strict=True)]
    low = sum(size for size in smallest if size > 2 * math.sqrt(TINY))  # of zeros it is the root
    return low, float(norm(tensors, measures))
