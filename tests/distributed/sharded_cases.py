"""What ranks do in tests: train a model in parts, and the same one as a whole beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from sharded_models import alone
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from modnorm.kernels import DualizedSGD, NormedAdam, NormedSGD

KINDS = {kind.__name__: kind for kind in (NormedAdam, NormedSGD, DualizedSGD)}
LAYERS = dict.fromkeys(
    [f"self_attn.{x}_proj" for x in "qkv"] + ["mlp.gate_proj", "mlp.up_proj"], ColwiseParallel
) | dict.fromkeys(["self_attn.o_proj", "mlp.down_proj"], RowwiseParallel)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The modules that a model repeats."""
    lists = [x for x in model.modules() if isinstance(x, nn.ModuleList)]
    return [*max(lists, key=len)] if lists else []


def mesh_of(shape: tuple[int, ...], *names: str) -> Any:
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def shard(model: Any, mesh: Any, dim: int = 0, whole: bool = False) -> Any:
    """FSDP2, of the repeated parts one by one, along an axis where that can be cut evenly."""

    def place(p: Any) -> Any:
        return Shard(dim if p.ndim > dim and not p.shape[dim] % mesh.size() else 0)

    for part in () if whole else blocks_of(model):
        fully_shard(part, mesh=mesh, shard_placement_fn=place)
    return fully_shard(model, mesh=mesh, shard_placement_fn=place)


def parallel(model: Any, mesh: Any) -> Any:
    """Tensor parallelism of a Llama."""
    return parallelize_module(
        model, mesh, {f"model.layers.*.{name}": style() for name, style in LAYERS.items()}
    )


def placed(model: Any, mesh: Any) -> Any:
    """Every parameter along its last axis, evenly or not. It can't be called any more."""
    parts = {
        p: nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(p.ndim - 1)]))
        for p in model.parameters()
    }
    for module in model.modules():  # a parameter of two modules stays one
        for name, p in [*module.named_parameters(recurse=False)]:
            setattr(module, name, parts[p])
    return model


def both(model: Any, mesh: Any) -> Any:
    return shard(parallel(model, mesh["tensor"]), mesh["data"])


FORMS: dict[str, Callable[[Any, int], Any]] = {
    "ddp": lambda model, n: DistributedDataParallel(model),
    "rows": lambda model, n: shard(model, mesh_of((n,), "data")),
    "columns": lambda model, n: shard(model, mesh_of((n,), "data"), 1),
    "last": lambda model, n: placed(model, mesh_of((n,), "data")),
    "copies": lambda model, n: shard(model, mesh_of((2, n // 2), "copies", "data")),
    "tensor": lambda model, n: parallel(model, mesh_of((n,), "tensor")),
    "both": lambda model, n: both(model, mesh_of((n // 2, 2), "data", "tensor")),
}


def full(x: Any) -> Tensor:
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def train(model: Any, optimizer: Any, loss: Any, steps: range) -> None:
    for step in steps:
        loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def apart(one: Any, other: Any, plan: Any) -> float:
    """How far two models' weights are apart, for the worst weight, over its size.

    Keys' biases do not count: no softmax sees them, and their gradients are rounding.
    """
    worst = 0.0
    for stored, p, q in zip(plan.stored, one.parameters(), other.parameters(), strict=True):
        for w in plan.held(stored):
            if not w.name.endswith("bias.k"):
                x, y = (w.cut(full(param).detach()) for param in (p, q))
                worst = max(worst, float((x - y).norm() / x.norm()))
    return worst


def made(model: Any, plan: Any, kind: str, **options: Any) -> Any:
    """An optimizer of a model."""
    options = {"lr": 0.1, "weight_decay": 0.01} | options
    return KINDS[kind](model.named_parameters(), plan=plan, **options)


@cache
def trained(name: str, kind: str, dtype: str) -> Any:
    """A model after ten steps in one process."""
    model, plan, loss = alone(name)
    model.to(getattr(torch, dtype))
    train(model, made(model, plan, kind), loss, range(10))
    assert apart(alone(name)[0], model, plan) > 0.01
    return model


def compare(name: str, kind: str, form: str, dtype: str = "float32") -> float:
    """How far a model that was trained in parts is from one that was trained as a whole."""
    model, plan, loss = alone(name)
    model.to(getattr(torch, dtype))
    parts = FORMS[form](model, distributed.get_world_size())
    train(parts, made(parts, plan, kind), loss, range(10))
    return apart(trained(name, kind, dtype), parts, plan)


def given(name: str, kind: str, form: str, **options: Any) -> float:
    """The same for gradients that are given, and so are the same ones to the last bit."""
    whole, plan, _ = alone(name)
    parts = FORMS[form](copy.deepcopy(whole), distributed.get_world_size())
    optimizers = [made(model, plan, kind, **options) for model in (whole, parts)]
    seed = torch.Generator().manual_seed(1)
    for _ in range(10):
        for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=seed)
            q.grad = distribute_tensor(p.grad, q.device_mesh, q.placements)
        for optimizer in optimizers:
            optimizer.step()
    return apart(whole, parts, plan)
