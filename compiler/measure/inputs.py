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


def free_sizes(program: Program) -> dict[str, int]:
    """The free sizes of a model's inputs, with the numbers they have by default.

    A sequence is no longer than the tables that its positions are looked up in.
    """
    names: dict[str, int] = {}
    for given in program.inputs:
        for size in (*given.type.shape, given.type.bound):
            if isinstance(size, Symbol):
                names |= {name: DEFAULTS.get(name, OTHERS) for name in size.names}
    for _, rows, bound in _tables(program):
        if bound.factor == 1 and len(bound.names) == 1:
            (name,) = bound.names
            if name in names:
                names[name] = min(names[name], rows)
    return names


def chosen_sizes(program: Program, wanted: Mapping[str, int]) -> dict[str, int]:
    """The free sizes with the numbers that were asked for.

    Raises:
        CheckError: for a name that is no size of the model's inputs, or a size below 1.
    """
    sizes = free_sizes(program)
    for name, size in wanted.items():
        if name not in sizes:
            known = f"its free sizes are {some(list(sizes))}" if sizes else "it has none"
            hint = did_you_mean(name, sizes)
            raise CheckError(
                f"`{name}` is no free size of the inputs of {program.name}: {hint or known}"
            )
        if size < 1:
            raise CheckError(f"the size `{name}` is {size}, but it must be at least 1")
        sizes[name] = size
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


def random_batch(
    program: Program, sizes: Mapping[str, int], generator: torch.Generator, dtype: torch.dtype
) -> Batch:
    """Integers uniform below their bound; gaussian numbers, scaled to norm 1.

    Raises:
        CheckError: for integers without a bound or beyond a table, or an input too large to hold.
    """
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
            x = x / norm([x], [natural(given.type)]).clamp_min(1e-300)
            inputs.append(x.to(dtype))
            continue
        longer = [*shape[:-1], shape[-1] + 1] if shape else [2]
        drawn = torch.randint(bound_of(given, sizes), longer, generator=generator)
        inputs.append(drawn[..., :-1] if shape else drawn[0])
        following = drawn[..., 1:] if shape else None
    return Batch(inputs, sizes, "random", following)


def bound_of(given: ModelInput, sizes: Mapping[str, int]) -> int:
    """The number that an input's integers are below.

    Raises:
        CheckError: if the file does not say.
    """
    if given.type.bound is None:
        raise CheckError(
            f"integers of the input `{given.name}` have no bound, so none can be drawn: write"
            f" `input {given.name}: {given.type} < N`, or give data with `--data`"
        )
    return concrete(given.type.bound, sizes)


# --- data from files -------------------------------------------------------------------------


def read_batch(
    path: str,
    program: Program,
    wanted: Mapping[str, int],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Batch:
    """A batch from a file: an .npz with an array an input, or a text read as characters.

    Raises:
        CheckError: if the file cannot be read, or what is in it does not fit the inputs.
    """
    if not program.inputs:
        raise CheckError(f"{program.name} declares no input that data could be for")
    sizes = chosen_sizes(program, wanted)
    if Path(path).suffix == ".npz":
        return _arrays(path, program, sizes, wanted, generator, dtype)
    return _text(path, program, sizes, generator)


def _text(
    path: str, program: Program, sizes: Mapping[str, int], generator: torch.Generator
) -> Batch:
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
    if given.type.bound is not None and len(symbols) > bound_of(given, sizes):
        raise CheckError(
            f"the data `{path}` have {len(symbols)} different characters, but `{given.name}` is"
            f" below {bound_of(given, sizes)}: raise that bound, or take other data"
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


def _arrays(
    path: str,
    program: Program,
    sizes: dict[str, int],
    wanted: Mapping[str, int],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Batch:
    found = _load(path)
    names = [given.name for given in program.inputs]
    missing = [name for name in names if name not in found]
    if missing and (len(found) != len(names) or len(missing) < len(names)):
        raise CheckError(
            f"the data `{path}` have arrays {some(list(found))}, but the inputs are {some(names)}"
        )
    arrays = list(found.values()) if missing else [found[name] for name in names]
    tensors = [
        _fitting(path, given, array, sizes, wanted, dtype)
        for given, array in zip(program.inputs, arrays, strict=True)
    ]
    _agree(path, program, tensors)
    rows = {str(given.type.shape[0]): len(t) for given, t in _with_rows(program, tensors)}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{n} for {name}" for name, n in rows.items())
        raise CheckError(f"the data `{path}` have different numbers of examples: {counts}")
    for name, count in rows.items():
        if count > sizes[name]:
            picked = torch.randperm(count, generator=generator)[: sizes[name]]
            tensors = [
                t[picked] if t.ndim and str(given.type.shape[0]) == name else t
                for given, t in zip(program.inputs, tensors, strict=True)
            ]
        elif count < wanted.get(name, 0):
            raise CheckError(
                f"the data `{path}` have {count} along `{name}`, fewer than {wanted[name]}"
            )
        else:
            sizes[name] = count
    expect_in_tables(program, sizes)
    return Batch(tensors, sizes, path)


def _agree(path: str, program: Program, tensors: Tensors) -> None:
    """The first axes of one name are equally long in all arrays, and so are the others."""
    known: dict[tuple[bool, str], tuple[int, str]] = {}
    for given, tensor in zip(program.inputs, tensors, strict=True):
        for axis, (size, have) in enumerate(zip(given.type.shape, tensor.shape, strict=True)):
            other, first = known.setdefault((axis > 0, str(size)), (have, given.name))
            if have != other:
                raise CheckError(
                    f"the arrays in `{path}` differ along `{size}`: {other} for `{first}`, {have}"
                    f" for `{given.name}`"
                )


def _with_rows(program: Program, tensors: Tensors) -> list[tuple[ModelInput, torch.Tensor]]:
    pairs = zip(program.inputs, tensors, strict=True)
    return [(g, t) for g, t in pairs if g.type.shape and isinstance(g.type.shape[0], Symbol)]


def _load(path: str) -> dict[str, numpy.ndarray[Any, Any]]:
    try:
        import numpy
    except ImportError:
        raise CheckError("reading an .npz needs numpy: `pip install numpy`") from None
    try:
        with numpy.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise CheckError(f"the data `{path}` are one array: save them with numpy.savez")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckError(f"cannot read the data `{path}`: {_reason(error)}") from None


def _fitting(
    path: str,
    given: ModelInput,
    array: numpy.ndarray[Any, Any],
    sizes: dict[str, int],
    wanted: Mapping[str, int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """An array as the tensor of an input; free sizes but the first are taken from it."""
    what = f"the array for `{given.name}` in `{path}`"
    if array.ndim != len(given.type.shape):
        raise CheckError(f"{what} has the shape {array.shape}, but the input is {given.type}")
    for axis, size in enumerate(given.type.shape):
        if isinstance(size, int):
            if array.shape[axis] != size:
                raise CheckError(
                    f"{what} has the shape {array.shape}, but the input is {given.type}"
                )
        elif axis and len(size.names) == 1 and size.factor == 1:
            (name,) = size.names
            have = array.shape[axis]
            if name in wanted and have < wanted[name]:
                raise CheckError(f"{what} has {have} along `{name}`, fewer than {wanted[name]}")
            sizes[name] = wanted.get(name, have)
            array = array.take(range(sizes[name]), axis=axis)
    if not array.size:
        raise CheckError(f"{what} is empty: its shape is {array.shape}")
    kind = array.dtype.kind
    if given.type.dtype == "float":
        if kind not in "fiub":
            raise CheckError(f"{what} holds {array.dtype}, not real numbers")
        x = torch.from_numpy(array.astype("float64"))
        if not bool(x.isfinite().all()):
            raise CheckError(f"{what} holds NaN or infinity")
        return x.to(dtype)
    if kind not in "iu":
        raise CheckError(f"{what} holds {array.dtype}, but the input is {given.type}")
    ids = torch.from_numpy(array.astype("int64"))
    if given.type.bound is not None:
        low, high, bound = int(array.min()), int(array.max()), bound_of(given, sizes)
        if low < 0 or high >= bound:
            raise CheckError(f"{what} holds {low} … {high}, but must be 0 … {bound - 1}")
    return ids
