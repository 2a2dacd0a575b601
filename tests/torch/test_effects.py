"""Operations that compute otherwise in training: random numbers, buffers, generated models."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import guide
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_search import ascend_all
from torch import nn

import modnorm
from modnorm.codegen.assemble import REWRITES
from modnorm.codegen.imports import import_source
from modnorm.diagnostics import Diagnostics, ModnormError
from modnorm.graph.dataflow import Apply, Builder, Pack
from modnorm.measure.problems import CheckError
from modnorm.ops.base import Op
from modnorm.ops.edges import Bound, Edge, Measure
from modnorm.ops.effects import BatchMeanSubtract, Dropout
from modnorm.ops.families import LinearBond
from modnorm.ops.joins import Add
from modnorm.ops.scalars import Mul
from modnorm.ops.types import Tensor, TupleType, Type
from modnorm.passes.program import run_passes
from modnorm.pipeline import analyse_text
from tests.tools import with_operation

VECTOR = "input x: float[batch, 6]\n"
BLOCKS = """
input x: float[batch, 6]
def block = 1/2 * Identity + 1/2 * (Dropout(1/4) @ Linear(6) @ BatchMeanSubtract @ Linear(12))
shared centre = BatchMeanSubtract(momentum = 1/2)
model Net = Linear(3) @ centre @ block ** 3 @ centre
"""


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """A function that compiles a program, and gives the module."""

    def made(text: str, **options: Any) -> Any:
        path = tmp_path / "net.mod"
        path.write_text(text)
        return modnorm.load(path, **options)

    return made


def model(module: Any, **options: Any) -> Any:
    made = getattr(module, module.MODEL)(generator=torch.Generator().manual_seed(0), **options)
    return made


def draw(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- Dropout --------------------------------------------------------------------------------


@pytest.mark.parametrize("p", ["1/10", "0.5", "3/4"])
def test_dropout_is_torchs(load: Any, p: str) -> None:
    net = model(load(f"{VECTOR}model Net = Dropout({p})"))
    x = draw(50, 6)
    torch.manual_seed(1)
    found = net(x)
    torch.manual_seed(1)
    a, _, b = p.partition("/")
    assert torch.equal(found, nn.Dropout(float(a) / float(b or 1))(x))
    assert net.eval()(x) is x
    assert "Dropout(p=" in repr(net)


def test_dropout_of_nothing_is_the_identity(load: Any) -> None:
    net = model(load(f"{VECTOR}model Net = Dropout(0)"))
    x = draw(4, 6)
    assert torch.equal(net(x), x)
    assert not list(net.children())


@pytest.mark.parametrize(
    "text", ["model Net = Dropout - Dropout", "shared d = Dropout\nmodel Net = d - d"]
)
def test_equal_dropouts_draw_each_their_own(load: Any, text: str) -> None:
    net = model(load(VECTOR + text))
    x = draw(30, 6)
    difference = net(x)
    assert 0.3 < (difference != 0).float().mean() < 0.7
    assert not net.eval()(x).any()


def test_members_of_a_tuple_are_dropped_one_by_one(load: Any) -> None:
    net = model(load(f"{VECTOR}model Net = Dropout(1/2) @ (Identity, 2 * Identity)"))
    x = draw(40, 6)
    a, b = net(x)
    assert ((a == 0) != (b == 0)).any()
    assert torch.equal(b[b != 0], 4 * x[b != 0])
    assert list(map(len, net.eval()(x))) == [40, 40]


def test_every_copy_is_a_module_of_its_own(load: Any) -> None:
    net = model(load(BLOCKS))
    found = [name for name, m in net.named_modules() if isinstance(m, nn.Dropout)]
    assert found == [f"block.{i}.dropout" for i in range(3)]
    assert [n for n, _ in net.named_buffers()] == [
        "centre.batch_mean_subtract.running_mean",
        *(f"block.{i}.batch_mean_subtract.running_mean" for i in range(3)),
    ]
    net.block[1].eval()
    assert [net.block[i].dropout.training for i in range(3)] == [True, False, True]


# --- BatchMeanSubtract ----------------------------------------------------------------------

INPUTS = {
    "float[batch, 6]": (8, 6),
    "float[batch, seq, 6]": (3, 5, 6),
    "float[batch, 6, 4, 5]": (2, 6, 4, 5),
}


def normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """What torch's BatchNorm makes of a value with its channels as here."""
    return norm(x.mT).mT if x.ndim == 3 else norm(x)


@pytest.mark.parametrize("declared", INPUTS)
@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_the_running_mean_is_that_of_batch_norm(load: Any, declared: str, momentum: float) -> None:
    text = f"input x: {declared}\nmodel Net = BatchMeanSubtract(momentum = {momentum})"
    net, shape = model(load(text), dtype=torch.float64), INPUTS[declared]
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    norm = kind(6, affine=False, momentum=momentum, eps=1e-14, dtype=torch.float64)
    channel = 1 if len(shape) == 4 else -1
    for step in range(4):
        x = (draw(*shape, seed=step) + step).requires_grad_()
        y, expected = net(x), normed(norm, x)
        deviation = x.movedim(channel, 0).flatten(1).std(1, correction=0)
        deviation = deviation[:, None, None] if len(shape) == 4 else deviation
        torch.testing.assert_close(y / deviation, expected)
        torch.testing.assert_close(net.batch_mean_subtract.running_mean, norm.running_mean)
        assert not net.batch_mean_subtract.running_mean.requires_grad
    net.eval(), norm.eval()
    x = draw(*shape, seed=9)
    spread = norm.running_var.sqrt()
    spread = spread[:, None, None] if len(shape) == 4 else spread
    torch.testing.assert_close(net(x), normed(norm, x) * spread)
    before = net.batch_mean_subtract.running_mean.clone()
    net(x)
    assert torch.equal(net.batch_mean_subtract.running_mean, before)


def test_a_buffer_is_no_parameter(load: Any) -> None:
    module = load(BLOCKS)
    net = model(module)
    names = {name for name, _ in net.named_parameters()}
    assert {w.name for w in module.PLAN} == names
    assert net.state_dict().keys() - names == {name for name, _ in net.named_buffers()}
    optimizer = module.NormedAdam(net.named_parameters(), lr=0.1)
    net(draw(4, 6, dtype=torch.float32)).square().sum().backward()
    optimizer.step()


def test_dtype_and_device_reach_the_buffer(load: Any) -> None:
    module = load(BLOCKS)
    for dtype in (torch.float64, torch.bfloat16):
        net = model(module, dtype=dtype)
        assert {b.dtype for b in net.buffers()} == {dtype}
        assert net(draw(4, 6).to(dtype)).dtype == dtype
    net = net.to(torch.float32)
    assert {b.dtype for b in net.buffers()} == {torch.float32}
    meta = getattr(module, module.MODEL)(device="meta")
    assert all(b.is_meta for b in meta.buffers())
    meta.load_state_dict(net.state_dict(), assign=True)
    x = draw(4, 6, dtype=torch.float32)
    assert torch.equal(meta.eval()(x), net.eval()(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net.train()(x)
    assert {b.dtype for b in net.buffers()} == {torch.float32}


def test_a_mean_of_one_value_is_refused_and_changes_nothing(load: Any) -> None:
    net = model(load(f"{VECTOR}model Net = BatchMeanSubtract"))
    for rows in (0, 1):
        with pytest.raises(ValueError, match="more than one value"):
            net(draw(rows, 6))
    assert not net.batch_mean_subtract.running_mean.any()
    assert torch.equal(net.eval()(draw(1, 6)), draw(1, 6))


def test_every_use_of_a_shared_one_updates_its_buffer(load: Any) -> None:
    net = model(load(f"{VECTOR}shared c = BatchMeanSubtract(momentum = 1/2)\nmodel Net = c + c"))
    x = draw(8, 6) + 1
    net.double()(x)
    mean = net.c.batch_mean_subtract.running_mean
    torch.testing.assert_close(mean, 3 / 4 * x.mean(0))
    torch.testing.assert_close(net.eval()(x), 2 * (x - mean))


def test_factors_stay_on_the_side_of_a_buffer_where_they_are_written(load: Any) -> None:
    net = model(load(f"{VECTOR}model Net = 1/3 * BatchMeanSubtract(momentum = 1) @ Mul(3)"))
    x = draw(8, 6) + 1
    torch.testing.assert_close(net.double()(x), x - x.mean(0))
    torch.testing.assert_close(net.batch_mean_subtract.running_mean, 3 * x.mean(0))


# --- rewrites -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect(LinearBond):
    """An operation that would be rewritten in every way, if it had no effects."""

    name = "Effect"
    drawing: bool = False
    keeping: bool = False

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.drawing

    @property
    def buffers(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("mean",) if self.keeping else ()

    def resolve(self, x: Type) -> tuple[Op, Type]:  # type: ignore[override]
        return self, x

    def fuse(self, before: Op) -> Op | None:
        return self

    def reference(self, x: Any, weight: Any = None) -> Any:
        return x

    def emit(self, x: Any, type: Type, own: str) -> str:
        return str(x)


@pytest.mark.parametrize(
    ("op", "left"),
    [
        (Effect(), ["Effect"] * 2),
        (Effect(drawing=True), ["Effect"] * 3),
        (Effect(keeping=True), ["Mul", *["Effect"] * 3]),
    ],
)
def test_rewrites_ask_for_effects(op: Op, left: list[str]) -> None:
    """2·x, twice the same of it, once more of one of them, and a sum that takes factors."""
    program = analyse_text(f"{VECTOR}model Net = Linear(2)").program
    type = program.inputs[0].type
    builder = Builder(type)

    def use(op: Op, x: int) -> int:
        return builder.add(Apply(op, (x,), type, program.span, op.name, None, -1))

    x = use(Mul(2), builder.input)
    first, second = use(op, x), use(op, use(op, x))
    pair = builder.add(Pack((first, second), TupleType((type, type)), program.span))
    flow = builder.finish(use(Add(), pair))
    lean = run_passes(replace(program, graph=flow), REWRITES, Diagnostics()).flow
    assert [a.op.name for a in lean.applies() if a.op.name in ("Mul", "Effect")] == left


# --- what is certified ------------------------------------------------------------------------


@settings(max_examples=12)
@given(st.sampled_from([(4, 6), (3, 2, 4), (2, 3, 2, 2)]), st.integers(0, 10**6))
def test_no_batch_is_stretched_more_than_certified(shape: tuple[int, ...], seed: int) -> None:
    """Over the whole batch, with every measure the largest over its examples, as in training."""
    type = Tensor("float", shape)
    edge = Edge(type, {}).completed()
    for op, _ in (BatchMeanSubtract().resolve(type), Dropout(0.25).resolve(type)):
        names: dict[str, Any] = {"nn": nn, "factory": {"dtype": torch.float64}}
        exec("import torch\nfrom torch import nn, Tensor\nfrom typing import Any\n"
             + "\n".join(op.helpers()), names)  # fmt: skip
        layer = eval(op.module(), names)
        gains: Any = op.gains((edge,), type)
        pairs = [(m, gains[0, m][0, m]) for m in edge.tracked]

        def ratios(parts: list[torch.Tensor], layer: Any = layer, pairs: Any = pairs) -> Any:
            torch.manual_seed(seed)
            (x,), y = parts, layer(parts[0])  # linear, so these are slopes
            return torch.stack([m.of(y) / (m.of(x) * gain) for m, gain in pairs])

        found = ascend_all(ratios, [torch.zeros(shape)], seed)
        assert max(found) <= 1 + 1e-9, (op.name, found)


def test_the_bounds_are_attained() -> None:
    """One example of v among many of -v; and an entry alone, which dropout leaves."""
    x = torch.ones(1000, 4, dtype=torch.float64)
    x[1:] = -1
    assert (x - x.mean(0)).abs().max() > 1.99
    kept = nn.Dropout(0.25)(torch.ones(1000))
    assert kept.max() == pytest.approx(float(Dropout(0.25).certified))


def test_what_a_buffer_may_be_follows_from_the_input() -> None:
    op, _ = BatchMeanSubtract().resolve(Tensor("float", (4, 6)))
    edge = Edge(Tensor("float", (4, 6)), {Measure((1,)): Bound(0.5, 1.0)}).completed()
    assert op.kept_by((edge,), {"running_mean": torch.zeros(6)})
    assert op.kept_by((edge,), {"running_mean": torch.ones(6)})
    assert not op.kept_by((edge,), {"running_mean": 1.1 * torch.ones(6)})


# --- training, saving, tools --------------------------------------------------------------------


def trained(module: Any, net: Any, optimizer: Any, steps: range) -> None:
    for step in steps:
        loss = net(draw(8, 6, seed=step, dtype=torch.float32) + 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def everything(net: Any) -> list[torch.Tensor]:
    return [t.clone() for t in net.state_dict().values()]


def test_a_run_goes_on_bit_for_bit(load: Any, tmp_path: Path) -> None:
    module = load(BLOCKS)
    torch.manual_seed(0)
    net = model(module)
    optimizer = module.NormedAdam(net.named_parameters(), lr=0.1)
    monitor = module.Monitor(optimizer, tmp_path / "run.jsonl", every=1)
    trained(module, net, optimizer, range(3))
    monitor.close()
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 1 + 3
    file = io.BytesIO()
    torch.save((net.state_dict(), optimizer.state_dict(), torch.get_rng_state()), file)
    trained(module, net, optimizer, range(3, 6))
    file.seek(0)
    weights, state, rng = torch.load(file)
    again = model(module)
    second = module.NormedAdam(again.named_parameters(), lr=0.1)
    again.load_state_dict(weights)
    second.load_state_dict(state)
    torch.set_rng_state(rng)
    trained(module, again, second, range(3, 6))
    assert all(map(torch.equal, everything(net), everything(again)))
    assert all(b.any() for b in net.buffers())


def test_both_forms_of_the_file_train_to_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "net.mod").write_text(BLOCKS)
    found = []
    for standalone in (False, True):
        source = modnorm.compile(tmp_path / "net.mod", standalone=standalone)
        module: Any = import_source(source, f"net_{standalone}")
        torch.manual_seed(0)
        net = model(module)
        trained(module, net, module.DualizedSGD(net.named_parameters(), lr=0.1), range(3))
        found.append(everything(net))
    assert all(map(torch.equal, *found))


def test_copies_and_tools(load: Any) -> None:
    net = model(load(BLOCKS), dtype=torch.float64)
    x = draw(8, 6) + 1
    net(x)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.manual_seed(2)
    expected = compiled(x)
    for one in copies:
        torch.manual_seed(2)
        torch.testing.assert_close(one(x), expected)
        assert all(map(torch.equal, one.buffers(), net.buffers()))
        torch.testing.assert_close(one.eval()(x), net.eval()(x))
    torch.testing.assert_close(compiled(x), net(x))
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), net(x))


def test_reports_show_them_like_any_bond(tmp_path: Path) -> None:
    path = tmp_path / "net.mod"
    path.write_text(BLOCKS)
    for form in ("text", "json", "markdown", "html", "dot"):
        assert "Dropout" in str(modnorm.report(path, format=form)) or form in ("text", "markdown")
    with pytest.raises(ModnormError, match=r"no weight `block\.0\.dropout`"):
        modnorm.explain(path, "block.0.dropout")


# --- modnorm check ------------------------------------------------------------------------------

SMALL = (
    VECTOR + "param d = 6\nmodel Net = Linear(3) @ Dropout(1/4) @ Linear(d) @ BatchMeanSubtract\n"
)


def checked(path: Path, **options: Any) -> Any:
    return modnorm.check(path, sizes={"batch": 3}, **options)


def test_check_measures_as_in_eval_and_equal_seeds_agree(tmp_path: Path) -> None:
    path = tmp_path / "net.mod"
    path.write_text(SMALL)
    before = torch.get_rng_state()
    first, second = (checked(path, vary={"d": [4, 8]}, seeds=1, steps=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.violations == ()
    assert first.findings == second.findings
    dropout = next(m for m in first.findings.modules if m.name == "Dropout")
    assert dropout.measured == pytest.approx(1)
    assert dropout.certified == pytest.approx(4 / 3)


@pytest.mark.parametrize("size", [0.5, 50.0])
def test_a_buffer_that_no_such_input_leaves_is_told_of(tmp_path: Path, size: float) -> None:
    """It is no breach of what is certified, which speaks of other buffers."""
    path = tmp_path / "net.mod"
    path.write_text(SMALL.replace("Dropout(1/4)", "Product @ (Identity, Identity)"))
    net = model(modnorm.load(path))
    net.batch_mean_subtract.running_mean.fill_(size)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    found = checked(path, checkpoint=tmp_path / "net.pt")
    assert found.violations == ()
    told = [n for n in found.findings.notes if "batch_mean_subtract.running_mean" in n]
    assert bool(told) == (size > 1)


def test_a_checkpoint_without_the_buffer_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "net.mod"
    path.write_text(SMALL)
    weights = dict(model(modnorm.load(path)).named_parameters())
    torch.save({n: p.detach() for n, p in weights.items()}, tmp_path / "net.pt")
    with pytest.raises(CheckError, match=r"it lacks `batch_mean_subtract\.running_mean`"):
        checked(path, checkpoint=tmp_path / "net.pt")


def test_a_batch_that_cannot_be_trained_on_is_said(tmp_path: Path) -> None:
    path = tmp_path / "net.mod"
    path.write_text(SMALL)
    with pytest.raises(CheckError, match="does not train on this batch"):
        modnorm.check(path, sizes={"batch": 1}, vary={"d": [4, 8]}, seeds=1, steps=2)


# --- the guide ------------------------------------------------------------------------------------

SCRIPT = """
import modnorm, torch
net = modnorm.load("batch.mod").Net()
norm = torch.nn.BatchNorm1d(20, affine=False)
for step in range(3):
    x = torch.randn(8, 10)
    torch.testing.assert_close(net(x), net.linear_1(norm(net.linear(x))))
assert "batch_rms_divide.running_square" in net.state_dict()
assert not torch.equal(net.eval()(x), net.train()(x))
found = modnorm.check("batch.mod", sizes={"batch": 3})
assert found.violations == () and found.findings.agreement < 1e-12
"""


def test_the_operation_with_state_of_the_guide_is_batch_norm(tmp_path: Path) -> None:
    """What CONTRIBUTING.md adds compiles, computes what torch does, and is measured."""
    (tmp_path / "batch.mod").write_text(guide.FILES["batch.mod"], "utf-8")
    source, runtime = guide.FILES["compiler/ops/batch_rms.py"], guide.FILES["runtime.py"]
    done = with_operation(tmp_path, "batch_rms", source, ["-c", SCRIPT], f"\n\n{runtime}")
    assert done.returncode == 0, done.stderr
