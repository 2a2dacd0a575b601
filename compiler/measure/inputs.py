"""The batch that a model is measured on: random, or from a file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modnorm.diagnostics import did_you_mean
from modnorm.graph.modules import Leaf, walk
from modnorm.graph.paths import pattern
from modnorm.measure.options import CheckOptions
from modnorm.measure.problems import CheckError, some
from modnorm.measure.values import Tensors, norm
from modnorm.ops.base import Atom
from modnorm.ops.edges import natural
from modnorm.ops.types import Size, Symbol, Tensor
from modnorm.passes.program import ModelInput, Program

if TYPE_CHECKING:
    import numpy

DEFAULTS = {"batch": 4, "seq": 16}
"""What sizes of these names are, if nothing else is said."""
OTHERS = 8
"""What any other free size is."""
MOST_ENTRIES = 2**27
"""Entries of one input, at most: a gigabyte."""


@dataclass(frozen=True)
class Batch:
    """The inputs in order, the sizes they have, and a word on where they come from.

    `following` holds, where the last input is a sequence of integers, each entry's successor.
    """

    inputs: Tensors
    sizes: Mapping[str, int]
    origin: str
    following: torch.Tensor | None = None

    @property
    def value(self) -> Any:
        """The inputs as the model's value: a tuple where there are several."""
        return self.inputs[0] if len(self.inputs) == 1 else tuple(self.inputs)


def concrete(size: Size, sizes: Mapping[str, int]) -> int:
    """A size with numbers for its names."""
    if isinstance(size, int):
        return size
    return size.factor * math.prod(sizes[name] for name in size.names)


def chosen_sizes(program: Program, wanted: Mapping[str, int]) -> dict[str, int]:
    """The free sizes of a model's inputs, with the numbers that were asked for, or by default.

    By default a sequence is no longer than the tables that its positions are looked up in.

    Raises:
        CheckError: for a name that is no size of the model's inputs, or a size below 1.
    """
    sizes: dict[str, int] = {}
    for given in program.inputs:
        for size in (*given.type.shape, given.type.bound):
            if isinstance(size, Symbol):
                sizes |= {name: DEFAULTS.get(name, OTHERS) for name in size.names}
    for _, rows, bound in _tables(program):
        if bound.factor == 1 and len(bound.names) == 1:
            (name,) = bound.names
            if name in sizes:
                sizes[name] = min(sizes[name], rows)
    for name, number in wanted.items():
        if name not in sizes:
            known = f"its free sizes are {some(list(sizes))}" if sizes else "it has none"
            hint = did_you_mean(name, sizes)
            raise CheckError(
                f"`{name}` is no free size of the inputs of {program.name}: {hint or known}"
            )
        if number < 1:
            raise CheckError(f"the size `{name}` is {number}, but it must be at least 1")
        sizes[name] = number
    return sizes


def expect_in_tables(program: Program, sizes: Mapping[str, int]) -> None:
    """Raise `CheckError` if a size lets integers go beyond the table that they are looked up in."""
    for leaf, rows, bound in _tables(program):
        highest = concrete(bound, sizes) if sizes.keys() >= set(bound.names) else 0
        if highest > rows:
            at = f"`{pattern(leaf.path)}` ({leaf.op.label})"
            raise CheckError(
                f"with {bound} = {highest:,} integers go beyond the {rows:,} rows of {at}: choose a"
                f" smaller size with `--size NAME=VALUE`, or make the table larger"
            )


def _tables(program: Program) -> Iterator[tuple[Leaf, int, Symbol]]:
    """The weights that are looked up by integers below a free size, with their numbers of rows."""
    for module in walk(program.tree):
        if isinstance(module, Leaf) and isinstance(module.op, Atom):
            x = program.types[module.id][0]
            if isinstance(x, Tensor) and isinstance(x.bound, Symbol):
                yield module, module.op.weight_shape[0], x.bound


def batch_for(program: Program, options: CheckOptions, generator: torch.Generator) -> Batch:
    """The batch that is asked for: from a file, or random; real numbers are float64.

    Raises:
        CheckError: if the file, or a size, does not fit the inputs.
    """
    if options.data is None:
        return _random(program, chosen_sizes(program, options.sizes), generator)
    if not program.inputs:
        raise CheckError(f"{program.name} declares no input that data could be for")
    sizes = chosen_sizes(program, options.sizes)
    if Path(options.data).suffix == ".npz":
        return _Arrays(options.data, program, sizes, options.sizes).batch(generator)
    return _text(options.data, program, sizes, generator)


def _random(program: Program, sizes: Mapping[str, int], generator: torch.Generator) -> Batch:
    """Integers uniform below their bound; gaussian numbers, scaled to norm 1; true or false."""
    expect_in_tables(program, sizes)
    inputs: Tensors = []
    following: torch.Tensor | None = None
    for given in program.inputs:
        shape = [concrete(size, sizes) for size in given.type.shape]
        if math.prod(shape) > MOST_ENTRIES:
            raise CheckError(
                f"the input `{given.name}` would have {math.prod(shape):,} entries:"
                " choose smaller sizes with `--size NAME=VALUE`"
            )
        if given.type.dtype == "float":
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            inputs.append(x / norm([x], [natural(given.type)]).clamp_min(1e-300))
            continue
        if given.type.dtype == "bool":
            inputs.append(torch.rand(shape, generator=generator) < 0.5)
            continue
        longer = [*shape[:-1], shape[-1] + 1] if shape else [2]
        drawn = torch.randint(_bound(given, sizes), longer, generator=generator)
        inputs.append(drawn[..., :-1] if shape else drawn[0])
        following = drawn[..., 1:] if shape else None
    return Batch(inputs, sizes, "random", following)


def _bound(given: ModelInput, sizes: Mapping[str, int]) -> int:
    """The number that an input's integers are below."""
    if given.type.bound is None:
        raise CheckError(
            f"integers of the input `{given.name}` have no bound, so none can be drawn: write"
            f" `input {given.name}: {given.type} < N`, or give data with `--data`"
        )
    return concrete(given.type.bound, sizes)


def _text(
    path: str, program: Program, sizes: Mapping[str, int], generator: torch.Generator
) -> Batch:
    """Stretches of a text, its characters numbered."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CheckError(
            f"the data `{path}` are neither text in UTF-8 nor an .npz of arrays"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckError(f"cannot read the data `{path}`: {_reason(error)}") from None
    given = program.inputs[0]
    if len(program.inputs) > 1 or given.type.dtype != "int" or not given.type.shape:
        declared = ", ".join(f"{i.name}: {i.type}" for i in program.inputs)
        raise CheckError(
            f"the data `{path}` are text, which is for one input of integers, but the inputs are"
            f" {declared}: give an .npz with an array for each"
        )
    expect_in_tables(program, sizes)
    symbols = sorted(set(text))
    if given.type.bound is not None and len(symbols) > _bound(given, sizes):
        raise CheckError(
            f"the data `{path}` have {len(symbols)} different characters, but `{given.name}` is"
            f" below {_bound(given, sizes)}: raise that bound, or take other data"
        )
    *lead, length = (concrete(size, sizes) for size in given.type.shape)
    if len(text) < length + 1:
        raise CheckError(
            f"the data `{path}` have {len(text)} characters, fewer than the {length + 1} of one"
            " sequence and what follows: choose a shorter one with `--size NAME=VALUE`"
        )
    number = {symbol: i for i, symbol in enumerate(symbols)}
    ids = torch.tensor([number[c] for c in text])
    starts = torch.randint(len(text) - length, lead or [1], generator=generator)
    windows = ids[starts.unsqueeze(-1) + torch.arange(length + 1)]
    windows = windows if lead else windows[0]
    return Batch([windows[..., :-1]], sizes, path, windows[..., 1:])


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return reason[:1].lower() + reason[1:]


@dataclass
class _Arrays:
    """An .npz with an array an input. Its own sizes count where none are `wanted`."""

    path: str
    program: Program
    sizes: dict[str, int]
    wanted: Mapping[str, int]

    def batch(self, generator: torch.Generator) -> Batch:
        """As many rows of every array as are wanted, the same ones of each."""
        pairs = zip(self.program.inputs, self.arrays(), strict=True)
        read = [(given, self.fitting(given, array)) for given, array in pairs]
        self.expect_alike(read)
        rows = {
            str(given.type.shape[0]): len(tensor)
            for given, tensor in read
            if given.type.shape and isinstance(given.type.shape[0], Symbol)
        }
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{n} for {name}" for name, n in rows.items())
            raise CheckError(f"the data `{self.path}` have different numbers of examples: {counts}")
        for name, count in rows.items():
            if count > self.sizes[name]:
                picked = torch.randperm(count, generator=generator)[: self.sizes[name]]
                read = [
                    (g, t[picked] if t.ndim and str(g.type.shape[0]) == name else t)
                    for g, t in read
                ]
            elif count < self.wanted.get(name, 0):
                raise CheckError(
                    f"the data `{self.path}` have {count} along `{name}`, fewer than"
                    f" {self.wanted[name]}"
                )
            else:
                self.sizes[name] = count
        expect_in_tables(self.program, self.sizes)
        return Batch([tensor for _, tensor in read], self.sizes, self.path)

    def arrays(self) -> list[numpy.ndarray[Any, Any]]:
        """The arrays, in the order of the inputs."""
        try:
            import numpy
        except ImportError:
            raise CheckError("reading an .npz needs numpy: `pip install numpy`") from None
        path, names = self.path, [given.name for given in self.program.inputs]
        try:
            with numpy.load(path, allow_pickle=False) as archive:
                if not hasattr(archive, "files"):
                    raise CheckError(f"the data `{path}` are one array: save them with numpy.savez")
                found = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise CheckError(f"cannot read the data `{path}`: {_reason(error)}") from None
        if found.keys() >= set(names):
            return [found[name] for name in names]
        if len(found) != len(names) or not found.keys().isdisjoint(names):
            raise CheckError(
                f"the data `{path}` have arrays {some(list(found))}, but the inputs are"
                f" {some(names)}"
            )
        return list(found.values())

    def expect_alike(self, read: list[tuple[ModelInput, torch.Tensor]]) -> None:
        """The first axes of one name are equally long in all arrays, and so are the others."""
        known: dict[tuple[bool, str], tuple[int, str]] = {}
        for given, tensor in read:
            for axis, (size, have) in enumerate(zip(given.type.shape, tensor.shape, strict=True)):
                other, first = known.setdefault((axis > 0, str(size)), (have, given.name))
                if have != other:
                    raise CheckError(
                        f"the arrays in `{self.path}` differ along `{size}`: {other} for `{first}`,"
                        f" {have} for `{given.name}`"
                    )

    def fitting(self, given: ModelInput, array: numpy.ndarray[Any, Any]) -> torch.Tensor:
        """An array as the tensor of an input; free sizes but the first are taken from it."""
        what, type = f"the array for `{given.name}` in `{self.path}`", given.type
        misfit = CheckError(f"{what} has the shape {array.shape}, but the input is {type}")
        if array.ndim != len(type.shape):
            raise misfit
        for axis, size in enumerate(type.shape):
            have = array.shape[axis]
            if isinstance(size, int):
                if have != size:
                    raise misfit
            elif axis and len(size.names) == 1 and size.factor == 1:
                (name,) = size.names
                if have < self.wanted.get(name, 0):
                    raise CheckError(
                        f"{what} has {have} along `{name}`, fewer than {self.wanted[name]}"
                    )
                self.sizes[name] = self.wanted.get(name, have)
                array = array.take(range(self.sizes[name]), axis=axis)
        if not array.size:
            raise CheckError(f"{what} is empty: its shape is {array.shape}")
        kind = array.dtype.kind
        if type.dtype == "float":
            if kind not in "fiub":
                raise CheckError(f"{what} holds {array.dtype}, not real numbers")
            x = torch.from_numpy(array.astype("float64"))
            if not bool(x.isfinite().all()):
                raise CheckError(f"{what} holds NaN or infinity")
            return x
        if kind != "b" if type.dtype == "bool" else kind not in "iu":
            raise CheckError(f"{what} holds {array.dtype}, but the input is {type}")
        ids = torch.from_numpy(array.astype("bool" if type.dtype == "bool" else "int64"))
        if type.bound is not None:
            low, high, bound = int(array.min()), int(array.max()), _bound(given, self.sizes)
            if low < 0 or high >= bound:
                raise CheckError(f"{what} holds {low} … {high}, but must be 0 … {bound - 1}")
        return ids
