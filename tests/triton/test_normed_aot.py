"""The normalising kernels compile for devices that are not here, without spilling registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.triton

LONG = bool(os.environ.get("MODNORM_LONG"))
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
"""Bytes of shared memory that a program may have."""


def told(cache: Path) -> list[dict[str, Any]]:
    """What the compilers say; in a process where Triton's interpreter is off."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    command = [sys.executable, str(Path(__file__).with_name("ahead.py")), "normed"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_kernels_compile_and_spill_no_registers(tmp_path: Path) -> None:
    """One test, since what is compiled takes long, and tests of a file may run in two processes."""
    reports = told(tmp_path)
    for device, most in SHARED.items():
        if device not in ("sm_90", "gfx942") and not LONG:  # of each maker one
            continue
        found = [report for report in reports if report["device"] == device]
        assert {report["kernel"] for report in found} == {"moments", "reduce", "apply"}
        assert "gpt" in {report["model"] for report in found}
        assert all(report["shared"] <= most for report in found)
    models = {report["model"] for report in reports if report["device"] == "gfx942"}
    assert models >= {"gpt", "norms"}
    found = [report for report in reports if report["device"] == "sm_90"]
    assert {report["variant"] for report in found} == {"adam", "sgd", "bf16"}
    assert {report["model"] for report in found} == {"gpt", "cnn", "norms", "wide"}
    assert [report for report in found if report["spilled"]] == []
