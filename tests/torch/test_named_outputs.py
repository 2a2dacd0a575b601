"""Members of tuples by their names: what a model returns, against PyTorch, and what reads them."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from test_named_inputs import drawn, loaded
from torch import Tensor
from torch.utils import _pytree as pytree

from modnorm.codegen.assemble import generate
from modnorm.pipeline import analyse_text

VAE = """
input x: float[batch, 784]
input eps: float[batch, 20]
def encoder = (mean = Linear(20), logvar = Linear(20)) @ ReLU @ Linear(400)
def decoder = Sigmoid @ Linear(784) @ ReLU @ Linear(400)
def draw = Select("mean") + Exp @ (1/2 * Select("logvar")) * eps
model VAE = (reconstruction = decoder @ draw, mean = Select("mean"), logvar = Select("logvar"))
  @ encoder @ x
"""
NESTED = """
input x: float[batch, 8]
def block = (h = Linear(8) @ Select("h"), rest = (a = Select("h"), b = old))
  where old = Select("rest") >> Select("b")
model N = (block ** 3 @ (h = x, rest = (a = x, b = Linear(8))), (p = x, q = 1/2 * x), x)
"""


def vae(w: dict[str, Tensor], x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As in Kingma & Welling 2014 (arXiv 1312.6114), without biases."""
    h = F.relu(F.linear(x, w["encoder.linear.weight"]))
    mean, logvar = (F.linear(h, w[f"encoder.linear_{i}.weight"]) for i in (1, 2))
    z = mean + torch.exp(logvar / 2) * eps
    y = F.linear(F.relu(F.linear(z, w["decoder.linear.weight"])), w["decoder.linear_1.weight"])
    return torch.sigmoid(y), mean, logvar


def test_a_vae_is_that_of_plain_torch(tmp_path: Path) -> None:
    model = loaded(VAE, tmp_path)
    x, eps = drawn(3, 784), drawn(3, 20, seed=1)
    found = model(x, eps)
    assert found._fields == ("reconstruction", "mean", "logvar")
    wanted = vae(dict(model.named_parameters()), x, eps)
    torch.testing.assert_close(tuple(found), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.logvar, wanted[2], rtol=1e-12, atol=1e-12)
    assert model.forward.__annotations__["return"] == type(found).__name__ == "VAEOutput"


def test_what_runs_models_takes_named_outputs(tmp_path: Path) -> None:
    model = loaded(VAE, tmp_path)
    inputs = (drawn(3, 784), drawn(3, 20, seed=1))
    wanted = model(*inputs)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(*inputs)
    exported = torch.export.export(model, inputs).module()(*inputs)
    for found in (compiled, exported):
        assert found._fields == wanted._fields
        torch.testing.assert_close(tuple(found), tuple(wanted))
    leaves, spec = pytree.tree_flatten(wanted)  # what DataParallel and FSDP take outputs apart by
    assert len(leaves) == 3
    assert pytree.tree_unflatten(leaves, spec) == wanted
    assert copy.copy(wanted) == wanted


@pytest.mark.parametrize("standalone", [False, True])
def test_the_class_of_an_output_is_public(
    standalone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "generated_vae.py"
    path.write_text(generate(analyse_text(VAE, "v.mod").program, "cpu", standalone=standalone))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    found = module.VAE()(torch.ones(2, 784), torch.zeros(2, 20))
    assert isinstance(found, module.VAEOutput)
    assert get_type_hints(module.VAEOutput) == dict.fromkeys(found._fields, Tensor)
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.mean, found.mean)
    assert standalone or {"VAE", "VAEOutput"} < set(module.__all__)


def test_tuples_in_tuples_keep_their_names(tmp_path: Path) -> None:
    model = loaded(NESTED, tmp_path)
    x = drawn(2, 8)
    first, second, third = model(x)
    w = dict(model.named_parameters())
    h = x
    for i in range(3):
        before, h = h, F.linear(h, w[f"block.{i}.linear.weight"])
    close: Any = torch.testing.assert_close
    close(first.h, h)
    close(first.rest.a, before)
    close(first.rest.b, F.linear(x, w["linear.weight"]))
    close((second.p, second.q, third), (x, x / 2, x))


def test_names_change_nothing_but_what_is_returned() -> None:
    """Members by their places, instead: the same targets, and the same proof."""
    bare = VAE
    for name, place in (('"mean"', "0"), ('"logvar"', "1")):
        bare = bare.replace(name, place)
    for name in ("mean = ", "logvar = ", "reconstruction = "):
        bare = bare.replace(name, "")
    one, two = (analyse_text(text, "v.mod").program for text in (VAE, bare))
    assert [w.target for w in one.weights] == [w.target for w in two.weights]
    assert one.certificate is not None
    assert two.certificate is not None
    assert one.certificate.kappa == two.certificate.kappa
