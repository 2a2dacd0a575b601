"""How far the output moves with each value of a run, as declared: sums over paths.

The rule is that of compiled models (docs/mathematics.md): a value's downstream sensitivity is the
sum over its readers of theirs, times how far they move with it. An operation of torch declares what
the operation of the language that computes the same does. A part without weights from one value to
another, written out in small operations, counts as one function, told by what it does to numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import networkx as nx
import torch
from torch import Tensor

from modnorm.adopting.execute import FAILS, execute
from modnorm.adopting.operations import (
    JOINS,
    KEEPS,
    LOSSES,
    MOVES,
    NORMALIZES,
    ONES,
    PARTS,
    POOLS,
    PRODUCTS,
    SOFTMAXES,
    SUMS,
)  # fmt: skip
from modnorm.adopting.trace import Node, Trace
from modnorm.ops import registry
from modnorm.ops.attention import Attention
from modnorm.ops.families import Entrywise
from modnorm.ops.product import Product

LARGEST = 64
"""Operations that a function may be written out in."""


@dataclass
class Flow:
    """Downstream sensitivities of a run's values.

    edges: of each value its readers, and how far they move with it. outputs: whose norms are the
    model's. unclear: of sums of a value and what is made of it, which no norm reads: what does.
    guessed: names of operations of which nothing is declared; 1 was taken. sites: what an
        operation of an attention reads in one of its arguments: q, k or v. sums: of streams.
        parts: values that are some of the tokens of one, as those that an expert gets.
    """

    trace: Trace
    outputs: tuple[int, ...] = ()
    edges: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    below: dict[int, float] = field(default_factory=dict)
    unclear: dict[int, str] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)
    sums: set[int] = field(default_factory=set)
    sites: dict[tuple[int, int], str] = field(default_factory=dict)
    parts: set[int] = field(default_factory=set)

    def inputs(self, node: Node) -> list[int]:
        """Values that an operation reads and that move, each once."""
        return list(dict.fromkeys(n for n in node.inputs if self.acts(n)))

    def acts(self, number: int) -> bool:
        """Whether a value depends on inputs of real numbers or on weights, and is no weight."""
        value = self.trace.values[number]
        return value.live and value.floating and value.weight is None

    def scale(self, number: int) -> float:
        """The size of the factors by which a value was multiplied last."""
        scale = 1.0
        while (made := self.trace.values[number].node) is not None:
            node = self.trace.nodes[made]
            own = self.inputs(node)
            if len(own) != 1 or any(self.trace.values[n].weight is not None for n in node.inputs):
                break
            if (by := scalar(node)) is not None:
                scale *= abs(by)
            elif node.name not in MOVES | KEEPS:
                break
            number = own[0]
        return scale

    def over(self, value: int, size: Callable[[int], float]) -> float:
        """The sum over a value's readers; of those that have other tokens each, the largest."""
        total, most = (1.0 if value in self.outputs else 0.0), 0.0
        for reader, by in self.edges.get(value, ()):
            if reader in self.parts:
                most = max(most, by * size(reader))
            else:
                total += by * size(reader)
        return total + most

    def of_rows(self, value: int, rows: Tensor) -> float:
        """The sensitivity downstream of some features of a value: of those that these rows made."""
        known = self.trace.features.get(value)
        before = rows if known is None else known.distinct()

        def size(reader: int) -> float:
            labels, own = self.trace.features.get(reader), rows
            if reader in self.trace.links:
                kept, other = self.trace.links[reader]
                if bool(torch.isin(rows, other).any()):  # in a sum, known by what it is added to
                    own = torch.unique(kept[torch.isin(other, rows)])
            there = None if labels is None else labels.distinct()
            if there is None or (own is rows and not bool(torch.isin(there, before).any())):
                return self.below.get(reader, 0.0)
            return self.of_rows(reader, own) if bool(torch.isin(own, there).any()) else 0.0

        return self.over(value, size)


def find_outputs(trace: Trace) -> tuple[int, ...]:
    """The values whose norms are the model's.

    They are what it returns but for losses and for what others of them are made of; where it gives
    nothing but a loss, what that is of.
    """
    returned = {n for n in trace.outputs.values() if trace.values[n].live}
    losses = {n for n in returned if not trace.values[n].shape}
    for number in losses:
        node = trace.values[number].node
        while node is not None and trace.nodes[node].name not in LOSSES:
            ahead = [n for n in trace.nodes[node].inputs if trace.values[n].live]
            node = trace.values[ahead[0]].node if ahead else None
        if node is not None and not returned - losses:
            returned |= {n for n in trace.nodes[node].inputs if trace.values[n].live}
    kept = returned - losses or returned
    above: set[int] = set()
    for number in sorted(kept, reverse=True):
        open_ = [number]
        while open_:
            node = trace.values[open_.pop()].node
            if node is not None:
                more = [n for n in trace.nodes[node].inputs if n not in above]
                above.update(more)
                open_ += more
    return tuple(sorted(kept - above))


def find_flow(trace: Trace) -> Flow:
    """Sensitivities downstream of every value that the output depends on."""
    return _Finder(trace).flow()


class _Finder:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.found = Flow(trace, find_outputs(trace))
        self.acts, self.inputs = self.found.acts, self.found.inputs
        self.above = self.ancestors(self.found.outputs)
        self.readers: dict[int, list[Node]] = defaultdict(list)
        for node in trace.nodes:
            if any(n in self.above for n in node.outputs):
                for number in set(node.inputs):
                    if self.acts(number):
                        self.readers[number].append(node)
        self.terms: dict[int, float] = {}
        self.guessed: dict[int, str] = {}
        self.dominators = self.dominated()
        self.shortcuts: dict[int, tuple[int, float, bool]] = {}
        self.attended: dict[int, list[tuple[int, float]]] = {}

    def ancestors(self, numbers: Sequence[int]) -> set[int]:
        found, open_ = set(numbers), list(numbers)
        while open_:
            node = self.trace.values[open_.pop()].node
            if node is not None:
                more = set(self.trace.nodes[node].inputs) - found
                found |= more
                open_ += more
        return found

    def dominated(self) -> dict[int, int]:
        """For each value the last one before it through which all that it depends on goes."""
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_node(-1)
        for value in self.trace.values:
            if value.number in self.above and self.acts(value.number):
                before = [] if value.node is None else self.inputs(self.trace.nodes[value.node])
                graph.add_edges_from((n, value.number) for n in before or [-1])
        return dict(nx.immediate_dominators(graph, -1))

    # -- functions that are written out ------------------------------------------------------

    def function(self, number: int) -> tuple[int, float, bool] | None:
        """For the value of a function of one other: that, how far it moves, does it normalize."""
        value = self.trace.values[number]
        if value.node is None:
            return None
        node = self.trace.nodes[value.node]
        own, start = self.inputs(node), self.dominators.get(number, -1)
        if not own or start < 0 or node.name in SUMS | NORMALIZES:
            return None
        plain = node.name in MOVES | KEEPS | ONES or scalar(node) is not None
        if len(own) == 1 and (plain or self.weighted(node)):
            return None
        start = own[0] if len(own) == 1 else start
        before, after = (self.trace.features.get(n) for n in (start, number))
        if before and after and not torch.equal(before.distinct(), after.distinct()):
            return None  # a product of features, say, by others of the same matrix
        inside = self.between(start, number)
        if inside is None or not any(n.name not in MOVES | KEEPS | {"add"} for n in inside):
            return None
        return self.measured(start, number)

    def weighted(self, node: Node) -> bool:
        return any(self.trace.values[n].weight is not None for n in node.inputs)

    def between(self, start: int, end: int) -> list[Node] | None:
        """The operations from one value to another; None if some have weights, or are too many."""
        found: dict[int, Node] = {}
        open_ = [end]
        while open_:
            node_number = self.trace.values[open_.pop()].node
            if node_number is None or node_number in found:
                continue
            node = self.trace.nodes[node_number]
            if self.weighted(node) or node.name in SUMS | NORMALIZES | {"write"}:
                return None
            if node.func._schema.is_mutable or len(found) > LARGEST:
                return None
            found[node_number] = node
            open_ += [n for n in self.inputs(node) if n != start]
        return list(found.values())

    def measured(self, start: int, end: int) -> tuple[int, float, bool] | None:
        """What a function does to random numbers."""
        shape = self.trace.values[start].shape
        seed = torch.Generator().manual_seed(0)
        leaf = next((v.leaf for v in self.trace.values if v.leaf is not None and v.floating), None)
        device = None if leaf is None else leaf.device
        x, noise = (torch.randn(shape, generator=seed).to(device) for _ in range(2))

        def f(x: Tensor) -> Tensor:
            return execute(self.trace, [end], {start: x})[end].float()

        try:
            y, twice, near = f(x), f(2 * x), f(x + 1e-3 * noise)
        except FAILS:
            return None
        size = rms(y)
        if not (math.isfinite(size) and size > 0 and x.numel() > 1):
            return None
        if rms(twice - y) < 0.02 * size:
            return start, rounded(size), True
        if y.shape == x.shape:
            for op in entrywise():
                like = op.reference(x)
                factor = float((y * like).sum() / (like * like).sum())
                if rms(y - factor * like) < 2e-3 * size:
                    return start, rounded(abs(factor)) * float(op.sensitivity), False
        return start, rounded(rms(near - y) / rms(1e-3 * noise)), False

    # -- attention ---------------------------------------------------------------------------

    def attention(self, node: Node) -> list[tuple[int, float]] | None:
        """How far attention moves with queries, keys, values and masks; None if it is none."""
        if node.name == "scaled_dot_product_attention":
            numbers = [number for _, number in node.slots()][:3]
            self.found.sites |= {(node.number, i): "qkv"[i] for i in range(3)}
            d = self.trace.values[numbers[0]].shape[-1]
            scale = node.argument("scale")
            return self.declared(numbers, d * (d**-0.5 if scale is None else float(scale)), [])
        if node.name not in PRODUCTS - {"baddbmm"}:
            return None
        pair = [number for _, number in node.slots()]
        if len(pair) != 2:
            return None
        for probabilities, v in (pair, pair[::-1]):
            number = self.passed(probabilities)
            made = self.made(number)
            if made is not None and made.name in SOFTMAXES:
                found = self.scores(made.inputs[0])
                if found is not None:
                    (q, k), scale, masks, product = found
                    for site, name, n in ((node, "v", v), (product, "q", q), (product, "k", k)):
                        slot = next(s for s, number in site.slots() if number == n)
                        self.found.sites[site.number, slot] = name
                    d = self.trace.values[q].shape[-1]
                    return self.declared([q, k, v], d * scale, masks)
        return None

    def declared(
        self, numbers: list[int], factor: float, masks: list[int]
    ) -> list[tuple[int, float]]:
        found = []
        for i, number in enumerate(numbers):
            scale = self.found.scale(number) if i < 2 else 1.0
            factor *= scale
            found.append((number, 1 / scale))
        size = float(Attention(scale=factor).sensitivity)
        return [(n, size * by) for n, by in found] + [(n, size) for n in masks]

    def made(self, number: int) -> Node | None:
        node = self.trace.values[number].node
        return None if node is None else self.trace.nodes[node]

    def passed(self, number: int) -> int:
        """What a value was before it was only moved, or dropped out of."""
        while (made := self.made(number)) is not None and (
            made.name in KEEPS or (made.name in MOVES and len(self.inputs(made)) == 1)
        ):
            number = self.inputs(made)[0] if self.inputs(made) else made.inputs[0]
        return number

    def scores(self, number: int) -> tuple[tuple[int, int], float, list[int], Node] | None:
        """Of scores the queries and keys, their scale, what was added, and what multiplies."""
        scale, masks = 1.0, list[int]()
        for _ in range(LARGEST):
            made = self.made(number)
            if made is None:
                return None
            own = [number for number in made.inputs if self.trace.values[number].live]
            if made.name in PRODUCTS:
                pair = own[-2:]
                if len(pair) < 2 or not all(map(self.acts, pair)):
                    return None
                if made.name == "baddbmm":
                    scale *= float(made.argument("alpha", 1))
                return (pair[0], pair[1]), scale, masks, made
            if (by := scalar(made)) is not None:
                scale *= by
            elif made.name in ("add", "where", "masked_fill") and len(own) == 2:
                products = [n for n in own if self.is_product(n)]
                if len(products) != 1:
                    return None
                masks += [n for n in own if n not in products and self.acts(n)]
                own = products
            elif made.name not in MOVES | KEEPS | {"add", "where", "masked_fill", "tanh", "sub",
                                                   "maximum"}:  # fmt: skip
                return None
            if len(own) != 1:
                return None
            number = own[0]
        return None

    def is_product(self, number: int) -> bool:
        for _ in range(LARGEST):
            made = self.made(number)
            if made is None or made.name in PRODUCTS:
                return made is not None and not self.weighted(made)
            own = [n for n in made.inputs if self.trace.values[n].live]
            if len(own) != 1:
                return False
            number = own[0]
        return False

    # -- streams -----------------------------------------------------------------------------

    def streams(self) -> None:
        """How many terms the sums of residual streams have: see `passes.streams`.

        What is unclear is a sum that something else than a norm reads.
        """
        for node in self.trace.nodes:
            if node.name != "add" or not node.outputs or node.outputs[0] not in self.above:
                continue
            own, out = self.inputs(node), node.outputs[0]
            if len(own) != 2 or out in self.shortcuts:
                continue
            skip = self.skipped(own)
            if skip is None:
                continue
            branch = own[1 - own.index(skip)]
            self.terms[out] = self.terms.get(self.source(skip), 1.0) + self.length(branch)
            for number in (skip, out):
                reader = self.reader(number)
                if reader is not None:
                    self.found.unclear.setdefault(out, reader)

    def source(self, number: int) -> int:
        """A stream's sum, from what only passes it on."""
        made = self.made(number)
        if number in self.terms or made is None or made.name not in KEEPS | MOVES | POOLS:
            return number
        before = {self.source(n) for n in self.inputs(made)}
        return before.pop() if len(before) == 1 and not self.weighted(made) else number

    def skipped(self, own: list[int]) -> int | None:
        """Of two values the one that the other is made of, whatever else that is made of."""
        for skip, other in (own, own[::-1]):
            if self.depends(other, self.source(skip)):
                return skip
        return None

    def depends(self, number: int, base: int) -> bool:
        """Whether one value is made of another; what makes a value has a smaller number."""
        open_, seen = [number], {number}
        while open_:
            node = self.trace.values[open_.pop()].node
            own = () if node is None else self.inputs(self.trace.nodes[node])
            if base in own:
                return True
            more = {n for n in own if n > base} - seen
            seen |= more
            open_ += more
        return False

    def length(self, number: int) -> float:
        """How many terms a branch adds: 1, but for scalar factors, and sums in it."""
        made = self.made(number)
        if made is None:
            return 1.0
        own = self.inputs(made)
        if len(own) == 1 and not self.weighted(made):
            if (by := scalar(made)) is not None:
                return abs(by) * self.length(own[0])
            if made.name in MOVES | KEEPS:
                return self.length(own[0])
        if made.name == "add" and len(own) == 2 and number not in self.shortcuts:
            return sum(map(self.length, own))
        return 1.0

    def reader(self, number: int) -> str | None:
        """What reads a sum of a stream as it is, where a norm should."""
        for node in self.readers[number]:
            for out in node.outputs:
                if out not in self.above or self.normalizes(node, out, number):
                    continue
                if self.source(out) == self.source(number):
                    found = self.reader(out)
                    if found is not None:
                        return found
                elif not (node.name == "add" and len(self.inputs(node)) == 2):
                    if self.inside_norm(number, out):
                        continue
                    return f"{node.name} in {node.module or 'the model'}"
        return "the output" if number in self.found.outputs else None

    def normalizes(self, node: Node, out: int, number: int) -> bool:
        if node.name in NORMALIZES:
            return True
        found = self.shortcuts.get(out)
        return found is not None and found[0] == number and found[2]

    def inside_norm(self, number: int, out: int) -> bool:
        """Whether a value is only a step of a function that normalizes another."""
        ends = [end for end, (start, _, norm) in self.shortcuts.items() if norm and start == number]
        return any(out in self.ancestors([end]) for end in ends)

    # -- all of it ---------------------------------------------------------------------------

    def flow(self) -> Flow:
        found, trace = self.found, self.trace
        for number in sorted(self.above):
            if self.acts(number) and (shortcut := self.function(number)) is not None:
                self.shortcuts[number] = shortcut
        for node in trace.nodes:
            if (attended := self.attention(node)) is not None:
                self.attended[node.number] = attended
        self.streams()
        edges: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for node in trace.nodes:
            for out in node.outputs:
                if out in self.above and self.acts(out):
                    for x, size in self.steps(node, out):
                        edges[x].append((out, size))
        found.edges = dict(edges)
        found.parts = {n for node in trace.nodes for n in node.outputs if self.is_part(node, n)}
        below = dict.fromkeys(found.outputs, 1.0)
        for number in sorted(self.above, reverse=True):
            if self.acts(number):
                below[number] = found.over(number, lambda n: below.get(n, 0.0))
        found.below = below
        found.sums = set(self.terms)
        found.guessed = {name for out, name in self.guessed.items() if below[out]}
        return found

    def is_part(self, node: Node, out: int) -> bool:
        """Whether a value is some of the tokens of another, with all of its features."""
        own = self.inputs(node)
        if node.name not in PARTS or len(own) != 1:
            return False
        before, after = (self.trace.features.get(n) for n in (own[0], out))
        first = len(self.trace.values[own[0]].shape) > 1 and node.argument("dim", 0) == 0
        if before and after and not torch.equal(before.distinct(), after.distinct()):
            return first and self.is_joined(own[0])  # each expert has made features of its own
        return bool(before and after) or first

    def is_joined(self, number: int) -> bool:
        """Whether a value has the tokens of several, one after the other."""
        made, shape = self.made(number), self.trace.values[number].shape
        while made is not None and made.name not in JOINS:
            like = [n for n in self.inputs(made) if self.trace.values[n].shape == shape]
            made = self.made(like[0]) if like else None
        return made is not None and made.argument("dim", 0) == 0

    def steps(self, node: Node, out: int) -> Iterator[tuple[int, float]]:
        """From which values an output is made, and how far it moves with each."""
        own = self.inputs(node)
        if not own:  # made of weights alone
            return
        if node.number in self.attended:
            yield from ((n, size) for n, size in self.attended[node.number] if self.acts(n))
        elif out in self.shortcuts:
            start, size, norm = self.shortcuts[out]
            yield start, size / (self.terms.get(self.source(start), 1.0) if norm else 1.0)
        elif node.name in NORMALIZES:
            yield own[0], 1 / self.terms.get(self.source(own[0]), 1.0)
        elif (by := scalar(node)) is not None and len(own) == 1:
            yield own[0], abs(by)
        elif node.name in PRODUCTS and len(own) == 2:
            terms = self.trace.values[own[0]].shape[-1]
            yield from ((n, float(terms)) for n in own)
        elif node.name == "sum":
            one, whole = (math.prod(self.trace.values[n].shape) for n in (out, own[0]))
            yield own[0], whole / max(one, 1)
        elif node.name == "lerp" and isinstance(by := node.argument("weight"), (int, float)):
            pair = [n for _, n in node.slots()]
            yield from zip(pair, (abs(1 - by), abs(by)), strict=True)
        elif node.name in ("add", "sub"):
            factors = (1.0, abs(float(node.argument("alpha", 1))))
            by_place = dict(zip([n for _, n in node.slots()], factors, strict=False))
            yield from ((n, by_place.get(n, 1.0)) for n in own)
        elif node.name in ("mul", "div"):
            yield from ((n, float(Product().sensitivity)) for n in own)
        else:
            if node.name not in MOVES | KEEPS | SUMS | ONES:
                self.guessed[out] = node.name
            yield from ((n, 1.0) for n in own)


def scalar(node: Node) -> float | None:
    """The factor of an operation that multiplies by a number."""
    if node.name not in ("mul", "div", "neg") or len(node.inputs) != 1:
        return None
    if node.name == "neg":
        return -1.0
    by = next((x for x in node.args if isinstance(x, (int, float))), None)
    if by is None or not by:
        return None
    return float(by) if node.name == "mul" else 1 / float(by)


def entrywise() -> list[Entrywise]:
    """The language's functions of one entry, without arguments."""
    found = (op for op in registry.builtin().values() if issubclass(op, Entrywise))
    return [op() for op in found if not any(a.required for a in op.arguments()) and not op.internal]


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def rounded(size: float) -> float:
    """A measured size; a whole number, or its inverse, where it is one up to a hundredth or two."""
    for exact in (1.0, 2.0, 0.5):
        if abs(size / exact - 1) < 0.02:
            return exact
    return size
