"""Attention, by torch's own operation or written out in products and a softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modnorm.adopting.execute import execute
from modnorm.adopting.trace import Node, Trace
from modnorm.importing.formulas import scalars
from modnorm.importing.functions import active, close, written
from modnorm.importing.lower import Lowering, says
from modnorm.importing.problems import Unsaid
from modnorm.importing.scores import Scores, maker, scores_of
from modnorm.importing.table import matrices
from modnorm.importing.views import View, unrepeated, whole

FAR = -1e4
"""What is added to logits of keys that are not seen, or less."""


@says("matmul", "bmm")
def product(low: Lowering, node: Node) -> None:
    found = scores_of(low.trace, node)
    if found is None:
        matrices(low, node)
        return
    q, k, v = (heads(low, n) for n in (found.q, found.k, found.v))
    k = View(k.base, k.index.transpose(-1, -2))
    options = logits(low.trace, found, q.shape[-1])
    attend(low, node, q, k, v, options)


def heads(low: Lowering, number: int) -> View:
    """A value of four axes; heads may be counted together with examples."""
    view = low.view(number)
    if len(view.shape) == 3:
        count, *rest = view.shape
        if count % low.batch:
            raise Unsaid("attention whose heads are not counted apart from examples")
        view = View(view.base, view.index.view(low.batch, count // low.batch, *rest))
    if len(view.shape) != 4:
        raise Unsaid(f"attention over values of {len(view.shape)} axes")
    return view


def logits(trace: Trace, found: Scores, d: int) -> list[str]:
    """The options that make logits of products: scale, mask, cap."""
    shape, out = trace.values[found.product].shape, trace.values[found.logits].shape
    factor, zero = 1.0, torch.zeros(())
    node = maker(trace, found.product)
    if node is not None and node.name == "baddbmm":
        factor, added = float(node.argument("alpha", 1)), node.inputs[0]
        if float(node.argument("beta", 1)) != 1 or active(trace, added):
            raise Unsaid("a product of matrices with factors")
        with torch.no_grad():
            zero = execute(trace, [added], {})[added].float()

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            given = {found.product: (factor * x + zero).expand(shape)}
            return execute(trace, [found.logits], given)[found.logits].float()

    mask = f(torch.zeros(shape))
    seen = (mask > FAR).expand(out)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    same = x.view(out)[seen].double()
    small = (f(1e-2 * x) - mask)[seen].double()
    scale = float(100 * small.dot(same) / same.dot(same))
    options, bias = masked(mask.expand(out))
    options += alibi(bias, seen)
    large = (f(x) - mask)[seen].double()
    if close(large, scale * same):
        return [*options, *scaled(scale, d)]
    between = trace.nodes[node_of(trace, found.product) : node_of(trace, found.logits)]
    for cap in scalars(between, trace):
        if cap > 0 and close(large, cap * torch.tanh(scale * same / cap)):
            return [*options, *scaled(scale, d), f"softcap = {written(cap)}"]
    raise Unsaid("attention whose logits are no multiple of the products plus a mask")


def node_of(trace: Trace, number: int) -> int:
    """The number of the operation behind that which makes a value."""
    return 1 + (trace.values[number].node or 0)


def scaled(scale: float, d: int) -> list[str]:
    """The factor of products, as the language has it."""
    if abs(scale * math.sqrt(d) - 1) < 1e-5:
        return ['scale = "1/sqrt(d)"']
    by = float(f"{scale * d:.7g}")
    return [] if by == 1 else [f"scale = {written(by)}"]


def masked(mask: Tensor) -> tuple[list[str], Tensor]:
    """Options that say which keys are seen, by what is added, and what is left of that."""
    seen = mask > FAR
    n, m = seen.shape[-2:]
    if not bool((seen == seen.flatten(0, -3)[0]).all()):
        raise Unsaid("a mask that differs from example to example, or from head to head")
    own = seen.flatten(0, -3)[0]
    rest = torch.where(seen, mask, torch.zeros(()))
    if bool(own.all()):
        return [], rest
    i, j = torch.arange(n)[:, None], torch.arange(m)
    if torch.equal(own, j <= i):
        return ["true"], rest
    for window in range(1, max(n, m)):
        if torch.equal(own, (j <= i) & (i - j < window)):
            return ["true", f"window = {window}"], rest
        if torch.equal(own, (i - j).abs() < window):
            return [f"window = {window}"], rest
    raise Unsaid("a mask of constants that is neither causal nor a window")


def alibi(bias: Tensor, seen: Tensor) -> list[str]:
    """The option for what falls with the distance of query and key."""
    if not bool(bias[seen].any()):
        return []
    h, n, m = bias.shape[-3:]
    slopes = 2.0 ** (-8.0 * torch.arange(1, h + 1) / h)
    i, j = torch.arange(n)[:, None], torch.arange(m)
    want = -slopes[:, None, None] * (i - j).abs()
    shift = bias - want  # a summand for each query is nothing to a softmax
    first = torch.where(seen, shift, torch.full((), math.inf)).amin(-1, keepdim=True)
    if bool(((shift - first)[seen].abs() < 1e-4).all()):
        return ["alibi = true"]
    raise Unsaid("a tensor of constants that is added to attention's logits")


@says("scaled_dot_product_attention")
def fused(low: Lowering, node: Node) -> None:
    numbers = [n for _, n in node.slots()]
    q, k, v = (heads(low, n) for n in numbers[:3])
    d = q.shape[-1]
    scale = node.argument("scale")
    options = ["true"] if node.argument("is_causal", False) else []
    mask, given = node.argument("attn_mask"), None
    if mask is not None:
        found = low.constant(mask.number)
        if found is None:
            given = mask.number
        else:
            if found.dtype == torch.bool:
                found = torch.where(found, 0.0, -math.inf)
            shape = (*q.shape[:-1], k.shape[-2])
            own, bias = masked(found.expand(shape))
            options += [*own, *alibi(bias, found.expand(shape) > FAR)]
    options += scaled(d**-0.5 if scale is None else float(scale), d)
    attend(low, node, q, k, v, options, given)


def attend(
    low: Lowering, node: Node, q: View, k: View, v: View, options: list[str],
    mask: int | None = None,
) -> None:  # fmt: skip
    views = [q, *(unrepeated(x)[0] for x in (k, v))]
    args = [low.made(x, name) for x, name in zip(views, "qkv", strict=True)]
    if mask is not None:
        args.append(low.number(mask))
    text = f"Attention({', '.join(options)})" if options else "Attention"
    out = low.add(text, tuple(args), (*q.shape[:-1], v.shape[-1]))
    shape = low.trace.values[node.outputs[0]].shape
    low.views[node.outputs[0]] = whole(low.graph, out, shape)
