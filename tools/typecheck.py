"""Check the types of the whole package: `python tools/typecheck.py [FILE or -p PACKAGE ...]`.

mypy takes a module's name from the folder that it lies in, but the folders here have other names
than the packages (`compiler` is `modnorm`). So it gets a tree of links that has the right ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKS = ROOT / "build" / "typing"


def link() -> None:
    """Lay the tree of links anew, so that it has no file that is gone."""
    shutil.rmtree(LINKS, ignore_errors=True)
    package = LINKS / "modnorm"
    package.mkdir(parents=True)
    for part in [*(ROOT / "compiler").iterdir(), ROOT / "kernels", ROOT / "grammar"]:
        if part.name != "__pycache__":
            (package / part.name).symlink_to(os.path.relpath(part, package))


def main() -> int:
    link()
    what = sys.argv[1:] or ["-p", "modnorm"]
    environment = os.environ | {"MYPYPATH": str(LINKS)}
    command = [sys.executable, "-m", "mypy", *what]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
