"""The norms of a matrix that can be chosen, and `HeadedLinear`: what they promise, end to end."""

from __future__ import annotations

import math
import types
from pathlib import Path
from typing import Any

import op_samples as samples
import pytest
import torch
from op_search import ascend, f, largest, rms, row_sum, shapes
from optimizer_cases import KINDS
from torch import Tensor, nn

from modnorm.codegen.assemble import generate
from modnorm.kernels import DualizedSGD, NormedOptimizer
from modnorm.kernels.plan import NORMS
from modnorm.kernels.weight import Weight
from modnorm.ops.base import Atom
from modnorm.ops.edges import Bound, Edge, Measure
from modnorm.ops.headed import HeadedLinear
from modnorm.ops.linear import Linear, Readout
from modnorm.ops.matrices import CHOICES
from modnorm.ops.reshape import SplitHeads
from modnorm.ops.types import Tensor as TensorType
from modnorm.pipeline import analyse_text

EXACT = ("row", "column", "sign", "frobenius")
every_choice = pytest.mark.parametrize("norm", list(CHOICES))
every_exact = pytest.mark.parametrize("norm", EXACT)
every_kind = pytest.mark.parametrize("kind", KINDS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# -- definitions -------------------------------------------------------------------------------

BETWEEN = {
    "spectral": (rms, rms),
    "row": (rms, largest),
    "column": (row_sum, rms),
    "sign": (rms, largest),
    "frobenius": (rms, rms),
}


@every_choice
def test_a_weight_of_norm_one_has_gain_one(norm: str) -> None:
    """Between the norms of values that the choice is about; some weight and input attain it."""
    op, _ = Linear(5, norm_=norm).resolve(f(4))
    into, out = BETWEEN[norm]

    def ratio(parts: list[Tensor]) -> Tensor:
        x, w = parts[0].unsqueeze(0), parts[1] / op.weight_norm(parts[1])
        return out(op.reference(x, w)) / into(x)

    found = ascend(ratio, [draw(4), draw(5, 4)], seed=1)
    assert 0.95 <= found <= 1 + 1e-9


@every_choice
def test_the_runtimes_maps_are_those_of_the_definitions(norm: str) -> None:
    op, _ = Linear(5, norm_=norm).resolve(f(4))
    u = draw(3, 5, 4)
    found = NORMS[norm].dualize(u.clone())
    for one, gradient in zip(found, u, strict=True):
        tolerance = 0.093 if norm == "spectral" else 1e-12  # the band's width
        torch.testing.assert_close(one, op.dualize(gradient), rtol=tolerance, atol=tolerance)
    if norm != "spectral":
        factors, vectors = NORMS[norm].measure(u, None)
        assert vectors is None
        for one, gradient in zip(u * factors, u, strict=True):
            assert op.weight_norm(one).item() == pytest.approx(1)
            assert (one * gradient).sum() > 0


def test_the_heads_map_is_that_of_the_definition() -> None:
    op, _ = HeadedLinear(6, 2).resolve(f(3, 4))
    u = draw(5, 2, 3, 4)
    found = NORMS["spectral"].dualize(u.clone())
    for one, gradient in zip(found, u, strict=True):
        torch.testing.assert_close(one, op.dualize(gradient), rtol=0.093, atol=0.093)
        assert NORMS["spectral"].exact(gradient[None]).item() == pytest.approx(
            op.weight_norm(gradient).item()
        )


def test_the_norm_of_heads_is_that_of_each_head_alone() -> None:
    op, _ = HeadedLinear(6, 2).resolve(f(3, 4))
    single, _ = Linear(3).resolve(f(3, 4))
    w = draw(2, 3, 4)
    assert op.weight_norm(w) == max(single.weight_norm(head) for head in w)
    torch.testing.assert_close(op.dualize(w), torch.stack([single.dualize(head) for head in w]))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 5, 3, 4)])
def test_headed_linear_is_linear_and_split_heads(shape: tuple[int, ...]) -> None:
    op, out = HeadedLinear(6, 2).resolve(f(*shape))
    linear, between = Linear(6).resolve(f(*shape))
    split, expected = SplitHeads(2).resolve(between)
    assert out == expected
    x, w = draw(*shape), draw(2, 3, 4, seed=1)
    y = split.reference(linear.reference(x, w.flatten(0, 1)))
    torch.testing.assert_close(op.reference(x, w), y)
    torch.testing.assert_close(samples.emitted(op, x, f(*shape), w), y)


@every_exact
def test_zeros_stay_zeros(norm: str) -> None:
    """Rows and columns without a gradient, and a gradient that is zero."""
    op, _ = Linear(5, norm_=norm).resolve(f(4))
    u = draw(5, 4)
    u[1] = 0
    u[:, 2] = 0
    for t in (op.dualize(u), NORMS[norm].dualize(u[None].clone())[0]):
        assert t.isfinite().all()
        assert not t[1].any()
        assert not t[:, 2].any()
        assert op.weight_norm(t).item() == pytest.approx(1)
    zero = torch.zeros(5, 4, dtype=torch.float64)
    assert not op.dualize(zero).any()
    assert not NORMS[norm].dualize(zero[None].clone()).any()


# -- certified gains ---------------------------------------------------------------------------

GAINS: list[tuple[Atom, TensorType]] = [
    *((Linear(4, norm_=norm), f(2, 3, 5)) for norm in CHOICES),
    *((Linear(3, norm_=norm), f(2, 2, 3, 4)) for norm in CHOICES),
    (Linear(3), f(1, 4)),
    (Readout(4), f(2, 3, 5)),
    (HeadedLinear(6, 3), f(2, 3, 5)),
    (HeadedLinear(6, 3), f(3, 5)),
]


@pytest.mark.parametrize(("atom", "type"), GAINS, ids=str)
def test_every_gain_is_a_bound(atom: Atom, type: TensorType) -> None:
    op, out = atom.resolve(type)
    assert isinstance(out, TensorType)
    x = Edge(type, {m: Bound(0.0, 1.0) for m in [Measure((len(type.shape) - 1,))]})
    gains = op.gains([x], type)
    assert not isinstance(gains, str)
    assert gains
    for (_, source), row in gains.items():
        for (_, target), gain in row.items():

            def ratio(parts: list[Tensor], into: Any = source, to: Any = target) -> Tensor:
                w = parts[1] / op.weight_norm(parts[1])
                return to.of(op.reference(parts[0], w)) / into.of(parts[0])

            found = ascend(ratio, [*shapes(type), draw(*op.weight_shape)], seed=3)
            assert found <= gain * (1 + 1e-9), (source, target)


# -- steps -------------------------------------------------------------------------------------


def moved(kind: Any, w: Weight, grad: Tensor, **options: Any) -> Tensor:
    p = nn.Parameter(torch.zeros(w.shape, dtype=grad.dtype))
    optimizer = kind([(w.name, p)], lr=0.5, plan=(w,), **options)
    p.grad = grad
    optimizer.step()
    return -p.detach()


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_row_and_each_column_moves_by_its_target(kind: Any, dtype: torch.dtype) -> None:
    grad = draw(6, 4).to(dtype) * torch.logspace(-3, 3, 24).view(6, 4)
    grad[2], grad[:, 1] = 0, 0
    kept = torch.tensor([0, 1, 3, 4, 5])
    rows = moved(kind, Weight("w", "Readout", (6, 4), "row", 1.0, 0.25), grad).norm(dim=1)
    torch.testing.assert_close(rows[kept], torch.full_like(rows[kept], 0.125 / 2))
    assert rows[2] == 0
    columns = moved(kind, Weight("w", "Linear", (6, 4), "column", 1.0, 0.25), grad).norm(dim=0)
    used = columns[[0, 2, 3]]
    torch.testing.assert_close(used, torch.full_like(used, 0.125 * math.sqrt(6)))
    assert columns[1] == 0


@every_kind
def test_the_whole_matrix_moves_by_its_target(kind: Any) -> None:
    grad = draw(6, 4)
    largest = moved(kind, Weight("w", "Linear", (6, 4), "sign", 1.0, 0.25), grad).abs()
    assert largest.max().item() == pytest.approx(0.125 / 4)
    if kind is DualizedSGD:
        torch.testing.assert_close(largest, torch.full_like(largest, 0.125 / 4))
    whole = moved(kind, Weight("w", "Linear", (6, 4), "frobenius", 1.0, 0.25), grad)
    assert whole.norm().item() == pytest.approx(0.125 * math.sqrt(6 / 4))


@every_kind
def test_each_head_moves_by_its_target(kind: Any) -> None:
    """Under a constant gradient, so that the power iteration converges; heads differ in scale."""
    w = Weight("w", "HeadedLinear", (3, 4, 6), "spectral", 1.0, 0.25)
    p = nn.Parameter(torch.zeros(w.shape, dtype=torch.float64))
    optimizer = kind([("w", p)], lr=0.5, plan=(w,))
    for _ in range(200):
        before = p.detach().clone()
        p.grad = draw(3, 4, 6) * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1)
        optimizer.step()
    sigma = torch.linalg.matrix_norm(p.detach() - before, 2) * math.sqrt(6 / 4)
    within = 0.093 if kind is DualizedSGD else 0.005
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.125), rtol=within, atol=0)
    if kind is not DualizedSGD:
        assert optimizer.slack()["w"] == pytest.approx(1, abs=1e-4)


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_of_every_norm(kind: Any, dtype: torch.dtype) -> None:
    for norm in EXACT:
        w = Weight("w", "Linear", (6, 4), norm, 1.0, 0.25)
        wide, narrow = moved(kind, w, draw(6, 4).float()), moved(kind, w, draw(6, 4).to(dtype))
        torch.testing.assert_close(narrow.float(), wide, rtol=0.01, atol=0.002)


def test_stacks_on_a_device_are_measured_as_single_weights_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On other devices equal shapes are moved together; so is what kernels do not take."""
    plan = [Weight(f"{n}{i}", "Linear", (6, 4), n, 1.0, 0.25) for n in EXACT for i in range(3)]
    plan += [Weight(f"h{i}", "HeadedLinear", (2, 3, 4), "spectral", 1.0, 0.5) for i in range(3)]
    found = []
    for stacks in (False, True):
        monkeypatch.setattr(NormedOptimizer, "_stacks", lambda self, device, s=stacks: s)
        named = [(w.name, nn.Parameter(draw(*w.shape, seed=i))) for i, w in enumerate(plan)]
        optimizer = KINDS[0](named, lr=0.1, plan=plan, weight_decay=0.1)
        for step in range(3):
            for i, (_, p) in enumerate(named):
                p.grad = draw(*p.shape, seed=100 * step + i)
            optimizer.step()
        found.append([p.detach() for _, p in named])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# -- the generated file ------------------------------------------------------------------------

PROGRAM = """
param d = 12
input x: int[batch, seq] < 10
def heads(out) = HeadedLinear(out, 3)
def attention = Linear(d, norm = "frobenius") @ MergeHeads @ Attention / 3 @ (q, k, v)
  where
    q = RoPE @ heads(24)
    k = RoPE @ heads(24) * 1/2
    v = 2 * heads(d)
def mlp = Linear(d, norm = "sign") @ GELU @ Linear(7, norm = "column") @ RMSDivide(eps = 1)
shared tied = Linear(d)
model M = (Readout(10), tied) @ tied @ (1/2 * mlp + 1/2 * attention) ** 2 @ Embed(10, d)
"""


def compiled(text: str = PROGRAM) -> Any:
    module = types.ModuleType("compiled")
    source = generate(analyse_text(text).program)
    exec(compile(source, "compiled.py", "exec"), module.__dict__)
    return module


def test_the_plan_names_the_norms() -> None:
    module = compiled()
    found = {(w.atom, w.norm, w.shape) for w in module.PLAN}
    assert found == {
        ("Embed", "row_rms", (10, 12)),
        ("HeadedLinear", "spectral", (3, 8, 12)),
        ("HeadedLinear", "spectral", (3, 4, 12)),
        ("Linear", "frobenius", (12, 12)),
        ("Linear", "column", (7, 12)),
        ("Linear", "sign", (12, 7)),
        ("Linear", "spectral", (12, 12)),
        ("Readout", "row", (10, 12)),
    }
    plan = module.PLAN
    assert set(plan.schemes) == {w.shape for w in plan if w.norm == "spectral"}
    assert {w.shape for w in plan} <= set(plan.tiles)


@pytest.mark.parametrize("kind", ["NormedAdam", "NormedSGD", "DualizedSGD"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_goes_on_from_a_checkpoint(kind: str, dtype: Any, tmp_path: Path) -> None:
    module = compiled()
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    batches = [torch.randint(10, (2, 5), generator=generator) for generator in generators]

    def train(model: Any, optimizer: Any, some: Any) -> None:
        for x in some:
            scores, values = model(x)
            loss = nn.functional.cross_entropy(scores.flatten(0, 1).float(), x.flatten())
            (loss + values.float().square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()

    def fresh(seed: int) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(seed)
        model = module.M(dtype=dtype, generator=generator)
        return model, getattr(module, kind)(model.named_parameters(), lr=0.1, weight_decay=0.01)

    model, optimizer = fresh(0)
    train(model, optimizer, batches[:2])
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c")
    train(model, optimizer, batches[2:])
    other, resumed = fresh(1)
    saved = torch.load(tmp_path / "c", weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, batches[2:])
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_checkpoint_of_another_norm_is_refused() -> None:
    text = 'input x: float[batch, 4]\nmodel M = Linear(5, norm = "{}")\n'
    one, other = compiled(text.format("row")), compiled(text.format("column"))
    optimizers = [m.NormedAdam(m.M().named_parameters(), lr=0.1) for m in (one, other)]
    with pytest.raises(ValueError, match="norm: row instead of column"):
        optimizers[1].load_state_dict(optimizers[0].state_dict())
