"""Checkpoints of sharded weights, by torch.distributed.checkpoint, on as many ranks or others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

RUNS = [
    ("gpt", "NormedAdam", False), ("gpt2", "NormedSGD", True), ("mixtral", "NormedAdam", True),
    ("rescnn", "DualizedSGD", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "flat"), RUNS)
def test_a_run_goes_on_from_a_checkpoint(
    world: Any, tmp_path: Path, name: str, kind: str, flat: bool
) -> None:
    own = (str(tmp_path), name, kind)
    world(4).call("sharded_faults.save", *own, "rows", flat)
    for worst, equal in world(4).call("sharded_faults.resume", *own, "rows", flat):
        assert equal
        assert worst == 0
    if kind != "DualizedSGD":  # in float32 its steps are no more alike on other numbers of ranks
        for form, count in (("rows", 2), ("rows", 1), ("copies", 4)):
            for worst, _ in world(count).call("sharded_faults.resume", *own, form, flat):
                assert worst <= 1e-5, (form, count)


@pytest.mark.parametrize("flat", [False, True])
def test_a_checkpoint_of_another_plan_is_refused(world: Any, tmp_path: Path, flat: bool) -> None:
    world(2).call("sharded_faults.save", str(tmp_path), "gpt", "NormedAdam", "rows", flat)
    found = world(2).attempt(
        "sharded_faults.resume", str(tmp_path), "gpt", "NormedAdam", "rows", flat, True
    )
    for _, trace in found:
        assert "plan_hash" in trace
