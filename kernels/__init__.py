"""The runtime of compiled models: plans, norms, optimizers, kernels for GPUs, and the monitor.

It needs torch alone, and Triton where there is a GPU. Nothing is imported before it is used: the
compiler asks `tiles` and `schemes`, which need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adam import NormedAdam
    from .checkpoint import load_checkpoint
    from .dualized import DualizedOptimizer
    from .monitor import Monitor
    from .optimizer import NormedOptimizer
    from .plan import Norm, Plan, plan_hash
    from .rule import Rule
    from .sgd import DualizedSGD, NormedSGD
    from .streams import residual_stream
    from .weight import Layout, Weight

__all__ = [
    "DualizedOptimizer",
    "DualizedSGD",
    "Layout",
    "Monitor",
    "Norm",
    "NormedAdam",
    "NormedOptimizer",
    "NormedSGD",
    "Plan",
    "Rule",
    "Weight",
    "load_checkpoint",
    "plan_hash",
    "residual_stream",
]
PARTS = (
    *("streams", "weight", "plan", "rule", "optimizer", "dualized", "adam", "sgd", "monitor"),
    "checkpoint",
    *("launch", "polar_launch", "sharded"),  # move weights on a GPU or of DTensors, once imported
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = [import_module(f".{part}", __name__) for part in PARTS]
    return next(vars(module)[name] for module in modules if name in vars(module))
