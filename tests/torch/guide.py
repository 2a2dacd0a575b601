"""What CONTRIBUTING.md adds, as it stands there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tools import docs

PAGE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {block.word: block.text for block in docs.blocks(PAGE) if block.word}


def module(file: str, package: str) -> Any:
    """A file of the guide, run as a module of a package."""
    made = ModuleType(f"{package}.{Path(file).stem}")
    made.__package__ = package
    sys.modules[made.__name__] = made
    exec(compile(FILES[file], file, "exec"), made.__dict__)
    return made
