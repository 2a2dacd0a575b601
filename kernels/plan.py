"""The plan of a model, and the interface that every norm implements."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .schemes import ACCURATE, Scheme, choose, sides
from .weight import Weight, as_weight, plain_record, plan_names, stored_weights

# modnorm: begin
FORMAT = 1  # of generated files, which name the one that they were written for


class Plan(tuple[Weight, ...]):
    """A model's weights, in execution order, and what the compiler chose for their shapes.

    Raises ImportError for a plan of another format, which another version of modnorm has written.

    weights: their records, as tuples.
    model: the name of the model's class.
    stored: a record for each parameter, in the order of their first weights.
    parts: by name of a parameter, the weights in it, where these have layouts.
    schemes: by shape, form and number of steps by which its matrices are orthogonalised; what is
        not here is chosen by cost.
    smoothness: for each known loss λ, the bound on its curvature, or in words why there is none.
    tiles: by shape, how a GPU's programs cut it: rows, rows at once, columns.
    polar_tiles: by sides (short, long), the bytes of an entry, and the tiles of the products by
        which such matrices are orthogonalised there.
    warps: of such a program.
    """

    model: str
    stored: tuple[Weight, ...]
    parts: Mapping[str, tuple[Weight, ...]]
    schemes: Mapping[tuple[int, ...], tuple[str, int]]
    smoothness: Mapping[str, float | str]
    tiles: Mapping[tuple[int, ...], tuple[int, int, int]]
    polar_tiles: Mapping[tuple[int, int], Any]
    warps: int

    def __new__(
        cls, weights: Iterable[Any] = (), *, format: int = FORMAT, model: str = "model",
        schemes: Mapping[tuple[int, ...], tuple[str, int]] | None = None,
        smoothness: Mapping[str, float | str] | None = None,
        tiles: Mapping[tuple[int, ...], tuple[int, int, int]] | None = None,
        polar_tiles: Mapping[tuple[int, int], Any] | None = None, warps: int = 8,
    ) -> Plan:  # fmt: skip
        if format != FORMAT:
            age = "older" if format < FORMAT else "newer"
            raise ImportError(
                f"the file of {model} was written by an {age} modnorm (format {format}, and this "
                f"one reads {FORMAT}): compile it again, or install the modnorm that its first "
                "lines name"
            )
        plan = super().__new__(cls, map(as_weight, weights))
        plan.stored, plan.parts = stored_weights(plan)
        plan.model, plan.schemes, plan.smoothness = model, schemes or {}, smoothness or {}
        plan.tiles, plan.polar_tiles, plan.warps = tiles or {}, polar_tiles or {}, warps
        return plan

    def of(self, weights: Iterable[Any]) -> Plan:
        """Other weights, with the same choices for shapes; a Plan as it is."""
        if isinstance(weights, Plan):
            return weights
        return Plan(
            weights, model=self.model, schemes=self.schemes, smoothness=self.smoothness,
            tiles=self.tiles, polar_tiles=self.polar_tiles, warps=self.warps,
        )  # fmt: skip

    def part(self, named: Iterable[Any]) -> Plan:
        """The plan of some parameters, such as a stage of a pipeline has; targets stay.

        named: the stage's named_parameters(). ValueError if the plan has none of one's name.
        """
        found = plan_names([name for name, _ in named], self.stored)
        if left := [name for name in found if name not in {w.name for w in self.stored}]:
            raise ValueError(f"the plan has no weights of these names: {', '.join(left[:5])}")
        return self.of(w for w in self if (w.layout.parameter if w.layout else w.name) in found)

    def held(self, stored: Weight) -> tuple[Weight, ...]:
        """The weights in a parameter, from its record."""
        return self.parts.get(stored.name, (stored,))

    def scheme(self, shape: Iterable[int]) -> Scheme:
        """How the matrices of weights of this shape are orthogonalised, if it has any."""
        shape = tuple(shape)
        if len(shape) < 2:
            return Scheme("plain", ACCURATE)
        form, steps, *_ = self.schemes.get(shape) or choose(shape)
        return Scheme(form, steps, self.polar_tiles.get(sides(shape)))


def plan_hash(plan: Iterable[Weight]) -> str:
    """SHA-256, in hexadecimal, of every field of every record in order."""
    rows = map(plain_record, plan)
    return hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()


class Norm:
    """How one kind of weight is measured: class methods on stacks u (k, *shape) of k weights."""

    name: str  # as plans call it
    vector = False  # does `measure` carry a vector x from step to step?
    most = 1  # how often `measure` is repeated, so that a new vector comes near its place
    # Of a norm that is made of entries, one by one: 2 where their squares are summed, inf where the
    # largest counts, and the axes of a weight along which each place is measured by itself.
    order: float | None = None
    alone: tuple[int, ...] = ()
    # How kernels measure it: "matrix"; by RMS or largest entry each row ("rows", "rows_max") or the
    # "whole" ("whole_max").
    kernel: str | None = None

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):  # else it is another form of a norm that there is
            NORMS[cls.name] = cls

    @classmethod
    def vector_shape(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of that vector for a weight."""
        return tuple(shape[1:])

    @classmethod
    def gain(cls, shape: tuple[int, ...]) -> int:
        """How many times the RMS or the largest entry the norm of a weight is."""
        return 1

    @classmethod
    def measure(cls, u: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The factors, broadcastable to u, that give each weight norm 1, and the next vectors."""
        if cls.order is None:
            raise NotImplementedError
        shape = tuple(u.shape[1:])
        over = [axis + 1 for axis in cls.reduced(shape)]
        return cls.factors(torch.linalg.vector_norm(u, cls.order, over, True), shape), None

    @classmethod
    def reduced(cls, shape: tuple[int, ...]) -> list[int]:
        """The axes of a weight over which entries are measured together, of an `order`."""
        return [axis for axis in range(len(shape)) if axis not in cls.alone]

    @classmethod
    def factors(cls, lengths: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The factors for weights of this shape, from the vector norms of what is together."""
        if cls.order == 2:
            lengths = lengths / math.sqrt(math.prod(shape[axis] for axis in cls.reduced(shape)))
        return reciprocal(lengths) / cls.gain(shape)

    @classmethod
    def scale(cls, u: Tensor, x: Tensor | None, iterations: int) -> float | Tensor:
        """`measure` for one weight on a CPU: its factor; the vector x is changed in place."""
        new, unit = None if x is None else x.unsqueeze(0), 1.0
        u = u.unsqueeze(0)
        for _ in range(iterations):
            factor, new = cls.measure(u, new)
        if not factor.any() and 0 < (top := u.abs().max().item()) < math.inf:
            unit = math.ldexp(1.0, min(-math.frexp(top)[1], 126))  # the squares were 0
            for _ in range(iterations):
                factor, new = cls.measure(u * unit, new)
            factor = factor * unit
        if x is not None and new is not None:
            x.copy_(new[0])
        return torch.where(factor.isfinite(), factor, 0.0)[0] if unit > 1 else factor[0]

    @classmethod
    def exact(cls, u: Tensor) -> Tensor:
        """The norm of each weight, where `measure` only estimates it."""
        raise NotImplementedError

    @classmethod
    def dualize(cls, u: Tensor, scheme: Scheme | None = None, work: Any = None) -> Tensor:
        """The t of norm 1 with the largest <u, t> (Bernstein & Newhouse 2024, arXiv 2410.21265).

        It may take u's place. scheme (by default the accurate one) and work are those of `polar`.
        """
        return u * cls.measure(u, None)[0]


NORMS: dict[str, type[Norm]] = {}  # all that are defined, by name


def reciprocal(norm: Tensor) -> Tensor:
    """1/norm; 0 where the norm's square is 0 or denormal (below 1.1e-19 in float32)."""
    floor = math.sqrt(torch.finfo(norm.dtype).tiny)
    return torch.threshold(norm, floor, math.inf).reciprocal_()


def level(u: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply each weight's update in a stack by a power of two, so that squares have a place.

    Those powers, and the largest entries that there were, both (k, 1, ...). Powers of two round
    nothing. They are 1 where the squares are numbers anyway, and where an entry is none.
    """
    top = torch.linalg.vector_norm(u, math.inf, tuple(range(1, u.ndim)), keepdim=True)
    far = (top > 0) & (top < math.inf) & ((top < 1e-10) | (top > 1e10))
    if u.is_cpu and not far.any():  # other devices are not waited for
        return torch.ones_like(top), top
    most = math.frexp(torch.finfo(u.dtype).max)[1] - 2  # one that is a number, and its inverse
    power = torch.where(far, torch.frexp(top).exponent.neg(), 0).clamp_(-most, most)
    unit = torch.ldexp(torch.ones_like(top), power.to(u.dtype))
    u.mul_(unit)
    return unit, top


# modnorm: end
