"""The optimizers on a real device: equal to the CPU's, repeatable, in graphs, in three launches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modnorm.kernels.launch
import modnorm.kernels.polar_launch  # noqa: F401
from modnorm.kernels import DualizedSGD, NormedAdam, NormedSGD
from modnorm.kernels.weight import Weight

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA or ROCm device"),
]

PLAN = (
    Weight("embed", "Embed", (1000, 96), "row_rms", 1.0, 0.25),
    Weight("conv", "Conv2D", (64, 40, 3, 3), "spectral_taps", 1.0, 0.5),
    Weight("a", "Linear", (200, 300), "spectral", 1.0, 0.2),
    Weight("b", "Linear", (200, 300), "spectral", 1.0, 0.3),
    Weight("wide", "Linear", (70, 9000), "spectral", 1.0, 0.3),
    Weight("heads", "Linear", (4, 33, 65), "spectral", 1.0, 0.3),
    Weight("bias", "Bias", (555,), "rms", 1.0, 0.1),
    Weight("scale", "Scale", (555,), "max", 1.0, 0.7),
    Weight("readout", "Readout", (1000, 96), "row", 1.0, 0.25),
    Weight("sign", "Linear", (200, 300), "sign", 1.0, 0.2),
    Weight("frobenius", "Linear", (70, 9000), "frobenius", 1.0, 0.3),
)
normalising = pytest.mark.parametrize("kind", [NormedAdam, NormedSGD])


def run(
    kind: Any, device: str, dtype: torch.dtype, steps: int, **options: Any
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    named = [
        (w.name, nn.Parameter(torch.randn(w.shape, generator=draw).to(device, dtype))) for w in PLAN
    ]
    optimizer = kind(named, lr=0.5, plan=PLAN, weight_decay=0.1, **options)
    for _ in range(steps):
        for _, p in named:
            p.grad = torch.randn(p.shape, generator=draw).to(device, dtype)
        optimizer.step()
    assert len(optimizer._launched) == (device == "cuda" and not optimizer.dual)
    return {n: optimizer.state[p].get("master", p).detach().float().cpu() for n, p in named}


@normalising
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_on_the_cpu(kind: Any, dtype: torch.dtype) -> None:
    found, wanted = run(kind, "cuda", dtype, 5), run(kind, "cpu", dtype, 5)
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dualized_as_on_the_cpu(dtype: torch.dtype) -> None:
    found, wanted = run(DualizedSGD, "cuda", dtype, 3), run(DualizedSGD, "cpu", dtype, 3)
    for w in PLAN:
        error = (found[w.name] - wanted[w.name]).square().mean().sqrt()
        assert float(error) < 0.05 * w.target, w.name


@pytest.mark.parametrize("kind", [NormedAdam, NormedSGD, DualizedSGD])
def test_two_runs_are_equal_to_the_last_bit(kind: Any) -> None:
    first, second = run(kind, "cuda", torch.float32, 5), run(kind, "cuda", torch.float32, 5)
    assert all(torch.equal(first[name], second[name]) for name in first)


@normalising
def test_three_kernels_a_step_and_no_memory(kind: Any) -> None:
    named = [(w.name, nn.Parameter(torch.randn(w.shape, device="cuda"))) for w in PLAN]
    optimizer = kind(named, lr=0.5, plan=PLAN)
    for _, p in named:
        p.grad = torch.randn_like(p)
    for _ in range(2):
        optimizer.step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    kinds = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        optimizer.step()
        torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    cuda = torch.autograd.DeviceType.CUDA
    kernels = [
        e.name for e in profile.events() if e.device_type == cuda and "mem" not in e.name.lower()
    ]
    assert kernels == ["moments_kernel", "reduce_kernel", "apply_kernel"]


@normalising
def test_a_recorded_graph_goes_on_with_new_gradients_and_learning_rates(kind: Any) -> None:
    def prepared() -> tuple[Any, Any, Tensor]:
        draw = torch.Generator().manual_seed(1)
        named = [(w.name, nn.Parameter(torch.randn(w.shape, generator=draw).cuda())) for w in PLAN]
        lr = torch.tensor(0.5, device="cuda")
        optimizer = kind(named, lr=lr, plan=PLAN, weight_decay=0.1, nonfinite="skip")
        for _, p in named:
            p.grad = torch.zeros_like(p)
        return named, optimizer, lr

    def give(named: Any, step: int) -> None:
        draw = torch.Generator().manual_seed(step)
        for _, p in named:
            p.grad.copy_(torch.randn(p.shape, generator=draw))

    eager, eager_optimizer, eager_lr = prepared()
    graphed, optimizer, lr = prepared()
    for step in range(2):
        for named, one in ((eager, eager_optimizer), (graphed, optimizer)):
            give(named, step)
            one.step()
    graph = torch.cuda.CUDAGraph()
    weights = [p.detach().clone() for _, p in graphed]
    with torch.cuda.graph(graph):
        optimizer.step()
    assert all(torch.equal(p, w) for (_, p), w in zip(graphed, weights, strict=True))
    for step in range(2, 5):
        for rate in (eager_lr, lr):
            rate.mul_(0.5)
        give(eager, step)
        eager_optimizer.step()
        give(graphed, step)
        graph.replay()
    for (name, p), (_, q) in zip(eager, graphed, strict=True):
        assert torch.equal(p, q), name
