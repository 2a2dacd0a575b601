"""How a weight of the language is made of tensors of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from modnorm.adopting.execute import execute
from modnorm.adopting.trace import Trace
from modnorm.graph.renames import Recipe
from modnorm.importing.problems import Unsaid


def recipe(trace: Trace, number: int) -> Recipe:
    """How a value that is made of one parameter is made of it.

    Raises:
        Unsaid: if that is not its entries, in order or transposed, a part of them, or their sum or
            product with a number.
    """
    value = trace.values[number]
    labels = value.weight
    if labels is None or not labels.is_affine:
        raise Unsaid("a weight is put together in a way that no file can say")
    name = trace.parameter(labels.offset)
    shape = [n for n in labels.shape if n > 1]
    strides = [s for n, s in zip(labels.shape, labels.stride, strict=True) if n > 1]
    offset = labels.offset - trace.starts[name]
    own = trace.shapes[name]
    found = located(name, own, offset, shape, strides)
    if value.leaf is None:
        found = computed(trace, number, offset, found)
    return found


def located(
    name: str, own: tuple[int, ...], offset: int, shape: Sequence[int], strides: Sequence[int]
) -> Recipe:
    """The entries of a parameter from an offset on, in steps."""
    found: Recipe = name
    sizes = [n for n in own if n > 1]
    axes = [i for i, n in enumerate(own) if n > 1]
    steps = [math.prod(own[i + 1 :]) for i in axes]
    order = []
    for n, stride in zip(shape, strides, strict=True):
        if stride not in steps:
            raise Unsaid("a weight is read in steps that no file can say")
        order.append(steps.index(stride))
        del n
    if len(set(order)) < len(order) or len(order) < len(sizes):
        raise Unsaid("a weight is read in part, or more than once")
    for i, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        at = order[i]
        start = offset // stride % sizes[at]
        if n < sizes[at]:
            found = ("part", found, axes[at], start, start + n, 0)
    if order == sorted(order):
        return found
    if order == [1, 0] and len(own) == 2:
        return ("transposed", found)
    raise Unsaid("the axes of a weight are put in an order that no file can say")


def computed(trace: Trace, number: int, offset: int, found: Recipe) -> Recipe:
    """A recipe with what a value adds to its entries, or multiplies them by."""
    labels = trace.values[number].weight
    assert labels is not None
    name, seed = trace.parameter(labels.offset), torch.Generator().manual_seed(0)
    given = {  # other numbers, lest what is computed is the same by chance
        v.number: torch.rand(v.shape, generator=seed) + 0.5
        for v in trace.values
        if v.leaf is not None and v.weight is not None
    }
    whole = given[stored(trace, name)]
    made = execute(trace, [number], given)[number].detach().double()
    at = labels.tensor().expand(labels.shape) - labels.offset + offset
    entries = whole.double().reshape(-1)[at]
    if torch.equal(made, entries):
        return found
    more = made - entries
    if bool(((more - more.flatten()[0]).abs() < 1e-6).all()):
        return ("add", number_of(float(more.flatten()[0])), found)
    ratio = made / entries
    if bool(((ratio / ratio.flatten()[0] - 1).abs() < 1e-5).all()):
        return ("mul", number_of(float(ratio.flatten()[0])), found)
    raise Unsaid("a weight is computed from parameters, as a weight norm is")


def stored(trace: Trace, name: str) -> int:
    """The number of the value that is a parameter, whole. Raises Unsaid where there is none."""
    for value in trace.values:
        if (
            value.leaf is not None and value.weight is not None
            and value.weight.offset == trace.starts[name] and value.shape == trace.shapes[name]
        ):  # fmt: skip
            return value.number
    raise Unsaid(f"the parameter {name} is not read as a whole")


def number_of(x: float) -> float | int:
    """A number without rounding errors of float32."""
    short = float(f"{x:.6g}")
    return int(short) if short.is_integer() else short


def part(found: Recipe, dim: int, start: int, end: int, every: int = 0) -> Recipe:
    """Some entries of it along an axis: with `every`, those of each so many."""
    if isinstance(found, tuple) and found[0] == "transposed":
        return ("transposed", part(found[1], 1 - dim, start, end, every))
    if isinstance(found, tuple) and found[0] == "add":
        return ("add", *(x if isinstance(x, (int, float)) else part(x, dim, start, end, every)
                         for x in found[1:]))  # fmt: skip
    return ("part", found, dim, start, end, every)


def text_of(found: Recipe) -> str:
    """A recipe as it is written in a file."""
    if isinstance(found, str):
        return f'"{found}"'
    if isinstance(found, (int, float)):
        return str(found)
    kind, *rest = found
    if kind == "transposed":
        return f"transposed({text_of(rest[0])})"
    if kind == "part":
        inner, dim, start, end, every = rest
        more = f", dim = {dim}" if dim else ""
        more += f", every = {every}" if every else ""
        return f"part({text_of(inner)}, {start}, {end}{more})"
    return (" + " if kind == "add" else " * ").join(map(text_of, rest))


def names_in(found: Recipe) -> list[str]:
    """The tensors of the checkpoint that a recipe takes."""
    if isinstance(found, str):
        return [found]
    if isinstance(found, tuple):
        return [name for x in found[1:] for name in names_in(x)]
    return []
