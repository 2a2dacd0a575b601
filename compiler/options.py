"""Options of the commands, each declared once.

The options of a command are a class with an attribute for each, made by `option`. What is said
there is all that is said of it: the command line is made from it (`command_line.py`), and keywords
of a function are checked by it (`given`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeVar, dataclass_transform

REQUIRED: Any = object()
"""The default of a keyword that has none."""
Kind = TypeVar("Kind", bound="Options")


class Option:
    """What is known of an option beside its name.

    default: a value, or `dict`: an empty one, for which None may stand; or REQUIRED.
    flags, on_line: its names and its default on the command line, where they are other ones.
    metavar, choices: as of click. many: it may be repeated. bare: what it stands for without a
    value. folder: it names one that is there. reads: makes the value of what is written there, or
    raises a ValueError.
    least: of an integer; `most` is for the command line only. positive: a finite number above 0.
    keyed: values by names. must: what a keyword must be, in words of its own.
    """

    flags: Sequence[str] = ()
    on_line: object = REQUIRED
    metavar: str | None = None
    choices: Sequence[Any] = ()
    many: bool = False
    bare: str | None = None
    folder: bool = False
    reads: Callable[[Any], object] | None = None
    least: int | None = None
    most: Any = None
    positive: bool = False
    keyed: bool = False
    must: str = ""

    def __init__(self, default: Any, help: str, **facts: Any) -> None:
        self.default, self.help = default, help
        vars(self).update(facts)

    def names(self, name: str) -> Sequence[str]:
        """What it is called on the command line."""
        return self.flags or [f"--{name.replace('_', '-')}"]

    def broken(self, name: str, value: object) -> str:
        """What a keyword must be and is not, or nothing."""
        if value is self.default:
            return ""
        if self.choices:
            sound, rule = value in self.choices, f"one of {self.choices}"
        elif self.least is not None:
            sound, rule = is_count(value, self.least), f"an integer of at least {self.least}"
        elif self.positive:
            sound = isinstance(value, int | float) and 0 < value < float("inf")
            rule = "positive and finite"
        else:
            sound, rule = not self.keyed or isinstance(value, Mapping), "a dict by names"
        return "" if sound else self.must or f"{name} must be {rule}"


option: Any = Option
"""An option as an attribute, which has any type in objects of the class."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Options:
    """Values of options: a frozen dataclass, but at once there. Dataclasses are compiled."""

    def __init__(self, **values: Any) -> None:
        known = declared(type(self))
        if strange := sorted(values.keys() - known):
            raise TypeError(f"there is no option {strange[0]!r}")
        for name, option in known.items():
            default = {} if option.default is dict else option.default
            vars(self)[name] = values.get(name, default)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"options stay as they are, and so does {name!r}")

    def but(self, **changed: Any) -> Self:
        """The same options but for some."""
        return type(self)(**{**vars(self), **changed})


def declared(kind: type[Options]) -> dict[str, Option]:
    """The options of a class by name: its own, and then those of each of its bases."""
    return {
        name: option
        for base in kind.__mro__
        for name, option in vars(base).items()
        if isinstance(option, Option)
    }


def given(kind: type[Kind], keywords: Mapping[str, Any]) -> Kind:
    """The options of a call that has these keywords, among others.

    Raises:
        ValueError: for a value that an option cannot have.
    """
    found = {}
    for name, option in declared(kind).items():
        value = keywords.get(name, option.default)
        if value is None and option.default is dict:
            value = dict
        if rule := option.broken(name, value):
            raise ValueError(f"{rule}, not {value!r}")
        if value is not dict:
            found[name] = value
    return kind(**found)


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is an integer from some number on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def either(names: Sequence[str]) -> str:
    """Names to choose from, in words."""
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}"


# --- values on the command line --------------------------------------------------------------


def settings(given: Sequence[str]) -> dict[str, str]:
    """Values of the form NAME=VALUE by name; no name may be there twice."""
    settings: dict[str, str] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"'{setting}' is not of the form NAME=VALUE")
        if name.strip() in settings:
            raise ValueError(f"'{name.strip()}' is given twice")
        settings[name.strip()] = value
    return settings


# --- what commands share ---------------------------------------------------------------------


class ModelOptions(Options):
    """Which model, and at which size."""

    root: Any = option(
        None, "Import no file from outside of this folder.", metavar="DIR", folder=True
    )
    params: Mapping[str, Any] = option(
        dict, "Set a param of the file; may be repeated.",
        flags=["-p"], metavar="NAME=VALUE", many=True, reads=settings,
    )  # fmt: skip
    model: str | None = option(None, "Which of the file's models to take.", metavar="NAME")

    def varied(self, changed: Mapping[str, Any]) -> Self:
        """The same options with some params changed."""
        return self.but(params={**self.params, **changed})


OUTPUT = option(
    None, "Where to write, instead of standard output.", flags=["-o", "--output"], metavar="OUT"
)
FORCE = option(False, "Replace a file that modnorm did not make, or that was changed since.")
QUIET = option(False, "Show no progress.", flags=["-q", "--quiet"])
