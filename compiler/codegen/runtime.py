"""What every generated model needs, as real source: the region below is copied into the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn


# modnorm: begin
class Input(NamedTuple):
    """One input of the model; a size is a number, or a name where it is free."""

    name: str
    dtype: str  # "int", "float" or "bool"
    shape: tuple[int | str, ...]
    bound: int | str | None  # integers are below it


class Part(nn.Module):
    """A named part of a model: it holds modules and computes nothing itself."""

    if TYPE_CHECKING:  # what stands in it is known when it is made

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def blank(
    *shape: int, device: Any = None, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.dtype]:
    """An empty weight in a precision that it can be initialised in, and the dtype it shall have."""
    dtype = dtype or torch.get_default_dtype()
    wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    return torch.empty(shape, device=device, dtype=wide), dtype


# modnorm: end
