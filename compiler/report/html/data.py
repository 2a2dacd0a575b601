"""What the page's script draws from: parts, weights along depth, a run's record. Kept compact."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from modnorm.codegen.plan import records
from modnorm.passes.program import Program
from modnorm.report.checked import Findings
from modnorm.report.monitor import MEASURES, Monitored
from modnorm.report.nodes import Node
from modnorm.report.paths import Finder

DIGITS = 6
BUDGET = 120_000
"""Numbers of a run's record that a page holds; of a longer one, every so many steps are kept."""
LEAST = 2


def rounded(value: float | None, digits: int = DIGITS) -> float | None:
    """A number with as many digits as a drawing can show."""
    if value is None:
        return None
    value = float(f"{value:.{digits}g}")
    return int(value) if value.is_integer() and abs(value) < 1e9 else value


def node_records(
    nodes: list[Node], files: dict[str, int], checked: Findings | None
) -> list[dict[str, Any]]:
    """A record for each part; what is empty is left out. `parent` is a number in the list."""
    measured = _measured(nodes, checked)
    found = []
    for node in nodes:
        record = {
            "parent": node.parent,
            "name": node.name,
            "kind": node.kind,
            "op": node.op,
            "call": node.call,
            "path": node.path,
            "count": node.count,
            "copies": node.copies,
            "mass": rounded(node.mass),
            "share": rounded(node.share),
            "declared": rounded(node.sensitivity),
            "certified": rounded(node.certified),
            "targets": [*map(rounded, node.targets)] if node.targets else None,
            "shape": list(node.shape),
            "norm": _norm(node),
            "at": f"L{files.get(node.file, 0)}-{node.line}",
            "where": f"{node.file}:{node.line}" if node.file else f"line {node.line}",
        }
        record |= measured.get(node.number, {})
        found.append({key: value for key, value in record.items() if value not in (None, "", [])})
    return found


def _norm(node: Node) -> list[Any] | None:
    if not node.norm:
        return None
    low, high = node.norm.get("low"), node.norm.get("high")
    return [node.norm.get("kind") or "", rounded(low), rounded(high)]


def _measured(nodes: list[Node], checked: Findings | None) -> dict[int, dict[str, Any]]:
    """The largest measured sensitivity of each part, over its copies, with its verdict."""
    found: dict[int, dict[str, Any]] = {}
    if checked is None:
        return found
    finder = Finder(nodes)
    for i, module in enumerate(checked.modules):
        node = finder.module(module.path, module.kind) if module.path else None
        if node is None and i == 0:
            node = nodes[0]  # the model itself comes first, under its own name
        if node is None:
            continue
        known = found.get(node.number)
        if known is None or (module.measured or 0.0) > (known["measured"] or 0.0):
            found[node.number] = {"measured": rounded(module.measured), "verdict": module.verdict}
    return found


def depth_series(program: Program, nodes: list[Node]) -> dict[str, list[Any]]:
    """Every copy of every weight in execution order: its part, target, downstream sensitivity."""
    number = {node.weight: node.number for node in nodes if node.weight}
    series: dict[str, list[Any]] = {"node": [], "target": [], "downstream": []}
    for record in records(program):
        series["node"].append(number.get(record.weight.path, 0))
        series["target"].append(rounded(record.target, 5))
        series["downstream"].append(rounded(record.downstream, 5))
    return series


def run_record(run: Monitored, nodes: list[Node]) -> dict[str, Any]:
    """A run as the page shows it: a row of values a weight, over the steps that are kept."""
    finder = Finder(nodes)
    rows = _thinned(run.rows, max(LEAST, BUDGET // (len(MEASURES) * max(1, len(run.weights)))))
    owners = [finder.weight(name) for name in run.weights]
    record: dict[str, Any] = {
        "model": run.model,
        "optimizer": run.optimizer,
        "recorded": len(run.rows),
        "step": [row.step for row in rows],
        "lr": [rounded(row.lr, 4) for row in rows],
        "loss": [rounded(row.loss, 4) for row in rows],
        "weights": list(run.weights),
        "node": [owner.number if owner else -1 for owner in owners],
    }
    for measure in MEASURES:
        columns = [getattr(row, measure) for row in rows]
        record[measure] = [
            [rounded(column[i], 4) for column in columns] for i in range(len(run.weights))
        ]
    return record


def _thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(i * last / (most - 1))] for i in range(most)]


def embedded(data: Any) -> str:
    """Data as JSON that can stand in a page: nothing in it can end the element around it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return escaped(text)


def escaped(text: str) -> str:
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
