"""How much the tests do: a fixed, moderate number of examples, or with MODNORM_LONG=1 thousands."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported: tests run side by side, and small tensors gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before triton is imported: without a GPU its kernels run on CPU tensors, if tests/triton gives
# them any.
if not any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from hypothesis import HealthCheck, settings

COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}

settings.register_profile("normal", max_examples=40, derandomize=True, database=None, **COMMON)
settings.register_profile("long", max_examples=3000, print_blob=True, **COMMON)
settings.load_profile("long" if os.environ.get("MODNORM_LONG") else "normal")

pytest.register_assert_rewrite("checks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest ones first, so that at the end no worker waits for another."""
    long = ("/triton/", "test_transfer_killed", "test_docs")
    items.sort(key=lambda item: not any(part in item.path.as_posix() for part in long))
