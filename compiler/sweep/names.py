"""Optimizers of a sweep by name, and what the parts of a label mean; without torch.

A label is `NAME[:option=value…]`, as in `dualized_sgd:momentum=0.9:steps=5`, or names a function of
the user's own, `module:function[:option=value…]`. Names may be written as those of classes are:
`DualizedSGD`, `AdamW`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modnorm.data.fetch import DataError
from modnorm.diagnostics import did_you_mean

NORMED = {"normed_adam": "NormedAdam", "normed_sgd": "NormedSGD", "dualized_sgd": "DualizedSGD"}
"""The optimizers of a generated file; theirs alone depend on masses."""
PLAIN = ("adam", "sgd", "muon")
NAMES = (*NORMED, *PLAIN)
ALIASES = {name.replace("_", ""): name for name in NAMES} | {"adamw": "adam"}
"""Names as people write them, in small letters and without `_` and `-`."""

Option = int | float | bool | str


class BadLabel(DataError):
    """A label of an optimizer that says nothing sensible; its text says what would."""


@dataclass(frozen=True)
class Label:
    """An optimizer's name and options. `function` is set for the user's own."""

    name: str
    options: dict[str, Option] = field(default_factory=dict)
    function: str | None = None

    @property
    def normed(self) -> bool:
        return self.name in NORMED


def usual(text: str) -> str:
    """A label, or the name of an optimizer, with the name under which a sweep keeps it."""
    name, colon, options = text.strip().partition(":")
    folded = name.lower().replace("_", "").replace("-", "")
    return f"{ALIASES.get(folded, name)}{colon}{options}"


def read_label(text: str) -> Label:
    """The parts of a label.

    Raises:
        BadLabel: where it has no such parts.
    """
    written, *rest = text.strip().split(":")
    name, function = usual(written), None
    if name not in NAMES:
        if not rest or "=" in rest[0] or not name or not rest[0]:
            near = did_you_mean(written, NAMES)
            raise BadLabel(
                f"there is no optimizer {written!r}{f' ({near})' if near else ''}: choose from "
                f"{', '.join(NAMES)} (adam is AdamW), or name a function of your own as "
                "module:function"
            )
        function, rest = f"{name}:{rest[0]}", rest[1:]
    options: dict[str, Option] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or not value or key in options:
            raise BadLabel(
                f"{part!r} in {text!r} is not option=value: write NAME:option=value:option=value"
            )
        options[key] = _value(value)
    return Label(name if function is None else function, options, function)


def _value(text: str) -> Option:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)
