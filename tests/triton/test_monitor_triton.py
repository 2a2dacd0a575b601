"""The monitor where kernels move the weights, under Triton's interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_launch_triton import PLAN, both, give_gradients, parameters, run

import modnorm
from modnorm.kernels import NormedOptimizer
from modnorm.kernels.monitor import Monitor
from modnorm.kernels.plan import NORMS

pytestmark = pytest.mark.triton


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_measures_as_without_kernels(
    kind: Any, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the lengths of steps by a norm that is estimated, once here and once there."""
    found = []
    for name in ("launched", "plain"):
        if name == "plain":
            monkeypatch.setattr(NormedOptimizer, "launches", None)
        named = parameters(dtype)
        optimizer = run(kind, named, 0)
        with Monitor(optimizer, tmp_path / name, every=2):
            for step in range(4):
                give_gradients(named, step)
                optimizer.step()
        assert bool(optimizer._launched) == (name == "launched")
        found.append(modnorm.read_monitor(tmp_path / name))
    for ours, theirs in zip(found[0].rows, found[1].rows, strict=True):
        for key in ("norm", "slack", "cosine", "spent"):
            pairs = zip(PLAN, getattr(ours, key), getattr(theirs, key), strict=True)
            for w, x, y in pairs:
                assert (x is None) == (y is None), w
                if x is None or y is None:
                    continue
                if not NORMS[w.norm].vector:
                    assert x == pytest.approx(y, rel=1e-4, abs=1e-5), (key, w)
                elif key == "cosine":
                    assert x == pytest.approx(y, abs=0.1)
                else:
                    assert 1 / 1.5 < x / y < 1.5, (key, w)


@both
def test_training_with_kernels_is_the_same_to_the_last_bit(kind: Any, tmp_path: Path) -> None:
    watched, named = parameters(), parameters()
    optimizer = run(kind, watched, 0)
    with Monitor(optimizer, tmp_path / "run.jsonl", every=1):
        for step in range(3):
            give_gradients(watched, step)
            optimizer.step()
    run(kind, named, 3)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(watched, named, strict=True))
