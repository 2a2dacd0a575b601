"""Which entries of parameters a tensor shows: a number for each of its places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

NONE = -1
"""The label of a place that shows no parameter's entry."""


@dataclass(frozen=True)
class Labels:
    """Labels of a tensor of this shape: offset + Σ index·stride, or as `given` says.

    Parameters' entries are counted through, one parameter after the other, each in the order of its
    own axes, so that a label says which parameter and where. A weight, a part of one or a copy has
    its entries' labels. An activation has, for each feature, the label of the first entry of the
    row that made it.
    """

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    given: Tensor | None = None

    @classmethod
    def of(cls, given: Tensor) -> Labels:
        """Labels as they are in a tensor of int64; the strides, if there are any such."""
        shape = tuple(given.shape)
        if not given.numel():
            return cls(NONE, shape, (0,) * len(shape))
        first = int(given[(0,) * given.ndim])
        strides = []
        for axis, size in enumerate(shape):
            second = int(given[tuple(int(a == axis) for a in range(given.ndim))]) if size > 1 else 0
            strides.append(second - first if size > 1 else 0)
        found = cls(first, shape, tuple(strides))
        return found if bool((found.tensor() == given).all()) else cls(first, shape, (), given)

    @property
    def is_affine(self) -> bool:
        return self.given is None

    def tensor(self) -> Tensor:
        """The labels, int64, of this shape; what does not change along an axis is there once."""
        if self.given is not None:
            return self.given
        found = torch.tensor(self.offset)
        for size, stride in zip(self.shape, self.stride, strict=True):
            along = torch.arange(size) * stride if stride else torch.zeros(1, dtype=torch.int64)
            found = found.unsqueeze(-1) + along
        return found.expand(self.shape)

    def distinct(self) -> Tensor:
        """Those that occur, each once, in order."""
        found = self.tensor()
        for axis, stride in enumerate(found.stride()):
            if stride == 0:
                found = found.narrow(axis, 0, min(1, found.shape[axis]))
        once: Tensor = torch.unique(found)
        return once[once != NONE]

    def like(self, shape: Sequence[int]) -> Labels:
        """Broadcast to a shape."""
        if tuple(shape) == self.shape:
            return self
        if self.given is not None:
            return Labels(self.offset, tuple(shape), (), self.given.expand(tuple(shape)))
        more = len(shape) - len(self.shape)
        pairs = zip(self.stride, self.shape, shape[more:], strict=True)
        own = tuple(stride if old == new else 0 for stride, old, new in pairs)
        return Labels(self.offset, tuple(shape), (0,) * more + own)


def replay(func: Any, args: Any, kwargs: Any, labels: dict[int, Labels]) -> list[Labels] | None:
    """What an operation that moves entries makes of labels; None where it cannot be said.

    labels: of the tensors in args, by their ids. Other floats there have none.
    """

    def swap(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) in labels:
            return labels[id(x)].tensor()
        if x.is_floating_point():
            return torch.full((), NONE).expand(x.shape)
        return x.cpu()

    args, kwargs = tree_map(swap, args), tree_map(swap, kwargs)
    name = func.overloadpacket.__name__
    if name in ("pad", "constant_pad_nd"):
        constant = name == "constant_pad_nd" or [*args, "constant"][2] == "constant"
        args = (args[0].contiguous(), args[1], *([] if name != "pad" else ["constant"]), NONE)
        if not constant:
            return None
        kwargs = {}
    if name in ("view", "_unsafe_view"):
        func = torch.ops.aten.reshape.default
    try:
        out = func(*args, **kwargs)
    except (RuntimeError, NotImplementedError, TypeError):
        return None
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    return [Labels.of(x) for x in outs if isinstance(x, Tensor)]
