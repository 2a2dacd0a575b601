"""Triton kernels on CPU tensors, in its interpreter, which is mended, and made faster."""

from __future__ import annotations

import numpy as np
import pytest

try:
    import torch  # noqa: F401
    import triton.language as tl
    from triton.runtime import interpreter
except ImportError:
    collect_ignore_glob = ["test_*.py"]
else:
    general, builder = interpreter._convert_float, interpreter.InterpreterBuilder
    general_dot = builder.create_dot

    def convert(x, source, target, rounding):
        """Triton 3.6 rounds to bfloat16 without carrying and loses NaN; this rounds to nearest."""
        if source == tl.bfloat16 and target == tl.float32:
            return x.view(np.uint16).astype(np.uint32) << 16
        if source == tl.float32 and target == tl.bfloat16:
            bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
            near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return np.where(np.isnan(x.view(np.float32)), 0x7FC0, near).astype(np.uint16)
        return general(x, source, target, rounding)

    def create_dot(self, a, b, d, *options):
        """Triton 3.6 multiplies bfloat16 entries as if their bits were integers."""
        if a.dtype.scalar == tl.bfloat16:
            a, b = (self.cast_impl(x, tl.float32) for x in (a, b))
        return general_dot(self, a, b, d, *options)

    patch, patched = interpreter._patch_lang, set[bool]()

    def patch_once(fn):
        """Triton 3.6 looks through all of its language in each call of a function in a kernel.

        Once in a kernel is enough for those that see `triton.language`, and for those of Triton's
        own that see its core.
        """
        if (kind := any(x is tl for x in fn.__globals__.values())) in patched:
            return interpreter._LangPatchScope()
        scope = patch(fn)
        if not patched:  # the kernel's; only this one is restored
            restore = scope.restore
            scope.restore = lambda: (patched.clear(), restore())
        patched.add(kind)
        return scope

    interpreter._convert_float = convert
    interpreter._patch_lang = patch_once
    builder.create_dot = create_dot

    from modnorm.kernels import launch, polar_launch

    @pytest.fixture(autouse=True)
    def kernels_get_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (launch, polar_launch):
            monkeypatch.setattr(module, "INTERPRETED", True)


def pytest_report_header() -> str | None:
    return "tests/triton: left out, torch or triton is missing" if "tl" not in globals() else None
