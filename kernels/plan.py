"""The plan (one record a weight) and the interface that every norm implements."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


# modnorm: begin
class Weight(NamedTuple):
    """What the plan says of one weight."""

    name: str  # as in model.state_dict()
    atom: str  # the operation that owns it, such as "Linear"
    shape: tuple[int, ...]
    norm: str  # the norm that measures it: a key of NORMS
    mass: float  # its share of feature learning, before division by the model's mass
    target: float  # the size of its part of an update of modular norm 1; 0 if it is frozen


def plan_hash(plan: Iterable[Weight]) -> str:
    """SHA-256, in hexadecimal, of every field of every record in order."""
    rows = ((w.name, w.atom, tuple(w.shape), w.norm, float(w.mass), float(w.target)) for w in plan)
    return hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()


class Norm:
    """How one kind of weight is measured: class methods on stacks u (k, *shape) of k weights."""

    vector = False  # does `measure` carry a vector x, of shape shape[1:], from step to step?

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The factors, broadcastable to u, that give each weight norm 1, and the next vectors."""
        raise NotImplementedError

    @classmethod
    def dualize(cls, u: Tensor) -> Tensor:
        """The t of norm 1 with the largest <u, t> (Bernstein & Newhouse 2024, arXiv 2410.21265)."""
        return u * cls.measure(u, None)[0]


def reciprocal(norm: Tensor) -> Tensor:
    """1/norm; 0 where the norm's square is 0 or denormal (below 1.1e-19 in float32)."""
    floor = math.sqrt(torch.finfo(norm.dtype).tiny)
    return torch.threshold(norm, floor, math.inf).reciprocal_()


# modnorm: end
