"""What rich draws, as a string."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def printed(shown: RenderableType, width: int, color: bool) -> str:
    """The text of something that rich can show, with ANSI colours or without."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().split("\n"))
