"""What the page's script draws from: parts, weights along depth, a run's record. Kept compact."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from modnorm.codegen.plan import records
from modnorm.report.checked import Findings
from modnorm.report.extras import Extras
from modnorm.report.model import Part, Report
from modnorm.report.monitor import MEASURES, Monitored

DIGITS = 6
BUDGET = 120_000
"""Numbers of a run's record that a page holds; of a longer one, every so many steps are kept."""
LEAST = 2
INDEX = re.compile(r"\d+|\{\d*\}|\*")
"""A segment of a path that numbers copies."""


def payload(found: Report, extras: Extras, files: dict[str, int]) -> str:
    """All of it as JSON that can stand in a page: nothing in it can end the element around it.

    `files` are the numbers of the files that the page shows.
    """
    finder = Finder(found.parts)
    payload = {
        "nodes": node_records(found, finder, files, extras.checked),
        "depth": depth_series(found),
        "run": run_record(extras.run, finder) if extras.run is not None else None,
        "checked": extras.checked is not None,
    }
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def rounded(value: float | None, digits: int = DIGITS) -> float | None:
    """A number with as many digits as a drawing can show."""
    if value is None:
        return None
    value = float(f"{value:.{digits}g}")
    return int(value) if value.is_integer() and abs(value) < 1e9 else value


def node_records(
    found: Report, finder: Finder, files: dict[str, int], checked: Findings | None
) -> list[dict[str, Any]]:
    """A record for each part; what is empty is left out. `parent` is a number in the list."""
    measured = _measured(found, finder, checked) if checked is not None else {}
    records = []
    for part in found.parts:
        file, line = part.where.get("file", ""), part.where["line"]
        record = {
            "parent": part.around.number if part.around else -1,
            "name": part.name,
            "kind": part.kind,
            "op": part.op,
            "call": part.call,
            "path": part.path,
            "count": part.count,
            "copies": part.copies,
            "mass": rounded(part.mass),
            "share": rounded(part.share),
            "declared": rounded(part.sensitivity),
            "certified": rounded(part.certified),
            "targets": [*map(rounded, part.targets)] if part.targets else None,
            "shape": list(part.weight.op.weight_shape) if part.weight else [],
            "parameters": part.parameters or None,
            "output": str(found.program.types[part.module.id][1]),
            "norm": str(part.norm or ""),
            "at": f"L{files.get(str(file), 0)}-{line}",
            "where": f"{file}:{line}" if file else f"line {line}",
            **measured.get(part.number, {}),
        }
        records.append({key: value for key, value in record.items() if value not in (None, "", [])})
    return records


def _measured(found: Report, finder: Finder, checked: Findings) -> dict[int, dict[str, Any]]:
    """The largest measured sensitivity of each part, over its copies, with its verdict."""
    largest: dict[int, dict[str, Any]] = {}
    for i, module in enumerate(checked.modules):
        part = finder.module(module.path, module.kind) if module.path else None
        if part is None and i == 0:
            part = found.parts[0]  # the model itself comes first, under its own name
        if part is None:
            continue
        known = largest.get(part.number)
        if known is None or (module.measured or 0.0) > (known["measured"] or 0.0):
            measured = rounded(module.measured)
            largest[part.number] = {"measured": measured, "verdict": module.verdict}
    return largest


def depth_series(found: Report) -> dict[str, list[Any]]:
    """Every copy of every weight in execution order: its part, target, downstream sensitivity."""
    number = {part.path: part.number for part in found.parts if part.weight}
    plan = records(found.program)
    return {
        "node": [number.get(record.weight.path, 0) for record in plan],
        "target": [rounded(record.target, 5) for record in plan],
        "downstream": [rounded(record.downstream, 5) for record in plan],
    }


def run_record(run: Monitored, finder: Finder) -> dict[str, Any]:
    """A run as the page shows it: a row of values a weight, over the steps that are kept."""
    rows = _thinned(run.rows, max(LEAST, BUDGET // (len(MEASURES) * max(1, len(run.weights)))))
    owners = [finder.weight(name) for name in run.weights]
    measures = {
        measure: [
            [rounded(value, 4) for value in values]
            for values in zip(*(getattr(row, measure) for row in rows), strict=True)
        ]
        for measure in MEASURES
    }
    return {
        "model": run.model,
        "optimizer": run.optimizer,
        "recorded": len(run.rows),
        "step": [row.step for row in rows],
        "lr": [rounded(row.lr, 4) for row in rows],
        "loss": [rounded(row.loss, 4) for row in rows],
        "weights": list(run.weights),
        "node": [owner.number if owner else -1 for owner in owners],
        **measures,
    }


def _thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(i * last / (most - 1))] for i in range(most)]


class Finder:
    """Finds the part that a path belongs to, be it that of one copy or that of all."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.known: dict[tuple[str, ...], list[Part]] = {}
        self.turns: dict[str, int] = {}
        for part in parts:
            self.known.setdefault(_general(part.path), []).append(part)

    def weight(self, name: str) -> Part | None:
        """The atom of a weight's name."""
        found = self.candidates(name.removesuffix(".weight"))
        return next((part for part in found if part.kind == "atom"), None)

    def module(self, path: str, kind: str = "") -> Part | None:
        """The part at a path; several operations there are taken in their order."""
        found = self.candidates(path)
        found = [part for part in found if part.kind == kind] or found
        if not found:
            return None
        turn = self.turns[path] = self.turns.get(path, -1) + 1
        return found[min(turn, len(found) - 1)]

    def candidates(self, path: str) -> list[Part]:
        """The parts whose path this may be: of the last run that begins before its copies."""
        found = self.known.get(_general(path), [])
        indices = _indices(path)
        fitting: dict[tuple[int, ...], list[Part]] = {}
        for part in found:
            first = _indices(part.path)
            if all(a <= b for a, b in zip(first, indices, strict=False)):
                fitting.setdefault(first, []).append(part)
        return fitting[max(fitting)] if fitting else found


def _general(path: str) -> tuple[str, ...]:
    return tuple("*" if INDEX.fullmatch(part) else part for part in path.split("."))


def _indices(path: str) -> tuple[int, ...]:
    """The numbers of copies in a path; those of all copies count as 0."""
    found = [part.strip("{}*") for part in path.split(".") if INDEX.fullmatch(part)]
    return tuple(int(part[:18]) if part else 0 for part in found)
