"""Convolutions are torch.nn's, and those in groups move as several that stand alone."""

from __future__ import annotations

from typing import Any

import op_samples as samples
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import modnorm
from modnorm.kernels import DualizedSGD, Layout, NormedAdam, NormedOptimizer, NormedSGD, Weight
from modnorm.ops.base import Misfit
from modnorm.ops.conv import Conv1D, Conv2D, ConvTranspose1D, ConvTranspose2D, Kernel, Transposed
from modnorm.ops.types import Symbol, Tensor

KINDS: tuple[Any, ...] = (NormedAdam, NormedSGD, DualizedSGD)
HEIGHT, WIDTH = Symbol(("h",)), Symbol(("w",))


def f(*shape: Any) -> Tensor:
    return Tensor("float", shape)


@st.composite
def kernels(draw: Any) -> tuple[Kernel, nn.Module, tuple[int, ...]]:
    """An operation, torch's module of the same arguments, and a shape that may fit."""
    cls, module = draw(
        st.sampled_from(
            [
                (Conv1D, nn.Conv1d),
                (Conv2D, nn.Conv2d),
                (ConvTranspose1D, nn.ConvTranspose1d),
                (ConvTranspose2D, nn.ConvTranspose2d),
            ]
        )
    )
    groups = draw(st.integers(1, 3)) if not issubclass(cls, Transposed) else 1
    into, out = (groups * draw(st.integers(1, 3)) for _ in range(2))

    def sides(least: int, most: int) -> Any:
        one = st.integers(least, most)
        return draw(one if cls.places == 1 else st.one_of(one, st.tuples(one, one)))

    kernel, stride, padding, last = sides(1, 4), sides(1, 3), sides(0, 2), sides(1, 2)
    given: dict[str, Any] = {"dilation": last, "groups": groups}
    if issubclass(cls, Transposed):
        given = {"output_padding": draw(st.integers(0, 1))}
        assume(given["output_padding"] < min(stride if isinstance(stride, tuple) else [stride]))
    elif draw(st.integers(0, 3)) == 0:
        stride, padding = 1, "same"
    op = cls(out, None, kernel, stride, padding, **given)
    made = module(
        into, out, kernel, stride, padding, bias=False, dtype=torch.float64,
        **given,
    )  # fmt: skip
    return op, made, (2, into, *((9,) if cls.places == 1 else (7, 5)))


@settings(max_examples=40)
@given(found=kernels())
def test_they_are_torchs(found: tuple[Kernel, nn.Module, tuple[int, ...]]) -> None:
    op, module, shape = found
    torch.manual_seed(0)
    x, w = torch.randn(shape, dtype=torch.float64), module.weight.detach()  # type: ignore[union-attr]
    assert isinstance(w, torch.Tensor)
    try:
        resolved, out = op.resolve(f(*shape))
    except Misfit:
        with pytest.raises(RuntimeError):
            module(x)
        return
    expected = module(x).detach()
    assert resolved.weight_shape == w.shape
    assert isinstance(out, Tensor)
    assert out.shape == expected.shape
    torch.testing.assert_close(resolved.reference(x, w), expected)
    torch.testing.assert_close(samples.emitted(resolved, x, f(*shape), w), expected)
    free = f(*shape[:2], *(HEIGHT, WIDTH)[: op.places])
    _, general = op.resolve(free)
    assert isinstance(general, Tensor)
    sizes = {"h": shape[2], "w": shape[-1]}
    assert tuple(samples.concrete(size, sizes) for size in general.shape) == out.shape
    assert resolved.spread(free) >= resolved.spread(f(*shape)) * (1 - 1e-12)


def test_a_causal_one_sees_nothing_of_what_comes() -> None:
    op, _ = Conv1D(3, kernel=3, dilation=2, padding="causal").resolve(f(1, 2, 9))
    w = torch.randn(op.weight_shape, dtype=torch.float64)
    x = torch.randn(1, 2, 9, dtype=torch.float64)
    later = x.clone()
    later[..., 5:] += 1
    y, z = op.reference(x, w), op.reference(later, w)
    assert torch.equal(y[..., :5], z[..., :5])
    assert not torch.equal(y[..., 5], z[..., 5])


def steps(
    kind: Any, plan: list[Weight], start: dict[str, torch.Tensor], grads: list[Any], **options: Any
) -> tuple[dict[str, torch.Tensor], NormedOptimizer]:
    """Parameters after steps with these gradients."""
    params = {name: nn.Parameter(x.clone()) for name, x in start.items()}
    optimizer = kind(list(params.items()), plan=plan, lr=0.5, weight_decay=0.1, **options)
    for step in grads:
        for name, p in params.items():
            p.grad = step[name].clone()
        optimizer.step()
    return {name: p.detach() for name, p in params.items()}, optimizer


@pytest.mark.parametrize("stacks", [False, True])
@settings(max_examples=12)
@given(
    kind=st.sampled_from(KINDS),
    groups=st.integers(2, 4),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.sampled_from([(3,), (2, 3), (1, 1)]),
)
def test_groups_move_as_convolutions_of_their_own(
    stacks: bool, kind: Any, groups: int, sizes: tuple[int, int], kernel: tuple[int, ...]
) -> None:
    assume(kind is DualizedSGD or 1 in sizes)  # else power iterations begin at other vectors
    (out, into), cls = sizes, Conv1D if len(kernel) == 1 else Conv2D
    op = cls(groups * out, groups * into, kernel, groups=groups)
    one = cls(out, into, kernel)
    torch.manual_seed(0)
    whole = [torch.randn(op.weight_shape, dtype=torch.float64) for _ in range(4)]
    names = [f"w{i}" for i in range(groups)]
    parts = [dict(zip(names, w.chunk(groups), strict=True)) for w in whole]
    together = Weight("w", "", op.measured_shape, op.norm.name, 1.0, 0.3, op.layout("w"))
    alone = [
        Weight(name, "", one.measured_shape, one.norm.name, 1.0, 0.3, one.layout(name))
        for name in names
    ]
    with pytest.MonkeyPatch.context() as patch:
        if stacks:
            patch.setattr(NormedOptimizer, "_stacks", lambda self, device: True)
        found, optimizer = steps(kind, [together], {"w": whole[0]}, [{"w": w} for w in whole[1:]])
        wanted, _ = steps(kind, alone, parts[0], parts[1:])
    close = 1e-12 if kind is DualizedSGD else 1e-9
    expected = torch.cat([wanted[name] for name in names])
    torch.testing.assert_close(found["w"], expected, rtol=close, atol=close)
    assert all(x == pytest.approx(1, abs=0.1) for x in optimizer.slack().values())


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_signals_moves_as_one_of_images_of_height_1(kind: Any) -> None:
    torch.manual_seed(0)
    grads = [torch.randn(6, 4, 5) for _ in range(4)]
    op = Conv1D(6, 4, 5)
    signal = Weight("w", "", op.measured_shape, op.norm.name, 1.0, 0.3, op.layout("w"))
    image = Weight("w", "", (6, 4, 1, 5), "spectral_taps", 1.0, 0.3)
    one, _ = steps(kind, [signal], {"w": grads[0]}, [{"w": g} for g in grads[1:]])
    tall = [g.unsqueeze(2) for g in grads]
    two, _ = steps(kind, [image], {"w": tall[0]}, [{"w": g} for g in tall[1:]])
    assert torch.equal(one["w"], two["w"].squeeze(2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "op",
    [
        Conv2D(8, 6, groups=2),
        Conv1D(6, 6, groups=6),
        ConvTranspose1D(6, 5, 4, 2),
        ConvTranspose2D(6, 5, (4, 3), 2),
    ],
)
def test_an_update_has_the_size_of_its_target(kind: Any, op: Kernel) -> None:
    torch.manual_seed(0)
    start, *grads = (torch.randn(op.weight_shape, dtype=torch.float64) for _ in range(3))
    w = Weight("w", "", op.measured_shape, op.norm.name, 1.0, 0.3, op.layout("w"))
    p = nn.Parameter(start)
    optimizer = kind(
        [("w", p)], plan=[w], lr=0.5, **({} if kind is DualizedSGD else {"iterations": 10})
    )
    for grad in grads:
        before, p.grad = p.detach().clone(), grad
        optimizer.step()
        assert op.weight_norm(p.detach() - before).item() == pytest.approx(0.15, rel=0.1)
    assert isinstance(w.layout, Layout)


CONVNEXT = """
input x: float[batch, 3, 16, 16]
def block = Identity + Scale @ Bias @ Conv2D(8, kernel = 1, padding = 0) @ GELU @ Bias
    @ Conv2D(32, kernel = 1, padding = 0) @ Bias @ Scale @ RMSDivide(1, 1e-6) @ MeanSubtract(1)
    @ Bias @ Conv2D(8, kernel = 7, padding = 3, groups = 8)
model Net = Linear(10) @ Mean((2, 3)) @ block @ Bias @ Conv2D(8, kernel = 4, stride = 4,
    padding = 0)
"""
AUDIO = """
input wave: float[batch, 1, time]
model Net = Linear(10) @ Mean(2) @ ReLU @ Conv1D(6, groups = 2, padding = "same")
    @ MaxPool(2) @ Conv1D(4, kernel = 9, stride = 4)
"""
UNET = """
input x: float[batch, 3, 8, 8]
def down = ReLU @ Conv2D(6) @ MaxPool(2)
model Net = Conv2D(1, kernel = 1, padding = 0) @ (Identity + Upsample(2) @ down
    + ConvTranspose2D(6, kernel = 2, stride = 2, padding = 0) @ down) @ Conv2D(6)
"""


class Net(nn.Module):
    """A program's weights in torch.nn's modules, in execution order."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


class ConvNeXt(Net):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 7, padding=3, groups=8),
            nn.LayerNorm(8, eps=1e-6), nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 1),
            nn.Linear(8, 10, bias=False),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem, depthwise, norm, up, down, head = self.parts
        y = x = stem(x)
        y = norm(depthwise(y).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = down(nn.functional.gelu(up(y))) * self.scale[:, None, None]
        out: torch.Tensor = head((x + y).mean((2, 3)))
        return out

    def order(self) -> list[nn.Parameter]:
        """The parameters in the program's order: norms have the gain first, the rest the bias."""
        stem, depthwise, norm, up, down, head = self.parts
        weights = [p for m in (stem, depthwise, norm, up, down) for p in m.parameters()]
        return [*weights, self.scale, *head.parameters()]


class Audio(Net):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(1, 4, 9, 4, padding=1, bias=False),
            nn.Conv1d(4, 6, 3, padding="same", groups=2, bias=False),
            nn.Linear(6, 10, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, head = self.parts
        y = second(nn.functional.max_pool1d(first(x), 2)).relu()
        out: torch.Tensor = head(y.mean(2))
        return out

    def order(self) -> list[nn.Parameter]:
        return list(self.parameters())


class UNet(Net):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1, bias=False),
            nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.ConvTranspose2d(6, 6, 2, 2, bias=False),
            nn.Conv2d(6, 1, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem, one, two, up, head = self.parts
        x = stem(x)
        small = nn.functional.max_pool2d(x, 2)
        twice = nn.Upsample(scale_factor=2)(one(small).relu())
        out: torch.Tensor = head(x + twice + up(two(small).relu()))
        return out

    def order(self) -> list[nn.Parameter]:
        return list(self.parameters())


@pytest.mark.parametrize(
    ("text", "twin", "shape"),
    [
        (CONVNEXT, ConvNeXt, (2, 3, 16, 16)),
        (AUDIO, Audio, (2, 1, 61)),
        (UNET, UNet, (2, 3, 8, 8)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_architectures_are_torchs(text: str, twin: Any, shape: Any, dtype: torch.dtype) -> None:
    module = modnorm.load(text)
    model = module.Net(dtype=dtype, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    other, x = twin().to(dtype), torch.randn(shape, dtype=dtype)
    own = list(model.parameters())
    with torch.no_grad():
        for p, theirs in zip(own, other.order(), strict=True):
            p.copy_(p + torch.randn_like(p) / 10)  # biases and gains too
            theirs.copy_(p.view_as(theirs))
    close = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(model(x), other(x), rtol=close, atol=close)
    optimizer = module.DualizedSGD(model.named_parameters(), lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in own)
