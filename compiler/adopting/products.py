"""Products of bfloat16 on CPUs, which take many times as long where no instruction makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}


class InFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Products of bfloat16 on a CPU are computed in float32 and rounded.

    That is what those instructions do. Optimizers orthogonalise in bfloat16: on a CPU without them
    a step takes thirty times as long.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in PRODUCTS and all(is_small(x) for x in args if isinstance(x, Tensor)):
            wide = [x.float() if isinstance(x, Tensor) else x for x in args]
            return func(*wide, **(kwargs or {})).bfloat16()
        return func(*args, **(kwargs or {}))


def is_small(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu"
