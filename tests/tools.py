"""What tests run: programs, where they are installed, and this package with an operation more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

RUFF = shutil.which("ruff", path=sysconfig.get_path("scripts")) or shutil.which("ruff")

ROOT = Path(__file__).resolve().parents[1]


def with_operation(
    folder: Path, name: str, source: str, command: list[str], runtime: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run Python there, with a copy of the package that lists a file of `ops` more."""
    package, ignore = folder / "modnorm", shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "compiler", package, ignore=ignore)
    for part in ("kernels", "grammar"):
        shutil.copytree(ROOT / part, package / part, ignore=ignore)
    (package / "ops" / f"{name}.py").write_text(source, "utf-8")
    with (package / "ops" / "runtime.py").open("a", encoding="utf-8") as file:
        file.write(runtime)
    listed = package / "ops" / "__init__.py"
    text = listed.read_text("utf-8").replace("    scalars,\n", f"    scalars,\n    {name},\n")
    listed.write_text(text, "utf-8")
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
