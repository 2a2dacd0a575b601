"""Weights that share a parameter, or are stored in another order, move as those of their own do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modnorm.kernels import (
    DualizedSGD,
    Layout,
    Monitor,
    NormedAdam,
    NormedOptimizer,
    NormedSGD,
    Plan,
    Weight,
)

KINDS = (NormedAdam, NormedSGD, DualizedSGD)
Made = tuple[list[Weight], dict[str, Tensor]]


def whole(shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((0, size) for size in shape)


def rows(name: str, shape: tuple[int, ...], start: int, end: int) -> Layout:
    take = ((start, end), *whole(shape[1:]))
    return Layout(name, shape, shape, take, tuple(range(len(shape))))


Stored = tuple[Layout, tuple[int, ...]]


def stored(form: str, heads: int, d: int, width: int) -> list[Stored]:
    """How a form stores a q, k and v of (heads, d, width), and the shape of what it stores."""
    shape = (3 * heads * d, width)
    axes = (heads, 3, d, width)
    found: list[Stored] = []
    for i in range(3):
        match form:
            case "fused":
                found.append((rows("qkv", shape, i * heads * d, (i + 1) * heads * d), shape))
            case "transposed":  # as GPT-2's Conv1D
                turned = (width, 3, heads * d)
                take = ((0, width), (i, i + 1), (0, heads * d))
                layout = Layout("qkv", shape[::-1], turned, take, (1, 2, 0))
                found.append((layout, shape[::-1]))
            case "interleaved":  # as GPT-NeoX's, head by head
                take = ((0, heads), (i, i + 1), (0, d), (0, width))
                found.append((Layout("qkv", shape, axes, take, (0, 1, 2, 3)), shape))
            case "pairs":  # rows in turn
                take = ((0, heads * d), (i, i + 1), (0, width))
                layout = Layout("qkv", shape, (heads * d, 3, width), take, (0, 1, 2))
                found.append((layout, shape))
    return found


def split_plan(heads: int, d: int, width: int, norm: str) -> list[Weight]:
    shape = (heads, d, width) if norm == "spectral" else (heads * d, width)
    targets = {"q": 0.3, "k": 0.5, "v": 0.2}
    return [Weight(x, "Linear", shape, norm, 1.0, target) for x, target in targets.items()]


def made(form: str, heads: int, d: int, width: int, norm: str = "spectral") -> Made:
    """A plan and the parameters for it, with one more weight, a bias of its own."""
    torch.manual_seed(0)
    plan = split_plan(heads, d, width, norm)
    tensors = {w.name: torch.randn(w.shape) for w in plan}
    bias = Weight("bias", "Bias", (width,), "rms", 1.0, 0.4)
    start = {"bias": torch.randn(width)}
    if form == "split":
        return [*plan, bias], {**tensors, **start}
    layouts = stored(form, heads, d, width)
    plan = [w._replace(layout=layout) for w, (layout, _) in zip(plan, layouts, strict=True)]
    return [*plan, bias], {"qkv": put(plan, tensors, layouts[0][1]), **start}


def put(plan: list[Weight], tensors: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """The parameter that stores these tensors."""
    out = torch.full(shape, torch.nan, dtype=next(iter(tensors.values())).dtype)
    for w in plan:
        part = w.part(out)
        part.copy_(tensors[w.name].view(part.shape))
    assert not out.isnan().any()
    return out


def holder(w: Weight) -> str:
    """The parameter that stores a weight."""
    return w.layout.parameter if w.layout else w.name


def run(
    kind: type[NormedOptimizer], form: str, sizes: tuple[int, int, int], norm: str = "spectral",
    steps: int = 4, dtype: torch.dtype = torch.float32, **options: Any,
) -> tuple[dict[str, Tensor], Any]:  # fmt: skip
    """The weights after some steps, by the names of the plan, and the optimizer."""
    plan, start = made(form, *sizes, norm)
    params = {name: nn.Parameter(x.to(dtype)) for name, x in start.items()}
    optimizer = kind(list(params.items()), plan=plan, **({"lr": 0.5} | options))
    seed = torch.Generator().manual_seed(1)
    for _ in range(steps):
        fresh = {w.name: torch.randn(w.shape, generator=seed).to(dtype) for w in plan}
        held = {w.name: fresh[w.name] for w in plan if w.layout}
        for name, p in params.items():
            own = [w for w in plan if w.layout]
            p.grad = fresh[name] if name in fresh else put(own, held, tuple(p.shape))
        optimizer.step()
    return {w.name: w.cut(params[holder(w)]).detach() for w in plan}, optimizer


FORMS = ("fused", "transposed", "interleaved", "pairs")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("stacks", [False, True])
def test_how_weights_are_stored_changes_no_update(
    form: str, kind: Any, decay: float, stacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stacks:
        monkeypatch.setattr(NormedOptimizer, "_stacks", lambda self, device: True)
    sizes = (4, 8, 24)
    wanted, alone = run(kind, "split", sizes, weight_decay=decay)
    found, optimizer = run(kind, form, sizes, weight_decay=decay)
    for name, w in wanted.items():
        torch.testing.assert_close(found[name], w, rtol=0, atol=1e-6 * float(w.abs().max()))
    slack, other = optimizer.slack(), alone.slack()
    assert slack == pytest.approx(other, rel=1e-5)
    assert len(slack) == 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", ["row_rms", "rms", "max", "sign", "frobenius", "column", "row"])
def test_norms_that_are_exact_give_the_same_bits(form: str, norm: str) -> None:
    sizes = (2, 4, 32)  # torch computes the last entries of odd numbers in another way
    wanted, _ = run(NormedAdam, "split", sizes, norm)
    found, _ = run(NormedAdam, form, sizes, norm)
    for name, w in wanted.items():
        assert torch.equal(found[name], w), name


@settings(max_examples=30)
@given(
    form=st.sampled_from(FORMS),
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 40)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_sizes_and_types(form: str, kind: Any, sizes: Any, dtype: torch.dtype) -> None:
    wanted, _ = run(kind, "split", sizes, dtype=dtype, steps=2)
    found, _ = run(kind, form, sizes, dtype=dtype, steps=2)
    # Sums of products may be taken in another order, and a rounding to 16 bits fall otherwise.
    close = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 2**-8}[dtype]
    for name, w in wanted.items():
        torch.testing.assert_close(found[name], w, rtol=0, atol=close * float(w.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_bit_for_bit(kind: Any) -> None:
    whole_run, _ = run(kind, "interleaved", (2, 4, 6), steps=6)
    plan, start = made("interleaved", 2, 4, 6)
    seed = torch.Generator().manual_seed(1)
    saved: Any = None
    params: dict[str, nn.Parameter] = {}
    for first in (0, 3):
        params = {k: nn.Parameter((params or start)[k].detach().clone()) for k in start}
        optimizer = kind(list(params.items()), plan=plan, lr=0.5)
        if saved:
            optimizer.load_state_dict(saved)
        for _ in range(first, first + 3):
            fresh = {w.name: torch.randn(w.shape, generator=seed) for w in plan}
            params["qkv"].grad = put(plan[:3], fresh, tuple(params["qkv"].shape))
            params["bias"].grad = fresh["bias"]
            optimizer.step()
        saved = optimizer.state_dict()
    for w in plan:
        assert torch.equal(w.cut(params[holder(w)].detach()), whole_run[w.name])


def test_automatic_steps_do_not_depend_on_how_weights_are_stored() -> None:
    options = {"lr": "auto", "smoothness": 3.0, "weight_decay": 0.1}
    wanted, alone = run(NormedSGD, "split", (2, 4, 6), **options)
    found, optimizer = run(NormedSGD, "transposed", (2, 4, 6), **options)
    sizes = [x.param_groups[0]["step_size"] for x in (alone, optimizer)]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)
    for name, w in wanted.items():
        torch.testing.assert_close(found[name], w, rtol=0, atol=1e-6 * float(w.abs().max()))


def test_a_weight_of_target_0_stays_where_it_is() -> None:
    plan, start = made("fused", 2, 4, 6)
    plan[1] = plan[1]._replace(target=0.0, mass=0.0)
    params = {name: nn.Parameter(x.clone()) for name, x in start.items()}
    optimizer = NormedAdam(list(params.items()), plan=plan, weight_decay=0.1)
    for p in params.values():
        p.grad = torch.randn(p.shape)
    optimizer.step()
    before, after = start["qkv"].chunk(3), params["qkv"].detach().chunk(3)
    assert [torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [False, True, False]


def test_the_monitor_tells_of_each_weight(tmp_path: Any) -> None:
    import json

    plan, start = made("interleaved", 2, 4, 6)
    params = {name: nn.Parameter(x) for name, x in start.items()}
    optimizer = NormedAdam(list(params.items()), plan=plan)
    with Monitor(optimizer, tmp_path / "run.jsonl", every=1):
        for p in params.values():
            p.grad = torch.randn(p.shape)
        optimizer.step()
    header, row = map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines())
    assert header["weights"] == ["q", "k", "v", "bias"]
    assert sum(row["spent"]) == pytest.approx(1, abs=0.1)
    assert all(x == pytest.approx(1, abs=0.1) for x in row["slack"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x._replace(take=((0, 9), (0, 6))), "does not fit"),
        (lambda x: x._replace(take=((4, 12), (0, 6))), "overlap"),
        (lambda x: x._replace(order=(0, 0)), "does not fit"),
        (lambda x: x._replace(split=(8, 3, 6)), "in the same way"),
    ],
)
def test_layouts_that_do_not_fit(change: Any, said: str) -> None:
    plan, _ = made("fused", 2, 4, 6)
    plan[1] = plan[1]._replace(layout=change(plan[1].layout))
    with pytest.raises(ValueError, match=f"the weights of qkv.*{said}"):
        Plan(plan)


def test_entries_that_no_weight_holds() -> None:
    plan, _ = made("fused", 2, 4, 6)
    with pytest.raises(ValueError, match="leave out some of its entries"):
        Plan(plan[:2])


def test_a_split_across_axes() -> None:
    layout = Layout("w", (4, 6), (8, 3), ((0, 8), (0, 3)), (0, 1))
    with pytest.raises(ValueError, match="does not cut the axes"):
        Plan([Weight("w", "Linear", (8, 3), "spectral", 1.0, 1.0, layout)])


def test_a_parameter_of_another_shape_than_its_layouts_say() -> None:
    plan, start = made("fused", 2, 4, 6)
    start["qkv"] = start["qkv"].t().contiguous()
    with pytest.raises(ValueError, match=r"qkv: floating \(6, 24\) instead of floating \(24, 6\)"):
        NormedAdam([(name, nn.Parameter(x)) for name, x in start.items()], plan=plan)
