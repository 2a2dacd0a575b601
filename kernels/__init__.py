"""The runtime of compiled models: plans, norms, optimizers, kernels for GPUs, and the monitor.

It needs torch alone, and Triton where there is a GPU. Nothing is imported before it is used: the
compiler asks `tiles` and `schemes`, which need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adam import NormedAdam
    from .dualized import DualizedOptimizer
    from .monitor import Monitor
    from .optimizer import NormedOptimizer
    from .plan import Norm, Plan, Weight, plan_hash
    from .rule import Rule
    from .sgd import DualizedSGD, NormedSGD

__all__ = [
    "DualizedOptimizer",
    "DualizedSGD",
    "Monitor",
    "Norm",
    "NormedAdam",
    "NormedOptimizer",
    "NormedSGD",
    "Plan",
    "Rule",
    "Weight",
    "plan_hash",
]
PLACES = {
    **{"Monitor": "monitor", "NormedAdam": "adam", "NormedOptimizer": "optimizer"},
    **{"DualizedOptimizer": "dualized", "DualizedSGD": "sgd", "NormedSGD": "sgd", "Rule": "rule"},
    **dict.fromkeys(("Norm", "Plan", "Weight", "plan_hash"), "plan"),
}
ON_GPU = ("launch", "polar_launch")
"""What moves weights there, once it is imported."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for part in ON_GPU:
        import_module(f".{part}", __name__)
    return getattr(import_module(f".{PLACES[name]}", __name__), name)
