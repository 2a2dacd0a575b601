"""JSON as records of declared types: what does not fit is told with its place."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from modnorm.report.unusable import Unusable

T = TypeVar("T")


class NoJson(Unusable):
    """A text that is no JSON, be it only because its end is cut off."""


def parsed(text: str, **hooks: Any) -> Any:
    """What a text of JSON says; `hooks` are those of `json.loads`.

    Raises:
        NoJson: if it is none; the message says where.
    """
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise NoJson(f"no JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise NoJson("nested too deeply") from None
    except ValueError as error:  # a number too long
        raise NoJson(str(error)) from None


def typed(found: object, kind: type[T] | Any, where: str = "") -> T:
    """What JSON says, as a value of a type; `where` is its own place.

    Raises:
        Unusable: if it does not fit; the message says what, and where.
    """
    try:
        fitting: T = msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise Unusable(_told(error, where)) from None
    return fitting


def decoded(text: bytes, kind: type[T]) -> T:
    """A text of JSON as a value of a type.

    Raises:
        NoJson: if it is no JSON.
        Unusable: if it does not fit; the message says what, and where.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise Unusable(_told(error)) from None
    except RecursionError:
        raise NoJson("this is no JSON: nested too deeply") from None
    except msgspec.DecodeError as error:
        reason = _lowered(str(error).removeprefix("JSON is malformed: "))
        raise NoJson(f"this is no JSON: {reason}") from None


def _told(error: msgspec.ValidationError, where: str = "") -> str:
    """What does not fit, and where: "expected `float`, got `str` at `modules[0].declared`"."""
    said, _, place = str(error).partition(" - at `$")
    place = (where + place.rstrip("`")).removeprefix(".")
    return f"{_lowered(said):.100}" + (f" at `{place}`" if place else "")


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
