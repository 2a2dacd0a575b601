"""What ranks do in tests of what goes wrong, of messages and of checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from sharded_cases import FORMS, apart, full, made, train
from sharded_models import alone
from torch import Tensor, distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from modnorm.kernels import sharded


def parts_of(name: str, form: str) -> Any:
    model, plan, loss = alone(name)
    return FORMS[form](model, distributed.get_world_size()), plan, loss


@contextmanager
def between(change: Callable[[str, int, Tensor], None]) -> Any:
    """Let something see, and change, what a rank is about to send: which call, and what."""
    calls = [0]
    plain = {name: getattr(distributed, name) for name in ("all_reduce", "all_to_all_single")}

    def all_reduce(flat: Tensor, *rest: Any) -> Any:
        change("all_reduce", calls[0], flat)
        calls[0] += 1
        return plain["all_reduce"](flat, *rest)

    def all_to_all_single(new: Tensor, flat: Tensor, *rest: Any, **options: Any) -> Any:
        change("all_to_all_single", calls[0], flat)
        calls[0] += 1
        return plain["all_to_all_single"](new, flat, *rest, **options)

    distributed.all_reduce, distributed.all_to_all_single = all_reduce, all_to_all_single
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(distributed, name, function)


# -- messages ------------------------------------------------------------------------------------


def with_a_part_dropped(name: str, kind: str, form: str, which: int, alone_left: bool) -> Any:
    """One step, but the last rank (or all but the first) sends zeros in one of the messages.

    How far it ends from the right one, and how many messages there are.
    """
    rank, last, counts = distributed.get_rank(), distributed.get_world_size() - 1, list[int]()

    def sound(what: str, i: int, flat: Tensor) -> None:
        counts.append(i)

    def broken(what: str, i: int, flat: Tensor) -> None:
        if i == which and (rank > 0 if alone_left else rank == last):
            flat.zero_()

    ends = list[Any]()
    for change in (sound, broken):
        model, plan, loss = parts_of(name, form)
        optimizer = made(model, plan, kind)
        loss(model, 0).backward()
        with between(change):
            optimizer.step()
        ends.append(model)
    return apart(*ends, plan), len(counts)


def bytes_of_a_step(name: str, kind: str, form: str) -> dict[str, int]:
    """Bytes that a rank gives to each kind of message once power iteration has settled."""
    model, plan, _ = parts_of(name, form)
    optimizer = made(model, plan, kind, weight_decay=0.0)
    seed, found = torch.Generator().manual_seed(0), {"all_reduce": 0, "all_to_all_single": 0}
    for p in model.parameters():
        grad = torch.randn(p.shape, generator=seed)
        p.grad = sharded_like(grad, p)
    for step in range(20):

        def count(what: str, i: int, flat: Tensor, last: bool = step == 19) -> None:
            found[what] += last * flat.numel() * flat.element_size()

        with between(count):
            optimizer.step()
    return found


def sharded_like(x: Tensor, p: Any) -> Any:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, p.device_mesh, p.placements)


def owned(name: str, form: str) -> int:
    """Bytes of updates that a rank holds of matrices, and that others' images need."""
    model, plan, _ = parts_of(name, form)
    optimizer = made(model, plan, "DualizedSGD")
    for p in model.parameters():
        p.grad = sharded_like(torch.randn(p.shape), p)
    optimizer.step()
    return 4 * sum(
        math.prod(part.stack.sides(i))
        for shared in optimizer._shared.shared
        for part in shared.parts
        for i in part.owners
    )


# -- numbers that are none -----------------------------------------------------------------------


def with_nan(kind: str, policy: str, where: str) -> Any:
    """A step in which one rank has a NaN: what is said, what is counted, what has moved."""
    model, plan, loss = parts_of("gpt", "rows")
    optimizer = made(model, plan, kind, nonfinite=policy)
    train(model, optimizer, loss, range(2))
    loss(model, 2).backward()
    before = [full(p).detach().clone() for p in model.parameters()]
    p = model.get_parameter("block.0.attention.q.linear.weight")
    x = {"gradient": p.grad, "moment": optimizer.state[p][optimizer.moments[0]]}[where]
    if distributed.get_rank() == 1:
        x.to_local()[0, 0] = math.nan
    said = ""
    try:
        optimizer.step()
    except FloatingPointError as error:
        said = str(error)
    after = [full(p).detach() for p in model.parameters()]
    moved = [not torch.equal(x, y) for x, y in zip(before, after, strict=True)]
    finite = all(bool(x.isfinite().all()) for x in after)
    return said, optimizer.skipped, moved, finite


def with_a_gradient_on_one_rank() -> str:
    model, plan, loss = parts_of("gpt", "rows")
    optimizer = made(model, plan, "NormedAdam")
    loss(model, 0).backward()
    if distributed.get_rank() == 1:
        model.get_parameter("linear.weight").grad = None
    try:
        optimizer.step()
    except ValueError as error:
        return str(error)
    return ""


def with_a_rank_that_dies() -> None:
    """The last rank ends in the middle of a step."""
    model, plan, loss = parts_of("gpt", "rows")
    optimizer = made(model, plan, "NormedAdam")
    loss(model, 0).backward()

    def change(what: str, i: int, flat: Tensor) -> None:
        if i == 2 and distributed.get_rank() == 1:
            os._exit(1)

    with between(change):
        optimizer.step()


# -- checkpoints ---------------------------------------------------------------------------------


def save(folder: str, name: str, kind: str, form: str, flat: bool) -> None:
    """Save after three steps; five more without an interruption."""
    model, plan, loss = parts_of(name, form)
    optimizer = made(model, plan, kind)
    train(model, optimizer, loss, range(3))
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=folder)
    train(model, optimizer, loss, range(3, 8))
    end = {key: full(p).detach() for key, p in model.named_parameters()}
    if distributed.get_rank() == 0:
        torch.save(end, f"{folder}/end.pt")
    distributed.barrier()


def resume(
    folder: str, name: str, kind: str, form: str, flat: bool, change: bool = False
) -> tuple[float, bool]:
    """Five steps from what was saved: how far from the uninterrupted ones, and if bit for bit."""
    model, plan, loss = parts_of(name, form)
    if change:
        plan = plan.of([plan[0]._replace(target=0.123), *plan[1:]])
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    optimizer = made(model, plan, kind, lr=0.7)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    saved = {"model": weights, "optimizer": state}
    checkpoint.load(saved, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"],
        options=options,
    )  # fmt: skip
    train(model, optimizer, loss, range(3, 8))
    end, whole = torch.load(f"{folder}/end.pt"), alone(name)[0]
    with torch.no_grad():
        for key, p in whole.named_parameters():
            p.copy_(end[key])
    pairs = zip(whole.parameters(), model.parameters(), strict=True)
    return apart(whole, model, plan), all(torch.equal(p, full(q)) for p, q in pairs)


assert sharded.distributed is distributed  # what `between` changes is what the engine calls
