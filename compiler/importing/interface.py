"""`modnorm.import_model`: the `.mod` text of a model that was written in PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

import modnorm.importing.attention
import modnorm.importing.recurrent  # noqa: F401 (they declare what they write down)
from modnorm.adopting.flow import find_outputs
from modnorm.adopting.operations import DROPOUTS
from modnorm.adopting.plan import traced
from modnorm.adopting.trace import Trace, called, unwrapped
from modnorm.graph.renames import Recipe
from modnorm.importing.graph import Given
from modnorm.importing.lower import Lowering
from modnorm.importing.names import renames
from modnorm.importing.problems import ImportFailed
from modnorm.importing.structure import build
from modnorm.importing.text import Writer, wrapped
from modnorm.importing.verify import compare, compiled
from modnorm.importing.weights import names_in
from modnorm.kernels.checkpoint import load_checkpoint
from modnorm.kernels.state import some
from modnorm.syntax.words import KEYWORDS

DRAWS = frozenset("bernoulli rand rand_like randn randn_like normal uniform".split())
"""Operations that draw random numbers."""


def import_model(model: nn.Module, example: Any, name: str | None = None) -> str:
    """The `.mod` text of a model, whose compiled model gives the same outputs.

    The model is run once on the example, in eval mode, and stays as it is. The text says by
    `rename` which tensors of the model's checkpoint its weights are. It is compiled, and run on the
    example with the model's weights, before it is given back.

    example: what the model is called with: a tensor, a tuple of arguments, a dict of them, or a
        pair of both. Sizes that are known only when a model runs are told from its axes.
    name: of the model in the text; by default that of its class.

    Raises:
        ImportFailed: with every part that the language has no words for, and where it is; or if
            what was written gives other outputs.
        ValueError: if the model cannot be run.
    """
    inner = unwrapped(model)
    with evaluated(inner), torch.enable_grad():
        try:
            trace, _ = traced(inner, example)
        except ValueError:
            raise
        except Exception as error:  # whatever a stranger's model raises
            said = (str(error).strip().splitlines() or [""])[0]
            raise ImportFailed(
                f"the model, called with the example, raised {type(error).__name__}: {said}"
            ) from error
        outputs = find_outputs(trace)
        trace.outputs = {n: v for n, v in trace.outputs.items() if v in outputs}
        if not trace.outputs:
            raise ImportFailed("the model returns no tensor that depends on what it is given")
        title = name or type(inner).__name__
        problem: ImportFailed | None = None
        for free in ("lengths", "batch", ""):
            try:
                return attempt(inner, example, trace, title, free)
            except ImportFailed as error:
                problem = problem or error
                if error.parts:
                    break
        assert problem is not None
        raise problem


def attempt(model: nn.Module, example: Any, trace: Trace, title: str, free: str) -> str:
    """The text. free: the "lengths" of sequences and the batch, the "batch" alone, or nothing."""
    inputs = given(model, example, trace, free)
    lengths = sorted({n for g in inputs.values() for n, s in zip(g.shape[1:], g.sizes[1:],
                      strict=True) if isinstance(s, str)})  # fmt: skip
    trained = {p for own in trace.names.values() for p in own if is_trained(model, p)}
    frozen = frozenset(p for own in trace.names.values() for p in own) - trained
    low = Lowering(trace, inputs, lengths, buffers_of(model, trace), frozen)
    graph = low.run()
    if low.parts:
        raise ImportFailed(
            "parts of the model have no words in the language:", tuple(dict.fromkeys(low.parts))
        )
    built = build(graph)
    notes = "".join(wrapped(f"# {line}", "# ") + "\n\n" for line in left_out(model, example, trace))
    text = notes + Writer(graph, built, title).text()
    module = compiled(text)
    found = renames(built, [w.name for w in module.PLAN])
    made = getattr(module, module.MODEL)()
    state = model.state_dict()
    spare = unread(state, found.made)
    rules = [*found.made.items(), *(("", name) for name in spare)]
    load_checkpoint(made, state, rules)
    read = {g.name: number for number, g in inputs.items()}
    shorter = shortened(model, example, inputs)
    for call in [example] if shorter is None else [example, shorter]:
        if differs := compare(made, model, call, read, list(graph.outputs)):
            raise ImportFailed(
                f"what was written gives other outputs: {differs}; nothing was written\n{text}"
            )
    text += f"\n{found.text}" if found.text else ""
    return text + "".join(f'rename "" = "{name}"\n' for name in spare)


def shortened(model: nn.Module, example: Any, inputs: Mapping[int, Given]) -> Any:
    """The example with sequences of free length shorter by one; None where a model takes none."""
    leaves, spec = tree_flatten(example)
    numbers = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
    changed = False
    for number, given in inputs.items():
        at = numbers[number]
        for axis, size in enumerate(given.sizes[1:], 1):
            if isinstance(size, str) and leaves[at].shape[axis] > 2:
                leaves[at] = leaves[at].narrow(axis, 0, leaves[at].shape[axis] - 1)
                changed = True
    if not changed:
        return None
    found = tree_unflatten(leaves, spec)
    try:
        with torch.no_grad():
            called(model, found)
    except Exception:  # whatever a stranger's model raises where a length is not to its liking
        return None
    return found


def is_trained(model: nn.Module, name: str) -> bool:
    return model.get_parameter(name).requires_grad


def left_out(model: nn.Module, example: Any, trace: Trace) -> list[str]:
    """What a run in train mode draws by chance and one in eval mode shows nothing of, in words."""
    model.train()
    try:
        other, _ = traced(model, example)
    finally:
        model.eval()
    kept = {n.module for n in trace.nodes if n.name == "dropout"}
    found = [
        n for n in other.nodes
        if (n.name in DROPOUTS | DRAWS and n.module not in kept)
        or (n.name == "scaled_dot_product_attention" and float(n.argument("dropout_p", 0.0)))
    ]  # fmt: skip
    where = list(dict.fromkeys(n.module or "the model" for n in found))
    return [f"Left out: what is drawn by chance in training in {some(where)}."] if where else []


def unread(state: Mapping[str, Tensor], made: Mapping[str, Recipe]) -> list[str]:
    """The tensors of a checkpoint that no weight is made of, but for counters and other names."""
    read = {name for recipe in made.values() for name in names_in(recipe)}
    places = {state[name].data_ptr() for name in read if name in state}
    return [
        n for n, x in state.items()
        if n not in read and x.data_ptr() not in places and not n.endswith("num_batches_tracked")
    ]  # fmt: skip


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode."""
    before = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in before:
            module.training = True


def buffers_of(model: nn.Module, trace: Trace) -> dict[int, str]:
    """By number of a value that no operation made, the name of the buffer that it is."""
    named = [(name, b) for name, b in model.named_buffers()]
    found = {}
    for value in trace.values:
        if value.leaf is None or value.live:
            continue
        for name, buffer in named:
            equal = buffer.shape == value.leaf.shape and torch.equal(buffer, value.leaf)
            if equal and (value.number not in found or same_place(trace, value.number, name)):
                found[value.number] = name
    return found


def same_place(trace: Trace, number: int, name: str) -> bool:
    """Whether a buffer's module is the one that reads a value."""
    readers = (n for n in trace.nodes if number in n.inputs)
    return any(n.module == name.rpartition(".")[0] for n in readers)


def given(model: nn.Module, example: Any, trace: Trace, free: str) -> dict[int, Given]:
    """The inputs of the model that it reads, by number of the value."""
    names = argument_names(model, example)
    leaves = [x for x in tree_flatten(example)[0] if isinstance(x, Tensor)]
    batch = next((x.shape[0] for x in leaves if x.ndim > 1), 0)
    read = used(trace)
    found = {}
    lengths: dict[int, str] = {}
    for number, (name, x) in enumerate(zip(names, leaves, strict=True)):
        if number not in read:
            continue
        dtype = "float" if x.is_floating_point() else "bool" if x.dtype == torch.bool else "int"
        sizes: list[int | str] = list(x.shape)
        if free and x.ndim and x.shape[0] == batch:
            sizes[0] = "batch"
        if free == "lengths" and dtype != "float" and x.ndim > 1:
            for axis in range(1, x.ndim):
                word = "seq" if not lengths else f"seq{len(lengths) + 1}"
                sizes[axis] = lengths.setdefault(x.shape[axis], word)
        bound = rows_of(trace, number) if dtype == "int" else None
        found[number] = Given(name, dtype, tuple(x.shape), tuple(sizes), bound)
    return found


def used(trace: Trace) -> set[int]:
    """The values that the outputs are made of."""
    found, open_ = set[int](), list(trace.outputs.values())
    while open_:
        number = open_.pop()
        if number in found:
            continue
        found.add(number)
        node = trace.values[number].node
        if node is not None:
            open_ += trace.nodes[node].inputs
    return found


def rows_of(trace: Trace, number: int) -> int | None:
    """How many rows the table has whose rows an input picks."""
    open_ = [number]
    while open_:
        at = open_.pop()
        for node in trace.nodes:
            if at not in node.inputs:
                continue
            if node.name in ("embedding", "embedding_bag"):
                return trace.values[node.inputs[0]].shape[0]
            if node.name in ("view", "to", "_to_copy", "reshape", "alias", "contiguous"):
                open_ += node.outputs
    return None


def argument_names(model: nn.Module, example: Any) -> list[str]:
    """Names of the tensors of an example, as `forward` has them."""
    parameters = inspect.signature(model.forward).parameters.values()
    words = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "x")
    if isinstance(example, tuple) and len(example) == 2 and isinstance(example[0], tuple) and (
        isinstance(example[1], dict)
    ):  # fmt: skip
        args, kwargs = example
    elif isinstance(example, Mapping):
        args, kwargs = (), dict(example)
    else:
        args, kwargs = (example if isinstance(example, tuple) else (example,)), {}
    found: list[str] = []

    def note(name: str, x: Any) -> None:
        own = [t for t in tree_flatten(x)[0] if isinstance(t, Tensor)]
        found.extend([name] if len(own) == 1 else [f"{name}_{i}" for i in range(len(own))])

    for i, x in enumerate(args):
        note(words[i] if i < len(words) else f"{rest}_{i - len(words)}", x)
    for key, x in kwargs.items():
        note(str(key), x)
    return [{"input": "x"}.get(n, f"{n}_" if n in KEYWORDS.values() else n) for n in found]


__all__ = ["ImportFailed", "import_model"]
