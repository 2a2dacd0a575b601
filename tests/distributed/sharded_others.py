"""What ranks do in tests of pipelines, 16-bit weights, large matrices and what is refused."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from sharded_cases import FORMS, KINDS, full, made, mesh_of, shard, train
from sharded_models import alone, tokens
from torch import distributed, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import modnorm
from modnorm.kernels import Monitor, Plan, Weight


class Layers(nn.Module):
    """Some layers of a network, under the names that they have in all of it."""

    def __init__(self, net: nn.Sequential, layers: range) -> None:
        super().__init__()
        for i in layers:
            self.add_module(str(i), net[i])

    def forward(self, x: Any) -> Any:
        for layer in self.children():
            x = layer(x)
        return x


def pipeline(kind: str, sharded: bool) -> tuple[float, list[str]]:
    """Two stages, each of one rank or of two that share it: how far from one process."""
    torch.manual_seed(0)
    sizes = (6, 20, 16, 12, 5)
    linear = [nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(sizes)]
    net = nn.Sequential(*[x for one in linear for x in (one, nn.Tanh())][:-1])
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.arange(8) % 5
    plan = modnorm.adopt(net, x, plan_only=True)
    mesh = mesh_of((2, distributed.get_world_size() // 2), "stage", "data")
    which, whole = mesh.get_local_rank("stage"), copy.deepcopy(net)
    layers = Layers(net, range(4) if which == 0 else range(4, 7))
    if sharded:
        shard(layers, mesh["data"])
    stage = PipelineStage(layers, which, 2, torch.device("cpu"), group=mesh.get_group("stage"))
    schedule = ScheduleGPipe(stage, 4, loss_fn=nn.functional.cross_entropy)
    own = plan.part(layers.named_parameters())
    optimizers = [
        KINDS[kind](model.named_parameters(), plan=part, lr=0.1)
        for model, part in ((layers, own), (whole, plan))
    ]
    for _ in range(10):
        schedule.step(x) if which == 0 else schedule.step(target=y)
        nn.functional.cross_entropy(whole(x), y).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    ends = dict(whole.named_parameters())
    pairs = [(full(p).detach(), ends[name].detach()) for name, p in layers.named_parameters()]
    return max(float((p - q).norm() / q.norm()) for p, q in pairs), [w.name for w in own]


def halves(kind: str, dtype: str) -> float:
    """Weights of 16 bits: how far the copies that they are roundings of are from one process's."""
    whole, plan, _ = alone("gpt")
    whole.to(getattr(torch, dtype))
    parts = FORMS["rows"](copy.deepcopy(whole), distributed.get_world_size())
    optimizers = [made(model, plan, kind) for model in (whole, parts)]
    seed, worst = torch.Generator().manual_seed(1), 0.0
    for _ in range(5):
        for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=seed).to(p.dtype)
            q.grad = distribute_tensor(p.grad, q.device_mesh, q.placements)
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        x, y = (one.state[z]["master"] for one, z in zip(optimizers, (p, q), strict=True))
        worst = max(worst, float((full(y) - x).norm() / x.norm()))
    return worst


def one_weight(
    kind: str, norm: str, shape: tuple[int, ...], dim: int, scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> tuple[float, float]:  # fmt: skip
    """A weight of some norm: how far from one process after steps, and how far its slack is."""
    mesh, seed = mesh_of((distributed.get_world_size(),), "data"), torch.Generator().manual_seed(0)
    plan = Plan([Weight("w", "Linear", shape, norm, 1.0, 0.5)])
    p = nn.Parameter(torch.randn(shape, generator=seed, dtype=dtype))
    start = p.detach().clone()
    q = nn.Parameter(distribute_tensor(start, mesh, [Shard(dim)]))
    one, other = (KINDS[kind]([("w", x)], plan=plan, lr=0.1) for x in (p, q))
    for _ in range(6):
        p.grad = scale * torch.randn(shape, generator=seed, dtype=dtype)
        q.grad = distribute_tensor(p.grad, mesh, [Shard(dim)])
        one.step()
        other.step()
    assert not torch.equal(p, start)
    slack = [x.slack().get("w", 1.0) for x in (one, other)]
    return float((full(q) - p).detach().norm() / start.norm()), abs(slack[0] - slack[1])


def partial_gradients() -> float:
    """Gradients that are sums over ranks: those of copies, where each has seen some examples."""
    mesh, plan = mesh_of((2,), "data"), Plan([Weight("w", "Linear", (6, 4), "spectral", 1.0, 0.5)])
    whole = nn.Parameter(torch.ones(6, 4))
    parts = nn.Parameter(distribute_tensor(torch.ones(6, 4), mesh, [Replicate()]))
    grads = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    whole.grad = grads[0] + grads[1]
    parts.grad = DTensor.from_local(grads[distributed.get_rank()], mesh, [Partial()])
    for p in (whole, parts):
        KINDS["NormedSGD"]([("w", p)], plan=plan, lr=0.1).step()
    return float((full(parts) - whole).norm())


def refused() -> list[str]:
    """What is said of what can't be done with sharded weights."""
    model, plan, _ = alone("gpt")
    model = FORMS["rows"](model, 2)
    said, mesh = list[str](), mesh_of((2,), "data")
    named = [*model.named_parameters()]
    name, p = named[0]
    partial = nn.Parameter(DTensor.from_local(torch.ones(p.shape), mesh, [Partial()]))
    odd = plan.of([plan[0]._replace(norm="odd"), *plan[1:]])

    class Odd(modnorm.kernels.Norm):
        name = "odd"

    for attempt in (
        lambda: KINDS["NormedAdam"](named, plan=plan, lr="auto", smoothness=1.0),
        lambda: KINDS["NormedAdam"]([(name, partial), *named[1:]], plan=plan),
        lambda: KINDS["NormedAdam"](named, plan=odd),
        lambda: Monitor(KINDS["NormedAdam"](named, plan=plan), "never.jsonl"),
        lambda: modnorm.adopt(model, tokens(0)),
        lambda: plan.part([("body.weight", None)]),
    ):
        try:
            attempt()
        except ValueError as error:
            said.append(str(error))
        else:
            said.append("")
    return said


def skipping(kind: str) -> bool:
    """With missing="skip" a weight without a gradient stays, on all ranks, and others move."""
    model, plan, loss = alone("gpt")
    model = FORMS["rows"](model, 2)
    optimizer = made(model, plan, kind, missing="skip")
    train(model, optimizer, loss, range(1))
    before = {name: full(p).detach().clone() for name, p in model.named_parameters()}
    loss(model, 1).backward()
    model.get_parameter("linear.weight").grad = None
    optimizer.step()
    still = {n for n, p in model.named_parameters() if torch.equal(full(p), before[n])}
    return still == {"linear.weight"}
