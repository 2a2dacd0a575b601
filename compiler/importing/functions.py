"""Functions that are written out in small operations, told by what they do to numbers.

A part of a run from one value to another, without weights, is run again on random numbers, and what
it gives is compared with what operations of the language give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx as nx
import torch
from torch import Tensor

from modnorm.adopting.execute import execute
from modnorm.adopting.flow import entrywise
from modnorm.adopting.operations import KEEPS, MOVES
from modnorm.adopting.trace import Node, Trace
from modnorm.importing.formulas import POINTWISE, formula, named, scalars
from modnorm.importing.problems import Unsaid
from modnorm.ops.rope import RoPE

LARGEST = 40
"""Operations that a function may be written out in."""
FAR = 8
"""How many values through which all goes may lie in a function."""
CLOSE = 2e-5
"""Difference, in proportion to the largest entry, that is put down to rounding."""
INSIDE = POINTWISE | MOVES | frozenset(
    "mean sum rsqrt sqrt var norm linalg_vector_norm view_as_complex view_as_real maximum outer"
    " addcmul std".split()
)  # fmt: skip
ENDS = frozenset("mul add sub div cat flatten rsqrt addcmul type_as to _to_copy".split())


@dataclass(frozen=True)
class Function:
    """A function of a value: `text` as it is written. kind: "entry", "norm" or "rope".

    axis: along which a norm goes, or where the places that are turned are.
    """

    start: int
    text: str
    kind: str
    axis: int = -1


def active(trace: Trace, number: int) -> bool:
    """Whether a value depends on inputs or weights, and is no weight itself."""
    value = trace.values[number]
    return (value.live or value.fed) and value.weight is None


def dominators(trace: Trace) -> dict[int, int]:
    """For each value the last before it through which all that it depends on goes."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_node(-1)
    for value in trace.values:
        if active(trace, value.number):
            node = None if value.node is None else trace.nodes[value.node]
            before = [] if node is None else [n for n in node.inputs if active(trace, n)]
            graph.add_edges_from((n, value.number) for n in set(before) or [-1])
    return dict(nx.immediate_dominators(graph, -1))


def find_functions(trace: Trace, bonds: dict[str, str]) -> dict[int, Function]:
    """By number of their last value, the functions that operations of the language compute."""
    above, found = dominators(trace), dict[int, Function]()
    inner: set[int] = set()
    for node in reversed(trace.nodes):
        if node.name not in ENDS or len(node.outputs) != 1 or node.outputs[0] in inner:
            continue
        end = node.outputs[0]
        if end not in above or not trace.values[end].floating:
            continue
        best, start = None, above[end]
        for _ in range(FAR):
            if start < 0:
                break
            nodes = region(trace, start, end)
            if nodes is None:
                break
            own = [n for n in nodes if n.name not in KEEPS - {"neg"}]
            if len(own) > 1 and trace.values[start].floating:
                best = told(trace, start, end, own, bonds) or best
            start = above.get(start, -1)
        if best is not None:
            found[end] = best
            inner |= {n for own in region(trace, best.start, end) or () for n in own.outputs}
    return found


def region(trace: Trace, start: int, end: int) -> list[Node] | None:
    """The operations from one value to another; None if some have weights, or are too many."""
    found: dict[int, Node] = {}
    open_ = [end]
    while open_:
        number = open_.pop()
        if number == start or not active(trace, number):
            if trace.values[number].weight is not None:
                return None
            continue
        made = trace.values[number].node
        if made is None:
            return None
        if made in found:
            continue
        node = trace.nodes[made]
        if node.name not in INSIDE or node.func._schema.is_mutable or len(found) > LARGEST:
            return None
        if isinstance(node.func, str) or node.name in ("dropout",):
            return None
        found[made] = node
        open_ += node.inputs
    return [found[n] for n in sorted(found)]


def told(
    trace: Trace, start: int, end: int, nodes: list[Node], bonds: dict[str, str]
) -> Function | None:
    """What a function is, by what it does to random numbers."""
    shape, out = trace.values[start].shape, trace.values[end].shape
    if shape != out or len(shape) < 2:
        return None
    seed = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=seed) * 1.5

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            return execute(trace, [end], {start: x})[end].float()

    try:
        y = f(x)
        if all(node.name in POINTWISE for node in nodes):
            return entry(trace, start, end, nodes, bonds, x, y, f)
        names = {node.name for node in nodes}
        if names & {"rsqrt", "sqrt", "norm", "linalg_vector_norm", "var", "std"}:
            return norm(trace, start, nodes, x, y, f)
        return turn(start, f, shape) if names & {"cat", "stack", "view_as_complex"} else None
    except (RuntimeError, AssertionError, TypeError, ValueError, IndexError, Unsaid):
        return None


def close(a: Tensor, b: Tensor) -> bool:
    size = float(b.abs().max())
    return bool(math.isfinite(size) and float((a - b).abs().max()) <= CLOSE * max(size, 1e-30))


def entry(
    trace: Trace, start: int, end: int, nodes: list[Node], bonds: dict[str, str], x: Tensor,
    y: Tensor, f: Callable[[Tensor], Tensor],
) -> Function | None:  # fmt: skip
    """A function of each entry: one of the language, or one by its formula."""
    if close(f(2 * x) + f(0 * x), 2 * y):  # a factor and a summand
        return None
    for op in entrywise():
        if close(y, op.reference(x)):
            return Function(start, op.name, "entry")
    for c in scalars(nodes, trace):
        if c > 0 and close(y, c * torch.tanh(x / c)):
            return Function(start, f"Softcap({text_of(c)})", "entry")
    text = formula(trace, start, end)
    where = nodes[-1].module
    return Function(start, named(text, trace.classes.get(where, "Function"), bonds), "entry")


def norm(
    trace: Trace, start: int, nodes: list[Node], x: Tensor, y: Tensor,
    f: Callable[[Tensor], Tensor],
) -> Function | None:  # fmt: skip
    """A division by the root mean square along an axis, maybe of what deviates from the mean."""
    small = [0.0, *(c for c in scalars(nodes, trace) if 0 < c < 0.1)]
    for axis in (-1, 1):
        for name, z in (
            ("RMSDivide", x),
            ("Standardize", x - x.mean(axis, keepdim=True)),
        ):
            for eps in small:

                def made(z: Tensor, eps: float = eps, axis: int = axis) -> Tensor:
                    return z / (z.square().mean(axis, keepdim=True) + eps).sqrt()

                if close(y, made(z)) and close(f(1e-3 * x), made(1e-3 * z)):  # where eps is seen
                    at = "" if axis == -1 else f"{axis}, "
                    return Function(start, f"{name}({at}eps = {eps:g})", "norm", axis)
    return None


def turn(start: int, f: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Function | None:
    """Rotary positions, along the axis of places."""
    d = shape[-1]
    for axis in (len(shape) - 2, 1) if len(shape) == 4 else (len(shape) - 2,):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        places = shape[axis]
        if places < 2:
            continue
        for interleaved, count in ((i, n) for n in range(d, 1, -2) for i in (False, True)):
            pairs = halves(count, interleaved)
            unit = torch.zeros(shape)
            unit[..., [a for a, _ in pairs]] = 1.0
            out = f(unit).movedim(axis, 0).flatten(1, -2)[:, 0]
            angle = torch.atan2(out[:, [b for _, b in pairs]], out[:, [a for a, _ in pairs]])
            speed = ((angle[1] - angle[0]).double() + math.pi) % (2 * math.pi) - math.pi
            found = base_of(speed, count)
            if found is None:
                continue
            base, scale = found
            begin = round(float(angle[0, 0]) / scale) if scale else 0
            place = scale * (begin + torch.arange(places).double())
            theta = place[:, None] * base ** (-torch.arange(len(pairs)).double() * 2 / count)
            want = x.clone().movedim(axis, -2)
            a, b = want[..., [p for p, _ in pairs]], want[..., [q for _, q in pairs]]
            cos, sin = theta.cos().float(), theta.sin().float()
            want[..., [p for p, _ in pairs]] = a * cos - b * sin
            want[..., [q for _, q in pairs]] = b * cos + a * sin
            if close(f(x), want.movedim(-2, axis)):
                options = {
                    "base": base, "offset": begin, "fraction": count / d, "scale": scale,
                    "interleaved": interleaved,
                }  # fmt: skip
                return Function(start, rope_text(options), "rope", axis)
    return None


def halves(count: int, interleaved: bool) -> list[tuple[int, int]]:
    """The pairs of entries that turn together."""
    if interleaved:
        return [(2 * i, 2 * i + 1) for i in range(count // 2)]
    return [(i, i + count // 2) for i in range(count // 2)]


def base_of(speed: Tensor, count: int) -> tuple[float, float] | None:
    """Base and scale of angles a place, if they are a geometric row."""
    if float(speed[0]) <= 0 or len(speed) < 2 or not bool((speed > 0).all()):
        return None
    ratio = float(speed[0] / speed[1])
    if ratio <= 1:
        return None
    base = ratio ** (count / 2)
    rounded = [float(f"{base:.{n}g}") for n in (1, 2, 3, 4)]
    base = next((r for r in rounded if abs(r / base - 1) < 2e-3), base)
    scale = float(speed[0])
    return base, float(f"{scale:.4g}") if abs(scale - 1) > 1e-5 else 1.0


def rope_text(options: Mapping[str, float | bool]) -> str:
    """A RoPE as it is written, with what is not as usual."""
    usual = {a.name: a.default for a in RoPE.arguments()}
    said = [f"{name} = {text_of(value)}" for name, value in options.items() if value != usual[name]]
    return f"RoPE({', '.join(said)})" if said else "RoPE"


def text_of(value: float | bool) -> str:
    """A number or a truth value as it is written: a fraction where it is a plain one."""
    if isinstance(value, bool):
        return str(value).lower()
    return written(value)


def written(value: float) -> str:
    """A number, exact where it is a fraction of small numbers."""
    if float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    for below in range(2, 65):
        if abs(value * below - round(value * below)) < 1e-9 * below and round(value * below):
            return f"{round(value * below)}/{below}"
    return repr(float(f"{value:.9g}"))
