"""Norms of values, and a search for inputs that stretch an operation as far as it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import op_samples as samples
import torch
from op_samples import leaves

from modnorm.ops.base import Atom, Op, Reader
from modnorm.ops.types import Tensor, TupleType, Type

STEPS = 400 if samples.LONG else 50
STARTS = 8 if samples.LONG else 2


def starts_for(tight: float) -> int:
    """One is enough where nothing has to be reached."""
    return STARTS if tight or samples.LONG else 1


SizeOf = Callable[[Any], torch.Tensor]


def rms(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """The largest over all other axes of the RMS along one."""
    return x.square().mean(axis).sqrt().amax()


def channels(x: torch.Tensor) -> torch.Tensor:
    """The largest over examples and tokens (or pixels) of the RMS over channels."""
    return rms(x, 1 if x.ndim == 4 else -1)


def places(x: torch.Tensor) -> torch.Tensor:
    """The largest over examples and places of a signal of the RMS over channels."""
    return rms(x, 1)


def whole(x: torch.Tensor) -> torch.Tensor:
    """The largest over examples of the RMS over all of one."""
    return rms(x.flatten(1))


def largest(x: torch.Tensor) -> torch.Tensor:
    return x.abs().amax()


def row_sum(x: torch.Tensor) -> torch.Tensor:
    return x.abs().sum(-1).amax()


def total(norm: SizeOf) -> SizeOf:
    """The norm of a tuple: the sum over its members."""
    return lambda x: torch.stack([norm(t) for t in leaves(x)]).sum()


def f(*shape: int) -> Tensor:
    return Tensor("float", shape)


def in_ball(x: Any, norm: SizeOf) -> Any:
    """The value, or each member of a tuple, scaled into the unit ball."""
    if isinstance(x, tuple):
        return tuple(in_ball(member, norm) for member in x)
    return x / norm(x).clamp_min(1)


def ascend(
    objective: Callable[[list[torch.Tensor]], torch.Tensor],
    like: list[torch.Tensor],
    seed: int,
    starts: int = STARTS,
) -> float:
    """The largest value found by gradient ascent from several starts."""
    return ascend_all(lambda parts: objective(parts)[None], like, seed, starts)[0]


def ascend_all(
    objectives: Callable[[list[torch.Tensor]], torch.Tensor],
    like: list[torch.Tensor],
    seed: int,
    starts: int = STARTS,
) -> list[float]:
    """The largest value found of each of some objectives, which come as a vector.

    What is climbed is their sum: they should be of one size, as a value and its bound's ratio.
    """
    best: torch.Tensor | None = None
    generator = torch.Generator().manual_seed(seed)
    for start in range(starts):
        parts = [
            (
                torch.randn(t.shape, generator=generator).double() * 3.0 ** (1 - start % 3)
            ).requires_grad_()
            for t in like
        ]
        optimizer = torch.optim.Adam(parts, lr=0.1)
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - step / STEPS)
            values = objectives(parts)
            found = values.detach()
            if step and found.isnan().any():
                break  # a place without a gradient, as where a ReLU lets nothing through
            best = found if best is None else torch.maximum(best, found)
            if not values.requires_grad:
                return best.tolist()
            optimizer.zero_grad()
            (-values.sum()).backward()
            optimizer.step()
    assert best is not None
    return best.tolist()


def pack(type: Type, parts: list[torch.Tensor]) -> Any:
    """Tensors as a value of the type; they are taken from the front of the list."""
    if isinstance(type, TupleType):
        return tuple(pack(member, parts) for member in type.members)
    return parts.pop(0)


def shapes(type: Type) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return leaves(samples.value(type, generator))


def weight_size(op: Op, w: torch.Tensor) -> torch.Tensor:
    if isinstance(op, Reader):  # the norm of the Embed that it reads
        return rms(w)
    assert isinstance(op, Atom)
    return op.weight_norm(w)
