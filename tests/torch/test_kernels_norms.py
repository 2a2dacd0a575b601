"""The norms by themselves, on stacks of weights, against float64 linear algebra."""

from __future__ import annotations

import ast
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import guide
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modnorm import kernels
from modnorm.codegen import sections
from modnorm.kernels.adam import NormedAdam
from modnorm.kernels.max_abs import MaxAbs
from modnorm.kernels.plan import FORMAT, NORMS, Norm, plan_hash
from modnorm.kernels.polar import ACCURATE, polar
from modnorm.kernels.rms import RMS
from modnorm.kernels.row_rms import RowRMS
from modnorm.kernels.schemes import BANDS, Scheme
from modnorm.kernels.sgd import DualizedSGD
from modnorm.kernels.spectral import Spectral
from modnorm.kernels.spectral_groups import SpectralGroups
from modnorm.kernels.spectral_taps import SpectralTaps
from modnorm.kernels.weight import Weight

ROW_SUM: type[Norm] = guide.module("kernels/row_sum.py", "modnorm.kernels").RowSum
NORMS.pop("row_sum")  # of this file alone
SHAPES: dict[type[Norm], tuple[int, ...]] = {
    Spectral: (7, 5),
    SpectralTaps: (4, 6, 3, 3),
    SpectralGroups: (4, 6, 2, 5),
    RowRMS: (9, 4),
    RMS: (11,),
    MaxAbs: (11,),
    ROW_SUM: (6, 4),
}


def orthogonalize(g: Tensor) -> Tensor:
    """By the accurate scheme."""
    return polar(g.clone(), Scheme("plain", ACCURATE))


def exact_norm(norm: type[Norm], w: Tensor) -> float:
    """The norm of one weight, from its definition."""
    w = w.double()
    if norm is Spectral:
        return float(math.sqrt(w.shape[1] / w.shape[0]) * torch.linalg.matrix_norm(w, 2))
    if norm in (SpectralTaps, SpectralGroups):
        out, width, high, wide = w.shape
        taps = w.permute(2, 3, 0, 1)
        largest = torch.linalg.matrix_norm(taps, 2).max()
        high = high if norm is SpectralTaps else 1
        return float(high * wide * math.sqrt(width / out) * largest)
    if norm is RowRMS:
        return float(w.square().mean(1).sqrt().max())
    if norm is RMS:
        return float(w.square().mean().sqrt())
    if norm is ROW_SUM:
        return float(w.abs().sum(1).max())
    return float(w.abs().max())


def settled(norm: type[Norm], u: Tensor, calls: int = 300) -> Tensor:
    """The factors after the power iteration has converged."""
    x = torch.randn(len(u), *u.shape[2:], dtype=u.dtype) if norm.vector else None
    for _ in range(calls if norm.vector else 1):
        factor, x = norm.measure(u, x)
    return factor


@pytest.mark.parametrize("norm", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_give_norm_one(norm: type[Norm], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    u = torch.randn(3, *SHAPES[norm], dtype=dtype) * torch.tensor([1e-3, 1, 1e3])[
        (...,) + (None,) * len(SHAPES[norm])
    ].to(dtype)
    for w in (u * settled(norm, u)).unbind():
        assert exact_norm(norm, w) == pytest.approx(1, rel=1e-5)


def test_every_tap_is_scaled_by_itself() -> None:
    torch.manual_seed(0)
    u = torch.randn(2, 5, 4, 3, 3, dtype=torch.float64)
    u[:, :, :, 0, 1] *= 100
    u[:, :, :, 2, 2] = 0
    scaled = (u * settled(SpectralTaps, u)).permute(0, 3, 4, 1, 2)
    sigma = torch.linalg.matrix_norm(scaled, 2) * 9 * math.sqrt(4 / 5)
    expected = torch.ones(2, 3, 3, dtype=torch.float64)
    expected[:, 2, 2] = 0
    torch.testing.assert_close(sigma, expected, rtol=1e-6, atol=0)


def test_every_row_is_scaled_by_itself_and_zero_rows_stay() -> None:
    u = torch.randn(1, 4, 3) * torch.tensor([1e-10, 1.0, 0.0, 1e10])[:, None]
    factor, _ = RowRMS.measure(u, None)
    rms = (u * factor).square().mean(2).sqrt()
    torch.testing.assert_close(rms, torch.tensor([[1.0, 1.0, 0.0, 1.0]]))


@pytest.mark.parametrize("norm", SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1e-42])
def test_nothing_to_measure(norm: type[Norm], scale: float) -> None:
    """Zero and denormal updates get factor 0 and leave the vector as it is."""
    torch.manual_seed(0)
    u = torch.randn(2, *SHAPES[norm])
    u[0] *= scale
    x = torch.randn(2, *SHAPES[norm][1:]) if norm.vector else None
    factor, new = norm.measure(u, x)
    assert (factor[0] == 0).all()
    assert (factor[1] > 0).all()
    assert (u * factor).isfinite().all()
    if x is not None and new is not None:
        assert torch.equal(new[0], x[0])
        assert new.isfinite().all()
        assert not torch.equal(new[1], x[1])


@pytest.mark.parametrize("norm", SHAPES)
def test_dual_map_is_the_steepest_direction(norm: type[Norm]) -> None:
    """<g, t> reaches the dual norm, t has norm 1, and no other t of norm 1 does better."""
    torch.manual_seed(0)
    g = torch.randn(2, *SHAPES[norm], dtype=torch.float64)
    dual = norm.dualize(g.clone())
    for one, t in zip(g.unbind(), dual.unbind(), strict=True):
        low, high = BANDS[ACCURATE] if norm.vector else (1 - 1e-9, 1 + 1e-9)
        assert low <= exact_norm(norm, t) <= high
        best = float((one * t).sum())
        for _ in range(50):
            other = torch.randn_like(one) + 3 * t
            other /= exact_norm(norm, other)
            assert float((one * other).sum()) <= best / low


@given(st.integers(1, 12), st.integers(1, 12), st.integers(-18, 18), st.integers(0, 2**32 - 1))
def test_orthogonalize_against_the_svd(n: int, m: int, exponent: int, seed: int) -> None:
    n, m = min(n, m), max(n, m)
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(m, n, generator=generator, dtype=torch.float64))
    s = torch.logspace(0, -3, n, dtype=torch.float64)
    g = (u * s) @ v.mT * 10.0**exponent
    result = orthogonalize(g.float().unsqueeze(0))[0].double()
    inside = u.mT @ result @ v
    diagonal = torch.diagonal(inside)
    low, high = BANDS[ACCURATE]
    assert (diagonal > low).all()
    assert (diagonal < high + 3e-4).all()
    assert (inside - torch.diag(diagonal)).abs().max() < 2e-3


def test_orthogonalize_starts_from_a_tight_bound() -> None:
    """σ_min/σ_max = 0.001 among 64 is in reach, although σ_min/‖G‖_F is a mere 0.00013."""
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(80, 64, dtype=torch.float64))
    s = torch.cat([torch.ones(63), torch.tensor([0.001])]).double()
    result = orthogonalize(((u * s) @ v.mT).unsqueeze(0))[0]
    assert float(torch.diagonal(u.mT @ result @ v).min()) > BANDS[ACCURATE][0]


def test_orthogonalize_zero_beside_others() -> None:
    torch.manual_seed(0)
    g = torch.randn(3, 4, 6)
    g[1] = 0
    result = orthogonalize(g)
    assert torch.equal(result[1], torch.zeros(4, 6))
    assert result.isfinite().all()
    torch.testing.assert_close(result[[0, 2]], orthogonalize(g[[0, 2]]))


def test_plan_hash_depends_on_every_field() -> None:
    weight = Weight("a", "Linear", (2, 3), "spectral", 1.0, 0.5)
    others = [
        weight._replace(name="b"),
        weight._replace(atom="Embed"),
        weight._replace(shape=(3, 2)),
        weight._replace(norm="row_rms"),
        weight._replace(mass=2.0),
        weight._replace(target=0.5000000000000001),
    ]
    hashes = {plan_hash([w]) for w in [weight, *others]}
    assert len(hashes) == 7
    assert all(len(h) == 64 for h in hashes)
    assert plan_hash([weight, others[0]]) != plan_hash([others[0], weight])
    # Equal plans have equal hashes, whatever types of number or sequence they were made of.
    assert plan_hash([Weight("a", "Linear", [2, 3], "spectral", 1, 0.5)]) == plan_hash([weight])  # type: ignore[arg-type]


def test_another_form_of_a_norm_does_not_take_its_place() -> None:
    class Loud(Spectral):
        pass

    assert issubclass(Loud, Spectral)
    assert NORMS["spectral"] is Spectral


def test_the_package_is_read_without_torch() -> None:
    program = (
        "import sys, modnorm.codegen.sections as k\n"
        "for s in k.SECTIONS: k.source(s.name), k.imports(s.name), k.defines(s.name)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_regions() -> None:
    for name in (*(section.name for section in sections.SECTIONS), *sections.ON_GPU):
        text = sections.source(name)
        assert not re.search(r"^(import|from) ", text, re.MULTILINE)
        assert not re.search(r"(import|from) modnorm", text)
        # What is read line by line is what Python would find.
        tree = ast.parse(text)
        assert set(sections.defines(name)) == set(sections.bindings(tree))
        module = ast.parse(Path(kernels.__path__[0], f"{name}.py").read_text("utf-8"))
        outer = [n for n in module.body if isinstance(n, ast.Import)]
        lines = [f"import {alias.name}" for n in outer for alias in n.names]
        for node in module.body:
            if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
                lines += [f"from {node.module} import {alias.name}" for alias in node.names]
        assert sorted(sections.imports(name)) == sorted(lines)
    assert {s.norm for s in sections.SECTIONS if s.norm} == set(NORMS)
    assert sections.file_format() == FORMAT
    with pytest.raises(ValueError, match="nonsense"):
        sections.source("nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        sections.needed(["spectral", "nonsense"])


@pytest.mark.parametrize(
    "norms", [["spectral", "row_rms"], ["spectral_taps"], ["rms", "max"], ["spectral", "max"]]
)
def test_the_regions_make_a_module(norms: list[str]) -> None:
    """Pasted together as the compiler does it, with only the sections that the norms need."""
    names = [section.name for section in sections.needed(norms)]
    lines = {line for name in names for line in sections.imports(name)}
    shapes = {"spectral": (4, 3), "spectral_taps": (2, 3, 3, 3), "row_rms": (5, 2)}
    plan = [Weight(n, "Atom", shapes.get(n, (6,)), n, 1.0, 0.25) for n in norms]
    text = "\n".join(
        [
            "from __future__ import annotations",
            *sorted(lines),
            *(sections.source(name) for name in names),
            f"PLAN = Plan(({', '.join(map(repr, plan))},))",
            "NormedOptimizer.default_plan = PLAN",
        ]
    )
    assert "modnorm." not in "\n".join(lines)
    generated: dict[str, Any] = {"__name__": "generated"}
    exec(compile(text, "generated.py", "exec"), generated)
    named = [(w.name, torch.nn.Parameter(torch.ones(w.shape))) for w in generated["PLAN"]]
    for kind in ("NormedAdam", "NormedSGD", "DualizedSGD"):
        optimizer = generated[kind](named, lr=0.1)
        for _, p in named:
            p.grad = torch.randn(p.shape)
        optimizer.step()
    assert all((p != 1).any() and p.isfinite().all() for _, p in named)


@pytest.mark.parametrize("kind", [NormedAdam, DualizedSGD])
def test_the_norm_of_the_guide_in_an_optimizer(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMS, "row_sum", ROW_SUM)
    p = torch.nn.Parameter(torch.randn(6, 4))
    optimizer = kind([("w", p)], lr=0.5, plan=[Weight("w", "Linear", (6, 4), "row_sum", 1.0, 0.2)])
    for _ in range(3):
        before, p.grad = p.detach().clone(), torch.randn(6, 4)
        optimizer.step()
        sums = (p.detach() - before).abs().sum(1)
        torch.testing.assert_close(sums, torch.full((6,), 0.1))
