"""The report as JSON: the same facts as the text, for programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from modnorm.codegen.plan import records
from modnorm.graph.modules import (
    Compose,
    Leaf,
    Module,
    Repeat,
    Scope,
    Shared,
    Tare,
    children,
)
from modnorm.graph.paths import instance
from modnorm.ops.base import Atom, Sharpness
from modnorm.ops.types import Real
from modnorm.passes.certificate import Certificate, PartBound, Reason
from modnorm.passes.masses import divide
from modnorm.passes.program import Program
from modnorm.pipeline import Analysis
from modnorm.report.diagnostics import in_order, to_json
from modnorm.report.words import as_float, encode, listed, place, shared_name, shared_path


def report(analysis: Analysis) -> dict[str, Any]:
    """The report as objects that `json` can write.

    `atoms` has every copy of every weight, in execution order. `tree` has a repetition once, and
    what stands in it belongs to one copy. A shared module stands where its mass is counted; other
    mentions of it have mass 0 and no children. `sharpness` is the declared one. A number without a
    finite value is None. `file` stands beside a `line` where that line is not in the source itself.
    """
    program = analysis.program
    return {
        "model": program.name,
        "source": program.source.name,
        "params": {name: _constant(value) for name, value in program.params.items()},
        "mass": _number(program.mass),
        "sensitivity": _number(program.sensitivity),
        "certified_sensitivity": _number(_bound(program, program.tree).sensitivity),
        "kappa": _certificate(program).kappa,
        "sharpness": _sharpness(program.sharpness[program.tree.id]),
        "certified_sharpness": _sharpness(_certificate(program).sharpness),
        "weights": program.entries,
        "loss": None if program.smoothness is None else dataclasses.asdict(program.smoothness),
        "certificate": _proof(program),
        "atoms": list(_atoms(program)),
        "tree": _tree(program),
        "diagnostics": [dict(to_json(d)) for d in in_order(analysis.diagnostics)],
    }


def _sharpness(found: Sharpness | None) -> dict[str, Any] | None:
    """None where nothing is known of α, which is what updates need."""
    if found is None or not math.isfinite(found.alpha):
        return None
    return {key: _number(value) for key, value in dataclasses.asdict(found).items()}


def _certificate(program: Program) -> Certificate:
    assert program.certificate is not None, "the program has not been certified"
    return program.certificate


def _bound(program: Program, module: Module) -> PartBound:
    return _certificate(program).parts[module.id]


def _proof(program: Program) -> dict[str, Any]:
    """The certificate. The weights' are those of all copies together."""
    found = _certificate(program)
    return {
        "kappa": found.kappa,
        "sensitivity": _number(found.sensitivity),
        "input_norm": found.source,
        "output_norm": found.norm,
        "reasons": [
            {"path": _first(r.path), "op": r.op, "message": r.text, **_where(r)}
            for r in found.reasons
        ],
        "weights": [
            {
                "path": weight.path,
                "copies": weight.copies,
                "input_bound": _number(bound.high),
                "downstream": _number(bound.downstream),
                "kappa": _number(bound.kappa),
            }
            for weight in program.weights
            if (bound := found.weights.get(weight.path)) is not None
        ],
    }


def _first(path: str) -> str:
    """The path of the first copy."""
    return instance(path, (0,) * path.count("{"))


def _where(reason: Reason) -> dict[str, Any]:
    """Line and column in the model's file, and where the operation is from if not from there."""
    found: dict[str, Any] = {"line": reason.span.line, "column": reason.span.column}
    if reason.origin is not reason.span:
        found["origin"] = str(reason.origin)
    return found


def _proved(module: Module, program: Program) -> dict[str, Any]:
    """What is proved of a part, in this model: for the inputs that reach it."""
    bound = _certificate(program).parts.get(module.id)
    if bound is None:
        return {"certified_sensitivity": None}
    norm = {"kind": bound.norm, "low": _number(bound.low), "high": _number(bound.high)}
    return {"certified_sensitivity": _number(bound.sensitivity), "norm": norm}


def _number(value: object) -> float | None:
    """A real as a float; None for a reason in words, and for what no float can hold."""
    if not isinstance(value, float):
        if not isinstance(value, int | Fraction):
            return None
        value = as_float(value)
    return value if math.isfinite(value) else None


def _constant(value: object) -> object:
    return value if isinstance(value, bool | int | str) else _number(value)


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
                    "mass": _number(weight.mass),
                    "share": _number(divide(weight.mass, whole)) if whole else 0.0,
                },
                {"norm": op.norm.formula, **place(weight.span, program)},
            )
        size, rest = fixed[weight.path]
        yield {
            "path": record.path,
            "op": weight.op.label,
            "weight": record.name,
            **({"parameter": record.parameter} if weight.stored else {}),
            **size,
            "downstream_sensitivity": _number(record.downstream),
            "target": _number(record.target),
            **rest,
        }


def _tree(program: Program) -> dict[str, Any]:
    root: list[dict[str, Any]] = []
    stack: list[tuple[Module, int | None, list[dict[str, Any]]]] = [(program.tree, None, root)]
    while stack:
        module, count, siblings = stack.pop()
        inner: list[dict[str, Any]] = []
        node = {
            **_identity(module),
            "mass": _number(_mass(module, program)),
            "sensitivity": _number(program.sensitivities[module.id]),
            **_proved(module, program),
            **place(module.span, program),
        }
        if count is not None:
            node["count"] = count
        siblings.append({**node, "children": inner})
        stack.extend((part, n, inner) for part, n in reversed(_parts(module, program)))
    return root[0]


def _identity(module: Module) -> dict[str, Any]:
    """What a node is: its name or operation, its kind, and its path where it has one."""
    match module:
        case Leaf(op=op, path=path):
            kind = "atom" if isinstance(op, Atom) else "bond"
            return {"op": op.label, "kind": kind, "path": path}
        case Scope(name=name, kind=kind, path=path):
            return {"name": name, "kind": kind, "path": path}
        case Shared():
            return {"name": shared_name(module), "kind": "shared", "path": shared_path(module)}
        case Repeat(path=path):
            return {"kind": "repeat", "path": path, "count": module.count}
        case _:
            return {"kind": type(module).__name__.lower(), "path": None}


def _mass(module: Module, program: Program) -> Real:
    """A module's mass; a shared one's where it is counted, else 0."""
    if isinstance(module, Shared):
        return program.masses.get(module.body.id, 0)
    return program.masses[module.id]


def _parts(module: Module, program: Program) -> list[tuple[Module, int | None]]:
    """What stands below a module, and how many copies where there are several runs of copies."""
    match module:
        case Repeat(runs=runs) if len(runs) > 1:
            return [(run.body, run.count) for run in runs]
        case Shared(body=body) if body.id not in program.masses:
            return []
        case Scope(body=Compose(steps=steps)) | Shared(body=Compose(steps=steps)):
            return [(step, None) for step in steps]
        case Tare(body=Compose(steps=steps)):
            return [(step, None) for step in steps]
        case _:
            return [(child, None) for child in children(module)]


# --- writing -------------------------------------------------------------------------------


def dumps(found: dict[str, Any]) -> str:
    """A report as JSON text: an atom a line, and the tree indented.

    The tree may be nested deeper than Python's own writer recurses.
    """
    return listed(found, {"tree": "\n".join(_tree_lines(found["tree"])).lstrip()})


def _tree_lines(root: dict[str, Any]) -> Iterator[str]:
    """A node a line, with what closes its parents where it is their last."""
    stack: list[tuple[dict[str, Any], int, str]] = [(root, 1, "")]
    while stack:
        node, depth, end = stack.pop()
        inner: list[dict[str, Any]] = node["children"]
        head = encode({key: value for key, value in node.items() if key != "children"})[:-1]
        if not inner:
            yield f'{"  " * depth}{head}, "children": []}}{end}'
            continue
        yield f'{"  " * depth}{head}, "children": ['
        ends = [","] * (len(inner) - 1) + [f"]}}{end}"]
        stack.extend(
            (child, depth + 1, e) for child, e in reversed(list(zip(inner, ends, strict=True)))
        )
