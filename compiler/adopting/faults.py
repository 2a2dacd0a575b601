"""The faults that an audit looks for: for each a rule, on what parameters are and how they move."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

import modnorm.kernels.optimizer  # noqa: F401  (defines the norms)
from modnorm.adopting.problems import FAULTS
from modnorm.adopting.treatment import Holder, Treatment
from modnorm.adopting.updates import product
from modnorm.kernels.plan import NORMS
from modnorm.kernels.weight import Weight
from modnorm.report.words import from_here, kind_of

HIDDEN = ("matrix", "conv", "experts")
"""Roles of what orthogonalising is for."""
UNEQUAL = 1.2
"""A factor that the approximations of orthogonal factors do not explain."""
FAR = 30.0
"""Updates at one rate whose sizes differ by more than this factor are told of. Muons that match the
size of AdamW's entries have the factor √width / 5, on purpose."""
WITH_WIDTH = 0.3
"""By a larger power of the width no update may grow or shrink."""
CLIPPED = (0.02, 0.9)
"""Powers of gradients' sizes with which orthogonalised updates do not grow by their rule."""


@dataclass(frozen=True)
class Finding:
    """A parameter that an optimizer treats in another way than its use implies.

    fault: a key of FAULTS. found, should: how it is treated, and how it should be. message: both,
    with where it is and how to mend it.
    """

    parameter: str
    fault: str
    found: str
    should: str
    message: str

    def to_json(self) -> dict[str, str]:
        return {
            "parameter": self.parameter, "fault": self.fault, "is": self.found,
            "should": self.should, "message": self.message,
        }  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is known of a model and its optimizers.

    held: by a parameter's name, the logical weights in it, in the order of the storage.
    shapes: of parameters. frozen: names and shapes of those that need no gradient.
    planned: names of those whose optimizer has a plan: what is orthogonalised, and at which size,
        is then said there for each of them.
    options: by name, the options that groups of the user's give a parameter, and those that it has.
    """

    held: Mapping[str, Sequence[Weight]]
    shapes: Mapping[str, tuple[int, ...]]
    treatments: Mapping[str, Treatment]
    frozen: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    planned: frozenset[str] = frozenset()
    other: Case | None = None
    options: Mapping[str, tuple[Mapping[str, object], Mapping[str, object]]] = field(
        default_factory=dict
    )

    def role(self, name: str) -> str:
        """What the parameter is; "" for one that the plan does not have."""
        return self.held[name][0].role if name in self.held else ""

    def place(self, name: str) -> str:
        """Where it is used, in words, if that is known; files from the working directory."""
        place = self.held[name][0].place if name in self.held else ""
        return f", used in {from_here(place)}," if place else ""

    def orthogonalised(self) -> Iterator[Treatment]:
        """Those whose updates are orthogonalised, though no plan says so."""
        for name, one in self.treatments.items():
            if one.kind == "orthogonalised" and name in self.held and name not in self.planned:
                yield one

    def hidden(self) -> Iterator[Treatment]:
        """Hidden matrices and kernels among these."""
        return (one for one in self.orthogonalised() if self.role(one.name) in HIDDEN)

    def moved(self, one: Treatment, w: Weight) -> float:
        """The size of a step in the weight's norm; 0 where that is the gradient's doing.

        Entries of one size are taken as of rank one, as gradients of a wide model nearly are. A
        readout's is multiplied by what the model multiplies its output by.
        """
        if (
            one.update is None
            or not one.holders
            or one.kind not in ("elementwise", "orthogonalised")
        ):
            return 0.0
        rank_one = one.kind == "elementwise"
        u = torch.full_like(one.update, one.rms) if rank_one else one.update
        factor = w.mass / w.target if w.role == "readout" and w.target else 1.0
        return one.holders[0].lr * factor * size(w, u)

    def find(self, name: str, fault: str, found: str, should: str, mend: str) -> Finding:
        assert fault in FAULTS, fault
        what = f"`{name}`{self.place(name)} is {found}, and should be {should}: {mend}."
        return Finding(name, fault, found, should, what)


# --- membership -----------------------------------------------------------------------------


def membership(case: Case) -> Iterator[Finding]:
    for name, one in case.treatments.items():
        holders = one.holders
        if not math.prod(case.shapes[name]):
            continue
        if case.planned and name not in case.held:
            continue  # unused by this run, and by that of the plan: the notes have it
        if not holders:
            yield case.find(
                name, "never-given", "trainable and given to no optimizer", "in one",
                "it stays as it was initialised; add it to a group, or freeze it with "
                "requires_grad_(False)",
            )  # fmt: skip
        elif len(holders) > 1:
            tied = " The tied table has several names; each tensor is to be given once" * (
                case.role(name) == "tied"
            )
            yield case.find(
                name, "given-twice",
                f"given {len(holders)} times ({', '.join(map(str, holders))})",
                "in one group, once", "it is stepped as often; make the groups from "
                f"model.named_parameters(), which has a shared tensor once{tied}",
            )  # fmt: skip
        elif one.kind == "still" and holders[0].lr and name not in case.planned:
            yield case.find(
                name, "not-moved", f"given to {holders[0]} and not moved by its step", "moved",
                "the optimizer passes it over; give it to one that does not",
            )  # fmt: skip


def lost_options(case: Case) -> Iterator[Finding]:
    for name, (given, own) in case.options.items():
        lost = [key for key, value in given.items() if key not in own or own[key] != value]
        if lost:
            wanted = ", ".join(f"{key}={given[key]!r}" for key in lost)
            has = ", ".join(f"{key}={own[key]!r}" for key in lost if key in own) or "none of it"
            yield case.find(
                name, "group-options-lost", f"stepped with {has}", f"stepped with {wanted}",
                "the groups that were given are not those of the optimizer; hand its constructor "
                "the groups, and not bare parameters",
            )  # fmt: skip


# --- roles ----------------------------------------------------------------------------------

NO_MATRICES: dict[str, tuple[str, str, str]] = {
    "table": (
        "table-as-matrix", "a table, whose rows are looked up",
        "a row gets a gradient only when it is looked up; move it to AdamW, or to an optimizer "
        "that measures rows",
    ),
    "tied": (
        "tied-as-matrix", "a table that is the readout too",
        "move it to AdamW, once, as the table that it is",
    ),
    "vector": (
        "vector-as-matrix", "added or used as it is, with no input to map",
        "move it to AdamW",
    ),
    "bias": ("vector-as-matrix", "added to features", "move it to AdamW"),
    "gain": ("vector-as-matrix", "what features are multiplied by", "move it to AdamW"),
    "taps": (
        "taps-as-matrix", "a depthwise kernel, each channel a filter by itself",
        "its channels never meet, so that no matrix of all maps anything; move it to AdamW",
    ),
    "readout": (
        "readout-as-matrix", "what makes the model's output",
        "move it to AdamW, or to a group with a rate of its own",
    ),
    "router": (
        "router-as-matrix", "what scores experts",
        "move it to AdamW, or to a group with a rate of its own",
    ),
}  # fmt: skip
"""By role: the fault of orthogonalising it, what it is, and what to do."""
OF_THEIR_OWN = ("readout", "router")
"""Roles that may be orthogonalised, in other groups than hidden matrices are."""


def roles(case: Case) -> Iterator[Finding]:
    groups = {one.holders[0] for one in case.hidden()}
    for one in case.orthogonalised():
        role = case.role(one.name)
        if role not in NO_MATRICES or (role in OF_THEIR_OWN and one.holders[0] not in groups):
            continue
        fault, what, mend = NO_MATRICES[role]
        found = f"{one}, like a hidden matrix"
        yield case.find(one.name, fault, found, f"treated as {what}", mend)


def low_rank(case: Case) -> Iterator[Finding]:
    factors = low_rank_factors(case.held, case.treatments, case.frozen)
    for one in case.orthogonalised():
        if one.name in factors:
            yield case.find(
                one.name, "low-rank-as-matrix", f"{one}, at the size of a full matrix",
                f"a factor of the change of `{factors[one.name]}`",
                "the product of two such steps is no step of that size; move both factors to AdamW",
            )  # fmt: skip


def low_rank_factors(
    held: Mapping[str, Sequence[Weight]],
    trained: Collection[str],
    frozen: Mapping[str, tuple[int, ...]],
) -> dict[str, str]:
    """Pairs (r, in), (out, r) beside a frozen (out, in), with that one's name."""
    found = {}
    own = {
        name: many[0].shape
        for name, many in held.items()
        if len(many) == 1 and len(many[0].shape) == 2 and name in trained
    }
    for base, shape in frozen.items():
        if len(shape) != 2:
            continue
        path = base.removesuffix(".weight").removesuffix(".base_layer").removesuffix(".base")
        inside = [n for n in own if n.startswith((f"{path}.", f"{path}_"))]
        if not inside:
            inside = [n for n in own if n.startswith(f"{path.rpartition('.')[0]}.")]
        for a in inside:
            for b in inside:
                rank = own[a][0]
                meets = rank == own[b][1] and rank < min(shape)
                if meets and sorted((own[b][0], own[a][1])) == sorted(shape):
                    found[a] = found[b] = base
    return found


# --- cuts -----------------------------------------------------------------------------------


def cuts(case: Case) -> Iterator[Finding]:
    for one in case.hidden():
        held, key = case.held[one.name], one.key
        if fits(case, one):
            continue
        shapes = ", ".join(f"{w.name.rpartition('.')[2]} {product(w.shape)}" for w in held)
        if key == "together":
            names = ", ".join(name for name in one.together if name != one.name)
            yield case.find(
                one.name, "kernels-as-one", f"{one} ({names})", "a matrix of its own",
                "they have only their shape in common; orthogonalise a batch of matrices, "
                "with an axis for the layers, instead of one that has all of their rows",
            )  # fmt: skip
        elif len(held) > 1:
            as_one = key not in ("rows", "columns", "pieces whole")
            yield case.find(
                one.name, "fused-as-one" if as_one else "fused-cut-wrongly", str(one),
                f"orthogonalised in {len(held)} parts ({shapes})",
                "split the parameter, or give the model to modnorm.adopt, which cuts it so",
            )  # fmt: skip
        elif case.role(one.name) == "experts":
            count, *sides = held[0].shape
            yield case.find(
                one.name, "experts-as-one", str(one), f"{count} matrices of {product(sides)}",
                "no input goes through two experts' matrices as one; orthogonalise a batch "
                "with an axis for the experts",
            )  # fmt: skip
        elif key in ("rows", "columns"):
            yield case.find(
                one.name, "cut-apart", str(one), f"one matrix ({shapes})",
                "it is not the fused parameter for which the cut is meant; take it out of that "
                "parameter's group",
            )  # fmt: skip
        elif key == "whole":
            out, inputs = fans(held[0])
            yield case.find(
                one.name, "fan-swapped", str(one), f"one matrix of {product((out, inputs))}",
                "it is stored with its inputs first; exchange the first two axes before it is "
                "orthogonalised, and back after",
            )  # fmt: skip
        else:
            out, inputs = fans(held[0])
            yield case.find(
                one.name, "kernel-sides", str(one), f"one matrix of {product((out, inputs))}",
                "flatten all axes but that of the outputs before it is orthogonalised",
            )  # fmt: skip


def fits(case: Case, one: Treatment) -> bool:
    """Whether a hidden weight is orthogonalised as what it is."""
    stored = "pieces " if case.held[one.name][0].layout is not None else ""
    good = {"matrix": ("whole",), "experts": ("each",), "conv": ("whole", "taps")}
    return one.key in [stored + key for key in good[case.role(one.name)]]


def fans(w: Weight) -> tuple[int, int]:
    """How many features a weight makes, and from how many, taps among them."""
    rows = 1 if w.role == "experts" else 0
    return w.shape[rows], math.prod(w.shape[rows + 1 :])


# --- scales ---------------------------------------------------------------------------------

SCALES: dict[str, Callable[[float, float], float]] = {
    "1": lambda out, inputs: 1.0,
    "√max(1, out/in)": lambda out, inputs: max(1.0, out / inputs) ** 0.5,
    "√(out/in)": lambda out, inputs: (out / inputs) ** 0.5,
    "max(1, out/in)": lambda out, inputs: max(1.0, out / inputs),
    "√max(out, in)": lambda out, inputs: max(out, inputs) ** 0.5,
}
"""How implementations scale orthogonal factors, up to a constant."""
NARROW = 4
"""Matrices with fewer rows or columns say little: an approximation may miss their size by half."""
Fans = Callable[[Weight, tuple[int, ...]], tuple[int, ...]]
RIGHT: tuple[Fans, ...] = (
    lambda w, stored: fans(w),
    lambda w, stored: (fans(w)[0], w.shape[2 if w.role == "experts" else 1]),
)
"""What may count as outputs and inputs: with taps, or channels alone."""
WRONG: tuple[tuple[str, str, Fans], ...] = (
    (
        "fan-swapped", "its rows as they are stored",
        lambda w, stored: (stored[0], math.prod(stored[1:])),
    ),
    ("kernel-sides", "the sides of its last two axes", lambda w, stored: stored[-2:]),
    ("fan-swapped", "its inputs in the place of its outputs", lambda w, stored: fans(w)[::-1]),
)  # fmt: skip


def scales(case: Case) -> Iterator[Finding]:
    """Compares the scales in a group with those of rules: no right one fits, but a wrong one."""
    groups: dict[Holder, list[Treatment]] = {}
    for one in case.hidden():
        m, n = fans(case.held[one.name][0])
        if fits(case, one) and len(case.held[one.name]) == 1 and min(m, n) >= NARROW:
            groups.setdefault(one.holders[0], []).append(one)
    for group in groups.values():
        if any(fitted(case, group, rule, of) for rule in SCALES.values() for of in RIGHT):
            continue
        for fault, what, of in WRONG:
            name = next((n for n, rule in SCALES.items() if fitted(case, group, rule, of)), None)
            if name is not None:
                yield from mistaken(case, group, fault, what, name, of)
                break


def fitted(
    case: Case, group: Sequence[Treatment], rule: Callable[[float, float], float], of: Fans
) -> bool:
    """Whether all scales of a group are those of a rule, up to one constant."""
    ratios = [one.scale / rule(*of(case.held[one.name][0], case.shapes[one.name])) for one in group]
    return max(ratios) < UNEQUAL * min(ratios)


def mistaken(
    case: Case, group: Sequence[Treatment], fault: str, what: str, name: str, of: Fans
) -> Iterator[Finding]:
    """Those of a group whose scale by a rule is another than that of what they are."""
    rule = SCALES[name]
    for one in group:
        w = case.held[one.name][0]
        should, own = rule(*fans(w)), rule(*of(w, case.shapes[one.name]))
        if max(should, own) > UNEQUAL * min(should, own):
            out, inputs = fans(w)
            yield case.find(
                one.name, fault,
                f"orthogonalised and scaled by {own:.3g}, which is {name} of {what}",
                f"scaled by {should:.3g}: it maps {inputs} inputs to {out} outputs",
                "take the scale from the axes of outputs and inputs, or use one that is the same "
                "for both, such as adjust_lr_fn='match_rms_adamw' of torch.optim.Muon",
            )  # fmt: skip


def clipped(case: Case) -> Iterator[Finding]:
    for one in case.orthogonalised():
        if CLIPPED[0] < abs(one.response) and one.response < CLIPPED[1]:
            yield case.find(
                one.name, "clipped-update",
                f"{one}, with a size that follows the gradients' (to the power {one.response:.2g})",
                "of one size, whatever size gradients have",
                "what is clipped is the update; clip gradients before they are orthogonalised, "
                "or not at all",
            )  # fmt: skip


# --- what is beside others ------------------------------------------------------------------


def left(case: Case) -> Iterator[Finding]:
    factors = low_rank_factors(case.held, case.treatments, case.frozen)
    like: dict[object, Treatment] = {}
    for one in case.hidden():
        if (kind := kind_of(one.name)) != one.name:
            like.setdefault((kind, case.role(one.name)), one)
            like.setdefault((case.shapes[one.name], case.role(one.name)), one)
    for name, one in case.treatments.items():
        role, kind = case.role(name), kind_of(name)
        plain = one.kind in ("elementwise", "proportional") and name not in case.planned
        single = name in case.held and len(case.held[name]) == 1 and name not in factors
        if not (plain and single and role in HIDDEN and kind != name):
            continue
        other = like.get((kind, role)) or like.get((case.shapes[name], role))
        if other is not None:
            yield case.find(
                name, "left-elementwise", str(one), f"orthogonalised as `{other.name}` is",
                f"it is of the same kind; give it to {other.holders[0]}",
            )  # fmt: skip


def size(w: Weight, update: Tensor) -> float:
    """The norm of a weight's part of a change of its parameter, as the plan measures it."""
    norm = NORMS[w.norm]
    u = w.cut(update).reshape(1, *w.shape)
    if norm.vector:
        return float(norm.exact(u).max())
    return 1 / max(float(norm.measure(u, None)[0].min()), torch.finfo(u.dtype).tiny)


def rates(case: Case) -> Iterator[Finding]:
    """Compares sizes of updates, each in the norm of its weight, at one learning rate."""
    sizes: dict[float, list[float]] = {}
    for one in case.hidden():
        if fits(case, one) and one.update is not None:
            own = [size(w, one.update) for w in case.held[one.name]]
            sizes.setdefault(one.holders[0].lr, []).append(max(own))
    for name, one in case.treatments.items():
        if one.kind != "elementwise" or name in case.planned or one.update is None:
            continue
        rate = one.holders[0].lr
        if case.role(name) not in ("table", "tied") or rate not in sizes:
            continue
        step, others = size(case.held[name][0], one.update), median(sizes[rate])
        factor = step / others
        if not 1 / FAR < factor < FAR:
            much = (
                f"{factor:.2g} times as large" if factor > 1 else f"{1 / factor:.2g} times smaller"
            )
            yield case.find(
                name, "rate-of-matrices",
                f"moved by {rate * step:.3g} a step (the RMS of a row) at the rate {rate:.3g}, at "
                f"which hidden matrices are moved by {rate * others:.3g} (in their norms): {much}",
                "moved by about as much as they are",
                f"give it a group with a rate near {rate / factor:.2g}",
            )  # fmt: skip


def widths(case: Case) -> Iterator[Finding]:
    """Compares sizes of updates with those in a model of another width."""
    if case.other is None:
        return
    other = case.other
    kinds = {kind_of(name): name for name in reversed([*other.treatments])}
    for name, one in case.treatments.items():
        twin = name if name in other.treatments else kinds.get(kind_of(name))
        if twin is None or not (name in case.held and twin in other.held):
            continue
        second = other.treatments[twin]
        for w, v in zip(case.held[name], other.held[twin], strict=False):
            ratios = [a / b for a, b in zip(w.shape, v.shape, strict=False)]
            width = max([*ratios, *(1 / r for r in ratios)], default=1.0)
            own, others = case.moved(one, w), other.moved(second, v)
            if width == 1 or not own or not others:
                continue
            power = abs(math.log(own / others)) / math.log(width)
            if power > WITH_WIDTH:
                yield case.find(
                    name, "size-with-width",
                    f"stepped by {own / others:.3g} times as much, in the {w.norm} norm, as where "
                    f"it is {product(v.shape)} instead of {product(w.shape)}",
                    "stepped by as much at every width",
                    "its rate does not follow the width; scale the rate by "
                    f"{others / own:.3g} here, or check that base shapes are set and have it",
                )  # fmt: skip
                break


RULES: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    membership, lost_options, roles, low_rank, cuts, scales, clipped, left, rates, widths,
)  # fmt: skip


def find(case: Case) -> tuple[Finding, ...]:
    """All faults of a case, in the order of the parameters."""
    order = {name: i for i, name in enumerate(case.treatments)}
    found = [one for rule in RULES for one in rule(case)]
    return tuple(sorted(found, key=lambda one: order.get(one.parameter, len(order))))
