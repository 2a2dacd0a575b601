"""Compiles kernels for devices that are not here; prints as JSON what the compilers say of them.

A program of its own, since Triton's interpreter and its compiler do not live in one process:

    python tests/triton/ahead.py normed        # or another of REPORTS
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

torch.cuda.is_available = lambda: True  # kernels are Triton's where there is a GPU

from modnorm.kernels import normed, tiles  # noqa: E402
from modnorm.kernels.launch import KINDS, KernelShape  # noqa: E402

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


def compiled(kernel: Any, pointers: dict[str, str], constants: dict[str, Any], device: str,
             **options: Any) -> dict[str, Any]:  # fmt: skip
    """What becomes of a kernel: shared memory in bytes, registers a thread, bytes spilled."""
    names = list(kernel.arg_names)
    signature = {name: pointers.get(name, "constexpr") for name in names}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]] for name in pointers if name in names
    }
    values = {(names.index(name),): x for name, x in constants.items() if name in names}
    source = ASTSource(kernel, signature, values, attrs=aligned)
    binary = triton.compile(source, target=TARGETS[device], options=options)
    told = {
        "kernel": kernel.__name__.removesuffix("_kernel"),
        "device": device,
        "shared": binary.metadata.shared,
    }
    if "ptx" in binary.asm:
        return told | ptxas(binary.asm["ptx"], device)
    text = binary.asm["amdgcn"]
    return told | {
        "registers": int(re.findall(r"\.vgpr_count:\s+(\d+)", text)[0]),
        "spilled": sum(int(n) for n in re.findall(r"gpr_spill_count:\s+(\d+)", text)),
    }


def ptxas(text: str, device: str) -> dict[str, int]:
    """NVIDIA's assembler, which comes with Triton, on the kernel's PTX."""
    name, arch = ("ptxas-blackwell", "sm_100a") if device == "sm_100" else ("ptxas", device)
    program = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(text)
        file.flush()
        arch = "sm_90a" if arch == "sm_90" else arch
        command = [str(program), "-v", f"-arch={arch}", file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", said)]
    assert spills, said
    return {"registers": int(re.findall(r"Used (\d+) registers", said)[0]), "spilled": sum(spills)}


GPT = {
    "rows": [(50257, 768), (1024, 768)],
    "matrix": [(768, 768), (3072, 768), (768, 3072)],
}
CNN = {
    "matrix": [(64, 3, 7, 7), (512, 512, 3, 3), (512, 256, 1, 1)],
    "rows_max": [(64,)],
    "rows": [(512,)],
}
NORMS = {
    "rows": [(50257, 768)],
    "whole": [(768, 768), (4096, 16384)],
    "whole_max": [(3072, 768)],
    "matrix": [(768, 3072)],
}
WIDE = {
    "matrix": [(4096, 4096), (4096, 16384), (8192, 8192)],
    "rows": [(32000, 16384), (100_000,)],
}
USUAL = {
    "gpt": ("sm_90", "gfx942"),
    "cnn": ("sm_90",),
    "norms": ("sm_90", "gfx942"),
    "wide": ("sm_90",),
}
"""Which devices a model's kernels are compiled for: what comes with more shapes takes long."""
FIRST = "sm_90", "gpt"
"""What is compiled for every optimizer and type; the rest for one, but in long mode."""
LONG = bool(os.environ.get("MODNORM_LONG"))
MODELS = {"gpt": GPT, "cnn": CNN, "norms": NORMS, "wide": WIDE}


def of_normed() -> Iterator[dict[str, Any]]:
    """The kernels of a normalising step with the default tiles of three models' shapes."""
    pointers = dict.fromkeys(("tiles", "weights", "lost"), "*i32") | {"where": "*i64"}
    pointers |= dict.fromkeys(("targets", "sums", "factors"), "*fp32")
    variants = {
        "adam": (True, False, "fp32"),
        "sgd": (False, False, "fp32"),
        "bf16": (True, True, "bf16"),
    }
    for device in TARGETS:
        for model, kinds in MODELS.items():
            for name, (adam, master, dtype) in variants.items():
                usual = device in USUAL[model] if name == "adam" else (device, model) == FIRST
                if not (LONG or usual):
                    continue
                pairs = [(shape, kind) for kind, own in kinds.items() for shape in own]
                every = (shape_of(*pair, device, master) for pair in pairs)
                shapes = tuple(dict.fromkeys(every))
                kind = getattr(triton.language, {"fp32": "float32", "bf16": "bfloat16"}[dtype])
                constants = {
                    "SHAPES": shapes,
                    "ADAM": adam,
                    "MASTER": master,
                    "P": kind,
                    "ALIGNED": 16,
                }
                for kernel in (normed.moments_kernel, normed.reduce_kernel, normed.apply_kernel):
                    warps = tiles.DEVICES[device].warps
                    told = compiled(kernel, pointers, constants, device, num_warps=warps)
                    yield told | {"model": model, "variant": name}


def shape_of(shape: tuple[int, ...], kind: str, device: str, master: bool) -> KernelShape:
    """What the kernels know of a shape, cut into the default tiles of a model of 124M weights."""
    tile = tiles.choose(shape, 124_000_000, device)
    _, columns, taps = tiles.view(shape)
    chunks = -(-columns // tile.columns)
    block = max(1, tile.block // 2) if master else tile.block
    gain = columns if kind.startswith("whole") else 1
    lanes = tiles.power(taps)
    return KernelShape(KINDS.index(kind), taps, columns, block, lanes, tile.columns, chunks, gain)


REPORTS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {"normed": of_normed}

if __name__ == "__main__":
    print(json.dumps(list(REPORTS[sys.argv[1]]())))
