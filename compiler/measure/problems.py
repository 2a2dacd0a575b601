"""What keeps a model from being measured."""

from __future__ import annotations


class CheckError(Exception):
    """The model cannot be measured as asked: the data, a checkpoint or a size is at fault.

    Its text says what is wrong and how to mend it.
    """


class NoTorch(CheckError, ImportError):
    """torch is not installed."""

    def __init__(self) -> None:
        super().__init__(
            'to measure a model is to run it, which needs torch: `pip install "modnorm[torch]"`'
        )


def some(names: list[str], most: int = 5) -> str:
    """Some of a list of names, and how many more there are."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown
