"""One run of a model, recorded: every operation of torch, and what of the parameters it sees.

Operations are taken below autograd and above their decomposition, so that a `Linear` is one
operation, whatever Python led to it: data-dependent loops, checkpointing and wrappers included.
"""

from __future__ import annotations

import math
import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from modnorm.adopting.labels import NONE, Labels, replay
from modnorm.adopting.operations import DROPOUTS, FRESH, KEEPS, MEETS, MOVES


@dataclass(frozen=True)
class Ref:
    """A value among an operation's arguments."""

    number: int


@dataclass
class Value:
    """A tensor of the run.

    weight: labels of the entries of parameters that it shows, if it is made of them alone.
    live: whether it depends on parameters or on the model's inputs of real numbers.
    fed: whether it depends on the model's inputs.
    leaf: itself, if no operation made it: a parameter or a view of one, an input, a constant.
    """

    number: int
    shape: tuple[int, ...]
    floating: bool
    node: int | None
    live: bool
    weight: Labels | None = None
    fed: bool = False
    leaf: Tensor | None = None


@dataclass
class Node:
    """An operation of the run: `args` and `kwargs` with a `Ref` for each tensor."""

    number: int
    func: Any
    args: Any
    kwargs: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    module: str
    place: str

    @property
    def name(self) -> str:
        """As in torch, without the `_` of an operation in place."""
        name = str(self.func) if isinstance(self.func, str) else self.func.overloadpacket.__name__
        return name[:-1] if name.endswith("_") and not name.endswith("__") else name

    def slots(self) -> Iterator[tuple[int, int]]:
        """Of each value among the arguments, which in the operation's order it is, and its number.

        Those of a list have its place.
        """
        for slot, arg in enumerate((*self.args, *self.kwargs.values())):
            for leaf in tree_flatten(arg)[0]:
                if isinstance(leaf, Ref):
                    yield slot, leaf.number

    def refs(self, slot: int) -> list[int]:
        """The numbers of the values in the place of an argument."""
        return [number for own, number in self.slots() if own == slot]

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by its name in torch's schema."""
        if name in self.kwargs:
            return self.kwargs[name]
        for index, arg in enumerate(self.func._schema.arguments):
            if arg.name == name:
                return self.args[index] if index < len(self.args) else default
        return default


@dataclass(frozen=True)
class Read:
    """Features that an operation reads: by it, and which of its arguments they are in."""

    node: int
    slot: int
    rows: Tensor


@dataclass
class Trace:
    """What was recorded.

    names: of parameters, each with all of its names. starts: by the first of them, its first label;
        a parameter has twice as many as entries, the second half for its columns.
    outputs: numbers of the values that the model returns, with where they stand in it.
    features: by number of a value, labels of the rows that made its features. links: by number of
        a sum of features of two parameters, pairs of labels: those that it has, and the others.
    """

    names: dict[str, tuple[str, ...]]
    shapes: dict[str, tuple[int, ...]]
    starts: dict[str, int]
    values: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    features: dict[int, Labels] = field(default_factory=dict)
    links: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)

    def held(self, labels: Labels) -> list[str]:
        """The parameters that labels are of: several, where they were put side by side."""
        if labels.is_affine:
            ends = [(n - 1) * step for n, step in zip(labels.shape, labels.stride, strict=True)]
            low, high = (labels.offset + sum(f(end, 0) for end in ends) for f in (min, max))
            if self.parameter(low) == self.parameter(high):
                return [self.parameter(low)]
        names, starts = list(self.starts), torch.tensor(list(self.starts.values()))
        at = torch.unique(torch.bucketize(labels.distinct(), starts, right=True))
        return [names[i - 1] for i in at.tolist()]

    def whole(self) -> dict[str, Value]:
        """By name of a parameter, the value that is all of it."""
        own = [
            (self.parameter(v.weight.offset), v) for v in self.values
            if v.leaf is not None and v.weight is not None and v.weight.is_affine
        ]  # fmt: skip
        return {name: v for name, v in own if v.shape == self.shapes[name]}

    def parameter(self, label: int) -> str:
        """The name of the parameter with the entry of a label."""
        return list(self.starts)[bisect_right(list(self.starts.values()), label) - 1]


Reading = Callable[[Node, Trace], dict[int, Labels]]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module in what torch.compile and data parallelism wrap around one."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
        if inner is None and isinstance(model, parallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def called(model: nn.Module, example: Any) -> Any:
    """What a model returns for an example: a tensor, a tuple of arguments, or a dict of them."""
    if isinstance(example, tuple):
        if len(example) == 2 and isinstance(example[0], tuple) and isinstance(example[1], dict):
            return model(*example[0], **example[1])
        return model(*example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(example)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave buffers and random numbers as they were."""
    before = {b: b.clone() for b in model.buffers()}
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        with torch.no_grad():
            for buffer, old in before.items():
                # Below autograd, versions do not tell.
                if buffer.layout != torch.strided or not torch.equal(buffer, old):
                    buffer.copy_(old)


def record(model: nn.Module, example: Any, read: Reading) -> Trace:
    """Run a model once and record it; its buffers, and torch's random numbers, stay as they are.

    read: notes what an operation does with the weights that it takes, and gives labels of the rows
        that made its outputs' features, by their numbers.

    Raises ValueError for a model that cannot be run, since parameters have no shape or no numbers.
    """
    model = unwrapped(model)
    names: dict[int, list[str]] = {}
    parameters: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"{name} has no shape yet: call the model once before it is adopted")
        if parameter.is_meta:
            raise ValueError(
                f"{name} is on the meta device, so that the model cannot be run: move it with"
                " to_empty and initialise its weights before it is adopted"
            )
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    starts, count = {}, 0
    for key, p in parameters.items():
        starts[names[key][0]] = count
        count += 2 * p.numel()
    trace = Trace(
        {own[0]: tuple(own) for own in names.values()},
        {names[key][0]: tuple(p.shape) for key, p in parameters.items()},
        starts,
    )
    trace.classes = {name: type(module).__name__ for name, module in model.named_modules()}
    recorder = Recorder(trace, {names[key][0]: p for key, p in parameters.items()}, model, read)
    with undisturbed(model), recorder.hooks(), torch.compiler.set_stance("force_eager"):
        recorder.give(example)
        with torch._C._AutoDispatchBelowAutograd(), recorder:
            out = called(model, example)
    recorder.take(out)
    return trace


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation while it is on."""

    def __init__(
        self, trace: Trace, parameters: Mapping[str, Tensor], model: nn.Module, read: Reading
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace, self.read = trace, read
        self.numbers: Any = WeakIdKeyDictionary()
        self.aliases: dict[int, list[weakref.ref[Tensor]]] = {}
        self.modules = {id(module): name for name, module in model.named_modules()}
        self.stack: list[str] = []
        self.pairs: dict[frozenset[tuple[int, ...]], dict[str, list[int]]] = {}
        self.stored: dict[int, list[tuple[Tensor, str]]] = {}
        for name, p in parameters.items():
            self.stored.setdefault(p.untyped_storage()._cdata, []).append((p, name))

    # -- modules -----------------------------------------------------------------------------

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Follow which module is running."""

        def enter(module: nn.Module, _: Any) -> None:
            self.stack.append(self.modules.get(id(module), self.module))

        def leave(*_: Any) -> None:
            self.stack.pop()

        own = [
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in own:
                hook.remove()

    @property
    def module(self) -> str:
        return self.stack[-1] if self.stack else ""

    # -- values ------------------------------------------------------------------------------

    def give(self, example: Any) -> None:
        """Note the model's inputs."""
        for leaf in tree_flatten(example)[0]:
            if isinstance(leaf, Tensor):
                self.new(leaf, None, leaf.is_floating_point()).fed = True

    def take(self, out: Any) -> None:
        """Note what the model returns."""
        for name, x in named_tensors(out):
            if x in self.numbers:
                self.trace.outputs[name] = self.numbers[x]

    def new(self, x: Tensor, node: int | None, live: bool) -> Value:
        number = len(self.trace.values)
        value = Value(number, tuple(x.shape), x.is_floating_point(), node, live)
        if node is None:
            value.leaf = x.detach()
            if self.stored_labels(x) is None:  # a buffer, which running its reader again may write
                value.leaf = value.leaf.clone()
        self.trace.values.append(value)
        known = x in self.numbers
        self.numbers[x] = number
        if node is not None and not known:
            self.aliases.setdefault(x.untyped_storage()._cdata, []).append(weakref.ref(x))
        return value

    def value(self, x: Tensor) -> Value:
        """What is known of a tensor; one that no operation made is a weight, or constant."""
        if x in self.numbers:
            known: Value = self.trace.values[self.numbers[x]]
            return known
        weight = self.stored_labels(x)
        value = self.new(x, None, weight is not None)
        value.weight = weight
        return value

    def stored_labels(self, x: Tensor) -> Labels | None:
        """Labels of a tensor in a parameter's memory."""
        if not x.is_floating_point() or x.layout != torch.strided:
            return None
        for p, name in self.stored.get(x.untyped_storage()._cdata, ()):
            first, start = int(x.storage_offset() - p.storage_offset()), self.trace.starts[name]
            if not 0 <= first < max(p.numel(), 1) or (x.numel() and not p.numel()):
                continue
            shape = tuple(x.shape)
            if p.is_contiguous():
                return Labels(start + first, shape, tuple(x.stride()))
            own = torch.empty_strided(p.shape, p.stride(), dtype=torch.int64)
            own.copy_(torch.arange(p.numel()).view(p.shape) + start)
            return Labels.of(own.as_strided(x.shape, x.stride(), first))
        return None

    # -- operations --------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "glu":  # of its halves one is a gate
            with self:
                value, gate = args[0].chunk(2, args[1] if len(args) > 1 else -1)
                return value * gate.sigmoid()
        leaves = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        values = [self.value(x) for x in leaves]
        own = args
        if name in DROPOUTS and len(args) > 2:
            own = (*args[:2], False, *args[3:])
        out = func(*own, **kwargs)
        if name in DROPOUTS and out is args[0] and float(args[1]):  # which is noted all the same
            out = args[0].view_as(args[0])
        self.note(func, own, kwargs, leaves, values, out)
        return out

    def note(
        self, func: Any, args: Any, kwargs: Any, leaves: list[Tensor], values: list[Value], out: Any
    ) -> None:
        """Add a node, its outputs' values, and what is known of their entries."""
        trace, number = self.trace, len(self.trace.nodes)
        before = {id(x): value for x, value in zip(leaves, values, strict=True)}
        swap: Callable[[Any], Any] = lambda x: Ref(before[id(x)].number) if id(x) in before else x  # noqa: E731
        made = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
        if all(x in before for x in map(id, made)) and not func._schema.is_mutable:
            return  # nothing new: a `to` or `contiguous` that had nothing to do
        live = any(v.live for v in values) and func.overloadpacket.__name__ not in FRESH
        node = Node(
            number, func, tree_map(swap, args), tree_map(swap, kwargs),
            tuple(v.number for v in values), (), self.module, place(),
        )  # fmt: skip
        trace.nodes.append(node)
        news = [self.new(x, number, live and x.is_floating_point()) for x in made]
        node.outputs = tuple(v.number for v in news)
        for value in news:
            value.fed = any(v.fed for v in values)
        if live:
            self.follow(node, args, kwargs, before, made, news)
        if func._schema.is_mutable:
            for x in made:
                if id(x) in before:
                    self.write(x, number)

    def write(self, x: Tensor, node: int) -> None:
        """Tensors that share memory with one that was written to are new values too."""
        kept = []
        number = self.numbers[x]
        for ref in list(self.aliases.get(x.untyped_storage()._cdata, ())):
            other = ref()
            if other is None:
                continue
            kept.append(ref)
            if other is x or other not in self.numbers:
                continue
            old = self.trace.values[self.numbers[other]]
            if old.number == number or old.node == node:
                continue
            live = old.live or self.trace.values[number].live
            fresh = len(self.trace.nodes)
            after = Node(fresh, "write", (Ref(old.number), Ref(number)), {},
                         (old.number, number), (), self.module, "")  # fmt: skip
            self.trace.nodes.append(after)
            value = self.new(other, fresh, live)
            value.fed = old.fed or self.trace.values[number].fed
            after.outputs = (value.number,)
        self.aliases[x.untyped_storage()._cdata] = kept

    def follow(
        self, node: Node, args: Any, kwargs: Any, before: dict[int, Value],
        made: list[Tensor], news: list[Value],
    ) -> None:  # fmt: skip
        """Find the labels of an operation's outputs, and note which features it reads."""
        trace = self.trace
        floats = [v for v in before.values() if v.floating]
        stored = [self.stored_labels(x) for x in made]
        weights = all(
            v.weight is not None or not v.live or (not v.fed and math.prod(v.shape) == 1)
            for v in floats
        )  # one number made of weights is a factor of them, as in a spectral norm
        for value, labels in zip(news, stored, strict=True):
            if labels is not None:
                value.weight = labels
        if weights:  # a weight, or what is made of weights alone
            given = {key: v.weight for key, v in before.items() if v.weight is not None}
            found = self.moved(node, args, kwargs, given, before)
            for value, labels in zip(news, found or (), strict=False):
                value.weight = value.weight or labels
            kept = {n for v in news if v.weight is not None for n in trace.held(v.weight)}
            if any(not kept.issuperset(trace.held(x)) for x in given.values()):
                trace.features.update(self.read(node, trace))
            return
        given = {
            key: trace.features[v.number]
            for key, v in before.items() if v.number in trace.features
        }  # fmt: skip
        weighted = [v for v in floats if v.weight is not None]
        found = None
        if given:
            found = self.moved(node, args, kwargs, given, before)
        made_features = self.read(node, trace) if weighted else {}
        if found is not None:
            trace.features.update(
                (v.number, labels) for v, labels in zip(news, found, strict=False)
            )
            return
        for slot, number in node.slots():
            if number in trace.features:
                labels = trace.features[number]
                trace.reads.append(Read(node.number, slot, labels.distinct()))
        self.turned(node)
        trace.features.update(made_features)

    def turned(self, node: Node) -> None:
        """Features of which there are the sum and the difference are alike, as halves of a turn."""
        reads = self.trace.reads
        own = [i for i in range(len(reads) - 2, len(reads)) if i >= 0]
        if node.name not in ("add", "sub") or [reads[i].node for i in own] != [node.number] * 2:
            return
        key = frozenset(tuple(reads[i].rows.tolist()) for i in own)
        self.pairs.setdefault(key, {})[node.name] = own
        if len(self.pairs[key]) == 2:
            for i in (i for both in self.pairs[key].values() for i in both):
                reads[i] = replace(reads[i], slot=0)

    def moved(
        self, node: Node, args: Any, kwargs: Any, given: dict[int, Labels], before: dict[int, Value]
    ) -> list[Labels] | None:
        """Labels behind an operation that moves entries, or that changes each in its place."""
        name = node.name
        looked_up = name in LOOKUPS and any(
            v.weight is not None and len(v.shape) < 3 for v in before.values()
        )
        if looked_up:
            return None
        if name in MOVES and not isinstance(node.func, str):
            return replay(node.func, args, kwargs, given)
        first = next(iter(before), 0)
        shape = self.trace.values[node.outputs[0]].shape if node.outputs else ()
        if name in KEEPS:
            return [given[first].like(shape)] if first in given else None
        if name in ("_weight_norm", "_weight_norm_interface"):
            return [given[first]] if first in given else None
        alone = len([v for v in before.values() if v.live]) == 1 and len(node.outputs) == 1
        if alone and self.trace.values[next(iter(before.values())).number].weight is not None:
            whole = next(labels for labels in given.values())  # of a weight, by itself
            own_places = torch.Tag.pointwise in node.func.tags or name in IN_PLACE
            return [whole] if whole.shape == shape and own_places else None
        if name not in MEETS:
            return None
        own = [labels for key, labels in given.items()]
        if len(own) > 1:
            if name not in ("add", "sub"):
                largest = max(own, key=lambda x: x.shape == shape)
                weights = all(v.weight is not None or not v.live for v in before.values())
                return [largest] if weights and largest.shape == shape else None
            if not torch.equal(own[0].distinct(), own[1].distinct()):
                if len({self.trace.parameter(max(x.offset, 0)) for x in own}) == 1:
                    return None
                self.trace.links[node.outputs[0]] = pairs(*(x.like(shape).tensor() for x in own))
        try:
            return [own[0].like(shape)]
        except RuntimeError:
            return None


LOOKUPS = frozenset("index index_select gather embedding".split())
"""Operations that pick entries by integers; of vectors and matrices they are lookups in a table."""
IN_PLACE = frozenset("tril triu upsample_bilinear2d upsample_bicubic2d upsample_nearest2d".split())
"""Operations on a weight of which entries that are kept, where its size is, have their places."""


def pairs(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Labels that stand in the same places, each pair once."""
    for axis in range(one.ndim):
        if one.stride(axis) == other.stride(axis) == 0:
            one, other = (x.narrow(axis, 0, min(1, x.shape[axis])) for x in (one, other))
    both = torch.unique(torch.stack((one.flatten(), other.flatten())), dim=1)
    both = both[:, (both != NONE).all(0)]
    return both[0], both[1]


def named_tensors(out: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a model returns, with where they stand in it."""
    if isinstance(out, Tensor):
        yield name or "output", out
    elif isinstance(out, Mapping):
        for key, x in out.items():
            yield from named_tensors(x, f"{name}.{key}" if name else str(key))
    elif isinstance(out, (tuple, list)):
        for i, x in enumerate(out):
            yield from named_tensors(x, f"{name}.{i}" if name else str(i))


OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def place() -> str:
    """The line that is running, in a file that is neither torch's nor this one's."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(OWN) and not file.startswith("<"):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


__all__ = ["NONE", "Labels", "Node", "Read", "Ref", "Trace", "Value", "record", "unwrapped"]
