"""From a run of torch to operations of the language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from modnorm.adopting.execute import execute
from modnorm.adopting.labels import NONE
from modnorm.adopting.operations import KEEPS, MOVES
from modnorm.adopting.trace import Node, Ref, Trace
from modnorm.graph.renames import Recipe
from modnorm.importing.functions import Function, active, find_functions
from modnorm.importing.graph import Given, Graph, Step
from modnorm.importing.problems import Part, Unsaid
from modnorm.importing.scores import scores_of
from modnorm.importing.views import View, made, unrepeated, whole
from modnorm.importing.weights import names_in, recipe, stored

Say = Callable[["Lowering", Node], None]
SAYS: dict[str, Say] = {}
"""By name of an operation of torch, what writes it down."""


def says(*names: str) -> Callable[[Say], Say]:
    """Declare what writes down operations of torch."""

    def add(say: Say) -> Say:
        SAYS.update(dict.fromkeys(names, say))
        return say

    return add


Cut = Callable[[int, int, int, str], int]
"""Of a value with features, one with those from a start to an end, of every so many, by name."""


class Lowering:
    """Operations of the language for a run; what has none is in `parts`."""

    def __init__(
        self,
        trace: Trace,
        inputs: Mapping[int, Given],
        free: Sequence[int],
        buffers: Mapping[int, str],
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        self.trace, self.graph, self.free = trace, Graph(), tuple(free)
        self.parts: list[Part] = []
        self.views: dict[int, View] = {}
        self.cuts: dict[int, tuple[int, Cut]] = {}
        self.cut_made: dict[object, int] = {}
        self.parameters: dict[object, int] = {}
        self.readers: dict[int, list[Node]] = {}
        self.at = trace.nodes[0] if trace.nodes else None
        self.tables = {recipe(trace, n.inputs[0]) for n in trace.nodes if n.name == "embedding"}
        self.buffers, self.frozen = dict(buffers), frozen
        for number, given in inputs.items():
            self.views[number] = whole(self.graph, self.graph.give(given))
        self.batch = next((g.shape[0] for g in inputs.values() if g.shape), 1)
        self.functions = find_functions(trace, self.graph.bonds)

    # -- the whole ---------------------------------------------------------------------------

    def run(self) -> Graph:
        wanted = self.demanded()
        done: set[int] = set()
        for number in sorted(wanted):
            node_number = self.trace.values[number].node
            if number in self.views or node_number is None:
                continue
            node = self.at = self.trace.nodes[node_number]
            if number not in self.functions and node_number in done:
                continue
            try:
                if number in self.functions:
                    self.function(number, self.functions[number])
                else:
                    done.add(node_number)
                    self.node(node)
            except Unsaid as error:
                self.parts.append(Part(node.module, node.place, str(error)))
            except Missing:
                pass  # what it reads is among the parts already
        for name, number in self.trace.outputs.items():
            try:
                self.graph.outputs[name] = self.number(number)
            except Unsaid as error:
                self.parts.append(Part("", "", f"the output {name}: {error}"))
            except Missing:
                pass
        return self.graph

    def demanded(self) -> set[int]:
        """The values that the output is made of, without steps inside of functions."""
        found, open_ = set[int](), list(self.trace.outputs.values())
        while open_:
            number = open_.pop()
            if number in found or not active(self.trace, number):
                continue
            found.add(number)
            if number in self.functions:
                before: Sequence[int] = (self.functions[number].start,)
            else:
                made_by = self.trace.values[number].node
                before = () if made_by is None else self.needs(self.trace.nodes[made_by])
            open_ += before
        for number in found:
            made_by = self.trace.values[number].node
            if made_by is not None and number not in self.functions:
                node = self.trace.nodes[made_by]
                for read in set(node.inputs):
                    self.readers.setdefault(read, []).append(node)
        return found

    def needs(self, node: Node) -> tuple[int, ...]:
        """The values that writing an operation down takes."""
        found = scores_of(self.trace, node)
        return node.inputs if found is None else found.inputs

    def node(self, node: Node) -> None:
        if node.name in KEEPS - {"neg", "masked_fill", "dropout"} and node.args:
            first = node.args[0]
            if isinstance(first, Ref):
                self.views[node.outputs[0]] = self.view(first.number)
                return
        if node.name in MOVES and self.moved(node):
            return
        say = SAYS.get(node.name)
        if say is None:
            raise Unsaid(f"{node.name} has no counterpart in the language")
        say(self, node)

    def function(self, number: int, found: Function) -> None:
        """A function that was recognised as a whole."""
        if found.kind == "entry":
            self.views[number] = self.each(found.start, found.text)
        elif found.kind == "norm":
            if found.axis == -1:
                x, back = self.along_last(found.start)
                made_at = self.add(found.text, (x,), self.graph.shapes[x])
                self.views[number] = back(made_at, self.graph.shapes[x][-1])
            else:
                x = self.number(found.start)
                made_at = self.add(found.text, (x,), self.graph.shapes[x])
                self.views[number] = whole(self.graph, made_at)
        else:
            view = self.view(found.start)
            axis, rank = found.axis, len(view.shape)
            if axis != rank - 2:
                view = View(view.base, view.index.movedim(axis, rank - 2))
            view, times = unrepeated(view) if rank == 4 else (view, 1)
            x = self.made(view)
            index = whole(self.graph, self.add(found.text, (x,), view.shape)).index
            index = index.repeat_interleave(times, 1)
            if axis != rank - 2:
                index = index.movedim(rank - 2, axis)
            self.views[number] = View(len(self.graph.shapes) - 1, index)

    # -- values ------------------------------------------------------------------------------

    def view(self, number: int) -> View:
        """A value of the run. Raises Missing where what makes it could not be written down."""
        if number in self.views:
            return self.views[number]
        value = self.trace.values[number]
        if value.weight is not None:
            return self.parameter(number)
        if active(self.trace, number):
            raise Missing
        raise Unsaid("a tensor of constants, which the language has no word for")

    def number(self, number: int) -> int:
        """The number in the graph of a value of the run."""
        return self.made(self.view(number))

    def made(self, view: View, part: str = "") -> int:
        """The number in the graph of a view: features of one operation are cut apart."""
        view, node = self.cut(view, part) or view, self.at
        assert node is not None
        before = self.graph.steps.get(view.base)
        where = node.module if before is None else shared_path(before.module, node.module)
        return made(self.graph, view, self.free, where, node.place)

    def cut(self, view: View, part: str = "") -> View | None:
        """A view of some of an operation's features, as one of an operation that makes no more.

        part: what these features are called.
        """
        if view.base not in self.cuts:
            return None
        axis, make = self.cuts[view.base]
        shape = self.graph.shapes[view.base]
        inner = 1
        for n in shape[axis + 1 :]:
            inner *= n
        features = view.index // inner % shape[axis]
        rows = torch.unique(features)
        count = len(rows)
        if count == shape[axis]:
            return None
        start, every, length = regular(rows)
        key = (view.base, start, every, length)
        if key not in self.cut_made:
            self.cut_made[key] = make(start, start + length, every, part)
        place = torch.searchsorted(rows, features.contiguous())
        outer = view.index // (inner * shape[axis])
        return View(self.cut_made[key], (outer * count + place) * inner + view.index % inner)

    def parameter(self, number: int) -> View:
        """A parameter that is a value: a class token, positions."""
        value = self.trace.values[number]
        labels = value.weight
        assert labels is not None
        if not labels.is_affine:
            raise Unsaid("a parameter is put together in a way that no file can say")
        name = self.trace.parameter(max(labels.offset, 0))
        own = self.trace.shapes[name]
        sizes = own[1:] if len(own) > 1 and own[0] == 1 else own
        index = labels.tensor().expand(labels.shape) - self.trace.starts[name]
        count = int(torch.tensor(own).prod()) if own else 1
        leading = [i for i, n in enumerate(labels.shape) if n > 1 and labels.stride[i]]
        rows = labels.shape[leading[0]] if len(leading) == 2 else 0
        if len(own) == 2 and 0 < rows < own[0] and int(index.min()) == 0:
            return self.positions(name, own, rows, labels.shape)
        if torch.unique(index).numel() < count:
            raise Unsaid(f"a part of the parameter {name} is taken")
        if name not in self.parameters:
            text = f"Parameter({', '.join(map(str, sizes))})"
            found = recipe(self.trace, stored(self.trace, name))
            self.parameters[name] = self.add(text, (), (1, *sizes), (found,))
        return View(self.parameters[name], index)

    def positions(self, name: str, own: tuple[int, ...], rows: int, shape: Sequence[int]) -> View:
        """The first rows of a table, one for each place of the input."""
        start = self.enumerated(rows)
        found = recipe(self.trace, stored(self.trace, name))
        out = self.add(f"Embed({own[0]}, {own[1]})", (start,), (1, rows, own[1]), (found,))
        return whole(self.graph, out, [*([1] * (len(shape) - 2)), rows, own[1]])

    def enumerated(self, count: int) -> int:
        """The places 0, 1, … of an input along its second axis."""
        for number, given in self.graph.inputs.items():
            if len(given.shape) > 1 and given.shape[1] == count:
                return self.add("Enumerate", (number,), (count,), free=True)
        raise Unsaid(f"positions 0 to {count - 1}, which no input has along its second axis")

    def constant(self, number: int) -> Tensor | None:
        """The entries of a value that no input changes; None of others."""
        value = self.trace.values[number]
        if value.live or value.fed or value.weight is not None:
            return None
        with torch.no_grad():
            return execute(self.trace, [number], {})[number]

    def plain(self, arg: Any) -> float | None:
        """The number that an argument is; None if it is none."""
        if isinstance(arg, (int, float)):
            return float(arg)
        if isinstance(arg, Ref):
            found = self.constant(arg.number)
            if found is not None and found.numel() and bool((found == found.flatten()[0]).all()):
                return float(found.flatten()[0])
        return None

    # -- writing -----------------------------------------------------------------------------

    def add(
        self, text: str, args: tuple[int, ...], shape: Sequence[int],
        weights: tuple[Recipe, ...] = (), buffers: tuple[tuple[str, Recipe], ...] = (),
        free: bool = False, module: str | None = None,
    ) -> int:  # fmt: skip
        """An operation, at the place of the one that is being written down."""
        node = self.at
        assert node is not None
        where = node.module if module is None else module
        stay = {name in self.frozen for x in weights for name in names_in(x)}
        if len(stay) > 1:
            raise Unsaid("weights of one operation of which some are frozen and others not")
        if stay == {True} and not text.startswith("Unembed("):  # which has its table's mass
            text = f"tare({text}, 0)"
        step = Step(text, args, weights, buffers, where, node.place, free)
        return self.graph.new(step, tuple(shape))

    def give(self, node: Node, number: int, output: int = 0) -> None:
        """Say which value of the graph an output of an operation is."""
        shape = self.trace.values[node.outputs[output]].shape
        self.views[node.outputs[output]] = whole(self.graph, number, shape)

    def each(self, start: int, text: str) -> View:
        """A function of each entry of a value."""
        view = self.view(start)
        cut = self.cut(view)
        view = cut or view
        if torch.unique(view.index).numel() < _count(self.graph.shapes[view.base]):
            view = whole(self.graph, self.made(view), view.shape)
        number = self.add(text, (view.base,), self.graph.shapes[view.base])
        return View(number, view.index)

    def along_last(self, number: int) -> tuple[int, Callable[[int, int], View]]:
        """A value as an operation along its last axis takes it, with the examples first.

        Also what makes a view of the operation's output: of its number and last size.
        """
        view = self.view(number)
        view = self.cut(view) or view
        n, own = view.shape[-1], self.graph.shapes[view.base]
        lead = view.index[..., 0]
        straight = bool((view.index == lead[..., None] + torch.arange(n)).all())
        covered = torch.unique(lead).numel() * n == _count(own)
        if own and own[-1] == n and straight and covered and bool((lead % n == 0).all()):
            rows, base = lead // n, view.base
        else:
            flat = view.index.reshape(-1, n)
            order = flat[:, 0].argsort(stable=True)
            shape: Sequence[int] = view.shape
            if not torch.equal(order, torch.arange(len(order))) or shape[0] != self.batch:
                if len(flat) % self.batch:
                    raise Unsaid("the examples of a batch are not side by side")
                shape = (self.batch, len(flat) // self.batch, n)
                if shape[1] == 1:
                    shape = (self.batch, n)
            base = self.made(View(view.base, flat[order].view(*shape)))
            rows = order.argsort().view(lead.shape)

        def back(out: int, last: int) -> View:
            return View(out, rows[..., None] * last + torch.arange(last))

        return base, back

    def moved(self, node: Node) -> bool:
        """Views of the outputs of an operation that moves entries of one value."""
        if node.name in ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "pad",
                         "constant_pad_nd", "roll"):  # fmt: skip
            return False
        slots = list(dict.fromkeys(n for _, n in node.slots()))
        if not slots or (slots[0] not in self.views and self.trace.values[slots[0]].weight is None):
            if slots and active(self.trace, slots[0]):
                raise Missing
            return False
        if any(self.constant(n) is None for n in slots[1:]):
            return False
        if len(slots) > 1 and self.trace.values[slots[0]].weight is not None:
            return False  # rows of a table
        view = self.view(slots[0])
        given: dict[int, Tensor] = {slots[0]: view.index}
        try:
            found = replayed(self.trace, node, given)
        except (RuntimeError, TypeError, IndexError):
            return False
        for number, index in zip(node.outputs, found, strict=True):
            if bool((index == NONE).any()):
                return False
            self.views[number] = View(view.base, index.long())
        return True


def shared_path(one: str, other: str) -> str:
    """The innermost module that two are in."""
    own = []
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        own.append(a)
    return ".".join(own)


class Missing(Exception):
    """Raised where what is read could not be written down before."""


def replayed(trace: Trace, node: Node, given: Mapping[int, Tensor]) -> list[Tensor]:
    """What an operation that moves entries makes of numbers in their places."""

    def find(x: Any) -> Any:
        if not isinstance(x, Ref):
            return x
        return given[x.number] if x.number in given else execute(trace, [x.number], {})[x.number]

    func = node.func
    if node.name in ("view", "_unsafe_view"):
        func = torch.ops.aten.reshape.default
    out = func(*tree_map(find, node.args), **tree_map(find, node.kwargs))
    return [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]


def regular(rows: Tensor) -> tuple[int, int, int]:
    """Of numbers in order: the first, the period, and how many are in each; 0 for one period."""
    start = int(rows[0])
    gaps = (rows[1:] - rows[:-1] != 1).nonzero().flatten()
    if not len(gaps):
        return start, 0, len(rows)
    length = int(gaps[0]) + 1
    if len(rows) % length:
        raise Unsaid("features are taken in irregular steps")
    every = int(rows[length]) - start
    want = start + torch.arange(len(rows) // length)[:, None] * every + torch.arange(length)
    if not torch.equal(want.flatten(), rows):
        raise Unsaid("features are taken in irregular steps")
    return start, every, length


def _count(shape: Sequence[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count
