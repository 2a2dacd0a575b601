"""The report as JSON: the same facts as the text, for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from modnorm.codegen.plan import records
from modnorm.graph import paths
from modnorm.ops.types import TupleType, Type
from modnorm.passes.program import Program
from modnorm.passes.sensitivity import divide
from modnorm.pipeline import Analysis
from modnorm.report.diagnostics import in_order, to_json
from modnorm.report.model import UNNAMED, Part, assumptions, certified, described, finite
from modnorm.report.words import begins, encode, listed, place
from modnorm.stack import room


def report(analysis: Analysis) -> dict[str, Any]:
    """The report as objects that `json` can write.

    `atoms` has every copy of every weight, in execution order. `tree` has a repetition once, and
    what stands in it belongs to one copy. A shared module stands where its mass is counted; other
    mentions of it have mass 0 and no children. A number without a finite value is None. `file`
    stands beside a `line` where that line is not in the source itself.
    """
    program = analysis.program
    found = described(program)
    with room():
        tree = _node(found.parts[0].inner[0])
    return {
        **asdict(found.facts),
        "outputs": _outputs(program.types[program.tree.id][1]),
        "assumptions": [
            {
                "sensitivity": found.sensitivity,
                "otherwise": found.otherwise,
                "certified_sensitivity": found.certified,
                **found.place,
            }
            for found in assumptions(program)
        ],
        "certificate": _proof(program),
        "atoms": list(_atoms(program)),
        "tree": tree,
        "diagnostics": [dict(to_json(d)) for d in in_order(analysis.diagnostics)],
    }


def _outputs(type: Type) -> list[dict[str, Any]]:
    """What the model returns: one value, or the members of a tuple, with their names if any."""
    if not isinstance(type, TupleType):
        return [{"name": None, "type": str(type)}]
    names = type.names or (None,) * len(type.members)
    found: list[dict[str, Any]] = []
    for name, member in zip(names, type.members, strict=True):
        inner = {"members": _outputs(member)} if isinstance(member, TupleType) else {}
        found.append({"name": name, "type": str(member), **inner})
    return found


def _proof(program: Program) -> dict[str, Any]:
    """The certificate. The weights' are those of all copies together."""
    found = certified(program)
    return {
        "kappa": found.kappa,
        "sensitivity": finite(found.sensitivity),
        "input_norm": found.source,
        "output_norm": found.norm,
        "reasons": [
            {
                "path": paths.first(r.path),
                "op": r.op,
                "message": r.text,
                "line": r.span.line,
                "column": r.span.column,
                **({} if r.origin is r.span else {"origin": str(r.origin)}),
            }
            for r in found.reasons
        ],
        "weights": [
            {
                "path": weight.path,
                "copies": weight.copies,
                "input_bound": finite(bound.high),
                "downstream": finite(bound.downstream),
                "kappa": finite(bound.kappa),
            }
            for weight in program.weights
            if (bound := found.weights.get(weight.path)) is not None
        ],
    }


def _atoms(program: Program) -> Iterator[dict[str, Any]]:
    whole = program.mass
    fixed: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # what all copies have alike
    for record in records(program, planned=False):
        weight = record.weight
        if weight.path not in fixed:
            op = weight.op
            fixed[weight.path] = (
                {
                    "shape": list(op.weight_shape),
                    "mass": finite(weight.mass),
                    "share": finite(divide(weight.mass, whole)) if whole else 0.0,
                },
                {"norm": op.norm.formula, **begins(weight), **place(weight.span, program)},
            )
        size, rest = fixed[weight.path]
        yield {
            "path": record.path,
            "op": weight.op.label,
            "weight": record.name,
            **({"parameter": record.parameter} if weight.stored else {}),
            **size,
            "downstream_sensitivity": finite(record.downstream),
            "target": finite(record.target),
            **rest,
        }


def _node(part: Part) -> dict[str, Any]:
    """A position with all in it; the copies of a run are told of with what they are copies of."""
    name = {"op": part.op} if part.op else {"name": part.name}
    run = part.outer
    counts = {"count": part.count} if part.kind == "repeat" else {}
    of_run = {"count": run.run} if run is not None and run.is_run else {}
    return {
        **(name if part.kind not in (*UNNAMED, "repeat") else {}),
        "kind": part.kind,
        "path": None if part.kind in UNNAMED else part.path,
        **counts,
        "mass": part.each,
        "sensitivity": part.sensitivity,
        "certified_sensitivity": part.certified,
        **({"norm": asdict(part.norm)} if part.norm else {}),
        **part.where,
        **of_run,
        "children": [_node(inner) for inner in part.parts(lambda p: p.kind == "copies")],
    }


# --- writing -------------------------------------------------------------------------------


def dumps(found: dict[str, Any]) -> str:
    """A report as JSON text: an atom a line, and the tree indented.

    The tree may be nested deeper than Python's own writer recurses.
    """
    with room():
        return listed(found, {"tree": "\n".join(_tree_lines(found["tree"])).lstrip()})


def _tree_lines(node: dict[str, Any], depth: int = 1, end: str = "") -> Iterator[str]:
    """A node a line, with what closes its parents where it is their last."""
    *inner, last = node["children"] or [None]
    head = encode({key: value for key, value in node.items() if key != "children"})[:-1]
    if last is None:
        yield f'{"  " * depth}{head}, "children": []}}{end}'
        return
    yield f'{"  " * depth}{head}, "children": ['
    for child in inner:
        yield from _tree_lines(child, depth + 1, ",")
    yield from _tree_lines(last, depth + 1, f"]}}{end}")
