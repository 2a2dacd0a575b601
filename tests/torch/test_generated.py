"""The files that the examples compile to: what torch's own tools make of them, how they read."""

from __future__ import annotations

import ast
import copy
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import modnorm
from modnorm.codegen import sections
from modnorm.codegen.assemble import BASE
from tests.tools import RUFF

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SMALL: dict[str, dict[str, int]] = {
    "gpt": {"vocab": 17, "context": 12, "d_embed": 16, "heads": 4, "blocks": 2},
    "resmlp": {"width": 12, "blocks": 2, "size": 4},
    "rescnn": {"width": 6, "blocks": 2, "size": 6},
}


def load(name: str, **params: int) -> ModuleType:
    return modnorm.load(EXAMPLES / f"{name}.mod", **{**SMALL[name], **params})


def source(name: str, **params: Any) -> str:
    return modnorm.compile(EXAMPLES / f"{name}.mod", **params)


def build(module: ModuleType, seed: int = 0, **options: Any) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = getattr(module, module.MODEL)(generator=generator, **options)
    assert isinstance(model, nn.Module)
    return model


def inputs(module: ModuleType, batch: int = 3, seq: int = 5, dtype: Any = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    (declared,) = module.INPUTS
    shape = [{"batch": batch, "seq": seq}.get(size, size) for size in declared.shape]
    if declared.dtype == "int":
        return torch.randint(declared.bound, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.fixture(params=SMALL)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


# -- torch's tools -----------------------------------------------------------------------------


def results(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output, and the gradients of its mean square."""
    output = model(x)
    named = dict(getattr(model, "_orig_mod", model).named_parameters())
    grads = torch.autograd.grad(output.square().mean(), list(named.values()))
    return output.detach(), dict(zip(named, grads, strict=True))


BACKENDS = ["aot_eager"]
if os.environ.get("MODNORM_LONG"):
    BACKENDS += ["eager", "inductor"] if shutil.which("g++") else ["eager"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_a_graph_break(module: ModuleType, backend: str) -> None:
    model = build(module)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for size in (3, 4):
        x = inputs(module, batch=size, seq=size + 2)
        expected, found = results(model, x), results(compiled, x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_exports_with_free_sizes(module: ModuleType) -> None:
    model = build(module)
    (declared,) = module.INPUTS
    free = {i: torch.export.Dim.DYNAMIC for i, s in enumerate(declared.shape) if isinstance(s, str)}
    exported = torch.export.export(model, (inputs(module),), dynamic_shapes=(free,)).module()
    for batch, seq in ((3, 5), (1, 4), (7, 2), (2, 9)):
        x = inputs(module, batch=batch, seq=seq)
        torch.testing.assert_close(exported(x), model(x))
    torch._dynamo.reset()


# -- copies, types, devices --------------------------------------------------------------------


def test_deepcopy_is_independent(module: ModuleType) -> None:
    model, x = build(module), inputs(module)
    expected = model(x)
    other = copy.deepcopy(model)
    torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_weights_travel_by_pickle_and_by_torch_save(module: ModuleType) -> None:
    model, other, x = build(module), build(module, seed=1), inputs(module)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(pickle.loads(pickle.dumps(model.state_dict())))
    assert torch.equal(model(x), other(x))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    third = build(module, seed=2)
    third.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(model(x), third(x))
    whole = pickle.loads(pickle.dumps(model))
    assert torch.equal(model(x), whole(x))


def test_on_the_meta_device(module: ModuleType) -> None:
    """Sizes without memory; weights are filled in afterwards."""
    model = getattr(module, module.MODEL)(device="meta")
    assert all(p.is_meta for p in model.parameters())
    assert model(inputs(module).to("meta")).is_meta
    model.to_empty(device="cpu")
    ready = build(module)
    model.load_state_dict(ready.state_dict())
    x = inputs(module)
    assert torch.equal(model(x), ready(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_other_types(module: ModuleType, dtype: torch.dtype) -> None:
    model, plain = build(module, dtype=dtype), build(module)
    assert {p.dtype for p in model.parameters()} == {dtype}
    # drawn in float32 where dtype is narrower: roundings of the same weights
    rounding = 2 * torch.finfo(dtype).eps
    if dtype != torch.float64:
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a.float(), b, rtol=rounding, atol=1e-6)
    x = inputs(module, dtype=dtype)
    output = model(x)
    assert output.dtype == dtype
    assert output.isfinite().all()
    if dtype != torch.float64:
        expected = plain(x.float() if x.is_floating_point() else x)
        room = 50 * rounding * float(expected.detach().square().mean().sqrt())
        torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=room)
    for parameter, record in zip(model.parameters(), module.PLAN, strict=True):
        values = parameter.detach().double()
        if record.norm == "spectral":
            norm = torch.linalg.matrix_norm(values, 2) * (record.shape[1] / record.shape[0]) ** 0.5
            assert float(norm) == pytest.approx(1, abs=max(1e-5, 4 * rounding))


def test_the_default_type_is_torchs(module: ModuleType) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert {p.dtype for p in build(module).parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_generator_makes_weights_repeatable(module: ModuleType) -> None:
    first, again, other = build(module, seed=3), build(module, seed=3), build(module, seed=4)
    state = torch.get_rng_state()
    build(module, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        assert not torch.equal(weight, other.state_dict()[name])
    torch.manual_seed(7)
    one = getattr(module, module.MODEL)()
    torch.manual_seed(7)
    two = getattr(module, module.MODEL)()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_under_autocast(module: ModuleType) -> None:
    model, x = build(module), inputs(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x)
    room = 0.05 * float(model(x).detach().abs().max())
    torch.testing.assert_close(output.float(), model(x), rtol=0.1, atol=room)


# -- the file ----------------------------------------------------------------------------------

ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "modnorm":
            raise ImportError("modnorm is not to be imported")

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import gpt
import torch
model = gpt.GPT(generator=torch.Generator().manual_seed(0))
tokens = torch.randint(17, (2, 6), generator=torch.Generator().manual_seed(1))
for kind in (gpt.NormedAdam, gpt.NormedSGD, gpt.DualizedSGD):
    optimizer = kind(model.named_parameters(), lr=0.1)
    loss = model(tokens).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
assert "modnorm" not in sys.modules
print(loss.item())
"""


def test_the_file_stands_alone(tmp_path: Path) -> None:
    text = source("gpt", standalone=True, **SMALL["gpt"])
    (tmp_path / "gpt.py").write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) > 0
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse((tmp_path / "gpt.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= {"torch", *sys.stdlib_module_names}


def test_repeated_blocks_are_module_lists() -> None:
    for name in SMALL:
        module = load(name, blocks=3)
        model = build(module)
        blocks = model.get_submodule("block")
        assert isinstance(blocks, nn.ModuleList)
        assert len(blocks) == 3
        assert len({type(block) for block in blocks}) == 1
    module = load("resmlp", blocks=3, block_depth=2)
    inner = module.PLAN[1].name.removesuffix(".0.linear.weight")
    layers = build(module).get_submodule(inner)
    assert isinstance(layers, nn.ModuleList)
    assert len(layers) == 2


@pytest.mark.parametrize("name", SMALL)
def test_length_does_not_grow_with_the_number_of_blocks(name: str) -> None:
    few, many = (source(name, blocks=blocks).splitlines() for blocks in (4, 1000))
    assert len(few) == len(many)
    assert few[0] != many[0], "the mark, which has a checksum of the rest"
    assert sum(a != b for a, b in zip(few[1:], many[1:], strict=True)) < 22


def test_a_thousand_blocks_run() -> None:
    module = load("resmlp", blocks=1000)
    model = build(module)
    assert len(module.PLAN) == 2 + 2 * 1000
    assert [n for n, _ in model.named_parameters()] == [record.name for record in module.PLAN]
    assert model(inputs(module)).isfinite().all()


def test_gpt_is_short() -> None:
    """Its plan and model are to be read; optimizers and kernels are as long for every model."""
    lines = source("gpt", standalone=True).splitlines()
    titles = [i for i, line in enumerate(lines) if re.match(r"# -+ \w+ -+$", line)]
    parts = ["Plan", "Model", "Optimizers", "Monitor", "Kernels"]
    assert [lines[i].strip("# -") for i in titles] == parts
    base = "".join(sections.source(name) for name in BASE).count("\n")
    assert titles[2] - base < 330
    without = source("gpt", standalone=True, device="cpu")
    assert "triton" not in without
    assert without.splitlines()[-20:] == lines[titles[4] - 22 : titles[4] - 2]


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
def test_files_are_tidy(tmp_path: Path) -> None:
    for name in SMALL:
        (tmp_path / f"{name}.py").write_text(source(name), encoding="utf-8")
        alone = source(name, standalone=True)
        (tmp_path / f"{name}_alone.py").write_text(alone, encoding="utf-8")
    command = [str(RUFF), "check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
    command += ["--config", "lint.isort.known-first-party = []"]  # there modnorm is another's
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_files_import_and_compile_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in SMALL:
            compile(source(name), f"{name}.py", "exec")


def test_the_same_file_every_time() -> None:
    for name in SMALL:
        assert source(name) == source(name)
    command = "import modnorm, sys; sys.stdout.write(modnorm.compile(sys.argv[1]))"
    for seed in ("1", "2"):  # nothing depends on the order of sets
        ran = subprocess.run(
            [sys.executable, "-c", command, str(EXAMPLES / "gpt.mod")],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
        )
        assert ran.stdout.decode("utf-8") == source("gpt")


@pytest.mark.parametrize("kind", ["NormedAdam", "NormedSGD", "DualizedSGD"])
def test_a_model_whose_type_changes_needs_a_new_optimizer(kind: str) -> None:
    module = load("gpt")
    model, x = build(module), inputs(module)

    def step(optimizer: Any) -> None:
        model(x).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    optimizer = getattr(module, kind)(model.named_parameters(), lr=0.1)
    step(optimizer)
    model.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"from torch\.float32 to torch\.bfloat16.* in all\)"):
        step(optimizer)
    step(getattr(module, kind)(model.named_parameters(), lr=0.1))


LAYERS = """
input x: float[batch, 4, 8, 8]
def images = ConvTranspose2D(4, kernel = 2, stride = 2, padding = 0) @ Conv2D(4, groups = 2,
  kernel = (3, 5), padding = (1, 2)) @ Conv2D(4, kernel = 2, padding = "same")
  @ Conv2D(4, stride = 2)
model M = Linear(3) @ Flatten @ images
"""


def test_layers_are_those_of_torch_where_these_compute_the_same() -> None:
    """So that what looks for them finds them; and torch's initial values are not drawn."""
    module = modnorm.load(LAYERS)
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    model = module.M(generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(torch.rand(3), wanted)
    found: list[str] = []

    def compare(layer: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        base = type(layer).__mro__[1]
        if base is not nn.Module:
            found.append(base.__name__)
            assert torch.equal(base.forward(layer, *args), out)

    for layer in [m for m in model.modules() if hasattr(m, "weight")]:
        layer.register_forward_hook(compare)
    model(torch.randn(2, 4, 8, 8, dtype=torch.float64))
    assert sorted(found) == ["Conv2d", "Conv2d", "ConvTranspose2d", "Linear"]  # not the uneven one
    (table,) = modnorm.load("input i: int[batch]\nmodel T = Embed(5, 3)").T().children()
    assert isinstance(table, nn.Embedding)
    assert (table.num_embeddings, table.embedding_dim) == (5, 3)
