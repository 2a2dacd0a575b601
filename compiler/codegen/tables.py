"""What the compiler decides for each shape of a weight, as tables in the generated file."""

from __future__ import annotations

import json
import textwrap
from math import prod

from modnorm.diagnostics import Diagnostics
from modnorm.kernels import polar_tiles, schemes, tiles
from modnorm.ops.base import Atom
from modnorm.ops.losses import LOSSES
from modnorm.passes.certify import Certify
from modnorm.passes.losses import Loss
from modnorm.passes.program import Program, run_passes


def matrices(program: Program) -> dict[tuple[int, ...], int]:
    """The shapes of weights that are orthogonalised, and the number of copies of each."""
    found: dict[tuple[int, ...], int] = {}
    for weight in program.weights:
        if weight.op.norm.name in schemes.NORMS and weight.target:
            shape = _shape(weight.op)
            found[shape] = found.get(shape, 0) + weight.copies
    return found


def scheme_table(program: Program) -> str:
    """How the matrices of each shape are orthogonalised."""
    rows = [
        f'    {shape}: Scheme("{form}", {steps}),'
        for shape in matrices(program)
        for form, steps in [schemes.choose(shape)]
    ]
    return _table("SCHEMES: dict[tuple[int, ...], Scheme]", rows)


def smoothness_table(program: Program) -> str:
    """λ of every known loss behind the model, or in words why there is none."""
    certified = run_passes(program, (Certify(),), Diagnostics())
    rows = []
    proved = False
    for loss in LOSSES:
        found = run_passes(certified, (Loss(loss),), Diagnostics()).smoothness
        assert found is not None
        proved |= found.certified
        rows += _entry(loss, found.reason or found.smoothness)
    kind = (
        "# λ is proved, for inputs and weights of norm at most 1.\n"
        if proved
        else "# λ follows from declared values, which are typical ones and no bounds.\n"
    )
    head = f'# What lr="auto" knows of the curvature of losses: λ, or why there is none.\n{kind}'
    return head + _table("SMOOTHNESS: dict[str, float | str]", rows)


def tile_table(program: Program, device: str) -> str:
    """How weights are cut into programs of a GPU of this class."""
    shapes = dict.fromkeys(_shape(weight.op) for weight in program.weights)
    rows = [
        f"    {shape}: Tile{tuple(tiles.choose(shape, program.entries, device))},"
        for shape in shapes
    ]
    kind = tiles.DEVICES[device]
    head = f"# How weights are cut for {device} ({kind.name}).\n"
    return f"{head}{_table('TILES: dict[tuple[int, ...], Tile]', rows)}\nWARPS = {kind.warps}"


def polar_table(program: Program, device: str) -> str:
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
        small, *others = polar_tiles.tiles(n, m, device, size, at_once, steps[n, m])
        rows += [f"    ({n}, {m}): ({size}, PolarTiles("]
        rows += [f"        {small and f'PolarTile{tuple(small)}'},"]
        rows += [f"        {', '.join(f'PolarTile{tuple(tile)}' for tile in others)},"]
        rows += ["    )),"]
    head = (
        "# By sides (short, long): bytes of an entry, and the tiles for one program a matrix,\n"
        "# if that is fastest, for X·Xᵀ, and for products with X, without and with the update.\n"
    )
    return head + _table("POLAR_TILES: dict[tuple[int, int], tuple[int, PolarTiles]]", rows)


def _entry(key: str, value: float | str | None) -> list[str]:
    """An entry of a table, whose value may be text of any length."""
    plain = not isinstance(value, str) or not value.isprintable()
    if not isinstance(value, str) or len(value) < 70:
        return [f'    "{key}": {json.dumps(value, ensure_ascii=plain)},']
    lines = textwrap.wrap(value, 80, drop_whitespace=False)
    pieces = [f"        {json.dumps(line, ensure_ascii=plain)}" for line in lines]
    return [f'    "{key}": (', *pieces, "    ),"]


def _shape(op: Atom) -> tuple[int, ...]:
    return op.weight_shape


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([f"{head} = {{", *rows, "}"]) if rows else f"{head} = {{}}"
