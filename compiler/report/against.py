"""What changed between two models, or between two settings of the params of one.

Weights are compared by their paths with one entry for all copies, and their masses of all copies
together; so a deeper model differs in the count of its repetition, not in each of its blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import isclose
from typing import Any

from modnorm.graph.paths import pattern
from modnorm.passes.program import Program, Weight
from modnorm.report.blocks import NONE, Block, Cell, Document, Section, Table, Text
from modnorm.report.model import Part, Report, targets
from modnorm.report.words import as_float, between, constant, number, sizes

TOLERANCE = 1e-9
"""Relative differences up to here are none."""
FACTS = ("mass", "sensitivity", "certified_sensitivity", "kappa", "weights")
LOSS = ("loss", "sigma", "tau", "smoothness")

Change = dict[str, list[Any]]
"""The values before and after, by what changed."""


def compare(one: Report, other: Report) -> dict[str, Any]:
    """The differences as objects that `json` can write.

    `facts` has every fact, changed or not. Of `params`, `weights` and `parts` only what differs is
    listed; None stands for what one of the two does not have. A part that is added or removed
    stands for all in it.
    """
    facts = {key: [getattr(one.facts, key), getattr(other.facts, key)] for key in FACTS}
    losses = [found.facts.loss or {} for found in (one, other)]
    if any(losses):
        facts |= {key: [loss.get(key) for loss in losses] for key in LOSS}
    return {
        "before": {key: getattr(one.facts, key) for key in ("model", "source", "params")},
        "after": {key: getattr(other.facts, key) for key in ("model", "source", "params")},
        "facts": facts,
        "params": _changes(one.facts.params, other.facts.params),
        "weights": _weights(one.program, other.program),
        "parts": list(_parts(dict(_unique(one.parts)), dict(_unique(other.parts)))),
    }


def _same(one: object, other: object) -> bool:
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=TOLERANCE)
    return one == other


def _changes(one: dict[str, Any], other: dict[str, Any]) -> Change:
    pairs = {key: [one.get(key), other.get(key)] for key in dict.fromkeys((*one, *other))}
    return {key: pair for key, pair in pairs.items() if not _same(*pair)}


# --- weights -------------------------------------------------------------------------------


def _weights(one: Program, other: Program) -> dict[str, Any]:
    before, after = ({pattern(w.path): w for w in p.weights} for p in (one, other))
    changed = [
        {"path": path, "changes": changes}
        for path, weight in before.items()
        if path in after and (changes := _changes(_facts(weight), _facts(after[path])))
    ]
    common = before.keys() & after.keys()
    return {
        "added": [_weight(path, w) for path, w in after.items() if path not in before],
        "removed": [_weight(path, w) for path, w in before.items() if path not in after],
        "changed": changed,
        "same": len(common) - len(changed),
    }


def _facts(weight: Weight) -> dict[str, Any]:
    return {
        "op": weight.op.label,
        "shape": list(weight.op.weight_shape),
        "mass": as_float(weight.mass) * weight.copies,
        "target": list(targets(weight)),
    }


def _weight(path: str, weight: Weight) -> dict[str, Any]:
    return {"path": path, "copies": weight.copies, **_facts(weight)}


# --- parts ---------------------------------------------------------------------------------


def _unique(parts: list[Part]) -> Iterator[tuple[str, Part]]:
    """The parts, each by a path of its own: equal ones get the number of their turn."""
    turns: Counter[tuple[str, str]] = Counter()
    for part in parts:
        key = path, op = pattern(part.path), part.op
        turns[key] += 1
        turn = f"#{turns[key]}" if turns[key] > 1 else ""
        yield f"{path}{turn}:{op}" if part.kind == "bond" else f"{path}{turn}", part


def _parts(one: dict[str, Part], other: dict[str, Part]) -> Iterator[dict[str, Any]]:
    """What differs of the parts in both, then what only one of the two has."""
    for path, part in one.items():
        if path in other and part.around is not None:
            changes = _changes(_part(part), _part(other[path]))
            if changes:
                yield {"path": _shown(path), "change": "changed", "changes": changes}
    for change, left, right in (("removed", one, other), ("added", other, one)):
        lost: set[Part] = set()
        for path, part in left.items():
            if path in right or part.around is None:
                continue
            lost.add(part)
            if part.around not in lost:
                entry = {"path": _shown(path), "change": change, "copies": part.copies}
                yield {**entry, "share": part.share, "what": part.call or part.title}


def _part(part: Part) -> dict[str, Any]:
    """What of a part is compared. A weight's shape, mass and target are told with the weights."""
    if part.kind == "atom":
        return {}
    if part.kind == "bond":
        return {"what": part.call}
    keys = {"copies": "count", **{key: key for key in ("share", "sensitivity", "certified")}}
    return {shown: getattr(part, key) for shown, key in keys.items()}


def _shown(path: str) -> str:
    return path.partition("#")[0].partition(":")[0]


# --- as a document -------------------------------------------------------------------------


LABELS = {
    "certified_sensitivity": "certified",
    "kappa": "κ",
    "sigma": "σ",
    "tau": "τ",
    "smoothness": "λ",
    "weights": "parameters",
    "share": "share of mass",
    "what": "",
}


def value(found: object) -> str:
    """A value of a comparison, in words."""
    match found:
        case None:
            return NONE
        case [float(first), float(last)]:
            return between(first, last)
        case [*shape]:
            return sizes(shape)
        case float():
            return number(found, 6)
        case bool():
            return constant(found)
        case int():
            return f"{found:,}"
    return str(found)


def change_text(changes: Change) -> str:
    parts = []
    for key, (one, other) in changes.items():
        pair = [f"{x:.1%}" if key == "share" and x is not None else value(x) for x in (one, other)]
        parts.append(f"{LABELS.get(key, key)} {' → '.join(pair)}".strip())
    return ", ".join(parts)


def document(found: dict[str, Any]) -> Document:
    """The differences: facts side by side, then weights and parts, a row each."""
    one, other, same = found["before"], found["after"], found["weights"]["same"]
    weights = f"Weights ({same:,} unchanged)" if same else "Weights"
    blocks: list[Block] = [Table(("", "before", "after"), [*_fact_rows(found)])]
    for title, rows in ((weights, [*_weight_rows(found)]), ("Parts", _part_rows(found))):
        table = Table(("", title.split()[0].lower()[:-1], "what"), rows)
        blocks.append(Section(title, [table if rows else Text("No difference.")]))
    return Document(f"{one['model']} against {other['model']}", blocks)


def _fact_rows(found: dict[str, Any]) -> Iterator[tuple[str | Cell, ...]]:
    """The model's name, the params and the facts: name, before, after."""
    one, other = found["before"], found["after"]
    rows = [(key, one[key], other[key]) for key in ("model", "source")]
    for name, pair in found["params"].items():
        rows.append((name, *(NONE if x is None else constant(x) for x in pair)))
    rows += [(LABELS.get(key, key), *map(value, pair)) for key, pair in found["facts"].items()]
    for name, left, right in rows:
        yield name, left, Cell("the same", "dim") if left == right else Cell(right, "strong")


SIGNS: dict[str, Cell] = {
    "removed": Cell("removed", "bad"),
    "added": Cell("added", "good"),
    "changed": Cell("changed"),
}


def _weight_rows(found: dict[str, Any]) -> Iterator[tuple[str | Cell, ...]]:
    for key in ("removed", "added"):
        for entry in found["weights"][key]:
            times = f"{entry['copies']:,} copies, " if entry["copies"] > 1 else ""
            shape, target = value(entry["shape"]), value(entry["target"])
            what = f"{times}{entry['op']} {shape}, mass {value(entry['mass'])}, target {target}"
            yield SIGNS[key], Cell(entry["path"], kind="code"), what
    for entry in found["weights"]["changed"]:
        path = Cell(entry["path"], kind="code")
        yield SIGNS["changed"], path, change_text(entry["changes"])


def _part_rows(found: dict[str, Any]) -> list[tuple[str | Cell, ...]]:
    """A row for each part; equal ones are one."""
    rows: Counter[tuple[str, str, str]] = Counter()
    for entry in found["parts"]:
        if entry["change"] == "changed":
            what = change_text(entry["changes"])
        else:
            times = f"{entry['copies']:,} copies, " if entry["copies"] > 1 else ""
            what = f"{entry['what']}, {times}{entry['share']:.1%} of the mass"
        rows[entry["change"], entry["path"], what] += 1
    return [
        (SIGNS[change], Cell(path if n == 1 else f"{path} ({n} of them)", kind="code"), what)
        for (change, path, what), n in rows.items()
    ]
