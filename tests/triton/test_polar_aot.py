"""The kernels for polar factors compile for every class of device, and fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modnorm.kernels.polar_tiles import DEVICE_CLASSES

pytestmark = pytest.mark.triton
LONG = bool(os.environ.get("MODNORM_LONG"))
SCRIPT = Path(__file__).parent / "compile_polar.py"
DEVICES = list(DEVICE_CLASSES) if LONG else ["sm_90", "gfx942"]
"""Of each maker one, but in long mode: these kernels take long."""
KERNELS = {"polar_gram", "polar_start", "polar_multiply", "polar_small"}


@pytest.fixture(scope="module", params=DEVICES)
def compiled(request, tmp_path_factory) -> tuple[str, list[dict[str, Any]]]:
    """What the compiler says of each kernel, with the tiles of some shapes; in long mode all."""
    everything = ["all"] if LONG else []
    cache = {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | cache
    command = [sys.executable, str(SCRIPT), request.param, *everything]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return request.param, [json.loads(line) for line in result.stdout.splitlines()]


def test_every_kernel_compiles_and_fits(compiled):
    device, rows = compiled
    limit, ordered = DEVICE_CLASSES[device].shared, DEVICE_CLASSES[device].ordered
    wanted = KERNELS if ordered else KERNELS - {"polar_small"}
    assert {(row["kernel"], row["type"]) for row in rows} == {
        (kernel, kind) for kernel in wanted for kind in ("bf16", "fp32")
    }
    assert [row for row in rows if row["shared"] > limit] == []
    if device == "sm_90":
        assert [row for row in rows if row["spilled"]] == []
