"""`modnorm.check`: what is measured of real models, and what it is held against."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from strategies import Sample, programs

import modnorm
from modnorm.codegen.plan import records
from modnorm.diagnostics import ModnormError
from modnorm.measure.check import check
from modnorm.measure.options import CheckOptions
from modnorm.measure.search import measure_changes
from modnorm.ops.edges import Measure
from modnorm.ops.elementwise import Tanh
from modnorm.pipeline import analyse_text
from modnorm.report.checked import ModuleFinding

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL: dict[str, Any] = {"d_embed": 16, "blocks": 3, "heads": 2, "context": 8, "vocab": 11}
SIZES = {"batch": 2, "seq": 5}

TWO = "input x: float[batch, 6]\nmodel Two = Linear(6) @ Linear(6)\n"
TANH = "input x: float[batch, 6]\nmodel Net = Linear(4) @ Tanh @ Linear(8)\n"


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """A function that writes a program and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "model.mod"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def module(found: modnorm.Check, path: str) -> ModuleFinding:
    return next(m for m in found.findings.modules if m.path == path)


@pytest.fixture(scope="module")
def gpt() -> modnorm.Check:
    return modnorm.check(EXAMPLES / "gpt.mod", sizes=SIZES, **SMALL)


# --- real models ----------------------------------------------------------------------------


def test_the_compiled_gpt_is_what_is_measured(gpt: modnorm.Check) -> None:
    assert gpt.findings.agreement < 1e-12
    assert gpt.violations == ()


def test_every_part_of_the_gpt_has_a_row(gpt: modnorm.Check) -> None:
    paths = {m.path for m in gpt.findings.modules}
    assert {"embed", "embed.token.embed", "block", "linear"} <= paths
    assert any(path.endswith("attention.attention") for path in paths)
    kinds = {m.kind for m in gpt.findings.modules}
    assert kinds == {"model", "where", "def", "atom", "bond", "repeat"}


def test_nothing_exceeds_its_certificate(gpt: modnorm.Check) -> None:
    for m in gpt.findings.modules:
        if m.measured is not None and m.certified is not None:
            assert m.measured <= m.certified * (1 + 1e-6), m
        assert (m.verdict == "not measured") == (m.measured is None)
        assert m.verdict in ("ok", "above declared", "not measured")


def test_the_search_comes_near_what_is_known(gpt: modnorm.Check) -> None:
    gelu = next(m for m in gpt.findings.modules if m.name == "GELU")
    assert gelu.measured is not None
    assert 0.97 * 1.1289 <= gelu.measured <= 1.12891
    assert gelu.verdict == "above declared"
    for m in gpt.findings.modules:
        if m.kind == "atom" and m.measured is not None:
            assert m.measured == pytest.approx(1, abs=1e-6)
        if m.name == "SplitHeads":
            assert m.measured == pytest.approx(math.sqrt(SMALL["heads"]))


def test_sizes_of_inputs(gpt: modnorm.Check) -> None:
    """Layer norm's output has RMS 1; the first linear layers of attention get just that."""
    linear = module(gpt, "linear")
    assert linear.input.low == pytest.approx(1, abs=1e-6)
    assert linear.input.high == pytest.approx(1, abs=1e-6)
    assert module(gpt, "embed").input.high is None, "its input is integers"


def test_weights_begin_on_their_balls_surface(gpt: modnorm.Check) -> None:
    assert len(gpt.findings.weights) == 3 + 6 * SMALL["blocks"]
    for weight in gpt.findings.weights:
        assert weight.norm == pytest.approx(1)
        assert weight.target > 0


def test_the_worst_copy_is_named_and_all_can_be_asked_for(file: Any) -> None:
    text = "input x: float[batch, 4]\ndef layer = Tanh @ Linear(4)\nmodel M = layer ** 5\n"
    few, every = (modnorm.check(file(text), every=every) for every in (False, True))
    copies = [next(m.copies for m in c.findings.modules if m.name == "layer") for c in (few, every)]
    assert copies == [3, 5]
    assert sum(w.change is None for w in few.findings.weights) == 2
    assert all(w.change is not None for w in every.findings.weights)
    layer = next(m for m in few.findings.modules if m.name == "layer")
    assert layer.path in ("layer.0", "layer.2", "layer.4")


def test_a_residual_mlp() -> None:
    found = modnorm.check(EXAMPLES / "resmlp.mod", size=6, width=16)
    assert found.violations == ()
    assert found.findings.agreement < 1e-12
    root = found.findings.modules[0]
    assert (root.kind, root.name) == ("model", "ResMLP")
    assert root.here is not None


def test_the_same_seed_gives_the_same_numbers(file: Any) -> None:
    path = file(TANH)
    assert modnorm.check(path).json == modnorm.check(path).json
    assert modnorm.check(path).json != modnorm.check(path, seed=1).json


# --- certificates that are tight -------------------------------------------------------------


def test_two_square_layers_reach_kappa(file: Any) -> None:
    found = modnorm.check(file(TWO), effort=2).findings
    assert found.kappa == pytest.approx(1)
    assert 0.999 <= found.measured_kappa <= 1 + 1e-9
    assert found.random_kappa < found.measured_kappa
    for weight in found.weights:
        assert weight.target == 0.5
        assert weight.bound == pytest.approx(0.5)
        assert 0.499 <= (weight.change or 0) <= 0.5 + 1e-9


def test_changes_by_updates_are_derivatives(file: Any) -> None:
    """A finite difference along a normed update is what is measured, to first order."""
    path = file(TANH)
    analysis = modnorm.report(path).analysis
    net = modnorm.load(path)
    model = net.Net(dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    x = torch.randn(3, 6, dtype=torch.float64)
    found = measure_changes(
        analysis.program.tree, list(records(analysis.program)), weights, x, [Measure((1,))],
        torch.Generator().manual_seed(5), 1, (), lambda what: None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    sizes = []
    for _ in range(2):
        step = 1e-7
        moved = {}
        for record in records(analysis.program):
            w = weights[record.name]
            drawn = torch.randn(w.shape, generator=generator, dtype=w.dtype)
            moved[record.name] = w + step * record.target * record.weight.op.dualize(drawn)
        change = (torch.func.functional_call(model, moved, (x,)) - model(x)).detach()
        sizes.append(float(change.square().mean(1).sqrt().amax()) / step)
    assert found.random == pytest.approx(max(sizes), rel=1e-5)


# --- trained weights ------------------------------------------------------------------------


def trained(path: Path, steps: int, lr: float) -> tuple[Any, torch.nn.Module]:
    net = modnorm.load(path)
    model = net.Net(generator=torch.Generator().manual_seed(0))
    optimizer = net.NormedAdam(model.named_parameters(), lr=lr)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 6, generator=generator), torch.randn(32, 4, generator=generator)
    for _ in range(steps):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net, model


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
def test_a_checkpoint(file: Any, tmp_path: Path, wrap: Any) -> None:
    path = file(TANH)
    _, model = trained(path, 20, 0.5)
    state = model.state_dict()
    torch.save(wrap({f"module._orig_mod.{k}": v for k, v in state.items()}), tmp_path / "a.pt")
    found = modnorm.check(path, checkpoint=tmp_path / "a.pt").findings
    norms = {w.weight: w.norm for w in found.weights}
    for record in modnorm.load(path).PLAN:
        out, in_ = record.shape
        expected = math.sqrt(in_ / out) * torch.linalg.matrix_norm(state[record.name], 2).item()
        assert norms[record.name] == pytest.approx(expected, rel=1e-5)
    assert list(norms.values()) == sorted(norms.values(), reverse=True)
    assert max(norms.values()) > 1.5


def middle(name: str, part: str) -> str:
    """With a wrapper's part before the last."""
    first, _, last = name.rpartition(".")
    return f"{first}.{part}.{last}"


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_module.{name}",
        lambda name: f"net.{name}",
        lambda name: f"module.net._orig_mod.{name}",
        lambda name: middle(name, "_checkpoint_wrapped_module"),
        lambda name: f"net.{middle(name, '_fsdp_wrapped_module')}",
    ],
)
def test_names_are_those_that_the_optimizers_know(file: Any, tmp_path: Path, rename: Any) -> None:
    path = file(TANH)
    net, model = trained(path, 3, 0.5)
    state = {rename(name): value for name, value in model.state_dict().items()}
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    net.NormedAdam([(name, torch.nn.Parameter(value)) for name, value in state.items()], lr=0.5)
    plain, found = (modnorm.check(path, checkpoint=tmp_path / f"{n}.pt").findings for n in "ab")
    assert found.weights == plain.weights


def test_a_weight_under_two_names_is_told(file: Any, tmp_path: Path) -> None:
    path = file(TANH)
    _, model = trained(path, 1, 0.5)
    state = model.state_dict()
    name = next(iter(state))
    torch.save({**state, f"module.{name}": state[name]}, tmp_path / "a.pt")
    with pytest.raises(modnorm.CheckError, match=f"it has `{name}` more than once"):
        modnorm.check(path, checkpoint=tmp_path / "a.pt")


def test_weights_outside_their_balls_violate_nothing(file: Any, tmp_path: Path) -> None:
    """A linear layer of norm 3 stretches by 3; the certificate speaks of norm 1."""
    path = file(TANH)
    _, model = trained(path, 20, 0.5)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    found = modnorm.check(path, checkpoint=tmp_path / "a.pt", effort=2).findings
    assert found.violations == ()
    assert "2 of 2 weights are outside their balls" in found.notes[0]
    for m in found.modules:
        if m.kind == "atom":
            weight = next(w for w in found.weights if w.weight == f"{m.path}.weight")
            assert m.measured == pytest.approx(weight.norm, rel=1e-3)
            assert m.verdict == "outside the ball"


def test_weights_that_will_hardly_move_are_told(file: Any) -> None:
    """A target is a share of the norm, of which a float32 has 24 binary places."""
    deep, flat = (
        modnorm.check(file(f"input x: float[batch, 8]\nmodel M = Linear(8) @ {body} ** 30\n"))
        for body in ("(2 * Linear(8))", "Linear(8)")
    )
    (told,) = (note for note in deep.findings.notes if "hardly move" in note)
    assert told.startswith("11 of 31 weights will hardly move: the target of `0.linear.weight`")
    assert not any("hardly move" in note for note in flat.findings.notes)


# --- broken certificates ----------------------------------------------------------------------


def test_a_bond_certified_too_low_is_found(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tanh, "certified", 0.9)
    path = file("input x: float[batch, 6]\nmodel Net = Linear(4) @ Tanh @ Linear(8)\n")
    found = modnorm.check(path, effort=2)
    tanh = next(m for m in found.findings.modules if m.name == "Tanh")
    assert tanh.verdict == "violated"
    assert found.violations[0].startswith("Tanh (tanh) at line 2 stretches an input by ")
    assert found.violations[0].endswith("more than its certified sensitivity 0.9")


def test_a_model_that_differs_from_its_references(
    file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tanh, "reference", lambda op, x, weight=None: x)
    with pytest.raises(modnorm.CheckError, match="`emit` and `reference` disagree"):
        modnorm.check(file(TANH))


# --- what cannot be measured ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input x: int[batch]\nmodel M = Embed(4, 2)\n", "integers of the input `x` have no bound"),
        (
            "input x: float[batch, 3]\nmodel M = RMSDivide(eps = 0) @ (Identity - Identity)\n",
            "gives NaN or infinity",
        ),
    ],
)
def test_what_cannot_be_run(file: Any, text: str, said: str) -> None:
    with pytest.raises(modnorm.CheckError, match=said):
        modnorm.check(file(text))


def test_a_model_without_weights(file: Any) -> None:
    found = modnorm.check(file("input x: float[batch, 3]\nmodel M = Tanh @ ReLU\n"))
    assert found.findings.weights == ()
    assert found.findings.measured_kappa == 0
    relu = next(m for m in found.findings.modules if m.name == "ReLU")
    assert relu.measured == pytest.approx(1)
    assert "weight " not in str(found), "there is no table of weights"


def test_several_inputs(file: Any) -> None:
    text = (
        "input ids: int[batch, seq] < 5\ninput x: float[batch, seq, 4]\n"
        "model M = Add @ (Embed(5, 4) @ Select(0), Linear(4) @ Select(1))\n"
    )
    found = modnorm.check(file(text)).findings
    assert found.agreement < 1e-12
    assert found.violations == ()
    linear = next(m for m in found.modules if m.path == "linear")
    assert linear.measured == pytest.approx(1)


def test_shared_weights_in_repetitions(file: Any) -> None:
    text = (
        "input ids: int[batch, seq] < 5\nshared table = Embed(5, 4)\n"
        "shared cell = Tanh @ Linear(4)\n"
        "model M = Unembed(table) @ (1/2 * Identity + 1/2 * cell) ** 3 @ table\n"
    )
    found = modnorm.check(file(text)).findings
    assert found.agreement < 1e-12
    assert found.violations == ()
    assert sorted(w.weight for w in found.weights) == ["cell.linear.weight", "table.embed.weight"]


@pytest.mark.parametrize(
    "options",
    [{"effort": 4}, {"seed": -1}, {"format": "xml"}, {"vary": {"d": (1,)}}, {"lr": 0.0}],
)
def test_options_with_wrong_values(file: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)).replace("vary", "d needs two")):
        modnorm.check(file(TWO), **options)


def test_a_check_shows_itself(gpt: modnorm.Check) -> None:
    text = str(gpt)
    assert max(map(len, text.splitlines())) <= 80
    assert "GELU" in text
    assert "+ above declared" in text
    assert repr(gpt) == text
    assert gpt.json["model"] == "GPT"
    with pytest.raises(modnorm.CheckError, match="nothing to plot"):
        gpt.plot()


# --- random programs ---------------------------------------------------------------------------


@settings(max_examples=settings().max_examples // 2)
@given(programs())
def test_nothing_found_contradicts_a_certificate(sample: Sample) -> None:
    """Whatever compiles is what its references compute, and stays within what is proved."""
    try:
        analysis = analyse_text(str(sample.text))
    except ModnormError:
        return
    try:
        found = check(analysis, lambda _: analysis, CheckOptions())
    except modnorm.CheckError as error:
        if "NaN or infinity" not in str(error):
            raise
        return
    assert found.violations == (), str(sample.text)
