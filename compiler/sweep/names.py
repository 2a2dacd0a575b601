"""Optimizers of a sweep by name, and what the parts of a label mean; without torch.

A label is `NAME[:option=value…]`, as in `dualized_sgd:momentum=0.9:steps=5`, or names a function of
the user's own, `module:function[:option=value…]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modnorm.data.fetch import DataError

NORMED = {"normed_adam": "NormedAdam", "normed_sgd": "NormedSGD", "dualized_sgd": "DualizedSGD"}
"""The optimizers of a generated file; theirs alone depend on masses."""
PLAIN = ("adam", "sgd", "muon")
NAMES = (*NORMED, *PLAIN)

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


def read_label(text: str) -> Label:
    """The parts of a label.

    Raises:
        BadLabel: where it has no such parts.
    """
    name, *rest = text.strip().split(":")
    function = None
    if name not in NAMES:
        if not rest or "=" in rest[0] or not name or not rest[0]:
            raise BadLabel(
                f"there is no optimizer {name!r}: choose from {', '.join(NAMES)}, or name a "
                "function of your own as module:function"
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
