"""What a step does not do: allocate memory, or depend on how weights are put together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimizer_cases import PLAN, everything, give_gradients, parameters, run
from torch.profiler import ProfilerActivity, profile

from modnorm.kernels import NormedAdam, NormedSGD
from modnorm.kernels.weight import Weight

LARGE = (
    Weight("embed", "Embed", (300, 64), "row_rms", 1.0, 0.25),
    Weight("a", "Linear", (512, 128), "spectral", 1.0, 0.2),
    Weight("b", "Linear", (128, 512), "spectral", 1.0, 0.3),
    Weight("c", "Linear", (512, 128), "spectral", 1.0, 0.3),
    Weight("bias", "Bias", (30_000,), "rms", 1.0, 0.1),
    Weight("scale", "Scale", (1_000,), "max", 1.0, 0.7),
)


def largest_allocation(optimizer: torch.optim.Optimizer) -> int:
    """The most bytes that one operation of a step allocates and does not free by itself."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        optimizer.step()
    return max(event.self_cpu_memory_usage for event in profiler.events())


@pytest.mark.parametrize("kind", [NormedAdam, NormedSGD])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"iterations": 2}])
def test_nothing_is_allocated_but_vectors(kind: Any, options: dict[str, Any]) -> None:
    """Weights, but for Scale, have more than 65 kB; their longest side and Scale have 4 kB."""
    named = parameters(plan=LARGE)
    optimizer = kind(named, lr=0.1, plan=LARGE, **options)
    for step in range(3):
        give_gradients(named, step)
        optimizer.step()
    give_gradients(named, 3)
    assert largest_allocation(optimizer) <= 4096
    low = parameters(torch.bfloat16, LARGE)  # converts gradients: the count is not blind
    assert largest_allocation(run(kind, low, 1, plan=LARGE)) > 65_536


@pytest.mark.parametrize("kind", [NormedAdam, NormedSGD])
@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"iterations": 3}])
def test_stacks_as_other_devices_have_them(kind: Any, options: dict[str, Any]) -> None:
    """On a CPU weights are measured one by one; stacked they get the same updates.

    For single matrices other bounds of the norm are at hand there: these updates differ in size.
    """

    class Stacked(kind):  # type: ignore[misc, valid-type]
        def _stacks(self, device: torch.device) -> bool:
            return True

    single = [w for w in (*PLAN, *LARGE) if w.norm == "spectral" and len(w.shape) == 2]
    for plan in (tuple(w for w in PLAN if w not in single), tuple(single)):
        one, other = parameters(plan=plan), parameters(plan=plan)
        first, second = (
            run(k, x, 4, plan=plan, **options) for k, x in ((kind, one), (Stacked, other))
        )
        slack = second.slack()
        assert slack
        if plan == tuple(single):
            for size in (*slack.values(), *first.slack().values()):
                assert size == 0 or 1 - 1e-5 <= size <= 1.3
            continue
        for x, y in zip(everything(first, one), everything(second, other), strict=True):
            torch.testing.assert_close(x, y, rtol=2e-5, atol=2e-6)
        assert slack == pytest.approx(first.slack(), rel=1e-5)


def test_what_the_memory_held_does_not_matter() -> None:
    """Another weight's update, or the same one's at another scale, is gone without a trace."""
    plan = (Weight("w", "Linear", (64, 32), "spectral", 1.0, 0.5),)
    one, other = parameters(plan=plan), parameters(plan=plan)
    first, second = (NormedAdam(named, lr=0.1, plan=plan) for named in (one, other))
    for step in range(3):
        give_gradients(one, step)
        give_gradients(other, step)
        first.step()
        for _, memory, _ in [b for batches in second._batches.values() for b in batches]:
            memory.copy_(torch.randn(memory.shape) * 1e30)
        second.step()
    assert torch.equal(one[0][1], other[0][1])


def test_an_update_too_large_for_float32_moves_nothing_and_leaves_nothing_behind() -> None:
    """A moment of 1e17 over a second moment of 0 and an eps of 1e-30 is infinite."""
    plan = tuple(Weight(n, "Linear", (8, 4), "spectral", 1.0, 0.5) for n in "ab")
    named = parameters(plan=plan)
    optimizer = NormedAdam(named, lr=0.1, plan=plan, betas=(0.9, 0.0), eps=1e-30)
    give_gradients(named, 0, 1e17)
    optimizer.step()
    before = named[0][1].detach().clone()
    for _, p in named:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(named[0][1], before)
    give_gradients(named, 1)
    optimizer.step()
    assert not torch.equal(named[0][1], before)
    assert all(x.isfinite().all() for x in everything(optimizer, named))
