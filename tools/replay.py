"""Prove a refactoring: what modnorm made at a revision, it makes now, to the last bit.

    python tools/replay.py REVISION [--triton]

For every `.mod` file of the repository that has a model: the JSON report; and the weights after 20
steps of each optimizer in the generated file that needs no modnorm, and in the one that imports it.
With `--triton` there are two steps, of small models by the kernels, under Triton's interpreter.
What differs is listed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMALL: dict[str, dict[str, Any]] = {
    "examples/gpt.mod": {"d_embed": 16, "heads": 2, "blocks": 1, "context": 8},
    "examples/rescnn.mod": {"width": 4, "blocks": 1},
}
"""What the interpreter has time for."""
IMPORTED = " imported"
"""Behind the name of a result of a file that imports modnorm."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", nargs="?", default="HEAD")
    parser.add_argument("--triton", action="store_true", help="steps of the kernels, interpreted")
    parser.add_argument("--results", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.results:
        print(json.dumps(results(options.triton)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", old, options.revision], check=True)
        try:
            before = run(old, Path(folder) / "before", options.triton)
        finally:
            subprocess.run([*git, "remove", "--force", old], check=True)
        after = run(ROOT, Path(folder) / "after", options.triton)
    wrong = [key for key in after if before.get(key.removesuffix(IMPORTED)) != after[key]]
    wrong += before.keys() - after.keys()
    for key in wrong:
        print(f"differs: {key}")
    print(f"{len(before)} results of {options.revision}, {len(after)} now: {len(wrong)} differ")
    return 1 if wrong or not before else 0


def run(tree: Path, site: Path, triton: bool) -> dict[str, str]:
    """The results of the modnorm in a tree, on the files of this one."""
    package = site / "modnorm"
    package.mkdir(parents=True)
    for folder in ("compiler", "kernels", "grammar"):
        inside = (tree / folder).iterdir() if folder == "compiler" else [tree / folder]
        for path in inside:
            (package / path.name).symlink_to(path)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if triton else {}
    command = [sys.executable, __file__, "--results", *(["--triton"] if triton else [])]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def results(triton: bool) -> dict[str, str]:
    """By name, a checksum of each result."""
    import modnorm

    listed = subprocess.run(["git", "ls-files", "*.mod"], stdout=subprocess.PIPE, check=True)
    found = {}
    for name in listed.stdout.decode().splitlines():
        if triton and name not in SMALL:
            continue
        params = SMALL[name] if triton else {}
        try:
            report = modnorm.report(name, format="json", **params)
        except modnorm.ModnormError:
            continue  # a library, or one that needs params
        found[f"{name} report"] = checksum(str(report).encode())
        forms = {"": {}}
        if "standalone" in inspect.signature(modnorm.compile).parameters:
            forms = {"": {"standalone": True}, IMPORTED: {}}
        for form, options in forms.items():
            source = modnorm.compile(name, **options, **params)
            for kind in ("NormedAdam", "NormedSGD", "DualizedSGD"):
                found[f"{name} {kind}{form}"] = trained(source, kind, 2 if triton else 20)
    return found


def trained(source: str, kind: str, steps: int) -> str:
    """A checksum of the weights after steps of an optimizer on random batches."""
    import torch

    from modnorm.codegen.imports import import_source

    module: Any = import_source(source, "replay")
    module.mkl_is_slow = lambda: False  # files had another way to multiply, on some CPUs
    if os.environ.get("TRITON_INTERPRET"):
        interpret(module)
    draw = torch.Generator().manual_seed(0)
    model = getattr(module, module.MODEL)(generator=draw)
    optimizer = getattr(module, kind)(model.named_parameters(), lr=0.1, weight_decay=0.01)
    names: dict[str, int] = {}
    for _ in range(steps):
        inputs = []
        for entry in module.INPUTS:
            sizes = [names.setdefault(s, len(names) + 3) if s is str(s) else s for s in entry.shape]
            if entry.dtype == "int":
                bound = sizes[-1] if entry.bound is None else names.get(entry.bound, entry.bound)
                inputs.append(torch.randint(bound, sizes, generator=draw))
            else:
                inputs.append(torch.randn(sizes, generator=draw))
        out = model(*inputs)
        parts = out if isinstance(out, tuple) else (out,)
        loss = sum((part - 1).square().mean() for part in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if os.environ.get("TRITON_INTERPRET") and not kind.startswith("Dualized"):
        assert optimizer._launched, "the kernels were to move the weights"
    return checksum(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))


def interpret(module: Any) -> None:
    """Let the kernels of a file, or of the runtime that it imports, have tensors of the CPU."""
    modules = [module, *(m for name, m in sys.modules.items() if name.startswith("modnorm."))]
    for one in modules:
        if hasattr(one, "INTERPRETED"):
            one.INTERPRETED = True


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
