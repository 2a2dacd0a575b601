"""What optimizers do with each parameter, found from what they do to made-up gradients.

No class is looked at: gradients of the parameters' shapes are put in their places, `step` is
called, and the change of the weights is compared with what could have been made of them. Then
weights, gradients, the optimizers' states and random numbers are put back, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modnorm.adopting.problems import AuditError
from modnorm.adopting.products import InFloat32
from modnorm.adopting.untouched import untouched
from modnorm.adopting.updates import (
    ALIKE,
    Kind,
    Reading,
    Update,
    cosine,
    dot,
    orthogonal,
    product,
    told,
)
from modnorm.kernels.weight import Weight

STEPS = (1, 2)
"""Some optimizers only prepare in their first step, so that two are needed."""
SCALES = (2.0**-7, 2.0**7)
"""Of further gradients, to see whether the size of an update is that of its gradient."""
RANK = 4
"""Of what is large in the made-up gradients."""
FLAT = 0.01
"""An update grows by no power of the gradient's size, if by less than this."""
ROUNDED = 1e-3
"""The share of a change that may be rounding's."""


WORDS: dict[Kind, str] = {
    "still": "not moved",
    "rows": "rows at one length",
    "columns": "columns at one length",
    "proportional": "proportional to the gradient",
    "other": "in a way of its own",
}
"""Kinds that need more words than their own."""


@dataclass(frozen=True)
class Holder:
    """Where an optimizer has a parameter.

    optimizer: its class. index: which of several it is. group: which of its param_groups.
    """

    optimizer: str
    index: int
    group: int
    lr: float
    weight_decay: float

    def __str__(self) -> str:
        return f"{self.optimizer}, group {self.group}"


@dataclass(frozen=True)
class Treatment:
    """What optimizers do with a parameter.

    holders: every place at which an optimizer has it; none, if it is given to none. The rest is of
        the first one's optimizer.
    kind: "orthogonalised" (see `reading`), "elementwise" (entries of one size), "rows" or "columns"
        (of one length each), "proportional" to the gradient, "still", or "other".
    scale: of what is orthogonalised, the singular values of an update, divided by the rate.
    rms: of its entries, divided by the rate.
    response: by which power of the gradient's size the update grows: 1 for plain descent, 0 where
        only the direction counts.
    decay: what part of the weight a step takes away, divided by the rate.
    update: the change itself, divided by the rate, of a gradient whose entries are near 1.
    together: parameters with which it is orthogonalised as one.
    """

    name: str
    holders: tuple[Holder, ...] = ()
    kind: Kind = "still"
    reading: Reading | None = None
    scale: float = 0.0
    rms: float = 0.0
    response: float = 0.0
    decay: float = 0.0
    update: Tensor | None = None
    together: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key of the reading of what is orthogonalised, else ""."""
        return "" if self.reading is None else self.reading.key

    def __str__(self) -> str:
        if not self.holders:
            return "given to no optimizer"
        what = WORDS.get(self.kind, self.kind)
        if self.reading is not None:
            what += f" as {self.reading.name}"
        return f"{what}, by {' and '.join(map(str, dict.fromkeys(self.holders)))}"


def as_sequence(optimizers: Any) -> Sequence[Any]:
    """One optimizer, or several, as several.

    Raises AuditError for what is none.
    """
    several = optimizers if isinstance(optimizers, (list, tuple)) else [optimizers]
    for one in several:
        groups = getattr(one, "param_groups", None)
        if not isinstance(groups, list) or not callable(getattr(one, "step", None)):
            raise AuditError(
                f"{type(one).__name__} is no optimizer: it has no list `param_groups`, or no `step`"
            )
    return several


def treatments(
    model: nn.Module, optimizers: Any, held: Mapping[str, Sequence[Weight]] | None = None
) -> dict[str, Treatment]:
    """What optimizers do with each parameter that needs a gradient, by its first name.

    optimizers: one, or a list or tuple of them.
    held: by name, the logical weights in a parameter, so that their cuts are looked for too.

    Raises:
        AuditError: for what is no optimizer, and for one that does not step on dense gradients of
            all of its parameters, without a closure.
    """
    several = as_sequence(optimizers)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients, sparse = made_up(own), sparse_names(model)
    found = {name: Treatment(name) for name in own}
    for index, optimizer in enumerate(several):
        holders = placed(optimizer, index, own)
        mine = Mine(optimizer, {n: own[n] for n in own if n in holders}, holders,
                    gradients, sparse, held or {})  # fmt: skip
        shown = looked_at(mine, firsts(mine)) or looked_at(mine, {n: n for n in mine.own}) or {}
        for name, one in (shown | jointly(shown, gradients)).items():
            first, before = found[name], found[name].holders
            found[name] = replace(first if before else one, holders=(*before, *one.holders))
    return found


@dataclass(frozen=True)
class Mine:
    """Parameters that an optimizer has, by name, where it has them, and all that is known of them:
    made-up gradients, whether these are sparse, and the logical weights that they hold."""

    optimizer: Any
    own: Mapping[str, Tensor]
    holders: Mapping[str, tuple[Holder, ...]]
    gradients: Mapping[str, Tensor]
    sparse: Collection[str]
    held: Mapping[str, Sequence[Weight]]


def firsts(mine: Mine) -> dict[str, str]:
    """For each parameter, the first that nothing tells from it: neither place, shape nor cuts."""
    first: dict[object, str] = {}
    found = {}
    for name, p in mine.own.items():
        cuts = tuple((w.shape, w.layout and w.layout[1:]) for w in mine.held.get(name, ()))
        key = mine.holders[name], p.shape, p.dtype, p.device, name in mine.sparse, cuts
        found[name] = first.setdefault(key, name)
    return found


def looked_at(mine: Mine, like: Mapping[str, str]) -> dict[str, Treatment] | None:
    """What an optimizer does with each of its parameters.

    like: for each the one that it is thought to be treated like, which is looked at more closely.
        None, if that turns out to be wrong for one of them.
    """
    shown: dict[str, Treatment] = {}
    for name, change in (probed(mine, like) or {}).items():
        first = shown.get(like[name])
        if first is None or first.kind == "other":
            shown[name] = described(name, mine, change)
        else:
            shown[name] = described(name, mine, change, [first.reading] if first.reading else [])
        if first is not None and first.kind != shown[name].kind:
            return None
    return shown or None


def placed(optimizer: Any, index: int, own: Mapping[str, Tensor]) -> dict[str, tuple[Holder, ...]]:
    """Where an optimizer has parameters, by their names."""
    names = {id(p): name for name, p in own.items()}
    found: dict[str, tuple[Holder, ...]] = {}
    for number, group in enumerate(optimizer.param_groups):
        rate, decay = rate_of(group), group.get("weight_decay")
        holder = Holder(
            type(optimizer).__name__, index, number, rate, float(decay) if decay else 0.0
        )
        for p in group["params"]:
            if name := names.get(id(p)):
                found[name] = (*found.get(name, ()), holder)
    return found


def rate_of(group: Mapping[str, Any]) -> float:
    """A group's learning rate: that which a schedule begins with, where there is one."""
    rate = group.get("initial_lr", group.get("lr"))
    return 1.0 if rate is None else float(rate)


# --- steps ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What an optimizer's step changes, divided by the rate, float64.

    update: what turns with the gradient's sign, against it. decay: the part of the weight that
    goes whatever the gradient is. sizes: the update's length for gradients of SCALES.
    """

    update: Tensor
    decay: float
    sizes: tuple[float, ...]


def made_up(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients: a few large directions and small ones, rows and columns of different lengths."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    found = {}
    for name, p in own.items():
        g = normal(*p.shape)
        if p.ndim > 1:
            flat = g.view(len(p), -1)
            flat.addmm_(normal(len(p), RANK), normal(RANK, flat.shape[1]), alpha=0.7)
            for axis, size in enumerate(p.shape):
                shape = [size if a == axis else 1 for a in range(p.ndim)]
                g *= torch.exp(0.5 * normal(size)).view(shape)
        found[name] = g.to(p.device, p.dtype)
    return found


def sparse_names(model: nn.Module) -> set[str]:
    """Tables whose gradients are sparse."""
    return {
        f"{path}.weight".removeprefix(".")
        for path, module in model.named_modules()
        if getattr(module, "sparse", False) is True
    }


def shrunk(p: Tensor) -> float:
    """What a parameter is multiplied by before a step, so that rounding does not eat the update."""
    return 1.0 if p.element_size() >= 4 else 2.0**-20


def probed(mine: Mine, like: Mapping[str, str]) -> dict[str, Change] | None:
    """What steps of an optimizer change, by the names of its parameters.

    Half of the difference between steps of opposite gradients is the update; the rest is decay.
    Steps are taken for all parameters once, and then for those alone that others are like: what is
    decay is then known of the others. None, if that gives another step than all together do.
    """
    optimizer, own = mine.optimizer, mine.own
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rates = {name: rate_of(group_of[id(p)]) or 1.0 for name, p in own.items()}
    few = [name for name in own if like[name] == name]
    followed = {first for name, first in like.items() if first != name}

    with untouched([optimizer, *own.values()]) as again, InFloat32():  # type: ignore[no-untyped-call]

        def moved(names: Collection[str], scale: float, steps: int) -> dict[str, Tensor]:
            again(afresh=afresh)
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = None
                if "initial_lr" in group:  # a warm-up may begin with 0
                    group["lr"] = group["initial_lr"]
            before = {}
            for name in names:
                p = own[name]
                p.detach().mul_(shrunk(p))
                before[name] = p.detach().clone()
                g = mine.gradients[name] * scale
                p.grad = g.to_sparse(1).coalesce() if name in mine.sparse else g
            for _ in range(steps):
                optimizer.step()
            return {
                name: own[name].detach().double().sub_(x).div_(rates[name] * steps)
                for name, x in before.items()
            }

        afresh = True
        for steps in STEPS:
            try:
                ahead = moved(own, 1.0, steps)
            except Exception:  # what it keeps cannot be made anew by a step: it goes on
                afresh = False
                try:
                    ahead = moved(own, 1.0, steps)
                except Exception as error:
                    raise AuditError(
                        f"{type(optimizer).__name__} cannot be looked at, since its step on a "
                        "gradient for each of its parameters raised "
                        f"{type(error).__name__}: {error}"
                    ) from error
            if len(few) < len(own):
                try:
                    alone = moved(followed, 1.0, steps)
                except Exception:  # it wants all gradients
                    return None
                if any(differ(x, ahead[name]) for name, x in alone.items()):
                    return None
            back = moved(few, -1.0, steps)
            updates = {name: x.sub_(ahead[name]).div_(2) for name, x in back.items()}
            if all(x.any() for x in updates.values()):
                break
        decays = {name: ahead[name].add_(x) for name, x in updates.items()}
        sizes: dict[str, list[float]] = {name: [] for name in few}
        for scale in SCALES:
            for name, change in moved(few, scale, steps).items():
                sizes[name].append(float(change.sub_(decays[name]).norm()))
    found: dict[str, Change] = {}
    for name, p in own.items():
        w, first = p.detach().double() * shrunk(p), found.get(like[name])
        if first is None:
            share = -dot(decays[name], w) / dot(w, w) if w.any() else 0.0
            found[name] = Change(updates[name], share, tuple(sizes[name]))
        else:
            found[name] = replace(first, update=ahead[name].add_(w, alpha=first.decay).neg_())
    return found


def differ(a: Tensor, b: Tensor) -> bool:
    return float((a - b).norm()) > ROUNDED * float(b.norm())


def described(
    name: str, mine: Mine, change: Change, known: Iterable[Reading] | None = None
) -> Treatment:
    """What a parameter's change is; of several readings, if it is one of the known."""
    u, g = change.update, mine.gradients[name].double()
    low, high = change.sizes
    response = math.log(high / low) / math.log(SCALES[1] / SCALES[0]) if low and high else 0.0
    made: Update = told(g, u, mine.held.get(name, ()), abs(response) < FLAT, known)
    rms = float(u.norm()) / math.sqrt(max(u.numel(), 1))
    return Treatment(
        name, mine.holders[name], made.kind, made.reading, made.scale, rms, response,
        change.decay, u,
    )  # fmt: skip


def jointly(
    found: Mapping[str, Treatment], gradients: Mapping[str, Tensor]
) -> dict[str, Treatment]:
    """Those that are orthogonalised as one with others of their group and shape."""
    alike: dict[object, list[Treatment]] = {}
    for one in found.values():
        if one.kind == "other" and gradients[one.name].ndim > 1:
            alike.setdefault((one.holders[0], gradients[one.name].shape), []).append(one)
    changed = {}
    for many in alike.values():
        if len(many) < 2 or any(one.update is None for one in many):
            continue
        names = tuple(one.name for one in many)
        g = torch.stack([gradients[name].double() for name in names])
        u = torch.stack([one.update for one in many if one.update is not None])
        for shape in ((len(g) * g.shape[1], -1), (len(g), -1), (-1, g.shape[-1])):
            flat = orthogonal(g.reshape(shape))
            if cosine(flat, u.reshape(flat.shape)) > ALIKE:
                reading = Reading(
                    "together", f"one matrix of {product(flat.shape)} with "
                    f"{len(names) - 1} others", lambda x: x,
                )  # fmt: skip
                for one in many:
                    changed[one.name] = replace(
                        one, kind="orthogonalised", reading=reading, together=names
                    )
                break
    return changed
