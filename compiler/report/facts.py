"""Numbers and facts in words, for what is made from a report's JSON."""

from __future__ import annotations

from typing import Any

from modnorm.report.blocks import NONE
from modnorm.report.words import plural, short


def number(value: float | None, digits: int = 4) -> str:
    return NONE if value is None else short(value, digits)


def percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 or not share else "< 0.1%"


def constant(value: object) -> str:
    """A param's value as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return short(value, 6) if isinstance(value, float) else str(value)


def params(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {constant(value)}" for name, value in found["params"].items())


def sharpnesses(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """α, β and γ, as far as there are any: declared and certified."""
    keys = {"declared sharpness": "sharpness", "certified sharpness": "certified_sharpness"}
    return {name: found[key] for name, key in keys.items() if found.get(key) is not None}


def sharpness(triple: dict[str, Any], digits: int = 4) -> str:
    signs = {"α": "alpha", "β": "beta", "γ": "gamma"}
    return "  ".join(f"{sign} {number(triple[key], digits)}" for sign, key in signs.items())


def smoothness(loss: dict[str, Any]) -> str:
    """The constants of a loss behind a model, or why there is none."""
    signs = {"σ": "sigma", "τ": "tau", "λ": "smoothness"}
    known = [f"{s} {number(loss[key])}" for s, key in signs.items() if loss.get(key) is not None]
    reason = [f"no λ: {loss['reason']}"] if loss.get("reason") else []
    return "  ".join([*known, *reason])


def why(found: dict[str, Any]) -> str:
    """The first reason that there is no bound, and how many others there are."""
    reasons = (found.get("certificate") or {}).get("reasons") or []
    if not reasons:
        return "not certified"
    text = " ".join(reason_parts(reasons[0], found))
    more = plural(len(reasons) - 1, "more reason")
    return text if len(reasons) == 1 else f"{text}; and {more}"


def reason_parts(reason: dict[str, Any], found: dict[str, Any]) -> tuple[str, str]:
    """`RMSDivide at gpt.mod:14:` and the reason itself."""
    where = f"at {place(reason, found['source'])}" if reason.get("line") else ""
    return " ".join(filter(None, (reason.get("op"), where))) + ":", reason["message"]


def place(entry: dict[str, Any], source: str) -> str:
    """`file:line` of something that has a line, and a file where that is not the model's own."""
    return f"{entry.get('file') or source}:{entry['line']}" if entry.get("line") else ""
