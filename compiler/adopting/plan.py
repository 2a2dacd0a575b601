"""The plan of a model that was written in PyTorch."""

from __future__ import annotations

import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from torch import Tensor, nn

from modnorm.adopting.flow import Flow, find_flow
from modnorm.adopting.masses import BLOCKS, SMALL, find_masses
from modnorm.adopting.measure import of_norm_one, sensitivities
from modnorm.adopting.probe import refuted
from modnorm.adopting.roles import MATRICES, Found, feature, find_roles, whole
from modnorm.adopting.trace import Node, Trace, record, unwrapped
from modnorm.adopting.uses import Use, features, settled, uses
from modnorm.files import write_whole
from modnorm.kernels.plan import FORMAT, Plan
from modnorm.kernels.state import some
from modnorm.kernels.weight import Weight
from modnorm.report.saved import Saved

FELT = 1e-3
"""What moves the output less, in proportion to the median weight, is said to have no effect."""
WIDE = 1e4
"""Declared sensitivities so far apart are sums over paths that cancel, as of steps in time."""
UNKNOWN = dict.fromkeys(
    ("cross_entropy", "mse"), "no file describes the model, so that nothing is known of curvature"
)
How = Literal["auto", "declared", "measured", "as_is"]
HOW: tuple[How, ...] = get_args(How)


def traced(model: nn.Module, example: Any) -> tuple[Trace, list[Use]]:
    """A run of a model, and every use of a weight in it."""
    found: list[Use] = []

    def read(node: Node, trace: Trace) -> dict[int, Any]:
        own = uses(node, trace)
        found.extend(own)
        return features(own, node, trace)

    trace = record(model, example, read)
    return trace, settled(found, trace)


def make_plan(
    model: nn.Module, example: Any, *, sensitivity: How = "auto", blocks_mass: float = BLOCKS,
    small_mass: float = SMALL, masses: Mapping[str, float] | None = None,
) -> Plan:  # fmt: skip
    """The plan of a model, from one run: see `modnorm.adopt`."""
    if sensitivity not in HOW:
        raise ValueError(f"sensitivity must be one of {', '.join(HOW)}, not {sensitivity!r}")
    trace, found = traced(model, example)
    flow = find_flow(trace)
    inner = unwrapped(model)
    trained = {name for name, p in inner.named_parameters() if p.requires_grad}
    weights = [
        w
        for w in tested(trace, list(find_roles(trace, found, flow)))
        if w.parameter in trained and alive(w, trace, flow)
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
    return AdoptedPlan(records, model=type(inner).__name__, smoothness=UNKNOWN)


def tested(trace: Trace, weights: Sequence[Found]) -> Iterator[Found]:
    """The weights, but for those that the model's own operations refute: see `probe`."""
    wrong = refuted(trace, weights)
    yield from (w for w in weights if w.parameter not in wrong)
    for name in sorted(wrong):
        uses = dict.fromkeys(use for w in weights if w.parameter == name for use in w.uses)
        yield whole(name, trace.shapes[name], "opaque", [*uses])


def alive(weight: Found, trace: Trace, flow: Flow) -> bool:
    """Whether the output depends on a weight."""
    return any(n in flow.below for use in weight.uses for n in trace.nodes[use.node].outputs)


def place(weight: Found, trace: Trace) -> str:
    """Where a weight is first used: module and line."""
    node = trace.nodes[weight.uses[0].node]
    return f"{node.module or 'the model'} ({node.place})" if node.place else node.module


def where(weight: Found, trace: Trace) -> str:
    return f"{weight.name} in {place(weight, trace)}"


def ends(weight: Found, use: Use, trace: Trace) -> tuple[int, Tensor | None]:
    """What a use gives: a value, and labels of the rows whose features count, if not all do."""
    out = trace.nodes[use.node].outputs[0]
    if weight.rows is None or use.features is None:
        return out, weight.rows
    return out, feature(use, weight.rows, trace)


def downstream(
    trace: Trace, flow: Flow, weights: Sequence[Found], how: How
) -> tuple[dict[str, float], dict[str, str]]:
    """The sensitivity downstream of each weight, and whether it is declared or measured."""
    declared = {w.name: declared_of(w, trace, flow) for w in weights}
    if how == "declared" or (how == "auto" and is_clear(flow, weights, declared)):
        return {n: s or 1.0 for n, s in declared.items()}, dict.fromkeys(declared, "declared")
    places: dict[object, tuple[int, Tensor | None]] = {}
    for weight in weights:
        for i, use in enumerate(weight.uses):
            if weight.role in (*MATRICES, "table", "tied"):
                places[weight.name, i] = ends(weight, use, trace)
            else:
                places[weight.name, i] = use.number, None
    given = {} if how == "as_is" else of_norm_one(trace, weights)
    found = sensitivities(trace, places, flow.outputs, given)
    measured = {w.name: together(w, trace, [found[w.name, i] for i in range(len(w.uses))])
                for w in weights}  # fmt: skip
    for role in {w.role for w in weights}:  # the bias of keys has no effect: it has that of others
        own = [w.name for w in weights if w.role == role]
        felt = [
            measured[n] for n in own if measured[n] > FELT * statistics.median(measured.values())
        ]
        for name in own:
            if measured[name] not in felt:
                measured[name] = statistics.median(felt or measured.values()) or 1.0
    most = max(measured.values())
    for weight in weights:  # what is not understood moves no further than what moves the least
        if weight.role == "opaque":
            measured[weight.name] = most
    return measured, dict.fromkeys(measured, "measured")


def is_clear(flow: Flow, weights: Sequence[Found], declared: Mapping[str, float]) -> bool:
    """Whether what is declared says how far weights move the output, roughly."""
    sizes = [declared[w.name] for w in weights if w.role in MATRICES]
    sizes = sizes or list(declared.values())
    if any(w.role == "opaque" for w in weights):
        return False
    within = min(sizes) > 0 and max(sizes) < WIDE * min(sizes)
    return not flow.unclear and not flow.guessed and within


def declared_of(weight: Found, trace: Trace, flow: Flow) -> float:
    sizes = []
    for use in weight.uses:
        out, rows = ends(weight, use, trace)
        size = flow.below.get(out, 0.0) if rows is None else flow.of_rows(out, rows)
        if weight.role == "tied" and use.x is not None:
            size *= flow.scale(use.x)  # scores of rows: as `Unembed`, times the input's factor
        sizes.append(size)
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
        """Write it as JSON, for `modnorm.load_plan`; it may take the place of another plan.

        Raises:
            FileExistsError: if there is something else.
            OSError: if it cannot be written; what was there is there then.
        """
        if Path(path).exists():
            try:
                load_plan(path)
            except ValueError as error:
                raise FileExistsError(f"{error}; it stays as it is, give another path") from None
        data = msgspec.json.encode(Saved(FORMAT, self.model, list(self)))
        write_whole(Path(path), msgspec.json.format(data, indent=1))


def load_plan(path: str | Path) -> AdoptedPlan:
    """A plan that `save` has written.

    Raises:
        ValueError: if a file is none.
        OSError: if it cannot be read.
    """
    try:
        data = msgspec.json.decode(Path(path).read_bytes(), type=Saved)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no plan that modnorm has saved: {error}") from None
    return AdoptedPlan(data.weights, format=data.format, model=data.model, smoothness=UNKNOWN)
