"""Options of `modnorm check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modnorm.options import FORCE, OUTPUT, QUIET, ModelOptions, either, option, settings

FORMATS = ("text", "json")
MOST = 2**31
"""What free sizes are below."""


def _sizes(given: Sequence[str]) -> dict[str, int]:
    sizes = settings(given)
    for name, size in sizes.items():
        digits = size.strip().lstrip("0")
        if not digits.isdecimal():
            raise ValueError(f"'{name}={size:.40}' is no positive integer")
        if len(digits) > len(str(MOST)) or int(digits) >= MOST:
            raise ValueError(f"'{name}' must be below {MOST:,} (2^31)")
    return {name: int(size.strip().lstrip("0")) for name, size in sizes.items()}


def _values(given: Sequence[str]) -> dict[str, tuple[float, ...]]:
    varied: dict[str, tuple[float, ...]] = {}
    for name, text in settings(given).items():
        try:
            values = [float(v) if set(".eE") & set(v) else int(v) for v in text.split(",")]
        except ValueError:
            raise ValueError(f"'{text:.40}' are not numbers") from None
        sound = all(0 < v < 1e308 for v in values)
        if len(values) < 2 or len(set(values)) < len(values) or not sound:
            raise ValueError(f"'{name}' needs two different positive values or more")
        varied[name] = tuple(values)
    return varied


class CheckOptions(ModelOptions):
    """What is measured, and how. Only the command line has `plot`, `output`, `force`, `quiet`."""

    data: Any = option(None, "A text, or an .npz with an array an input.", metavar="FILE")
    checkpoint: Any = option(None, "Weights: a state dict.", metavar="FILE.pt")
    sizes: Mapping[str, int] = option(
        dict, "A free size of the inputs; may be repeated. [batch=4, seq=16, others 8]",
        flags=["--size"], metavar="NAME=VALUE", keyed=True, many=True, reads=_sizes,
    )  # fmt: skip
    seed: int = option(0, "Of weights, batches and searches.", least=0)
    effort: int = option(1, "How long to search for what is stretched most.", choices=(1, 2, 3))
    every: bool = option(False, "Measure all copies of repetitions.", flags=["--all"])
    vary: Mapping[str, Sequence[Any]] = option(
        dict, "Coordinate check: train at these values of a param; may be repeated.",
        metavar="NAME=V1,V2,…", keyed=True, many=True, reads=_values,
    )  # fmt: skip
    steps: int = option(5, "Of that training.", least=1)
    lr: float = option(0.125, "Of that training.", positive=True, most=1e6)
    seeds: int = option(2, "Of that training.", least=1)
    plot: str | None = option(
        None, "Where to draw the coordinate check: .png, .svg or .pdf.", metavar="OUT.png"
    )
    format: Any = option(
        "text",
        "Text for people, JSON for programs; by default what OUT's suffix stands for, else text.",
        choices=FORMATS, on_line=None, must=f"the format of a check is {either(FORMATS)}",
    )  # fmt: skip
    output: Any = OUTPUT
    force: bool = FORCE
    quiet: bool = QUIET
