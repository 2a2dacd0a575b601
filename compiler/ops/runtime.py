"""What generated files contain a copy of, where an operation is more than one call.

Only tests import this module; the compiler reads its text.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lerp(x: Tensor, y: Tensor, weight: float) -> Tensor:
    """(1 - weight)·x + weight·y, also where x and y differ in precision, as under autocast."""
    if x.dtype == y.dtype:
        return torch.lerp(x, y, weight)
    return torch.add((1 - weight) * x, y, alpha=weight)


def gated(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """torch.lerp, also of values that differ in precision, as under autocast."""
    dtype = torch.promote_types(torch.promote_types(start.dtype, end.dtype), weight.dtype)
    return torch.lerp(start.to(dtype), end.to(dtype), weight.to(dtype))


def widened(x: Tensor) -> Tensor:
    """x in float32 where it is narrower: squares, sums and differences need the range."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def centered(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x - mean(x) along axes."""
    y = widened(x)
    return (y - y.mean(dim, keepdim=True)).to(x.dtype)


def unit_rms(x: Tensor, dim: int | tuple[int, ...], eps: float) -> Tensor:
    """x / √(mean(x²) + eps) along axes."""
    y = widened(x)
    return (y * torch.rsqrt(y.square().mean(dim, keepdim=True) + eps)).to(x.dtype)


def layer_normed(x: Tensor, shape: tuple[int, ...], eps: float) -> Tensor:
    """Of the last axes; torch's own on CPUs gives rounding errors for equal entries of float16."""
    if x.dtype == torch.float16 and x.device.type == "cpu":
        return F.layer_norm(x.float(), shape, eps=eps).half()
    return F.layer_norm(x, shape, eps=eps)


def looked_up(x: Tensor, weight: Tensor, name: str) -> Tensor:
    """Rows x of a table; only a CPU says in words that there is no such row."""
    try:
        return F.embedding(x, weight)
    except IndexError:
        last, wrong = len(weight) - 1, int(x.min()) if x.min() < 0 else int(x.max())
        raise IndexError(f"`{name}` has rows 0 to {last}, but its input asks for {wrong}") from None


def headed(x: Tensor, weight: Tensor) -> Tensor:
    """(…, seq, in) → (…, heads, seq, d), by the matrix of each head of a weight (heads, d, in)."""
    y = F.linear(x, weight.flatten(0, 1))
    return y.reshape(*y.shape[:-1], *weight.shape[:2]).transpose(-3, -2)


def rope(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate the pairs (i, i + d/2) of the last axis by angles position·base^(-2i/d)."""
    seq, d = x.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    frequency = base ** (torch.arange(0, d, 2, device=x.device, dtype=dtype) / -d)
    angle = torch.outer(torch.arange(seq, device=x.device, dtype=dtype), frequency)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def rotary(
    x: Tensor,
    turned: int,
    base: float,
    offset: int = 0,
    scale: float = 1,
    interleaved: bool = False,
) -> Tensor:
    """Rotate pairs of the first entries of the last axis by angles position·base^(-2i/turned)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    frequency = base ** (torch.arange(0, turned, 2, device=x.device, dtype=dtype) / -turned)
    position = scale * (offset + torch.arange(x.shape[-2], device=x.device, dtype=dtype))
    angle = torch.outer(position, frequency)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    turning, rest = x[..., :turned], x[..., turned:]
    if interleaved:
        a, b = turning[..., ::2], turning[..., 1::2]
        pairs = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = turning.chunk(2, dim=-1)
        pairs = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((pairs, rest), dim=-1)


def alibi(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """A mask that takes the distance of query and key off, times the slope of the head."""
    heads, query = q.shape[-3], torch.arange(q.shape[-2], device=q.device)[:, None]
    whole = 2 ** (heads.bit_length() - 1)  # beside a power of two, slopes of twice as many heads
    slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2 ** (-8 * (i + 0.5) / whole) for i in range(heads - whole)]
    dtype = torch.promote_types(q.dtype, torch.float32)
    slope = torch.tensor(slopes, device=q.device, dtype=dtype)[:, None, None]
    added = (slope * -(query - torch.arange(k.shape[-2], device=q.device)).abs()).to(q.dtype)
    if mask is None:
        return added
    return added.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else added + mask


def visible(
    q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, window: int | None
) -> tuple[Tensor, Tensor]:
    """A mask for what queries see, by their places too, and which of them would see nothing.

    Those see everything in the mask: what they give is to be replaced.
    """
    query = torch.arange(q.shape[-2], device=q.device)[:, None]
    distance = query - torch.arange(k.shape[-2], device=q.device)
    seen = distance >= 0 if causal else None
    if window is not None:
        near = distance.abs() < window
        seen = near if seen is None else seen & near
    if mask is None or mask.dtype == torch.bool:
        both = seen if mask is None else mask if seen is None else mask & seen
        assert both is not None
        blind = ~both.any(-1, keepdim=True)
        return both | blind, blind
    mask = mask.to(q.dtype) if seen is None else mask.to(q.dtype).masked_fill(~seen, -torch.inf)
    blind = ~(mask > -torch.inf).any(-1, keepdim=True)
    return mask.masked_fill(blind, 0), blind


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float,
    mask: Tensor | None = None, causal: bool = False, window: int | None = None,
) -> Tensor:  # fmt: skip
    """Attention in which a query that sees no key gives zeros, where torch may give nan."""
    mask, blind = visible(q, k, mask, causal, window)
    grouped = q.shape[-3] != k.shape[-3]
    y = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=grouped)
    return y.masked_fill(blind, 0)


def capped(
    q: Tensor, k: Tensor, v: Tensor, scale: float, cap: float,
    mask: Tensor | None = None, causal: bool = False, window: int | None = None,
) -> Tensor:  # fmt: skip
    """Attention with logits cap·tanh(logits / cap); a query that sees no key gives zeros."""
    k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    logits = cap * torch.tanh(scale / cap * widened(q @ k.mT))
    if mask is None and not causal and window is None:
        return logits.softmax(-1).to(v.dtype) @ v
    mask, blind = visible(q, k, mask, causal, window)
    is_bool = mask.dtype == torch.bool
    logits = logits.masked_fill(~mask, -torch.inf) if is_bool else logits + mask
    return (logits.softmax(-1).to(v.dtype) @ v).masked_fill(blind, 0)


def fused_heads(x: Tensor, weight: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """Several (…, seq, in) → (…, heads, seq, d), by weights whose rows follow each other."""
    y = F.linear(x, weight)
    y = y.reshape(*y.shape[:-1], parts, heads, -1).transpose(-4, -2)
    return y.unbind(-3)


def choices(scores: Tensor, top: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """The experts of the largest scores (…, experts), and what they count: two of (…, top)."""
    wide = widened(scores)
    best, which = wide.topk(top, -1)
    return which, best.softmax(-1) if normalize else wide.softmax(-1).gather(-1, which)


def gates(scores: Tensor, top: int | None = None, normalize: bool = True) -> Tensor:
    """What the experts of the largest scores count in a mixture; 0 for all others."""
    wide = widened(scores)
    if top is None:
        return wide.softmax(-1)
    which, shares = choices(scores, top, normalize)
    return torch.zeros_like(wide).scatter(-1, which, shares)


def of_each(function: Any, x: Tensor, sizes: Any, weight: Tensor) -> Tensor:
    """A function of vectors and a weight, for so many vectors after each other the same weight."""
    parts = zip(torch.split(x, sizes), weight, strict=True)
    return torch.cat([function(part, own) for part, own in parts])


def routed(x: Tensor, scores: Tensor, top: int, normalize: bool = True) -> tuple[Any, ...]:
    """The vectors of x that go to each expert, one expert's after the other's; how many those are;
    which vectors of x they are; and what they count.

    While it is compiled, where no size may depend on data, all go to all, and most count 0.
    """
    which, shares = choices(scores.reshape(-1, scores.shape[-1]), top, normalize)
    x, count = x.reshape(-1, x.shape[-1]), scores.shape[-1]
    if torch.compiler.is_compiling():
        shares = shares.new_zeros(len(x), count).scatter(1, which, shares)
        places = torch.arange(len(x), device=x.device).repeat(count)
        return x.repeat(count, 1), [len(x)] * count, places, shares.mT.flatten()
    order = which.flatten().argsort(stable=True)
    sizes = which.flatten().bincount(minlength=count).tolist()
    places = order // top
    return x.index_select(0, places), sizes, places, shares.flatten().index_select(0, order)


def unrouted(y: Tensor, x: Tensor, places: Tensor, shares: Tensor) -> Tensor:
    """Σ gate·y for each vector of x, of those y that experts made of it."""
    sums = shares.new_zeros(x.shape[:-1].numel(), y.shape[-1])
    sums = sums.index_add(0, places, shares.unsqueeze(-1) * y)
    return sums.to(y.dtype).view(*x.shape[:-1], y.shape[-1])


def over_edges_sum(x: Tensor, edges: Tensor) -> Tensor:
    """What nodes (…, nodes, d) get over edges (2, n), from node edges[0] to node edges[1]."""
    source, target = edges
    y = widened(x)
    return torch.zeros_like(y).index_add(-2, target, y.index_select(-2, source)).to(x.dtype)


def over_edges_mean(x: Tensor, edges: Tensor) -> Tensor:
    """The mean of what nodes get over the edges into them; 0 where there is none."""
    source, target = edges
    y = widened(x)
    sums = torch.zeros_like(y).index_add(-2, target, y.index_select(-2, source))
    count = y.new_zeros(y.shape[-2]).index_add(0, target, torch.ones_like(target, dtype=y.dtype))
    return (sums / count.clamp(min=1).unsqueeze(-1)).to(x.dtype)


def over_edges_max(x: Tensor, edges: Tensor) -> Tensor:
    """The largest entries of what nodes get over the edges into them; 0 where there is none."""
    source, target = edges.long()
    sent = x.index_select(-2, source)
    into = target.unsqueeze(-1).expand_as(sent)
    return torch.zeros_like(x).scatter_reduce(-2, into, sent, "amax", include_self=False)


def over_edges_gcn(x: Tensor, edges: Tensor) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 x for the edges A between different nodes, D the row sums of A + I."""
    source, target = edges
    y = widened(x)
    apart = (source != target).to(y.dtype)  # each node has one edge to itself, given or not
    root = y.new_ones(y.shape[-2]).index_add(0, target, apart).rsqrt().unsqueeze(-1)
    y = root * y
    sent = y.index_select(-2, source) * apart.unsqueeze(-1)
    return (root * y.index_add(-2, target, sent)).to(x.dtype)


def bagged(
    x: Tensor, weight: Tensor, name: str, mode: str = "mean", padding: int | None = None
) -> Tensor:
    """Means or sums of rows of a table over the last axis of x."""
    if x.shape[-1] == 0:
        return weight.new_zeros(*x.shape[:-1], weight.shape[1])
    bags = x.reshape(-1, x.shape[-1])
    try:
        y = F.embedding_bag(bags, weight, mode=mode, padding_idx=padding)
    except RuntimeError:
        looked_up(x, weight, name)  # it says in words where there is no such row
        raise
    return y.view(*x.shape[:-1], weight.shape[1])


class DropPath(nn.Module):
    """In training each example is 0 with probability p, and else divided by 1 - p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p:g}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty([len(x), *[1] * (x.ndim - 1)]).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p))


class BatchMeanSubtract(nn.Module):
    """x - mean(x), for each channel over the batch and all places; in eval(), x - running_mean."""

    running_mean: Tensor

    def __init__(
        self, size: int, momentum: float, axis: int, generator: Any = None, **factory: Any
    ) -> None:
        super().__init__()
        self.momentum, self.axis = momentum, axis
        self.register_buffer("running_mean", torch.zeros(size, **factory))

    def extra_repr(self) -> str:
        return f"{len(self.running_mean)}, momentum={self.momentum:g}"

    def forward(self, x: Tensor) -> Tensor:
        y, mean = widened(x), self.running_mean
        others = [i for i in range(x.ndim) if i != self.axis % x.ndim]
        if self.training:
            if x.numel() <= len(mean):
                raise ValueError(f"a batch's mean needs more than one value, not {[*x.shape]}")
            mean = y.mean(others)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return (y - mean.view([1 if i in others else -1 for i in range(x.ndim)])).to(x.dtype)


class BatchStandardize(nn.Module):
    """(x - mean)/√(var + eps), for each channel over the batch and all places, as by torch's
    BatchNorm; in eval() by running_mean and running_var."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, size: int, momentum: float, eps: float, axis: int, generator: Any = None,
        **factory: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.momentum, self.eps, self.axis = momentum, eps, axis
        self.register_buffer("running_mean", torch.zeros(size, **factory))
        self.register_buffer("running_var", torch.ones(size, **factory))

    def extra_repr(self) -> str:
        return f"{len(self.running_mean)}, momentum={self.momentum:g}, eps={self.eps:g}"

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() <= len(self.running_mean):
            raise ValueError(f"a batch's deviation needs more than one value, not {[*x.shape]}")
        buffers = self.running_mean, self.running_var
        y = F.batch_norm(
            x.movedim(self.axis, 1), *buffers, None, None, self.training, self.momentum, self.eps
        )
        return y.movedim(1, self.axis)
