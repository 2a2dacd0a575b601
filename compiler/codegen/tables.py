"""What the compiler decides for each shape of a weight, as arguments of `Plan`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from math import prod

from modnorm.kernels import polar_tiles, schemes, tiles
from modnorm.ops.base import Atom
from modnorm.passes.program import Program


def matrices(program: Program) -> dict[tuple[int, ...], int]:
    """The shapes of weights that are orthogonalised, and the number of copies of each."""
    found: dict[tuple[int, ...], int] = {}
    for weight in program.weights:
        if weight.op.norm.name in schemes.MATRICES and weight.target:
            shape = _shape(weight.op)
            found[shape] = found.get(shape, 0) + weight.copies
    return found


def choices(program: Program, device: str) -> Iterator[str]:
    """What `Plan` is given beside the weights, for a class of GPUs or for the "cpu"."""
    yield from _schemes(program)
    yield from _smoothness(program)
    if device != "cpu":
        yield from _tiles(program, device)
        yield from _polar_tiles(program, device)
        yield f"warps={tiles.DEVICES[device].warps},"


def _schemes(program: Program) -> Iterator[str]:
    """How the matrices of each shape are orthogonalised."""
    rows = []
    for shape in matrices(program):
        form, steps, _ = schemes.choose(shape)
        rows.append(f'{shape}: ("{form}", {steps}),')
    yield from _table(
        "schemes", rows, "How matrices of a shape are orthogonalised, in how many steps."
    )


def _smoothness(program: Program) -> Iterator[str]:
    """λ of every known loss behind the model, or in words why there is none."""
    rows = []
    for found in program.curvature:
        rows += _entry(found.loss, found.reason or found.smoothness)
    kind = (
        "λ is proved, for inputs and weights of norm at most 1."
        if any(found.certified for found in program.curvature)
        else "λ follows from declared values, which are typical ones and no bounds."
    )
    head = 'What lr="auto" knows of the curvature of losses: λ, or why there is none.'
    yield from _table("smoothness", rows, head, kind)


def _tiles(program: Program, device: str) -> Iterator[str]:
    """How weights are cut into programs of a GPU of this class."""
    shapes = dict.fromkeys(_shape(weight.op) for weight in program.weights)
    rows = [f"{shape}: {tuple(tiles.choose(shape, program.entries, device))}," for shape in shapes]
    kind = tiles.DEVICES[device].name
    head = f"How weights are cut for {device} ({kind}): rows, rows at once, columns."
    yield from _table("tiles", rows, head)


def _polar_tiles(program: Program, device: str) -> Iterator[str]:
    """The tiles of the products by which matrices are orthogonalised there."""
    counts: dict[tuple[int, int], int] = {}
    steps: dict[tuple[int, int], int] = {}
    for shape, copies in matrices(program).items():
        sides = schemes.sides(shape)
        count = copies * prod(shape) // prod(sides)
        counts[sides] = counts.get(sides, 0) + count
        steps[sides] = schemes.choose(shape).steps
    rows = []
    for (n, m), count in counts.items():
        size = 4 if steps[n, m] == schemes.ACCURATE else 2
        at_once = max(1, min(count, schemes.BATCH // (n * m)))
        found = polar_tiles.tiles(n, m, device, size, at_once, steps[n, m])
        plain = ", ".join(str(tile and tuple(tile)) for tile in found)
        rows += [f"({n}, {m}): ({size}, (", f"    {plain},", ")),"]
    yield from _table(
        "polar_tiles", rows,
        "By sides (short, long): bytes of an entry, and the tiles for one program a matrix,",
        "if that is fastest, for X·Xᵀ, and for products with X, without and with the update.",
    )  # fmt: skip


def _entry(key: str, value: float | str | None) -> list[str]:
    """An entry of a table, whose value may be text of any length."""
    plain = not isinstance(value, str) or not value.isprintable()
    if not isinstance(value, str) or len(value) < 70:
        return [f'"{key}": {json.dumps(value, ensure_ascii=plain)},']
    lines = textwrap.wrap(value, 80, drop_whitespace=False)
    pieces = [f"    {json.dumps(line, ensure_ascii=plain)}" for line in lines]
    return [f'"{key}": (', *pieces, "),"]


def _shape(op: Atom) -> tuple[int, ...]:
    return op.measured_shape


def _table(name: str, rows: list[str], *comment: str) -> Iterator[str]:
    """A keyword argument that is a table, with words above it; nothing for an empty one."""
    if rows:
        yield from (f"# {line}" for line in comment)
        yield f"{name}={{"
        yield from (f"    {row}" for row in rows)
        yield "},"
