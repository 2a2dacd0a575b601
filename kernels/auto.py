"""lr="auto": the step size that a bound on the loss's curvature allows, made anew in every step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch


# modnorm: begin
def automatic(options: dict[str, Any], smoothness: Mapping[str, float | str]) -> dict[str, Any]:
    """An optimizer's options, where lr="auto" turns into lr=1.0 and a number as smoothness.

    Raises:
        ValueError: if there is no such number, or one is given without use.
    """
    lr, given = options["lr"], options.pop("smoothness", None)
    if not isinstance(lr, str):
        if given is not None:
            raise ValueError(f"smoothness={given!r} is for lr='auto', not for lr={lr!r}")
        return options
    if lr != "auto":
        raise ValueError(f"lr must be a number or 'auto', not {lr!r}")
    found: Any = "cross_entropy" if given is None else given
    if isinstance(loss := found, str):
        found = smoothness.get(loss, f"known are {', '.join(smoothness) or 'none'}")
        if isinstance(found, str):
            raise ValueError(
                f"lr='auto' needs a bound on the curvature of the loss, and of {loss} there is "
                f"none: {found}. Give a number as lr=, or one for the curvature as smoothness="
            )
    return options | {"lr": 1.0, "smoothness": found}


def watch(seen: list[list[float]] | None, norms: list[float]) -> list[list[float]] | None:
    """The norms of the gradients of the last steps, by weight; None after a warning.

    Clipping leaves the norm of all gradients together at its bound, step after step, while those of
    the parts go on changing: that in three steps is no chance.
    """
    if seen is None:
        return None
    seen = [*seen[-2:], norms]
    totals = [math.sqrt(sum(x * x for x in one)) for one in seen]
    if len(seen) < 3 or len({len(one) for one in seen}) > 1:
        return seen
    still = max(totals) - min(totals) <= 2e-5 * min(totals)
    moved = max((max(x) - min(x) for x in zip(*seen, strict=True)), default=0.0)
    if not (still and moved > 1e-2 * min(totals)):
        return seen
    warnings.warn(
        f"the gradients of three steps had the norm {totals[-1]:.6g}, as if clipped: with "
        "lr='auto' the step size is made from the gradient as it comes, and shrinks with it. Leave "
        "clipping out, or give lr a number",
        stacklevel=2,
    )
    return None


def automatic_step(optimizer: Any, ready: set[int]) -> None:
    """Move weights by η·lr·d, where d is the update of modular norm 1 and η = <gradient, d>/λ.

    If the loss is λ-smooth in the modular norm, a step of η·d takes at least η·<gradient, d> -
    λ·η²/2 off it (Large et al. 2024, arXiv 2405.14813): the most at this η. For d the gradient's
    own image under the duality map, <gradient, d> is its dual norm (as in Bernstein et al. 2023,
    arXiv 2304.05187). η is 0 where d points uphill. All of d is kept, in memory of its own.

    The decrease needs a norm of d of at most 1: where the map lets it reach b, η is b² times
    smaller, and norms that are estimated are so by four iterations or more.
    """
    slope, reach, moves, room = 0.0, 1.0, list[Any](), optimizer._room
    for batches in optimizer._batches.values():
        for items, memory, views in optimizer._chosen(batches, ready):
            items, states, weights, updates = optimizer._take_in(items, memory, views)
            if not items:
                continue
            names = [w.name for _, _, w in items]
            if not room.keys() >= set(names):
                room |= {name: torch.empty_like(u) for name, u in zip(names, updates, strict=True)}
            ds = [room[name].zero_() for name in names]
            often = {"iterations": max(4, items[0][0].get("iterations", 0))}
            apart = {"lr": -1.0, "weight_decay": 0.0, **often}
            own = [({**group, **apart}, p, w) for group, p, w in items]
            parts = [(group, x) for group, _, w in items for x in optimizer.plan.held(w)]
            reach = max(reach, *(optimizer.reach(group, w) for group, w in parts))
            optimizer._map(own, states, ds, updates, memory)
            grads = [p.grad.to(memory.dtype).flatten() for _, p, _ in items]
            dots = [torch.dot(g, d.flatten()) for g, d in zip(grads, ds, strict=True)]
            slope += torch.stack(dots).double().sum().item()
            moves.append((items, weights, ds))
    for group in optimizer.param_groups:
        most = max(slope, 0.0) / (group["smoothness"] * reach**2)
        group["step_size"] = most * float(group["lr"])
    for items, weights, ds in moves:
        size, decay = items[0][0]["step_size"], items[0][0]["weight_decay"]
        if (before := optimizer._before(items, weights, size)) is None:
            continue
        if decay:
            pairs = zip(items, weights, strict=True)
            held = [(w, whole) for (_, _, x), whole in pairs for w in optimizer.plan.held(x)]
            rest = [1 - size * w.target * decay for w, _ in held]
            torch._foreach_mul_([w.part(whole) for w, whole in held], rest)
        torch._foreach_add_(weights, ds, alpha=-size)
        optimizer._settle(items, weights, before)


# modnorm: end
