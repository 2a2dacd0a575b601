"""What an operation of torch does with each weight that it takes."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch.utils._pytree import tree_flatten

from modnorm.adopting.labels import Labels
from modnorm.adopting.trace import Node, Ref, Trace, Value

Kind = Literal["matrix", "kernel", "table", "bias", "gain", "vector", "opaque"]


@dataclass(frozen=True)
class Use:
    """One use of a weight, by an operation.

    number: of the value that is used, which shows a parameter's entries.
    out, contracted, stack: its axes, of features that it makes, of those that it takes in, and of
        copies side by side, as of experts.
    groups: of a kernel's channels. transposed: a kernel of (in, out, …).
    features: labels of the rows, in its own axis, which a bias or a gain changes: those of a matrix
        before it.
    parts: names of equal parts of its rows, of a recurrent layer's gates.
    x: the number of the value that it meets.
    """

    node: int
    slot: int
    number: int
    kind: Kind
    out: tuple[int, ...] = ()
    contracted: tuple[int, ...] = ()
    stack: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    features: Labels | None = None
    parts: tuple[str, ...] = ()
    x: int | None = None


Reader = Callable[[Node, Trace], Iterator[Use]]
READERS: dict[str, Reader] = {}


def reads(*names: str) -> Callable[[Reader], Reader]:
    """Declare what reads the weights of operations."""

    def add(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(names, reader))
        return reader

    return add


def uses(node: Node, trace: Trace) -> list[Use]:
    """Every use of a weight by an operation."""
    weights = {number for _, number in node.slots() if trace.values[number].weight is not None}
    reader = READERS.get(node.name)
    held = {n: weight_names(n, trace) for n in (*weights, *node.outputs)}
    kept = {name for number in node.outputs for name in held[number]}
    weights -= {n for n in weights if kept.issuperset(held[n])}
    found = [] if reader is None else [use for use in reader(node, trace) if use.number in weights]
    seen = {use.number for use in found}
    for slot, number in node.slots():
        if number in weights - seen and trace.values[number].floating:
            found.append(Use(node.number, slot, number, "opaque"))
    return found


def weight_names(number: int, trace: Trace) -> list[str]:
    """The parameters that a weight shows."""
    labels = trace.values[number].weight
    return [] if labels is None else trace.held(labels)


def settled(found: Sequence[Use], trace: Trace) -> list[Use]:
    """Uses by operations between weights, as those of what is made of them in the end."""
    readers: dict[int, list[Node]] = {}
    for node in trace.nodes:
        for number in node.inputs:
            readers.setdefault(number, []).append(node)

    def ends(node: Node) -> set[int]:
        made = [n for n in node.outputs if trace.values[n].weight is not None]
        if not made:
            return {node.number}
        return {end for n in made for other in readers.get(n, ()) for end in ends(other)}

    return [replace(use, node=end) for use in found for end in sorted(ends(trace.nodes[use.node]))]


def features(found: list[Use], node: Node, trace: Trace) -> dict[int, Labels]:
    """By number of an output, labels of the rows that made its features."""
    for use in found:
        if use.kind in ("matrix", "kernel") and len(use.out) == 1 and node.outputs:
            weight = trace.values[use.number].weight
            assert weight is not None
            rows = along(weight, use.out[0])
            rows = replace(rows, offset=rows.offset + turned(use, trace))
            out = trace.values[node.outputs[0]]
            axis = feature_axis(node, use, out, trace)
            shape = [1] * len(out.shape)
            if axis is None or out.shape[axis] != rows.shape[0]:
                continue
            shape[axis] = rows.shape[0]
            if rows.is_affine:
                stride = tuple(rows.stride[0] if a == axis else 0 for a in range(len(shape)))
                return {out.number: Labels(rows.offset, out.shape, stride)}
            return {out.number: Labels.of(rows.tensor().view(shape).expand(out.shape))}
    return {}


def turned(use: Use, trace: Trace) -> int:
    """What is added to labels of rows that are columns of the parameter, so that of one used both
    ways no row has the label of a column: a parameter has twice as many labels as entries.
    """
    labels = trace.values[use.number].weight
    if labels is None or not labels.is_affine or not use.out or not use.contracted:
        return 0
    if labels.stride[use.out[0]] >= labels.stride[use.contracted[0]]:
        return 0
    return math.prod(trace.shapes[trace.parameter(labels.offset)])


def along(labels: Labels, axis: int) -> Labels:
    """Those along one axis, at the start of the others."""
    if labels.is_affine:
        return Labels(labels.offset, (labels.shape[axis],), (labels.stride[axis],))
    found = labels.tensor()
    for a in reversed(range(found.ndim)):
        found = found if a == axis else found.select(a, 0)
    return Labels.of(found)


def feature_axis(node: Node, use: Use, out: Value, trace: Trace) -> int | None:
    """Along which axis of the output the rows of a matrix or kernel are."""
    if use.kind == "kernel":
        return len(out.shape) - 2 - spatial(node)
    if node.name == "einsum":
        terms, result = equation(node, trace)
        own = terms[[n for _, n in node.slots()].index(use.number)]
        return result.index(own[use.out[0]])
    if not out.shape:
        return None
    left = node.name not in ("linear", "_grouped_mm") and use.number == operands(node)[0]
    if left and node.name in ("tensordot", "inner"):
        return 0
    return len(out.shape) - (2 if left and len(out.shape) > 1 else 1)


def spatial(node: Node) -> int:
    """How many axes of pixels a convolution has, less one."""
    return next((int(c) for c in node.name if c.isdigit()), 1) - 1


def operands(node: Node) -> tuple[int, int]:
    """The two factors of a product of matrices."""
    numbers = [number for _, number in node.slots()]
    start = 1 if node.name in ("addmm", "baddbmm", "addmv", "addbmm") else 0
    return numbers[start], numbers[start + 1]


@reads("linear")
def linear(node: Node, trace: Trace) -> Iterator[Use]:
    x, weight, *bias = (number for _, number in node.slots())
    yield Use(node.number, 0, x, "vector")
    rank = len(trace.values[weight].shape)
    matrix = Use(node.number, 1, weight, "matrix", tuple(range(rank - 1)), (rank - 1,), x=x)
    yield matrix
    for number in bias:
        yield added(trace, 2, number, matrix)


def added(trace: Trace, slot: int, bias: int, use: Use) -> Use:
    """A bias that a matrix or kernel brings with it."""
    node, labels, rows = use.node, trace.values[use.number].weight, None
    if labels is not None and use.out:
        rows = along(labels, use.out[0])
        rows = replace(rows, offset=rows.offset + turned(use, trace))
    if len(trace.values[bias].shape) != 1:
        return Use(node, slot, bias, "bias")
    return Use(node, slot, bias, "bias", (0,), features=rows)


@reads("mm", "matmul", "bmm", "mv", "addmm", "baddbmm", "addmv", "inner", "dot", "_grouped_mm")
def product(node: Node, trace: Trace) -> Iterator[Use]:
    a, b = operands(node)
    start = 1 if node.name in ("addmm", "baddbmm", "addmv") else 0
    left, right = (trace.values[number].shape for number in (a, b))
    if trace.values[b].weight is not None:
        rank = len(right)
        own = (rank - 1,) if rank > 1 else ()
        inner = rank - 2 if rank > 1 else 0
        if node.name == "inner":
            own, inner = own and (rank - 2,), rank - 1
        stack = tuple(i for i in range(rank - 2) if right[i] > 1)
        matrix = Use(node.number, start + 1, b, "matrix", own, (inner,), stack, x=a)
        yield matrix
        if start and own:
            yield added(trace, 0, node.refs(0)[0], matrix)
        yield Use(node.number, start, a, "vector")
    elif trace.values[a].weight is not None:
        rank = len(left)
        own = (rank - 2,) if rank > 1 else ()
        stack = tuple(i for i in range(rank - 2) if left[i] > 1)
        yield Use(node.number, start, a, "matrix", own, (rank - 1,), stack, x=b)
    if start and trace.values[b].weight is None:
        yield from sums(node, trace)


def equation(node: Node, trace: Trace) -> tuple[list[str], str]:
    """The letters of an einsum's operands, and of its result; dots are letters like others."""
    text = str(node.args[0]).replace(" ", "")
    left, _, result = text.partition("->")
    terms = left.split(",")
    if "->" not in text:
        once = [c for c in sorted(set(left) - {",", "."}) if left.count(c) == 1]
        result = "..." * ("." in left) + "".join(once)
    free = [c for c in string.ascii_letters if c not in text]
    ranks = [len(trace.values[n].shape) for _, n in node.slots()]
    extra = [n - len(t) + 3 if "." in t else 0 for n, t in zip(ranks, terms, strict=True)]
    most = max(extra)
    dots = ["".join(free[most - n : most]) for n in (*extra, most)]
    terms = [t.replace("...", own) for t, own in zip(terms, dots, strict=False)]
    return terms, result.replace("...", dots[-1])


@reads("einsum")
def einsum(node: Node, trace: Trace) -> Iterator[Use]:
    numbers = [number for _, number in node.slots()]
    if len(numbers) != 2 or not isinstance(node.args[0], str):
        return
    terms, result = equation(node, trace)
    for i, number in enumerate(numbers):
        own, other = terms[i], terms[1 - i]
        if trace.values[number].weight is None:
            continue
        inner = tuple(j for j, c in enumerate(own) if c in other and c not in result)
        out = tuple(j for j, c in enumerate(own) if c not in other and c in result)
        stack = tuple(j for j, c in enumerate(own) if c in other and c in result)
        if inner:
            yield Use(node.number, 1, number, "matrix", out, inner, stack, x=numbers[1 - i])
        return


@reads(
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"
)  # fmt: skip
def convolution(node: Node, trace: Trace) -> Iterator[Use]:
    x, weight, *bias = (number for _, number in node.slots())
    groups, over = int(node.argument("groups", 1)), "transpose" in node.name
    axis = 1 if over else 0
    own = (axis,) if not (over and groups > 1) else ()
    kernel = Use(
        node.number, 1, weight, "kernel", own, (1 - axis,), groups=groups, transposed=over, x=x
    )
    yield kernel
    for number in bias:
        yield added(trace, 2, number, kernel)


@reads("tensordot")
def contraction(node: Node, trace: Trace) -> Iterator[Use]:
    pair = operands(node)
    for slot, number in enumerate(pair):
        if trace.values[number].weight is not None:
            rank = len(trace.values[number].shape)
            inner = tuple(int(axis) % rank for axis in node.args[2 + slot])
            own = tuple(axis for axis in range(rank) if axis not in inner)
            yield Use(node.number, slot, number, "matrix", own, inner, x=pair[1 - slot])


@reads("embedding", "embedding_bag")
def lookup(node: Node, trace: Trace) -> Iterator[Use]:
    (number, *rest) = (n for _, n in node.slots() if trace.values[n].floating)
    yield Use(node.number, 0, number, "table", (1,), (0,))
    for other in rest:  # weights of a bag's members
        yield Use(node.number, 6, other, "vector")


@reads("index", "index_select", "gather", "take_along_dim", "take")
def indexed(node: Node, trace: Trace) -> Iterator[Use]:
    number = node.refs(0)[0]
    rank = len(trace.values[number].shape)
    yield Use(node.number, 0, number, "table", tuple(range(1, rank)), (0,))


@reads("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm", "native_layer_norm",
       "native_group_norm", "_native_batch_norm_legit", "cudnn_batch_norm")  # fmt: skip
def normalisation(node: Node, trace: Trace) -> Iterator[Use]:
    x = node.refs(0)[0]
    for name, kind in (("weight", "gain"), ("bias", "bias")):
        ref = node.argument(name)
        if ref is None:
            continue
        rank = len(trace.values[ref.number].shape)
        yield Use(node.number, 2, ref.number, kind, tuple(range(rank)), x=x)  # type: ignore[arg-type]


@reads("_weight_norm", "_weight_norm_interface")
def lengths(node: Node, trace: Trace) -> Iterator[Use]:
    axis = int(node.argument("dim", 0))
    yield Use(node.number, 1, node.refs(1)[0], "gain", (axis,))


@reads("prelu", "_prelu_kernel")
def slope(node: Node, trace: Trace) -> Iterator[Use]:
    yield Use(node.number, 1, node.refs(1)[0], "gain", (0,), x=node.refs(0)[0])


@reads("add", "sub", "rsub", "addcmul")
def sums(node: Node, trace: Trace) -> Iterator[Use]:
    for use in met(node, trace):
        axes = use.out
        yield replace(use, kind="bias") if len(axes) < 2 else replace(use, kind="vector")


@reads("mul", "div")
def products(node: Node, trace: Trace) -> Iterator[Use]:
    for use in met(node, trace):
        yield replace(use, kind="gain") if len(use.out) < 2 else replace(use, kind="opaque")


@reads("cat", "concat", "concatenate", "stack", "where", "scaled_dot_product_attention", "copy",
       "index_put", "masked_scatter", "slice_scatter", "select_scatter")  # fmt: skip
def placed(node: Node, trace: Trace) -> Iterator[Use]:
    for slot, number in node.slots():
        if trace.values[number].weight is not None:
            yield Use(node.number, slot, number, "vector")


def met(node: Node, trace: Trace) -> Iterator[Use]:
    """Weights that are broadcast to a value; `out` are the axes along which they differ."""
    for slot, number in node.slots():
        value = trace.values[number]
        if value.weight is None or slot > 1:
            continue
        other = next((n for s, n in node.slots() if n != number), None)
        axes = tuple(a for a, size in enumerate(value.shape) if size > 1)
        rows = None
        if len(axes) == 1 and other in trace.features:
            theirs = trace.features[other]
            place = axes[0] - len(value.shape) + len(theirs.shape)
            if place >= 0 and theirs.shape[place] == value.shape[axes[0]]:
                rows = along(theirs, place)
        yield Use(node.number, slot, number, "opaque", axes, features=rows, x=other)


@reads("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell",
       "rnn_relu_cell", "_thnn_fused_lstm_cell")  # fmt: skip
def recurrent(node: Node, trace: Trace) -> Iterator[Use]:
    kinds = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n")}
    gates = next((parts for kind, parts in kinds.items() if kind in node.name), ())
    given = {n for name in ("input", "data", "hx") for n in numbers(node.argument(name))}
    sizes = [trace.values[n].shape for _, n in node.slots() if n not in given]
    rows = next((shape[0] for shape in sizes if len(shape) == 2), 0)
    for slot, number in node.slots():
        value = trace.values[number]
        if value.weight is None:
            continue
        if number in given:
            yield Use(node.number, slot, number, "vector")
        elif len(value.shape) == 1:
            yield Use(node.number, slot, number, "bias", (0,), parts=gates)
        else:  # that of a projection has no gates
            parts = gates if value.shape[0] == rows else ()
            yield Use(node.number, slot, number, "matrix", (0,), (1,), parts=parts)


def numbers(argument: Any) -> list[int]:
    """Of the values in an argument."""
    return [leaf.number for leaf in tree_flatten(argument)[0] if isinstance(leaf, Ref)]
