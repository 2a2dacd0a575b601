"""Triton, where there is a device for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch

# modnorm: begin
# Triton moves weights that are on a GPU (CUDA or ROCm). It is not imported where there is none, and
# without it plain torch does the same.
triton: Any = None
tl: Any = None
INTERPRETED = False  # may kernels get CPU tensors? With TRITON_INTERPRET=1 they can, for tests.
if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
    with suppress(ImportError):
        triton, tl = import_module("triton"), import_module("triton.language")


def jit(function: Callable[..., Any]) -> Any:
    """The function as a Triton kernel; as it is where there is no Triton, and no one calls it."""
    return triton.jit(function) if triton else function


def constant(value: int) -> Any:
    """A number under a name that kernels may use."""
    return tl.constexpr(value) if tl else value


# modnorm: end
