"""Lets optimizers step, and puts back all that a step changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

CONTAINERS = (dict, list, set)
LEAVES = (
    str, bytes, int, float, complex, bool, type(None), type, FunctionType, MethodType,
    BuiltinFunctionType, ModuleType, nn.Module, torch.dtype, torch.device,
)  # fmt: skip


class Kept:
    """What optimizers and tensors hold, and how it was.

    Everything that is reached from them is kept where it is: a container gets its old members back,
    a tensor its old numbers in its old memory. So what others know of it stays true: schedulers of
    groups, fused kernels of flat buffers.
    """

    def __init__(self, things: Iterable[object]) -> None:
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        self.states: list[dict[Any, Any]] = []  # of optimizers, by parameter
        seen = set[int]()
        open_: list[Any] = list(things)
        while open_:
            thing = open_.pop()
            if id(thing) in seen or isinstance(thing, LEAVES):
                continue
            seen.add(id(thing))
            if isinstance(thing, Tensor):
                data = thing.detach()
                self._tensors.append((thing, data, data.clone(), thing.grad))
                continue
            if isinstance(thing, torch.Generator):
                self._generators.append((thing, thing.get_state()))
                continue
            if isinstance(thing, CONTAINERS):
                self._containers.append((thing, thing.copy()))
            if isinstance(thing, dict):
                open_ += [*thing.keys(), *thing.values()]
            elif isinstance(thing, (list, set, tuple)):
                open_ += thing
            own = getattr(thing, "__dict__", None)
            if isinstance(own, dict):
                open_.append(own)
                if isinstance(own.get("state"), dict) and "param_groups" in own:
                    self.states.append(own["state"])

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, bit for bit."""
        for container, old in self._containers:
            container.clear()
            container.extend(old) if isinstance(container, list) else container.update(old)
        for x, data, old, grad in self._tensors:
            if x.data_ptr() != data.data_ptr() or x.shape != data.shape:
                x.data = data
            data.copy_(old)
            x.grad = grad
        for generator, state in self._generators:
            generator.set_state(state)


@contextmanager
def untouched(things: Iterable[object]) -> Iterator[Callable[..., None]]:
    """Put back what things hold, and random numbers, at the end.

    Hands out a function that puts it back before; with `afresh`, without what optimizers keep of
    earlier steps.
    """
    things = list(things)
    kept = Kept(things)

    def again(*, afresh: bool) -> None:
        kept.restore()
        for state in kept.states if afresh else ():
            state.clear()

    on = {x.device for x in things if isinstance(x, Tensor) and x.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(on, key=str)):
        try:
            yield again
        finally:
            kept.restore()
