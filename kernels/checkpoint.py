"""Loads checkpoints whose tensors have other names, or hold several weights, or parts of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


# modnorm: begin
def load_checkpoint(
    model: nn.Module, state: Mapping[str, Tensor], renames: Iterable[tuple[str, Any]]
) -> None:
    """Fill a model's parameters and buffers from a state_dict with the names that `renames` gives.

    renames: of a tensor of the model's state_dict, with `*` for numbers in it, what it is made of:
        the name of a tensor in `state`, a number, or one of ("part", x, dim, start, end, every),
        ("transposed", x), ("add", x, y) and ("mul", x, y). Others have the same name in both. With
        an empty name, a tensor that no weight is made of.

    Raises:
        KeyError: naming a tensor that is not there.
        ValueError: naming one of another shape, or that no weight is made of. The model is as it
            was.
    """
    read, found, renames = set[str](), {}, tuple(renames)
    rules = [(re.compile(re.escape(k).replace(r"\*", r"(\d+)")), made) for k, made in renames]
    own = model.state_dict()
    for name, old in own.items():
        matches = ((pattern.fullmatch(name), made) for pattern, made in rules)
        match, made = next(((m, made) for m, made in matches if m), (None, name))
        x = made_of(made, state, match.groups() if match else (), read, name)
        axes = [tuple(n for n in y.shape if n > 1 or x.ndim == old.ndim) for y in (x, old)]
        if axes[0] != axes[1]:  # axes of size 1 may be missing, but not stand elsewhere
            raise ValueError(
                f"{name} has the shape {tuple(old.shape)}, but the checkpoint has "
                f"{tuple(x.shape)} for it"
            )
        found[name] = x.reshape(old.shape)
    used = {state[name].data_ptr() for name in read if state[name].numel()}
    spare = {made for name, made in renames if not name}
    left = [n for n, x in state.items() if n not in read | spare and x.data_ptr() not in used]
    left = [n for n in left if not n.endswith("num_batches_tracked")]
    if left:
        raise ValueError(f"no weight of the model is made of {', '.join(left[:5])}")
    with torch.no_grad():
        for name, x in found.items():
            own[name].copy_(x)


def made_of(
    made: Any, state: Mapping[str, Tensor], indices: tuple[str, ...], read: set[str], name: str
) -> Any:
    """The tensor that a recipe makes; the names that it takes are added to `read`."""
    if isinstance(made, str):
        for index in indices:
            made = made.replace("*", index, 1)
        if made not in state:
            raise KeyError(f"the checkpoint has no {made}, of which {name} is made")
        read.add(made)
        return state[made]
    if not isinstance(made, tuple):
        return made
    kind, first, *rest = made
    x = made_of(first, state, indices, read, name)
    if kind == "transposed":
        if x.ndim != 2:
            raise ValueError(f"{name} is made of a transposed tensor of shape {tuple(x.shape)}")
        return x.t()
    if kind in ("add", "mul"):
        y = made_of(rest[0], state, indices, read, name)
        return x + y if kind == "add" else x * y
    dim, start, end, every = rest
    if dim >= x.ndim or end > x.shape[dim] or (every and x.shape[dim] % every):
        raise ValueError(f"{name} is cut out of a tensor of shape {tuple(x.shape)}, which is less")
    if every:
        x = x.unflatten(dim, (-1, every)).narrow(dim + 1, start, end - start)
        return x.flatten(dim, dim + 1)
    return x.narrow(dim, start, end - start)


# modnorm: end
