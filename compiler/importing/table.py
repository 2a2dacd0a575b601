"""What each operation of torch is in the language, but for attention and recurrences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from modnorm.adopting.flow import entrywise
from modnorm.adopting.trace import Node, Ref
from modnorm.graph.renames import Recipe
from modnorm.importing.formulas import ONE, named
from modnorm.importing.functions import active, written
from modnorm.importing.lower import Lowering, says
from modnorm.importing.problems import Unsaid
from modnorm.importing.views import View, whole
from modnorm.importing.weights import part, recipe

# --- matrices -------------------------------------------------------------------------------


@says("linear")
def linear(low: Lowering, node: Node) -> None:
    x, weight, *bias = (n for _, n in node.slots())
    found = recipe(low.trace, weight)
    affine(low, node, x, found, low.trace.values[weight].shape, bias)


@says("addmm", "mm")
def matrices(low: Lowering, node: Node) -> None:
    """x W + b, with W as (in, out)."""
    numbers = [n for _, n in node.slots()]
    bias = numbers[:1] if node.name == "addmm" else []
    x, weight = numbers[len(bias) :]
    if node.argument("alpha", 1) != 1 or node.argument("beta", 1) != 1:
        raise Unsaid("addmm with factors")
    if low.trace.values[weight].weight is None:
        products(low, node, x, weight)
        return
    shape = low.trace.values[weight].shape
    if len(shape) != 2:
        raise Unsaid("a product with weights side by side")
    found = recipe(low.trace, weight)
    affine(low, node, x, transposed(found), shape[::-1], bias)


def transposed(found: Recipe) -> Recipe:
    if isinstance(found, tuple) and found[0] == "transposed":
        return found[1]
    return ("transposed", found)


def products(low: Lowering, node: Node, a: int, b: int) -> None:
    """A product of two values."""
    if not all(active(low.trace, n) for n in (a, b)):
        raise Unsaid("a product with a tensor that no input changes")
    args = low.number(a), low.number(b)
    out = low.add("MatMul", args, low.trace.values[node.outputs[0]].shape)
    low.give(node, out)


def affine(
    low: Lowering, node: Node, x: int, weight: Recipe, shape: Sequence[int], bias: Sequence[int],
) -> None:  # fmt: skip
    """A matrix (out, in) along the last axis, and what is added."""
    if len(shape) != 2:
        raise Unsaid(f"a weight of {len(shape)} axes in {node.name}")
    base, back = low.along_last(x)
    own = low.graph.shapes[base]
    added = [recipe(low.trace, n) for n in bias]
    tied = weight in low.tables
    out = features(low, base, weight, added, shape[0], own, tied)
    low.views[node.outputs[0]] = back(out, shape[0])


def features(
    low: Lowering, base: int, weight: Recipe, added: Sequence[Recipe], count: int,
    own: tuple[int, ...], tied: bool = False,
) -> int:  # fmt: skip
    """A Linear and a Bias, whose features may be cut apart."""
    where = low.at.module if low.at is not None else ""

    def make(weight: Recipe, added: Sequence[Recipe], count: int, name: str = "") -> int:
        shape, module = (*own[:-1], count), beside(where, name)
        if tied:
            out = low.add(f"Unembed({own[-1]})", (base,), shape, (weight,), module=module)
        else:
            out = low.add(f"Linear({count})", (base,), shape, (weight,), module=module)
        for one in added:
            out = low.add("Bias", (out,), shape, (one,), module=module)
        return out

    def cut(start: int, end: int, every: int, name: str) -> int:
        rows = end - start if not every else (end - start) * (count // every)
        parts = [part(x, 0, start, end, every) for x in (weight, *added)]
        return make(parts[0], parts[1:], rows, name)

    out = make(weight, added, count)
    if not tied:
        low.cuts[out] = (len(own) - 1, cut)
    return out


def beside(module: str, name: str) -> str:
    """The path of a part of a module, in its place."""
    before = module.rpartition(".")[0]
    return module if not name else f"{before}.{name}" if before else name


# --- tables ---------------------------------------------------------------------------------


@says("embedding", "index", "index_select")
def embedding(low: Lowering, node: Node) -> None:
    weight, index, *more = (n for _, n in node.slots())
    shape = low.trace.values[weight].shape
    if more or low.trace.values[weight].weight is None or len(shape) != 2:
        raise Unsaid(f"{node.name} has no counterpart in the language")
    rows, dim = shape
    found = recipe(low.trace, weight)
    places = low.constant(index)
    if places is None:
        x = low.number(index)
    else:
        count, begin = places.shape[-1], int(places.flatten()[0])
        if not bool((places == begin + torch.arange(count)).all()):
            raise Unsaid("rows of a table that are picked by constants")
        lead = len(low.trace.values[node.outputs[0]].shape) - 2
        if count == rows:
            out = low.add(f"Parameter({rows}, {dim})", (), (1, rows, dim), (found,))
            low.views[node.outputs[0]] = whole(low.graph, out, [*([1] * lead), rows, dim])
            return
        x = low.enumerated(count)
        if begin:
            rows, found = rows - begin, part(found, 0, begin, rows)
    own = low.graph.shapes[x]
    shape = (*((1,) if places is not None else ()), *own, dim)
    out = low.add(f"Embed({rows}, {dim})", (x,), shape, (found,))
    if places is None:
        low.give(node, out)
        return
    view = whole(low.graph, out, [*([1] * lead), own[0], dim])
    low.views[node.outputs[0]] = view


# --- sums and products ----------------------------------------------------------------------


@says("add", "sub", "mul", "div", "rsub")
def arithmetic(low: Lowering, node: Node) -> None:
    left, right = node.args[:2]
    name = node.name
    if name == "rsub":
        left, right, name = right, left, "sub"
    factor = float(node.argument("alpha", 1))
    a, b = low.plain(left), low.plain(right)
    if a is not None and b is not None:
        raise Unsaid("a number that is computed from numbers")
    if b is not None:
        number(low, node, name, left.number, b * (factor if name in ("add", "sub") else 1))
        return
    if a is not None:
        flipped(low, node, name, a, right.number, factor)
        return
    pair = [left.number, right.number]
    constants = [n for n in pair if not active(low.trace, n) and low.trace.values[n].weight is None]
    if constants:
        raise Unsaid(f"{name} with a tensor of constants, which the language has no word for")
    sign = -factor if name == "sub" else factor
    weighted = [n for n in pair if low.trace.values[n].weight is not None]
    if len(weighted) == 1 and name in ("add", "mul", "sub"):
        other = next(n for n in pair if n != weighted[0])
        if name == "sub" and weighted[0] != pair[1]:
            raise Unsaid("a parameter from which a value is taken off")
        found = channel(low, node, other, weighted[0], "mul" if name == "mul" else "add", sign)
        if found:
            return
    numbers, index = operands(low, node, pair)
    shape = low.trace.values[node.outputs[0]].shape
    if index is not None:
        shape = low.graph.shapes[numbers[0]]
    if name == "div":
        raise Unsaid("a value divided by another")
    if name == "mul":
        out = low.add("*", tuple(numbers), shape)
    else:
        if sign != 1:
            text, own = f"Mul({written(sign)})", low.graph.shapes[numbers[1]]
            numbers[1] = low.add(text, (numbers[1],), own)
        out = low.add("+", tuple(numbers), shape)
    if index is None:
        low.give(node, out)
    else:
        low.views[node.outputs[0]] = View(out, index)


def operands(
    low: Lowering, node: Node, pair: Sequence[int]
) -> tuple[list[int], torch.Tensor | None]:
    """Two values as operations that stretch sizes of 1 take them.

    Of two that are the same view of others it is those, and how the result is viewed.
    """
    views = [low.cut(v) or v for v in map(low.view, pair)]
    one, other = (low.graph.shapes[v.base] for v in views)
    whole_ = torch.unique(views[0].index).numel() == math.prod(one)
    if one == other and whole_ and torch.equal(views[0].index, views[1].index):
        return [v.base for v in views], views[0].index
    rank = len(low.trace.values[node.outputs[0]].shape)
    found = []
    for view in views:
        index = view.index
        if len(index.shape) == rank and index.shape[0] == low.batch:
            found.append(low.made(view))
            continue
        while (
            index.ndim > 1 and index.shape[0] == 1 and index.ndim > len(low.graph.shapes[view.base])
        ):
            index = index[0]
        if index.ndim < rank:
            index = index.view(*([1] * (rank - index.ndim)), *index.shape)
        own = low.graph.shapes[view.base]
        if own[0] == 1 and tuple(index.shape) != own and index.shape[0] != 1:
            raise Unsaid("a value that is stretched over other axes")
        found.append(low.made(View(view.base, index)))
    return found, None


def number(low: Lowering, node: Node, name: str, x: int, by: float) -> None:
    """A value and a number."""
    if name in ("mul", "div"):
        factor = 1 / by if name == "div" else by
        text = root(factor) or f"Mul({written(factor)})"
    else:
        by = -by if name == "sub" else by
        if by == 0:
            low.views[node.outputs[0]] = low.view(x)
            return
        text = f"Shift({written(by)})"
    if text == "Mul(1)":
        low.views[node.outputs[0]] = low.view(x)
        return
    low.views[node.outputs[0]] = low.each(x, text)


def root(factor: float) -> str:
    """A factor that is a root, as people write it."""
    square = factor * factor
    for top, text in ((square, "sqrt({})"), (1 / square if square else 0.0, "1 / sqrt({})")):
        whole_ = round(top)
        if (
            1 < whole_ < 100_000
            and abs(top / whole_ - 1) < 1e-6
            and math.isqrt(whole_) ** 2 != whole_
        ):
            return f"Mul({text.format(whole_)})" if factor > 0 else ""
    return ""


def flipped(low: Lowering, node: Node, name: str, by: float, x: int, factor: float) -> None:
    """A number and a value."""
    if name in ("add", "mul"):
        number(low, node, name, x, by)
    elif name == "sub":
        low.views[node.outputs[0]] = low.each(x, f"Mul({written(-factor)})")
        view = low.views[node.outputs[0]]
        if by:
            out = low.add(f"Shift({written(by)})", (view.base,), low.graph.shapes[view.base])
            low.views[node.outputs[0]] = View(out, view.index)
    else:
        raise Unsaid("a number divided by a value")


def channel(
    low: Lowering, node: Node, x: int, weight: int, name: str, sign: float
) -> bool:  # fmt: skip
    """A gain or a bias for each channel; whether it is one."""
    value, out = low.trace.values[weight], low.trace.values[node.outputs[0]]
    axes = [i for i, n in enumerate(value.shape) if n > 1]
    if len(axes) != 1 or sign not in (1, -1) or low.trace.values[x].shape != out.shape:
        return False
    axis = axes[0] - len(value.shape)
    found = recipe(low.trace, weight)
    if sign == -1:
        found = ("mul", -1, found)
    word = "Scale" if name == "mul" else "Bias"
    if axis == -1:
        base, back = low.along_last(x)
        own = low.graph.shapes[base]
        at = f"{word}(axis = {len(own) - 1})" if len(own) == 4 else word
        before = low.graph.steps.get(base)
        if word == "Scale" and before is not None and before.text.startswith("RMSDivide(eps"):
            at, base = before.text.replace("RMSDivide", "RMSNorm"), before.args[0]
            at = at.replace("(eps = 1e-05)", "")
        made = low.add(at, (base,), own, (found,))
        low.views[node.outputs[0]] = back(made, own[-1])
        return True
    base = low.number(x)
    own = low.graph.shapes[base]
    place = len(own) + axis
    at = word if place == 1 and len(own) == 4 else f"{word}(axis = {place})"
    low.give(node, low.add(at, (base,), own, (found,)))
    return True


@says("neg")
def negative(low: Lowering, node: Node) -> None:
    number(low, node, "mul", node.inputs[0], -1.0)


# --- functions of each entry ----------------------------------------------------------------


def one_entry(low: Lowering, node: Node) -> None:
    """A function of the language where it is one, else a bond."""
    x = torch.linspace(-6, 6, 241).double()
    args = [x.clone() if isinstance(a, Ref) else a for a in node.args]
    try:
        y = node.func(*args, **node.kwargs)
    except (RuntimeError, TypeError):
        raise Unsaid(f"{node.name} of several values") from None
    for op in entrywise():
        if torch.allclose(op.reference(x), y, rtol=1e-9, atol=1e-12):
            low.views[node.outputs[0]] = low.each(node.inputs[0], op.name)
            return
    text = ONE[node.name]("x", "x", node)
    wanted = low.trace.classes.get(node.module, node.name)
    owner = f"torch.nn.{wanted}"
    name = wanted if hasattr(torch.nn, wanted) and owner else node.name.title().replace("_", "")
    name = named(text, f"{name}Function" if name in NATIVE else name, low.graph.bonds)
    low.views[node.outputs[0]] = low.each(node.inputs[0], name)


NATIVE = frozenset(op.name for op in entrywise()) | {"Softcap"}
for _name in ONE:
    if _name != "neg":
        says(_name)(one_entry)


@says("dropout", "feature_dropout", "alpha_dropout")
def dropout(low: Lowering, node: Node) -> None:
    p = float(node.args[1]) if node.name == "dropout" else 0.0
    view = low.view(node.inputs[0])
    low.views[node.outputs[0]] = low.each(node.inputs[0], f"Dropout({written(p)})") if p else view


@says("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(low: Lowering, node: Node) -> None:
    x = node.inputs[0]
    rank = len(low.trace.values[x].shape)
    if int(node.args[1]) % rank != rank - 1:
        raise Unsaid("a softmax along another axis than the last")
    base, back = low.along_last(x)
    own = low.graph.shapes[base]
    text = "LogSoftmax" if "log" in node.name else "Softmax"
    low.views[node.outputs[0]] = back(low.add(text, (base,), own), own[-1])


# --- norms ----------------------------------------------------------------------------------


def small(eps: float) -> str:
    return f"{eps:g}"


def affine_of(low: Lowering, node: Node) -> tuple[Recipe, ...] | None:
    """Recipes of a gain and a bias; none of a norm without; None where there is only one."""
    refs = [node.argument("weight"), node.argument("bias")]
    found = tuple(recipe(low.trace, r.number) for r in refs if r is not None)
    return None if len(found) == 1 else found


def of_image(low: Lowering, number: int) -> View | None:
    """A view of an image with its channels last."""
    view = low.view(number)
    own = low.graph.shapes[view.base]
    if len(own) != 4:
        return None
    turned = whole(low.graph, view.base).index.permute(0, 2, 3, 1)
    return view if torch.equal(turned, view.index) else None


@says("layer_norm", "native_layer_norm")
def layer_norm(low: Lowering, node: Node) -> None:
    shape = node.argument("normalized_shape")
    if len(shape) != 1:
        raise Unsaid(f"a layer norm over {len(shape)} axes")
    eps = float(node.argument("eps", 1e-5))
    options = [f"eps = {small(eps)}"] if eps != 1e-5 else []
    weights, image = affine_of(low, node), of_image(low, node.refs(0)[0])
    if image is not None and weights:
        text = f"LayerNorm({', '.join(['1', *options])})"
        out = low.add(text, (image.base,), low.graph.shapes[image.base], weights)
        low.views[node.outputs[0]] = View(out, image.index)
        return
    base, back = low.along_last(node.refs(0)[0])
    own = low.graph.shapes[base]
    if weights is None:
        text = f"Standardize({', '.join([*options] if options else ['eps = 1e-05'])})"
        out = low.add(text, (base,), own)
        for name, word in (("weight", "Scale"), ("bias", "Bias")):
            ref = node.argument(name)
            if ref is not None:
                out = low.add(word, (out,), own, (recipe(low.trace, ref.number),))
        low.views[node.outputs[0]] = back(out, own[-1])
        return
    if not weights:
        options.append("affine = false")
    text = f"LayerNorm({', '.join(options)})" if options else "LayerNorm"
    low.views[node.outputs[0]] = back(low.add(text, (base,), own, weights), own[-1])


@says("embedding_bag", "_embedding_bag")
def embedding_bag(low: Lowering, node: Node) -> None:
    weight, index, *rest = (n for _, n in node.slots())
    view = low.view(index)
    offsets = low.constant(rest[0]) if rest else None
    rows, dim = low.trace.values[weight].shape
    mode, padding = int(node.argument("mode", 0)), node.argument("padding_idx", -1)
    x = low.graph.shapes[view.base]
    size = x[-1]
    even = offsets is None or torch.equal(offsets, torch.arange(len(offsets)) * size)
    if mode > 1 or node.argument("per_sample_weights") is not None or not even or (
        padding not in (None, -1) or len(x) != 2
    ):  # fmt: skip
        raise Unsaid("bags of several sizes, weights or maxima of rows")
    options = [str(rows), str(dim), *(['mode = "sum"'] if mode == 0 else [])]
    found = (recipe(low.trace, weight),)
    out = low.add(f"EmbeddingBag({', '.join(options)})", (view.base,), (x[0], dim), found)
    low.give(node, out)


@says("rms_norm")
def rms_norm(low: Lowering, node: Node) -> None:
    x = node.refs(0)[0]
    base, back = low.along_last(x)
    own, given = low.graph.shapes[base], node.argument("eps")
    eps = torch.finfo(torch.float32).eps if given is None else float(given)
    if len(node.argument("normalized_shape")) != 1:
        raise Unsaid("an RMS norm over several axes")
    ref = node.argument("weight")
    weights = () if ref is None else (recipe(low.trace, ref.number),)
    options = [f"eps = {small(eps)}"] if eps != 1e-5 else []
    options += [] if weights else ["affine = false"]
    text = f"RMSNorm({', '.join(options)})" if options else "RMSNorm"
    low.views[node.outputs[0]] = back(low.add(text, (base,), own, weights), own[-1])


@says("group_norm", "native_group_norm")
def group_norm(low: Lowering, node: Node) -> None:
    x, groups = low.number(node.refs(0)[0]), int(node.argument("num_groups"))
    eps, weights = float(node.argument("eps", 1e-5)), affine_of(low, node)
    if weights is None:
        raise Unsaid("a group norm with a gain and no bias, or the other way round")
    options = [str(groups), *(["affine = false"] if not weights else [])]
    options += [f"eps = {small(eps)}"] if eps != 1e-5 else []
    out = low.add(f"GroupNorm({', '.join(options)})", (x,), low.graph.shapes[x], weights)
    low.give(node, out)


@says("batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm")
def batch_norm(low: Lowering, node: Node) -> None:
    x = low.number(node.refs(0)[0])
    eps, momentum = float(node.argument("eps", 1e-5)), node.argument("momentum", 0.1)
    weights, refs = (
        affine_of(low, node),
        [node.argument("running_mean"), node.argument("running_var")],
    )
    if not weights or any(r is None for r in refs):
        raise Unsaid("a batch norm without a gain and a bias, or without running statistics")
    options = [f"momentum = {written(float(momentum))}"] if float(momentum) != 0.1 else []
    options += [f"eps = {small(eps)}"] if eps != 1e-5 else []
    text = f"BatchNorm({', '.join(options)})" if options else "BatchNorm"
    own = low.graph.shapes[x]
    names = [low.buffers[r.number] for r in refs]
    buffers = tuple(zip(("running_mean", "running_var"), names, strict=True))
    signal = len(own) == 3
    if signal:  # channels are along the last axis of what is no image
        x = low.add("Transpose", (x,), (own[0], own[2], own[1]), free=True)
    out = low.add(text, (x,), low.graph.shapes[x], weights, buffers)
    low.give(node, low.add("Transpose", (out,), own, free=True) if signal else out)


# --- images ---------------------------------------------------------------------------------


def sizes(given: Any, count: int) -> list[int]:
    own = [int(n) for n in given] if isinstance(given, (list, tuple)) else [int(given)]
    return own * count if len(own) == 1 else own


def window(given: Any, count: int) -> str:
    own = sizes(given, count)
    return str(own[0]) if len(set(own)) == 1 else f"({', '.join(map(str, own))})"


@says("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")
def convolution(low: Lowering, node: Node) -> None:
    numbers = [n for _, n in node.slots()]
    x, weight, *bias = numbers
    over, axes = "transpose" in node.name, len(low.trace.values[weight].shape) - 2
    shape = low.trace.values[weight].shape
    groups, dilation = int(node.argument("groups", 1)), node.argument("dilation", 1)
    found, base = recipe(low.trace, weight), low.number(x)
    added = [recipe(low.trace, n) for n in bias]
    own = low.trace.values[node.outputs[0]].shape
    padding = node.argument("padding", 0)
    options = [f"kernel = {window(list(shape[2:]), axes)}"]
    options += [f"stride = {window(node.argument('stride', 1), axes)}"]
    if isinstance(padding, str):
        options += ['padding = "same"' if padding == "same" else "padding = 0"]
    else:
        options += [f"padding = {window(padding, axes)}"]
    usual = {"kernel = 3", "stride = 1", "padding = 1"}
    options = [o for o in options if o not in usual]
    if over:
        if groups > 1 or any(n != 1 for n in sizes(dilation, axes)):
            raise Unsaid("a transposed convolution in groups, or dilated")
        extra = node.argument("output_padding", 0)
        options += [f"output_padding = {window(extra, axes)}"] if any(sizes(extra, axes)) else []
    else:
        options += (
            [f"dilation = {window(dilation, axes)}"]
            if any(n != 1 for n in sizes(dilation, axes))
            else []
        )
        options += [f"groups = {groups}"] if groups > 1 else []
    word = f"Conv{'Transpose' if over else ''}{axes}D"

    def make(weight: Recipe, added: Sequence[Recipe], count: int, name: str = "") -> int:
        shape, module = (own[0], count, *own[2:]), beside(node.module, name)
        text = f"{word}({', '.join([str(count), *options])})"
        out = low.add(text, (base,), shape, (weight,), module=module)
        for one in added:
            bias = "Bias" if axes == 2 else "Bias(axis = 1)"
            out = low.add(bias, (out,), shape, (one,), module=module)
        return out

    out = make(found, added, own[1])
    if groups == 1 and not over:

        def cut(start: int, end: int, every: int, name: str) -> int:
            rows = end - start if not every else (end - start) * (own[1] // every)
            parts = [part(x, 0, start, end, every) for x in (found, *added)]
            return make(parts[0], parts[1:], rows, name)

        low.cuts[out] = (1, cut)
    low.give(node, out)


def pooled(word: str) -> Callable[[Lowering, Node], None]:
    def say(low: Lowering, node: Node) -> None:
        axes = int(next(c for c in node.name if c.isdigit()))
        x = low.number(node.refs(0)[0])
        if word == "AdaptiveAvgPool":
            own = sizes(node.args[1], axes)
            if len(set(own)) > 1:
                raise Unsaid("adaptive pooling to sides of two sizes")
            text = word if own[0] == 1 else f"{word}({own[0]})"
        else:
            kernel = node.argument("kernel_size")
            stride, padding = node.argument("stride", kernel) or kernel, node.argument("padding", 0)
            if node.argument("ceil_mode", False) or any(
                n != 1 for n in sizes(node.argument("dilation", 1), axes)
            ):
                raise Unsaid(f"{node.name} with ceil_mode or dilation")
            if any(sizes(padding, axes)) and not node.argument("count_include_pad", True):
                raise Unsaid(f"{node.name} that leaves padding out of its means")
            options = [window(kernel, axes)]
            pads = any(sizes(padding, axes))
            if pads or sizes(stride, axes) != sizes(kernel, axes):
                options.append(window(stride, axes))
            options += [window(padding, axes)] if pads else []
            text = f"{word}({', '.join(options)})"
        low.give(node, low.add(text, (x,), low.trace.values[node.outputs[0]].shape))

    return say


for _word, _names in {
    "MaxPool": ("max_pool1d", "max_pool2d", "max_pool2d_with_indices"),
    "AvgPool": ("avg_pool1d", "avg_pool2d"),
    "AdaptiveAvgPool": ("adaptive_avg_pool1d", "adaptive_avg_pool2d"),
}.items():
    says(*_names)(pooled(_word))


@says("upsample_nearest1d", "upsample_nearest2d")
def upsample(low: Lowering, node: Node) -> None:
    x = low.number(node.refs(0)[0])
    own, out = low.graph.shapes[x], low.trace.values[node.outputs[0]].shape
    factors = {b / a for a, b in zip(own[2:], out[2:], strict=True)}
    if len(factors) > 1 or not next(iter(factors)).is_integer():
        raise Unsaid("an enlargement by no whole factor")
    low.give(node, low.add(f"Upsample({int(factors.pop())})", (x,), out))


@says("mean")
def mean(low: Lowering, node: Node) -> None:
    x = low.number(node.inputs[0])
    own = low.graph.shapes[x]
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if given is None:
        raise Unsaid("a mean over all entries, examples too")
    axes = [n % len(own) for n in (given if isinstance(given, (list, tuple)) else [given])]
    keep = bool(node.argument("keepdim", False))
    dims = str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"
    text = f"Mean({dims}{', keepdim = true' if keep else ''})"
    low.give(node, low.add(text, (x,), low.trace.values[node.outputs[0]].shape))


# --- joins ----------------------------------------------------------------------------------


@says("cat", "concat", "concatenate", "stack")
def joined(low: Lowering, node: Node) -> None:
    numbers, stack = node.refs(0), node.name == "stack"
    shape = low.trace.values[node.outputs[0]].shape
    dim = int(node.args[1]) if len(node.args) > 1 else int(node.kwargs.get("dim", 0))
    dim %= len(shape)
    if dim == 0:
        raise Unsaid(f"{node.name} along the first axis, of examples")
    args = []
    for n in numbers:
        if not active(low.trace, n) and low.trace.values[n].weight is None:
            raise Unsaid(f"{node.name} with a tensor of constants")
        args.append(low.number(n))
    place = "" if dim == len(shape) - 1 and not stack else f"({dim})"
    text = f"{'Stack' if stack else 'Concat'}{place}"
    low.give(node, low.add(text, tuple(args), shape))
