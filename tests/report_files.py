"""Files that a report shows beside a model, as `modnorm check` and the monitor write them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from modnorm.codegen.plan import records
from modnorm.passes.program import Program

GPT = Path(__file__).resolve().parents[1] / "examples" / "gpt.mod"

CHECK: dict[str, Any] = {
    "model": "GPT",
    "source": "gpt.mod",
    "params": {"blocks": 4},
    "seed": 0,
    "data": "random",
    "kappa": None,
    "measured_kappa": 0.75,
    "modules": [
        {
            "path": "block.2.attention",
            "name": "attention",
            "kind": "def",
            "line": 24,
            "norm": "P",
            "input": {"low": 0.9, "high": 1.0},
            "declared": 1.0,
            "certified": 2.0,
            "measured": 1.625,
            "verdict": "above declared",
        },
        {
            "path": "block.0.mlp.ScaledGELU.gelu",
            "name": "GELU",
            "kind": "bond",
            "line": 6,
            "norm": "P",
            "input": {"low": None, "high": 1.0},
            "declared": 0.7071,
            "certified": 1.1289,
            "measured": 1.25,
            "verdict": "violated",
        },
        {
            "path": "linear",
            "name": "Linear",
            "kind": "atom",
            "line": 27,
            "norm": "P",
            "input": {"low": 1.0, "high": 1.0},
            "declared": 1.0,
            "certified": 1.0,
            "measured": 0.9375,
            "verdict": "ok",
        },
    ],
    "weights": [{"weight": "linear.weight", "norm": 1.0, "target": 0.142857, "change": 0.125}],
    "coordinates": {
        "optimizer": "NormedAdam",
        "params": [
            {
                "param": "d_embed",
                "sizes": [32, 64, 128],
                "modules": [
                    {
                        "path": "block.0.mlp",
                        "quantity": "change",
                        "values": [0.5, 0.505, 0.5],
                        "slope": 0.0125,
                        "error": 0.01,
                        "verdict": "flat",
                    }
                ],
            }
        ],
    },
    "violations": ["GELU at gpt.mod:20 stretches its input by 1.25, certified are 1.1289"],
}


def write_check(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**CHECK, **changes}), encoding="utf-8")
    return path


def write_run(path: Path, program: Program, steps: int = 40) -> Path:
    """A run in which norms fall, cosines wave and the first weight is not known at first."""
    found = list(records(program))
    names = [record.name for record in found]
    head = {"modnorm": "monitor", "version": 1, "model": program.name, "optimizer": "NormedAdam"}
    lines = [json.dumps({**head, "weights": names, "targets": [r.target for r in found]})]
    for step in range(1, steps + 1):
        t = step / steps
        values = {
            "norm": [1 - 0.01 * i * t for i, _ in enumerate(names)],
            "slack": [
                None if not i and step == 1 else 1 + 0.1 * (1 - t) for i, _ in enumerate(names)
            ],
            "cosine": [0.5 + 0.3 * math.sin(6 * t + i) for i, _ in enumerate(names)],
            "spent": [1 / len(names)] * len(names),
        }
        row = {"step": 10 * step, "lr": 0.1 * (1 - t), "loss": 4 * math.exp(-t), **values}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
