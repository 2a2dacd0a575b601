"""Triton kernels on CPU tensors, in its interpreter, which is mended, and made faster."""

from __future__ import annotations

import functools
import math

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

    block_type, block_types = tl.block_type.__init__, dict[object, dict[str, object]]()

    @functools.cache
    def shape_of(*sizes):
        return tl.tuple([tl.constexpr(size) for size in sizes]), tl.constexpr(math.prod(sizes))

    def new_block_type(self, element_ty, shape):
        """Triton 3.6 makes each value a type, with a name that is written out; here they share."""
        sizes = shape.value if isinstance(shape, tl.constexpr) else shape
        key = element_ty.name, *(getattr(size, "value", size) for size in sizes)
        if key not in block_types:
            block_type(self, element_ty, shape)
            block_types[key] = dict(self.__dict__)
        self.__dict__.update(block_types[key])

    def new_tensor(self, handle, type):
        """As in Triton 3.6, but for a shape that is made once."""
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = shape_of(*(type.shape if type.is_block() else ()))

    def np_dtype(tt_dtype):
        """From a table that Triton 3.6 writes anew for each operation."""
        if (found := np_dtypes.get(tt_dtype.name)) is None:
            found = np_dtypes[tt_dtype.name] = get_np_dtype(tt_dtype)
        return found

    get_np_dtype, np_dtypes = interpreter._get_np_dtype, dict[str, np.dtype]()
    interpreter._get_np_dtype = np_dtype
    # Each sum of integers was taken twice, in 64 bits, to see whether it fits.
    quiet = interpreter.InterpreterOptions(sanitize_overflow=False)
    interpreter.interpreter_builder.options = quiet

    def equal(self, other):
        """As in Triton 3.6, but for types of both that nobody asks for."""
        values = other.values if isinstance(other, tl.tuple) else list(other)
        return tl.constexpr(self.values == values)

    tl.tuple.__eq__ = equal
    tl.block_type.__init__ = new_block_type
    tl.tensor.__init__ = new_tensor
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
