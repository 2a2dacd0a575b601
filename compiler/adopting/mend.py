"""What a model's parameters need, written for other optimizers: `modnorm audit --fix`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from modnorm.adopting.audit import planned
from modnorm.adopting.faults import HIDDEN, low_rank_factors
from modnorm.adopting.problems import AuditError
from modnorm.adopting.updates import product
from modnorm.kernels.plan import Plan
from modnorm.kernels.weight import Weight

Axes = tuple[tuple[int, ...], tuple[int, ...]]
"""The axes of a parameter that a weight sums over, and those of its outputs."""


def mended(way: str, model: nn.Module, example: object, other: nn.Module | None = None) -> str:
    """What would be right, as a file: Python for "torch" and "optax", YAML for "mup".

    other: for "mup", the same model at another width, which tells the axes that grow.

    Raises:
        AuditError: if the model cannot be run, or the two are no pair.
    """
    if way == "mup":
        if other is None:
            raise AuditError("base shapes are told from two widths: give another model too")
        return base_shapes(model, other)
    plan, _ = planned(model, example)
    return for_torch(model, plan) if way == "torch" else for_optax(model, plan)


def matrices(model: nn.Module, plan: Plan) -> dict[str, Axes]:
    """Parameters that are one hidden weight each, or a stack of such, stored axis by axis."""
    own = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    frozen = {n: tuple(p.shape) for n, p in model.named_parameters() if not p.requires_grad}
    held = {w.name: plan.held(w) for w in plan.stored}
    factors = low_rank_factors(held, own, frozen)
    found = {}
    for name in own:
        many = held.get(name, ())
        hidden = len(many) == 1 and many[0].role in HIDDEN and name not in factors
        if hidden and (axes := axes_of(many[0], own[name])) is not None:
            found[name] = axes
    return found


def axes_of(w: Weight, shape: tuple[int, ...]) -> Axes | None:
    """The axes of a stored weight; None where they are parts of a parameter's axes."""
    order: Sequence[int] = range(len(shape))
    if w.layout is not None:
        if w.layout.split != shape:
            return None
        order = [axis for axis in w.layout.order if shape[axis] > 1 or len(shape) < 3]
    first = 1 if w.role == "experts" else 0
    return tuple(sorted(order[first + 1 :])), (order[first],)


def left_out(plan: Plan) -> Iterator[str]:
    """Comments on fused parameters, which neither can cut."""
    for w in plan.stored:
        held = plan.held(w)
        if len(held) > 1 and held[0].role in HIDDEN:
            parts = ", ".join(f"{x.name.rpartition('.')[2]} {product(x.shape)}" for x in held)
            yield f"# {w.name} holds {parts}."


def for_torch(model: nn.Module, plan: Plan) -> str:
    """A function that makes torch's Muon and AdamW, as `--optimizer` takes it."""
    own = dict(model.named_parameters())
    names = [name for name in matrices(model, plan) if own[name].ndim == 2]
    stacks = [name for name in matrices(model, plan) if own[name].ndim > 2]
    lines = ['"""Optimizers for the model, each parameter where it belongs."""', "", "import torch"]
    lines += ["", "MUON = [", *(f"    {name!r}," for name in names), "]"]
    lines += ['"""Hidden matrices, of one weight each. torch.optim.Muon takes no others."""', ""]
    if fused := [*left_out(plan)]:
        lines += ["# These have several matrices each, which Muon would take for one: AdamW has"]
        lines += ["# them, until they are split, or modnorm.adopt has the model.", *fused, ""]
    if stacks:
        lines += ["# torch.optim.Muon takes no kernels and no stacks: AdamW has these."]
        lines += [*(f"# {name}" for name in stacks), ""]
    lines += [
        "",
        "def optimizers(model, lr=1e-3):",
        "    named = {n: p for n, p in model.named_parameters() if p.requires_grad}",
        "    hidden = [named[name] for name in MUON]",
        "    rest = [p for name, p in named.items() if name not in MUON]",
        "    return [",
        "        # the scale is the same for a matrix and its transpose, and lr is that of AdamW",
        '        torch.optim.Muon(hidden, lr=lr, adjust_lr_fn="match_rms_adamw"),',
        "        torch.optim.AdamW(rest, lr=lr),",
        "    ]",
    ]
    if not names:
        raise AuditError("the model has no hidden matrix that torch.optim.Muon could take")
    return "\n".join(lines) + "\n"


def for_optax(model: nn.Module, plan: Plan) -> str:
    """Dimension numbers for optax.contrib.muon, by the names of torch's parameters."""
    found = matrices(model, plan)
    lines = ['"""What optax.contrib.muon may orthogonalise: None is for AdamW."""', ""]
    lines += ["from optax.contrib import MuonDimensionNumbers", ""]
    if fused := [*left_out(plan)]:
        lines += ["# These have several matrices each, which it would take for one.", *fused, ""]
    lines += ["DIMENSIONS = {"]
    for name, p in model.named_parameters():
        if p.requires_grad:
            said = "None"
            if name in found:
                inputs, outputs = found[name]
                said = f"MuonDimensionNumbers(reduction_axis={inputs}, output_axis={outputs})"
            lines.append(f"    {name!r}: {said},")
    return "\n".join([*lines, "}"]) + "\n"


def base_shapes(base: nn.Module, other: nn.Module) -> str:
    """Base shapes as mup.load_base_shapes reads them: null for axes that do not grow.

    Raises AuditError where the models have not the same parameters.
    """
    shapes: list[Mapping[str, tuple[int, ...]]] = [
        {name: tuple(p.shape) for name, p in model.named_parameters()} for model in (base, other)
    ]
    one, two = shapes
    if strange := sorted(one.keys() ^ two.keys()):
        raise AuditError(
            f"only one of the two models has {strange[0]}: they may differ in width, not in depth"
        )
    lines = []
    for name, shape in one.items():
        if len(shape) != len(two[name]):
            raise AuditError(f"{name} has another number of axes in the other model")
        grows = [a if a != b else "null" for a, b in zip(shape, two[name], strict=True)]
        lines += [f"{name}:" if grows else f"{name}: []", *(f"- {size}" for size in grows)]
    return "\n".join(lines) + "\n"
