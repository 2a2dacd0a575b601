"""What each logical weight of a model is: its role, the operation it is one of, and its norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from modnorm.adopting.flow import Flow
from modnorm.adopting.operations import KEEPS, MOVES
from modnorm.adopting.pieces import Piece, Signs, Uncut, cut
from modnorm.adopting.trace import Node, Trace
from modnorm.adopting.uses import Use, along, weight_names
from modnorm.kernels.weight import Layout
from modnorm.ops.conv import Conv1D, Conv2D, ConvTranspose2D
from modnorm.ops.embed import Embed
from modnorm.ops.linear import Linear
from modnorm.ops.parameter import Parameter
from modnorm.ops.vectors import Bias, Scale

ORDER = ("matrix", "kernel", "table", "vector", "gain", "bias", "opaque")
"""Kinds of uses; of several of a parameter, the first says what it is."""
MATRICES = ("matrix", "readout", "router", "experts", "conv", "taps")
"""Roles of weights that consist of matrices."""


@dataclass(frozen=True)
class Found:
    """A logical weight.

    name: in the plan. parameter: that holds it. atom, norm: of the language. uses: all of them.
    rows: labels of its rows, where it is one of several weights of a parameter, else None.
    """

    name: str
    parameter: str
    role: str
    atom: str
    norm: str
    shape: tuple[int, ...]
    layout: Layout | None
    uses: tuple[Use, ...]
    rows: Tensor | None = None


def by_parameter(uses: Sequence[Use], trace: Trace) -> dict[str, list[Use]]:
    """The uses of each parameter."""
    found: dict[str, list[Use]] = {}
    for use in uses:
        for name in weight_names(use.number, trace):
            found.setdefault(name, []).append(use)
    return found


def find_roles(trace: Trace, uses: Sequence[Use], flow: Flow) -> Iterator[Found]:
    """The logical weights, in the order in which they are first used."""
    signs = Signs(trace.reads, trace.links.values())
    last = last_weights(trace, uses, flow)
    for name, own in by_parameter(uses, trace).items():
        kinds = {use.kind for use in own}
        kind = next(k for k in ORDER if k in kinds)
        role: str = kind
        if kind == "matrix" and "table" in kinds:
            kind, role = "table", "tied"
        main = [use for use in own if use.kind == kind]
        shape = trace.shapes[name]
        try:
            pieces = cut(name, main, trace, signs) if kind != "opaque" else []
            if covered(pieces) != math.prod(shape):
                pieces = []
        except Uncut:
            pieces = []
        if not pieces:
            role = "opaque" if kind in ("matrix", "kernel", "table") else role
            yield whole(name, shape, role if role != "kernel" else "opaque", own)
            continue
        names = piece_names(pieces, trace, flow)
        for piece, part in zip(pieces, names, strict=True):
            uses_here = tuple(own) if len(pieces) == 1 else piece.uses
            found = described(name, kind, role, piece, uses_here, trace, last)
            if len(pieces) > 1:
                found = replace(found, name=f"{name}.{part}")
            if len(pieces) > 1 or any(len(weight_names(u.number, trace)) > 1 for u in own):
                found = replace(found, rows=piece.rows)
            yield found


def covered(pieces: Sequence[Piece]) -> int:
    """How many entries are in some piece; 0 if one is in two."""
    boxes = [piece.layout.take for piece in pieces]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            if all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True)):
                return 0
    return sum(math.prod(b - a for a, b in box) for box in boxes)


def whole(name: str, shape: tuple[int, ...], role: str, uses: Sequence[Use]) -> Found:
    """A parameter that is one weight, measured entry by entry."""
    atom, norm = {
        "gain": (Scale.name, Scale.norm.name),
        "bias": (Bias.name, Bias(1).norm.name),
        "vector": (Parameter.name, Parameter.norm.name),
    }.get(role, ("Opaque", Bias(1).norm.name))
    size = math.prod(shape)
    wanted = (size // shape[-1], shape[-1]) if role == "vector" and shape else (size,)
    return Found(name, name, role, atom, norm, wanted, reshaped(name, shape, wanted), tuple(uses))


def reshaped(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Layout | None:
    """All of a parameter, in another shape."""
    if shape == wanted:
        return None
    split = shape or (1,)
    take = tuple((0, size) for size in split)
    return Layout(name, shape, split, take, tuple(range(len(split))))


def described(
    name: str, kind: str, role: str, piece: Piece, uses: tuple[Use, ...], trace: Trace,
    last: set[int],
) -> Found:  # fmt: skip
    """A piece of a parameter, with the norm of what it is."""
    shape, layout = trace.shapes[name], piece.layout
    if kind in ("gain", "bias", "vector"):
        found = whole(name, shape, role, uses)
        if math.prod(piece.shape) == math.prod(shape):
            return found
        return replace(found, shape=(math.prod(piece.shape),), layout=layout)
    if kind == "kernel":
        return kernel(name, piece, uses, trace, last)
    if kind == "table":
        size = piece.shape[0], math.prod(piece.shape[1:])
        return Found(
            name, name, role, Embed.name, Embed.norm.name, size, plain(layout, shape, size), uses
        )  # fmt: skip
    use = piece.uses[0]
    copies, out = piece.shape[: piece.stack], len(use.out)
    rows = math.prod(piece.shape[piece.stack : piece.stack + out])
    wanted: tuple[int, ...] = (*copies, rows, math.prod(piece.shape[piece.stack + out :]))
    if copies:
        role = "experts"
        wanted = (math.prod(copies), *wanted[-2:])
    elif any(use.node in last for use in uses):
        role = "readout"
    elif any(chooses(trace.nodes[use.node], trace) for use in uses):
        role = "router"
    return Found(
        name, name, role, Linear.name, Linear(rows).norm.name, wanted,
        plain(layout, shape, wanted), uses,
    )  # fmt: skip


def plain(layout: Layout, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Layout | None:
    """The layout, or None where it says nothing: a weight that is stored as it is measured."""
    ordered = layout.order == tuple(range(len(layout.order)))
    full = all(box == (0, size) for box, size in zip(layout.take, layout.split, strict=True))
    return None if shape == wanted and ordered and full else layout


def kernel(name: str, piece: Piece, uses: tuple[Use, ...], trace: Trace, last: set[int]) -> Found:
    """A convolution's weight, as the operation of the language has it."""
    shape, use, node = trace.shapes[name], piece.uses[0], trace.nodes[piece.uses[0].node]
    sides = shape[2:]
    role = "conv"
    alone = shape[0] == use.groups if use.transposed else shape[1] == 1  # each channel by itself
    if use.groups > 1 and alone:
        role = "taps"
    elif use.node in last and all(side == 1 for side in sides):
        role = "readout"
    norm, wanted, layout = "spectral_taps", shape, None
    if len(sides) == 3:  # two axes of taps as one
        wanted = (*shape[:2], sides[0] * sides[1], sides[2])
        layout = reshaped(name, shape, wanted)
    elif len(sides) in (1, 2) and not (use.transposed and (use.groups > 1 or len(sides) == 1)):
        op = operation(shape, use, node)
        norm, wanted, layout = op.norm.name, op.measured_shape, op.layout(name)
    elif use.transposed:  # (in, out, taps)
        wanted = (shape[1], shape[0], 1, math.prod(sides))
        layout = Layout(
            name, shape, shape, tuple((0, n) for n in shape), (1, 0, 2, 3)[: len(shape)]
        )
    atom = f"{'ConvTranspose' if use.transposed else 'Conv'}{len(sides)}D"
    if math.prod(piece.shape) < math.prod(shape):  # one of several, by their channels
        channels = piece.shape[0] if piece.layout.order[0] == 0 else piece.shape[piece.stack]
        wanted = (channels, shape[1], 1 if len(sides) == 1 else sides[0], sides[-1])
        if use.groups > 1:
            wanted = (1, shape[1], channels, math.prod(sides))
            order = piece.layout.order
            at = len(order) - len(sides) - 1
            layout = piece.layout._replace(order=(order[at], *order[:at], *order[at + 1 :]))
            norm = "spectral_groups"
        else:
            layout, norm = piece.layout, "spectral_taps"
    return Found(name, name, role, atom, norm, wanted, layout, uses)


def operation(shape: tuple[int, ...], use: Use, node: Node) -> Any:
    """The language's operation with this weight."""
    sides, stride = shape[2:], node.argument("stride", 1)
    step = tuple(stride) if isinstance(stride, (list, tuple)) else (int(stride),) * len(sides)
    step = step * len(sides) if len(step) == 1 else step
    window: Any = sides[0] if len(sides) == 1 else tuple(sides)
    moves: Any = step[0] if len(sides) == 1 else step
    if use.transposed:
        return ConvTranspose2D(shape[1], shape[0], window, moves, 0)
    made = Conv1D if len(sides) == 1 else Conv2D
    return made(shape[0], shape[1] * use.groups, window, moves, 0, groups=use.groups)


def last_weights(trace: Trace, uses: Sequence[Use], flow: Flow) -> set[int]:
    """Operations with matrices or kernels behind which no other weight comes."""
    big = {use.node for use in uses if use.kind in ("matrix", "kernel")}
    any_weight = {use.node for use in uses if use.kind != "bias"}
    behind: dict[int, bool] = {}  # of a value, whether a weight comes after it

    for node in reversed(trace.nodes):
        after = any(behind.get(n, False) for n in node.outputs) or node.number in any_weight
        for number in node.inputs:
            behind[number] = behind.get(number, False) or after
    reach = set(flow.below)
    found = set()
    for number in big:
        outs = [n for n in trace.nodes[number].outputs if n in reach]
        if outs and not any(behind.get(n, False) for n in outs) and is_whole(trace, outs[0], flow):
            found.add(number)
    return found


def is_whole(trace: Trace, number: int, flow: Flow) -> bool:
    """Whether an output is made of a value by itself, and not of its sum with another."""
    open_, seen = [number], set[int]()
    while open_:
        at = open_.pop()
        if at in flow.outputs:
            return True
        for reader, _ in flow.edges.get(at, ()):
            if reader not in seen | flow.sums:
                seen.add(reader)
                open_.append(reader)
    return False


def chooses(node: Node, trace: Trace) -> bool:
    """Whether scores go into a choice of the largest."""
    readers: dict[int, list[Node]] = {}
    for other in trace.nodes[node.number :]:
        for number in other.inputs:
            readers.setdefault(number, []).append(other)
    open_ = [(n, 0) for n in node.outputs]
    while open_:
        number, depth = open_.pop()
        for other in readers.get(number, ()):
            if other.name == "topk":
                return True
            passes = other.name in KEEPS | MOVES | {
                "softmax",
                "sigmoid",
                "add",
                "scatter",
                "zeros_like",
            }
            if passes and depth < 8:
                open_ += [(n, depth + 1) for n in other.outputs]
    return False


def piece_names(pieces: Sequence[Piece], trace: Trace, flow: Flow) -> list[str]:
    """What the parts of a parameter are called: by what reads them, or by number."""
    if len(pieces) < 2:
        return [""]
    found = [piece.name or reader_name(piece, trace, flow) for piece in pieces]
    if len(found) == 2 and set(found) == {"gate", ""}:
        found = [name or "up" for name in found]
    if len(set(found)) < len(found) or "" in found:
        found = [str(i) for i in range(len(pieces))]
    return found


def reader_name(piece: Piece, trace: Trace, flow: Flow) -> str:
    """q, k or v, or gate, by the first operation that reads these rows."""
    if not len(piece.rows):
        return ""
    use = piece.uses[0]
    label = piece.rows[0] if use.features is None else feature(use, piece.rows[:1], trace)[0]
    for read in trace.reads:
        if bool((read.rows == label).any()):
            if (name := flow.sites.get((read.node, read.slot))) is not None:
                return name
            node = trace.nodes[read.node]
            return (
                "gate"
                if len(flow.inputs(node)) == 1
                and node.name not in MOVES | KEEPS
                and not any(trace.values[n].weight is not None for n in node.inputs)
                else ""
            )
    return ""


def feature(use: Use, rows: Tensor, trace: Trace) -> Tensor:
    """Labels of the features that rows of a bias or gain go with."""
    labels = trace.values[use.number].weight
    assert labels is not None
    assert use.features is not None
    own, order = along(labels, use.out[0]).tensor().sort()
    return use.features.tensor()[order[torch.searchsorted(own, rows.contiguous())]]
