"""Adopted models: however the same weights are stored, the same gradients make the same updates."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn
from torch.nn import functional as F

import modnorm
from modnorm.kernels import Plan
from modnorm.kernels.weight import Weight

LONG = bool(os.environ.get("MODNORM_LONG"))

KINDS = ("normed_adam", "normed_sgd", "dualized_sgd")
BATCH, LENGTH, VOCABULARY = 2, 3, 5
Tensors = Mapping[str, Tensor]
Run = Callable[[Tensors, Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """A part of a network, (batch, length, in) → (batch, length, out).

    shapes: of its weights, each stored by itself. plain: computes it with these. put: stores them
    in another way, by copies alone. stored: computes it with what `put` makes.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    plain: Run = field(repr=False)
    put: Callable[[Tensors], dict[str, Tensor]] = field(repr=False)
    stored: Run = field(repr=False)


class Network(nn.Module):
    """Parts one after the other, each in one of its two forms."""

    def __init__(self, parts: Sequence[Part], weights: Sequence[Tensors], stored: bool) -> None:
        super().__init__()
        self.parts, self.stored = parts, stored
        self.weights = nn.ModuleList()
        for part, own in zip(parts, weights, strict=True):
            module = nn.Module()
            for name, x in (part.put(own) if stored else own).items():
                module.register_parameter(name, nn.Parameter(x.clone()))
            self.weights.append(module)

    def forward(self, x: Tensor) -> Tensor:
        for part, module in zip(self.parts, self.weights, strict=True):
            run = part.stored if self.stored else part.plain
            x = run(dict(module.named_parameters()), x)
        return x


# --- matrices of one input ------------------------------------------------------------------


@dataclass(frozen=True)
class Together:
    """Matrices of one input, and their biases, in one of several forms.

    rows: of each by its name. groups: in which each has as many rows as in any other.
    """

    form: str
    rows: Mapping[str, int]
    width: int
    bias: bool
    groups: int = 1
    tag: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {
            f"{name}{self.tag}": (n, self.width) for name, n in self.rows.items()
        }
        if self.bias:
            found |= {f"{name}{self.tag}_bias": (n,) for name, n in self.rows.items()}
        return found

    def plain(self, w: Tensors, x: Tensor) -> list[Tensor]:
        return [
            F.linear(x, w[name + self.tag], w.get(f"{name}{self.tag}_bias")) for name in self.rows
        ]

    def put(self, w: Tensors) -> dict[str, Tensor]:
        if self.form == "joined":
            return {name: w[name] for name in self.shapes()}
        found = {"all" + self.tag: self.ordered([w[name + self.tag] for name in self.rows])}
        if self.form in ("turned", "addmm"):
            found = {name: x.T for name, x in found.items()}
        if self.bias:
            own = [w[f"{name}{self.tag}_bias"] for name in self.rows]
            found[f"all{self.tag}_bias"] = self.ordered(own)
        return found

    def ordered(self, own: list[Tensor]) -> Tensor:
        """Their rows in the order of the form."""
        if self.form == "in turn":
            return torch.stack(own, 1).flatten(0, 1)
        groups = self.groups if self.form == "groups" else 1
        return torch.cat([x.unflatten(0, (groups, -1)) for x in own], 1).flatten(0, 1)

    def stored(self, w: Tensors, x: Tensor) -> list[Tensor]:
        sizes = list(self.rows.values())
        if self.form == "joined":
            names = [name + self.tag for name in self.rows]
            bias = torch.cat([w[f"{name}_bias"] for name in names]) if self.bias else None
            return list(F.linear(x, torch.cat([w[name] for name in names]), bias).split(sizes, -1))
        matrix, bias = w["all" + self.tag], w.get(f"all{self.tag}_bias")
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        cuts = [slice(end - n, end) for n, end in zip(sizes, ends, strict=True)]
        match self.form:
            case "slices":
                return [F.linear(x, matrix[at], None if bias is None else bias[at]) for at in cuts]
            case "turned":
                y = x @ matrix
                y = y if bias is None else y + bias
                return [y[..., at] for at in cuts]
            case "addmm":
                bias = x.new_zeros(()) if bias is None else bias
                y = torch.addmm(bias, x.reshape(-1, x.shape[-1]), matrix)
                return list(y.view(*x.shape[:-1], -1).split(sizes, -1))
            case "einsum":
                y = torch.einsum("bsi,oi->bso", x, matrix)
                return list((y if bias is None else y + bias).split(sizes, -1))
            case "in turn":
                y = F.linear(x, matrix, bias)
                return [y[..., i :: len(sizes)] for i in range(len(sizes))]
            case "groups":
                y = F.linear(x, matrix, bias).unflatten(-1, (self.groups, -1))
                parts = y.split([n // self.groups for n in sizes], -1)
                return [part.flatten(-2) for part in parts]
        return list(F.linear(x, matrix, bias).split(sizes, -1))


def part(name: str, *together: Together, run: Callable[..., Tensor]) -> Part:
    """A part of such matrices: `run` gets, for each of these, what gives their outputs."""
    shapes = {key: shape for t in together for key, shape in t.shapes().items()}

    def put(w: Tensors) -> dict[str, Tensor]:
        return {key: x for t in together for key, x in t.put(w).items()}

    def plain(w: Tensors, x: Tensor) -> Tensor:
        return run(x, *(partial(t.plain, w) for t in together))

    def stored(w: Tensors, x: Tensor) -> Tensor:
        return run(x, *(partial(t.stored, w) for t in together))

    return Part(f"{name}: {', '.join(t.form for t in together)}", shapes, plain, put, stored)


EVEN = ("rows", "turned", "addmm", "slices", "joined", "einsum", "in turn")
FORMS = (*EVEN[:-1], "groups")
SINGLE = ("rows", "turned", "addmm", "einsum")


def attention(draw: DrawFn, width: int) -> Part:
    groups, times, d = (draw(st.integers(1, n)) for n in (3, 2, 3))
    d, gated, bias, written = 2 * d, *(draw(st.booleans()) for _ in range(3))
    heads = groups * times
    rows = {"q": heads * d, "k": groups * d, "v": groups * d}
    forms = FORMS if times > 1 else (*FORMS, "in turn")
    tied = draw(st.booleans())  # a gate stored with the queries, head by head, as in Qwen3-Next
    first = [Together(draw(st.sampled_from(forms)), rows, width, bias, groups)]
    if gated:
        both = Together("groups", {"q": heads * d, "gate": heads * d}, width, bias, heads)
        others = Together(
            draw(st.sampled_from(EVEN)), {"k": groups * d, "v": groups * d}, width, bias, groups,
            tag="_",
        )  # fmt: skip
        first = [both, others] if tied else [
            Together(draw(st.sampled_from(FORMS)), {**rows, "gate": heads * d}, width, bias, groups)
        ]  # fmt: skip
    last = Together(draw(st.sampled_from(SINGLE)), {"o": width}, heads * d, bias, tag="_out")

    def run(x: Tensor, *gives: Any) -> Tensor:
        found = [y for give in gives[:-1] for y in give(x)]
        if gated:
            q, gate, k, v = found if tied else (found[0], found[3], *found[1:3])
        else:
            q, k, v = found
        q, k, v = (y.unflatten(-1, (-1, d)).transpose(1, 2) for y in (q, k, v))
        k, v = (y.repeat_interleave(times, 1) for y in (k, v))
        if written:
            y = torch.softmax(q @ k.mT / math.sqrt(d), -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).flatten(2)
        y = y * torch.sigmoid(gate) if gated else y
        return x + gives[-1](y)[0]

    return part("attention", *first, last, run=run)


def gated(draw: DrawFn, width: int) -> Part:
    size, bias = draw(st.integers(2, 6)), draw(st.booleans())
    rows = dict.fromkeys(draw(st.sampled_from([("gate", "up"), ("up", "gate")])), size)
    act = draw(st.sampled_from([F.silu, F.gelu, torch.sigmoid, F.relu]))
    both = Together(draw(st.sampled_from(EVEN)), rows, width, bias)
    down = Together(draw(st.sampled_from(SINGLE)), {"down": width}, size, bias, tag="_out")

    def run(x: Tensor, first: Any, last: Any) -> Tensor:
        found = dict(zip(rows, first(x), strict=True))
        return x + last(act(found["gate"]) * found["up"])[0]

    return part("gated", both, down, run=run)


def modulated(draw: DrawFn, width: int) -> Part:
    """As adaLN-Zero: a shift, a scale and a gate from a condition."""
    rows = dict.fromkeys(("shift", "scale", "gate"), width)
    all_ = Together(draw(st.sampled_from(EVEN)), rows, width, draw(st.booleans()))
    inner = Together(draw(st.sampled_from(SINGLE)), {"inner": width}, width, True, tag="_in")

    def run(x: Tensor, give: Any, matrix: Any) -> Tensor:
        shift, scale, gate = give(F.silu(x.mean(1, keepdim=True)))
        y = F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        return x + gate * matrix(y)[0]

    return part("modulated", all_, inner, run=run)


def cell(draw: DrawFn, width: int) -> Part:
    """A cell of an LSTM or GRU that is called in a loop."""
    kind, size = draw(st.sampled_from(["lstm", "gru"])), draw(st.integers(2, 4))
    rows = dict.fromkeys("ifgo" if kind == "lstm" else "rzn", size)
    form = st.sampled_from(EVEN)
    of_x = Together(draw(form), rows, width, draw(st.booleans()))
    of_h = Together(draw(form), rows, size, draw(st.booleans()), tag="_h")
    last = Together(draw(st.sampled_from(SINGLE)), {"out": width}, size, False, tag="_out")

    def run(x: Tensor, from_x: Any, from_h: Any, out: Any) -> Tensor:
        h = c = x.new_zeros(len(x), 1, size)
        found = []
        for t in range(x.shape[1]):
            a, b = from_x(x[:, t : t + 1]), from_h(h)
            if kind == "lstm":
                i, f, g, o = (u + v for u, v in zip(a, b, strict=True))
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            else:
                r, z = (torch.sigmoid(a[j] + b[j]) for j in range(2))
                h = (1 - z) * torch.tanh(a[2] + r * b[2]) + z * h
            found.append(h)
        return out(torch.cat(found, 1))[0]

    return part(f"cell of {kind}", of_x, of_h, last, run=run)


# --- convolutions, experts, tables -----------------------------------------------------------


def convolution(draw: DrawFn, width: int) -> Part:
    """Two convolutions of one input, one of which opens the other."""
    size, taps, bias = draw(st.integers(2, 5)), draw(st.sampled_from([1, 3])), draw(st.booleans())
    glu = draw(st.booleans())
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("value", "gate"), (size, width, taps))
    if bias:
        shapes |= {f"{x}_bias": (size,) for x in ("value", "gate")}
    shapes["down"] = (width, size, 1)

    def put(w: Tensors) -> dict[str, Tensor]:
        found = {"both": torch.cat([w["value"], w["gate"]]), "down": w["down"]}
        if bias:
            found["bias"] = torch.cat([w["value_bias"], w["gate_bias"]])
        return found

    def end(x: Tensor, value: Tensor, gate: Tensor, w: Tensors) -> Tensor:
        return x + F.conv1d(value * torch.sigmoid(gate), w["down"]).mT

    def plain(w: Tensors, x: Tensor) -> Tensor:
        value, gate = (
            F.conv1d(x.mT, w[name], w.get(f"{name}_bias"), padding=taps // 2)
            for name in ("value", "gate")
        )
        return end(x, value, gate, w)

    def stored(w: Tensors, x: Tensor) -> Tensor:
        y = F.conv1d(x.mT, w["both"], w.get("bias"), padding=taps // 2)
        if glu:
            return x + F.conv1d(F.glu(y, 1), w["down"]).mT
        return end(x, *y.chunk(2, 1), w)

    return Part("convolution: glu" if glu else "convolution: chunk", shapes, plain, put, stored)


def experts(draw: DrawFn, width: int) -> Part:
    """All experts for all tokens: copies of matrices side by side."""
    count, size = draw(st.integers(2, 3)), draw(st.integers(2, 4))
    form = draw(st.sampled_from(["(E, out, in)", "(E, in, out)", "in turn", "loop"]))
    shapes = {
        "gate": (count, size, width), "up": (count, size, width), "down": (count, width, size)
    }  # fmt: skip

    def put(w: Tensors) -> dict[str, Tensor]:
        if form == "in turn":
            both = torch.stack([w["gate"], w["up"]], 2).flatten(1, 2)
        else:
            both = torch.cat([w["gate"], w["up"]], 1)
        turn = form in ("(E, in, out)", "in turn")
        return {"both": both.mT if turn else both, "down": w["down"].mT if turn else w["down"]}

    def run(x: Tensor, first: Callable[[Tensor, Any], Any], down: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        if form == "loop":
            found = []
            for i in range(count):
                gate, up = first(flat, i)
                found.append(F.linear(F.silu(gate) * up, down[i]))
            return x + torch.stack(found).mean(0).view_as(x)
        gate, up = first(flat.expand(count, -1, -1), ...)
        return x + torch.bmm(F.silu(gate) * up, down.mT).mean(0).view_as(x)

    def plain(w: Tensors, x: Tensor) -> Tensor:
        return run(x, lambda x, i: (x @ w["gate"][i].mT, x @ w["up"][i].mT), w["down"])

    def stored(w: Tensors, x: Tensor) -> Tensor:
        turned = form in ("(E, in, out)", "in turn")

        def first(x: Tensor, i: Any) -> Any:
            y = x @ (w["both"] if turned else w["both"].mT)[i]
            return (y[..., ::2], y[..., 1::2]) if form == "in turn" else y.chunk(2, -1)

        return run(x, first, w["down"].mT if turned else w["down"])

    return Part(f"experts: {form}", shapes, plain, put, stored)


def tables(draw: DrawFn, width: int) -> tuple[Part, Part]:
    """A table of tokens at the start, and a readout of its own at the end."""
    form, other = (draw(st.sampled_from(["turned", "indexed"])) for _ in range(2))

    def put(w: Tensors) -> dict[str, Tensor]:
        return {"table": w["table"].T if form == "turned" else w["table"]}

    def stored(w: Tensors, x: Tensor) -> Tensor:
        return F.embedding(x, w["table"].T) if form == "turned" else w["table"][x]

    last = Together(
        "turned" if other == "turned" else "rows", {"readout": VOCABULARY}, width, False
    )

    def plain(w: Tensors, x: Tensor) -> Tensor:
        return F.embedding(x, w["table"])

    first = Part(f"table: {form}", {"table": (VOCABULARY, width)}, plain, put, stored)
    return first, part("readout", last, run=lambda x, give: give(x)[0])


PARTS = (attention, gated, modulated, cell, convolution, experts)


@st.composite
def networks(draw: DrawFn) -> list[Part]:
    width = draw(st.integers(2, 6))
    first, last = tables(draw, width)
    count = draw(st.integers(1, 2))
    return [first, *(draw(st.sampled_from(PARTS))(draw, width) for _ in range(count)), last]


# --- the proof ------------------------------------------------------------------------------


def in_storage(parts: Sequence[Part], tensors: Sequence[Tensors]) -> dict[str, Tensor]:
    """By name in the network of what is stored."""
    return {
        f"weights.{i}.{name}": x.contiguous()
        for i, (part, own) in enumerate(zip(parts, tensors, strict=True))
        for name, x in part.put(own).items()
    }


def by_name(tensors: Sequence[Tensors]) -> dict[str, Tensor]:
    return {f"weights.{i}.{k}": x for i, own in enumerate(tensors) for k, x in own.items()}


def updates(
    model: nn.Module, plan: Any, kind: str, grads: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """What steps on these gradients add to each parameter."""
    optimizer = modnorm.adopt(model, kind=kind, plan=plan, lr=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for own in grads:
        for name, p in model.named_parameters():
            p.grad = own[name].clone()
        optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


@settings(max_examples=3000 if LONG else 300)
@given(networks(), st.sampled_from(KINDS), st.integers(1, 3), st.integers(0, 2**20))
def test_storage_changes_no_update(parts: list[Part], kind: str, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> list[dict[str, Tensor]]:
        return [
            {
                name: torch.randn(shape, generator=generator, dtype=torch.float64)
                for name, shape in part.shapes.items()
            }
            for part in parts
        ]

    weights, grads = draw(), [draw() for _ in range(steps)]
    plain, stored = (Network(parts, weights, form) for form in (False, True))
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
    torch.testing.assert_close(stored(ids), plain(ids))

    owners = [f"weights.{i}.{name}" for i, own in enumerate(weights) for name in own]
    numbers = iter(range(len(owners)))
    sizes = [x.numel() for own in weights for x in own.values()]
    numbered = [{k: torch.full(x.shape, next(numbers)) for k, x in own.items()} for own in weights]
    held = in_storage(parts, numbered)

    def owner(w: Weight) -> str:
        """The weight that a record is of; the record has all of it, and nothing else."""
        found = w.cut(held[w.layout.parameter if w.layout else w.name]).unique().tolist()
        assert len(found) == 1, f"{w.name} has rows of {[owners[i] for i in found]}"
        assert math.prod(w.shape) == sizes[found[0]], f"{w.name} is no whole weight"
        return owners[found[0]]

    options: Any = {"plan_only": True, "sensitivity": "declared"}
    plan = modnorm.adopt(stored, ids, **options)
    masses = {owner(w): w.mass for w in plan}  # which depend on how modules are nested
    alone = {w.name: w for w in modnorm.adopt(plain, ids, masses=masses, **options)}
    assert sorted(map(owner, plan)) == sorted(alone) == sorted(owners)
    for w in plan:
        other = alone[owner(w)]
        assert (w.role, w.norm, w.mass) == (other.role, other.norm, other.mass), w.name
        assert w.target == pytest.approx(other.target, rel=1e-9), w.name

    wanted = updates(plain, Plan(alone.values()), kind, [by_name(x) for x in grads])
    found = updates(stored, plan, kind, [in_storage(parts, x) for x in grads])
    again = [
        {name: wanted[f"weights.{i}.{name}"] for name in part.shapes}
        for i, part in enumerate(parts)
    ]
    for name, update in in_storage(parts, again).items():
        scale = float(update.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(found[name], update, rtol=0, atol=1e-6 * scale)
