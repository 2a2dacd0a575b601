"""The plan of a model that was written in PyTorch."""

from __future__ import annotations

import statistics
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from torch import Tensor, nn

from modnorm.adopting.flow import Flow, find_flow
from modnorm.adopting.masses import BLOCKS, SMALL, find_masses
from modnorm.adopting.measure import sensitivities
from modnorm.adopting.roles import Found, feature, find_roles
from modnorm.adopting.trace import Node, Trace, record, unwrapped
from modnorm.adopting.uses import Use, features, uses
from modnorm.kernels.plan import FORMAT, Plan
from modnorm.kernels.weight import Layout, Weight

How = Literal["auto", "declared", "measured"]


def some(names: Sequence[str]) -> str:
    """The first few, and how many there are."""
    more = f", … ({len(names)} in all)" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def traced(model: nn.Module, example: Any) -> tuple[Trace, list[Use]]:
    """A run of a model, and every use of a weight in it."""
    found: list[Use] = []

    def read(node: Node, trace: Trace) -> dict[int, Any]:
        own = uses(node, trace)
        found.extend(own)
        return features(own, node, trace)

    return record(model, example, read), found


def make_plan(
    model: nn.Module, example: Any, *, sensitivity: How = "auto", blocks_mass: float = BLOCKS,
    small_mass: float = SMALL, masses: Mapping[str, float] | None = None,
) -> Plan:  # fmt: skip
    """The plan of a model, from one run: see `modnorm.adopt`."""
    trace, found = traced(model, example)
    flow = find_flow(trace)
    inner = unwrapped(model)
    trained = {name for name, p in inner.named_parameters() if p.requires_grad}
    reached = {name for name in trace.names if name in trained}
    weights = [
        w for w in find_roles(trace, found, flow) if w.parameter in reached and alive(w, trace, flow)
    ]
    missing = sorted(trained - {w.parameter for w in weights})
    if not weights:
        raise ValueError(
            "the output of this run depends on no parameter that needs a gradient"
            + (f": it uses none of {some(missing)}" if missing else "")
        )
    if missing:
        warnings.warn(
            f"this run does not use {some(missing)}: no part of the plan, and not trained. Give an"
            " example that uses them, or freeze them with requires_grad_(False)",
            stacklevel=3,
        )
    opaque = [w for w in weights if w.role == "opaque"]
    if opaque:
        warnings.warn(
            f"what {some([where(w, trace) for w in opaque])} does is not understood: each is"
            " measured entry by entry",
            stacklevel=3,
        )
    below, how = downstream(trace, flow, weights, sensitivity)
    own = find_masses(trace, weights, masses or {}, blocks_mass, small_mass)
    total = sum(own.values())
    if not total > 0:
        raise ValueError("all masses are 0, so nothing would be trained")
    records = [
        Weight(
            w.name, w.atom, w.shape, w.norm, own[w.name], own[w.name] / total / below[w.name],
            w.layout, w.role, how[w.name], place(w, trace),
        )
        for w in weights
    ]  # fmt: skip
    none = "nothing is known of the curvature behind a model that no file describes"
    return AdoptedPlan(
        records, model=type(inner).__name__,
        smoothness={"cross_entropy": none, "mse": none},
    )  # fmt: skip


def alive(weight: Found, trace: Trace, flow: Flow) -> bool:
    """Whether the output depends on a weight."""
    return any(n in flow.below for use in weight.uses for n in trace.nodes[use.node].outputs)


def place(weight: Found, trace: Trace) -> str:
    """Where a weight is first used: module and line."""
    node = trace.nodes[weight.uses[0].node]
    return f"{node.module or 'the model'} ({node.place})" if node.place else node.module


def where(weight: Found, trace: Trace) -> str:
    return f"{weight.name} in {place(weight, trace)}"


def ends(weight: Found, use: Use, trace: Trace) -> tuple[int, Tensor | None, str]:
    """What a use gives: a value, labels of the rows whose features count, and their parameter."""
    out = trace.nodes[use.node].outputs[0]
    if weight.rows is None:
        return out, None, ""
    rows = weight.rows
    if use.features is not None:
        rows = feature(use, rows, trace)
    return out, rows, trace.parameter(int(rows[0]))


def downstream(
    trace: Trace, flow: Flow, weights: Sequence[Found], how: How
) -> tuple[dict[str, float], dict[str, str]]:
    """The sensitivity downstream of each weight, and whether it is declared or measured."""
    declared = {w.name: declared_of(w, trace, flow) for w in weights}
    clear = not flow.unclear and not flow.guessed
    if how == "declared" or (how == "auto" and clear and all(declared.values())):
        return {n: s or 1.0 for n, s in declared.items()}, dict.fromkeys(declared, "declared")
    places: dict[object, tuple[int, Tensor | None]] = {}
    for weight in weights:
        for i, use in enumerate(weight.uses):
            if weight.role in ("matrix", "readout", "router", "experts", "conv", "taps", "table",
                               "tied"):  # fmt: skip
                places[weight.name, i] = ends(weight, use, trace)[:2]
            else:
                places[weight.name, i] = use.number, None
    found = sensitivities(trace, places, flow.outputs)
    measured = {w.name: together(w, trace, [found[w.name, i] for i in range(len(w.uses))])
                for w in weights}  # fmt: skip
    ratios = [measured[n] / s for n, s in declared.items() if s > 0 and measured[n] > 0]
    factor = statistics.median(ratios) if ratios else 1.0
    tiny = 1e-6 * max(measured.values(), default=0.0)
    sizes, kinds = {}, {}
    for name, size in measured.items():
        known = size > tiny  # not behind what begins at zero
        sizes[name] = size if known else (declared[name] or 1.0) * factor
        kinds[name] = "measured" if known else "declared"
    return sizes, kinds


def declared_of(weight: Found, trace: Trace, flow: Flow) -> float:
    sizes = []
    for use in weight.uses:
        out, rows, name = ends(weight, use, trace)
        if rows is None:
            sizes.append(flow.below.get(out, 0.0))
        else:
            first = trace.starts[name]
            count = 1
            for side in trace.shapes[name]:
                count *= side
            sizes.append(flow.of_rows(out, rows, first, first + count))
    return together(weight, trace, sizes)


def together(weight: Found, trace: Trace, sizes: Sequence[float]) -> float:
    """Of all uses: their sum; of copies side by side, each of which has its own, the largest."""
    parts: dict[int, float] = defaultdict(float)
    for use, size in zip(weight.uses, sizes, strict=True):
        labels = trace.values[use.number].weight
        assert labels is not None
        copy = labels.offset if weight.role == "experts" else 0
        parts[copy] += size
    return max(parts.values(), default=0.0)


class AdoptedPlan(Plan):
    """A plan that can be kept in a file."""

    def save(self, path: str | Path) -> None:
        """Write it as JSON, for `modnorm.load_plan`."""
        weights = [w._asdict() | {"layout": w.layout and w.layout._asdict()} for w in self]
        data = {"format": FORMAT, "model": self.model, "weights": weights}
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1))


def load_plan(path: str | Path) -> AdoptedPlan:
    """A plan that `save` has written. ValueError if a file is none."""
    try:
        data = msgspec.json.decode(Path(path).read_bytes())
        weights = [
            Weight(**row | {
                "shape": tuple(row["shape"]),
                "layout": row["layout"] and Layout(
                    row["layout"]["parameter"], *(tuple(row["layout"][k]) for k in ("shape", "split")),
                    tuple(map(tuple, row["layout"]["take"])), tuple(row["layout"]["order"]),
                ),
            })
            for row in data["weights"]
        ]  # fmt: skip
        return AdoptedPlan(weights, format=data["format"], model=data["model"])
    except (KeyError, TypeError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} is no plan that modnorm has saved: {error}") from None
