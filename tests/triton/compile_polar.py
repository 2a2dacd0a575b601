"""Compile the kernels for polar factors ahead of time, without a GPU.

`python compile_polar.py TARGET [all]` prints one JSON object a line: the kernel, its tile, shared
memory in bytes, and for NVIDIA what ptxas says of registers and spills. A process of its own, since
Triton's interpreter, in which the other tests run, puts itself in the compiler's place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from ahead import TARGETS, ptxas  # has triton imported where there is no GPU, so it comes first
from triton.compiler import ASTSource

from modnorm.kernels import polar_tiles
from modnorm.kernels import polar_triton as kernels

NAMES = {2: "bf16", 4: "fp32"}
TYPES = {"bf16": tl.bfloat16, "fp32": tl.float32}
INTEGERS = {"n", "m", "count", "steps", *"xk xr xc yk yr yc ok er ec mr mc".split()}
FLOATS = {"alpha", "beta", "diagonal", "a", "b", "c", "factor"}


def tile_arguments(tile: Any, oblong: bool = False) -> dict[str, Any]:
    names = {"BLOCK_N": tile.rows, "BLOCK_M": tile.columns} if oblong else {"BLOCK": tile.rows}
    return {**names, "BLOCK_K": tile.depth}


def put(parameters: str | None) -> dict[str, Any]:
    """Store; or update parameters, those of 16 bits with a float32 copy."""
    if parameters is None:
        return {"TYPE": None, "ALIGN": 16, "master": None, "hyper": None, "targets": None}
    master = {"master": None} if parameters == "fp32" else {}
    return {"TYPE": TYPES[parameters], "ALIGN": 16, **master}


def cases(device: str, everything: bool) -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """kernel, type of the entries, tile, arguments that are fixed."""
    model = polar_tiles.DEVICE_CLASSES[device]
    for size, kind in NAMES.items():
        common = {"PRECISION": "ieee", "ALIGN": 16}
        few, many = (polar_tiles.tiles(n, n, device, size) for n in (32, 4096))
        chosen = [few, many] if device == "sm_90" else [many._replace(small=few.small)]

        def pick(table: Any, own: Any, size: int = size) -> list[Any]:
            every = table[size]
            if table is not polar_tiles.SMALLS:
                every = [polar_tiles.staged(tile, model, size) for tile in every]
            return every if everything else [tile for tile in every if tile in own]

        for tile in pick(polar_tiles.SQUARES, {t.gram for t in chosen}):
            first = {"TYPE": TYPES[kind], "FIRST": True, "SCALED": False, "d": None, "LENGTH": 1}
            scaled = {"TYPE": None, "FIRST": False, "SCALED": True, "d": None, "LENGTH": 64}
            plain = {"TYPE": None, "FIRST": False, "SCALED": False, "LENGTH": 1}
            for mode in (first, scaled, plain) if everything else (scaled,):
                yield "polar_gram", kind, tile, common | mode | tile_arguments(tile)
        for tile in pick(polar_tiles.OBLONGS, {t.multiply for t in chosen}):
            for scaled in (False, True) if everything else (False,):
                mode = {"X_TYPE": None, "X_ALIGN": 16, "SCALED": scaled, **put(None)}
                yield "polar_multiply", kind, tile, common | mode | tile_arguments(tile, True)
        for tile in pick(polar_tiles.UPDATES, {t.update for t in chosen}):
            for parameters in ("fp32", "bf16") if everything else (kind,):
                mode = {"X_TYPE": None, "X_ALIGN": 16, "SCALED": False, **put(parameters)}
                yield "polar_multiply", kind, tile, common | mode | tile_arguments(tile, True)
        for tile in pick(polar_tiles.SMALLS, {t.small for t in chosen}) if model.ordered else []:
            for parameters in (None, "fp32", "bf16") if everything else (kind,):
                x = {"X_TYPE": TYPES[kind], "X_ALIGN": 16, **put(parameters)}
                yield "polar_small", kind, tile, common | x | tile_arguments(tile)
        tile = polar_tiles.PolarTile(1024, 1, 1, 4)
        for gram in (False, True) if everything else (True,):
            yield "polar_start", kind, tile, {"GRAM": gram, "LENGTH": 64, "BLOCK": 1024}


def signature(name: str, kind: str, fixed: dict[str, Any]) -> tuple[dict[str, str], Any]:
    """The type of each argument; and which pointers and integers 16 divides."""
    gram = name == "polar_gram"
    tables = {"x", "y"} if gram and fixed["TYPE"] else {"x"} if fixed.get("X_TYPE") else set()
    tables |= {"out", "master"} if not gram and fixed.get("TYPE") else set()
    entries = {"x", "y", "d", "q", "out", "gram", "square", "scratch"}
    types, attributes = {}, {}
    for i, argument in enumerate(p.name for p in getattr(kernels, name).params):
        if argument in fixed:
            types[argument] = "constexpr"
        elif argument in FLOATS:
            types[argument] = "fp32"
        else:
            pointer = "i64" if argument in tables else kind if argument in entries else "fp32"
            types[argument] = "i32" if argument in INTEGERS else f"*{pointer}"
            attributes[(i,)] = [["tt.divisibility", 16]]
    return types, attributes


def main(device: str, everything: bool) -> None:
    for name, kind, tile, fixed in cases(device, everything):
        kernel = getattr(kernels, name)
        if "xc" in (own := [p.name for p in kernel.params]):  # the usual layout
            fixed = fixed | {key: 1 for key in ("xc", "yc", "ec", "mc") if key in own}
        fixed = {key: value for key, value in fixed.items() if key in own}
        if name == "polar_gram" and fixed["TYPE"] is not None:
            fixed = fixed | {"squares": None}
        types, attributes = signature(name, kind, fixed)
        source = ASTSource(kernel, types, fixed, attributes)
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        compiled = triton.compile(source, target=TARGETS[device], options=options)
        row: dict[str, Any] = {"kernel": name, "type": kind, "tile": tuple(tile)}
        row["mode"] = {k: str(v) for k, v in fixed.items() if k.isupper()}
        row["shared"] = compiled.metadata.shared
        if device != "gfx942":
            row |= ptxas(compiled.asm["ptx"], device)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], "all" in sys.argv[2:])
