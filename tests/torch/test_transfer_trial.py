"""A run of a sweep against a training loop written out, and what optimizers a label makes."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import modnorm
from modnorm import pipeline
from modnorm.data import tasks
from modnorm.data.fetch import DataError
from modnorm.data.texts import load
from modnorm.measure.weights import compiled
from modnorm.sweep import trial
from modnorm.sweep.axes import read_label
from modnorm.sweep.optimizers import build
from modnorm.sweep.parts import with_body_mass
from modnorm.sweep.records import Outcome, Settings
from modnorm.sweep.trial import Job, key_of, run_trial
from modnorm.train import falling

MODEL = """
    param d = 8
    input tokens: int[batch, seq] < 27
    model LM = Linear(27) @ (ReLU @ Linear(d)) ** 2 @ Embed(27, d)
"""
CNN = """
    input images: float[batch, 1, 6, 6]
    def layer = ReLU @ Conv2D(4)
    model Net = Linear(3) @ Flatten @ AdaptiveAvgPool @ layer ** 2 @ Conv2D(4)
"""
GPT = """
    input tokens: int[batch, seq] < 5
    def block = Linear(4) @ ReLU @ Linear(4)
    model GPT = Linear(5) @ tare(block ** 3, BODY) @ tare(Embed(5, 4), FIRST)
"""
VERSIONS = {"torch": "2"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = [hashlib.sha256(str(i).encode()).hexdigest()[:4] for i in range(16)]
    lines = "".join(words[i * i % 16] for i in range(2000))
    path.write_text(lines.translate(str.maketrans("0123456789", "ghijklmnop")))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "lm.mod"
    path.write_text(MODEL)
    return path


def job(file: Path, text: Path, **changed: Any) -> Job:
    settings = Settings(
        data=str(text), data_sha256=load(str(text)).sha256, steps=6, batch=4, context=8, tail=3,
        eval_batches=2, schedule="linear", threads=1,
    )  # fmt: skip
    made: dict[str, Any] = {
        "stem": "lm", "source": modnorm.compile(file, device="cpu"), "optimizer": "normed_adam",
        "mass": None, "lr": 0.25, "seed": 1, "settings": dataclasses.asdict(settings),
    }  # fmt: skip
    own = {name: changed.pop(name) for name in list(changed) if name in made}
    made |= own
    made["settings"] |= changed
    return made  # type: ignore[return-value]


def without_seconds(outcome: Outcome) -> Outcome:
    return dataclasses.replace(outcome, seconds=0.0)


def test_random_numbers_are_the_runs_own_and_held_out_losses_in_eval(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lm.mod"
    body = "Linear(27) @ Dropout(1/2) @ BatchMeanSubtract @ Linear(8)"
    path.write_text(MODEL.replace("Linear(27) @ (ReLU @ Linear(d)) ** 2", body))
    modes: list[bool] = []
    measure = tasks.Task.measure

    def spied(task: Any, forward: Any) -> Any:
        modes.append(forward.training)
        return measure(task, forward)

    monkeypatch.setattr(tasks.Task, "measure", spied)
    first, _, again = (run_trial(job(path, text, seed=seed)) for seed in (1, 2, 1))
    assert without_seconds(first) == without_seconds(again)
    assert modes == [False] * 3
    with pytest.raises(DataError, match="does not train on batches of shape"):
        run_trial(job(path, text, batch=1, context=1))


def test_a_run_is_the_loop_one_would_write(file: Path, text: Path) -> None:
    found = run_trial(job(file, text))
    module = modnorm.load(file)
    data = load(str(text))
    ids = torch.frombuffer(bytearray(data.ids), dtype=torch.uint8).long()[: data.train_length]
    model = module.LM(generator=torch.Generator().manual_seed(1))
    optimizer = module.NormedAdam(model.named_parameters(), lr=0.25)
    batches = torch.Generator().manual_seed(1)
    losses = []
    for step in range(6):
        starts = torch.randint(len(ids) - 8, (4,), generator=batches)
        window = torch.stack([ids[start : start + 9] for start in starts.tolist()])
        loss = torch.nn.functional.cross_entropy(
            model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 0.25 * (1 - step / 6)
        optimizer.step()
        losses.append(loss.item())
    assert found.status == "done"
    assert found.steps == 6
    assert found.first_loss == pytest.approx(losses[0], rel=1e-6)
    assert found.train_loss == pytest.approx(sum(losses[3:]) / 3, rel=1e-6)
    assert found.held_out_loss is not None
    assert 0 < found.held_out_loss < 10
    assert found.accuracy is not None
    assert 0 <= found.accuracy <= 1


def test_the_same_job_gives_the_same_outcome(file: Path, text: Path) -> None:
    one, other = (without_seconds(run_trial(job(file, text))) for _ in range(2))
    assert one == other
    assert without_seconds(run_trial(job(file, text, seed=2))) != one


@pytest.mark.parametrize(
    "label",
    [
        "normed_adam:beta1=0.8",
        "normed_sgd",
        "dualized_sgd:momentum=0.9",
        "adam:beta2=0.95",
        "sgd:momentum=0.5",
        "muon:ratio=0.1:momentum=0.9",
    ],
)
def test_every_optimizer_trains(file: Path, text: Path, label: str) -> None:
    found = run_trial(job(file, text, optimizer=label, lr=0.05, steps=40))
    assert found.status == "done"
    assert found.train_loss is not None
    assert found.train_loss < found.first_loss


def test_a_run_that_diverges_is_an_outcome(file: Path, text: Path) -> None:
    found = run_trial(job(file, text, optimizer="sgd", lr=1e30, steps=20))
    assert found.status == "diverged"
    assert found.steps < 20
    assert found.train_loss is found.held_out_loss is None
    assert 0 < found.first_loss < 10


def test_masses_change_the_steps_of_normed_optimizers(file: Path, text: Path) -> None:
    plain = run_trial(job(file, text))
    heavy = run_trial(job(file, text, mass=20.0))
    assert heavy.train_loss != plain.train_loss
    assert heavy.first_loss == plain.first_loss
    # the file's own masses are 1, 2, 1
    assert without_seconds(run_trial(job(file, text, mass=2.0))) == without_seconds(plain)


@pytest.mark.parametrize("mass", [0.5, 1.0, 5.0, 20.0])
def test_body_masses_are_those_of_a_file_with_them(mass: float) -> None:
    def plan(first: float, body: float) -> Any:
        program = pipeline.analyse_text(GPT.replace("FIRST", str(first)).replace("BODY", str(body)))
        return compiled(program.program).PLAN

    found, wanted = with_body_mass(plan(2, 5), mass), plan(1, mass)
    assert [record.name for record in found] == [record.name for record in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.target == pytest.approx(other.target, rel=1e-12)
        assert one.mass == pytest.approx(other.mass, rel=1e-12)


def test_data_that_has_changed_is_refused(file: Path, text: Path) -> None:
    with pytest.raises(DataError, match="has changed since the sweep began"):
        run_trial(job(file, text, data_sha256="0" * 64))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("normed_adam:momentums=1", "normed_adam cannot be made: .*momentums"),
        ("dualized_sgd:momentum=2", "dualized_sgd cannot be made: .*momentum"),
        ("nowhere_at_all:adam", "there is no module 'nowhere_at_all'"),
        ("math:nothing", "there is no function nothing in "),
        ("my_optimizers:fails", r"my_optimizers:fails raised KeyError: 'a' \(my_optimizers.py, "),
        ("my_optimizers:forgets", "my_optimizers:forgets returned NoneType, but it has to return"),
        ("my_optimizers:none", "my_optimizers:none returned nothing, but it has to return"),
    ],
)
def test_optimizers_that_cannot_be_made(
    file: Path, text: Path, own: None, label: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        run_trial(job(file, text, optimizer=label))


OWN = """\
import torch

def fails(module, model, lr):
    return {}["a"]

def forgets(module, model, lr):
    torch.optim.SGD(model.parameters(), lr=lr)

def none(module, model, lr):
    return []

def draw(split, batch, generator):
    torch.rand(3)
    ids = torch.randint(27, (batch, 8), generator=generator)
    return ids, ids

class Noisy(torch.optim.SGD):
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.grad += torch.rand_like(p)
        return super().step(closure)

def noisy(module, model, lr):
    return Noisy(model.parameters(), lr=lr)

def takes(module, model, lr, beta2, **options):
    assert not options
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=beta2)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of optimizers in the current folder, which is forgotten afterwards."""
    (tmp_path / "my_optimizers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_optimizers", None)


def test_what_is_random_in_functions_of_ones_own_goes_by_the_seed(
    file: Path, text: Path, own: None
) -> None:
    given: dict[str, Any] = {
        "optimizer": "my_optimizers:noisy", "data": "my_optimizers:draw", "context": None,
        "data_sha256": hashlib.sha256(OWN.encode()).hexdigest(),
    }  # fmt: skip
    first, again, other = (run_trial(job(file, text, seed=seed, **given)) for seed in (1, 1, 2))
    assert without_seconds(first) == without_seconds(again)
    assert other.train_loss != first.train_loss


def test_a_function_of_ones_own_gets_its_options_as_they_are(file: Path, own: None) -> None:
    module = modnorm.load(file)
    (made,) = build(module, module.LM(), read_label("my_optimizers:takes:beta2=0.5"), 0.25)
    assert made.param_groups[0]["momentum"] == 0.5


def test_muon_takes_the_body_and_adamw_the_rest(file: Path) -> None:
    module = modnorm.load(file)
    model = module.LM()
    muon, rest = build(module, model, read_label("muon:ratio=0.1"), 0.5)
    shapes = [tuple(p.shape) for p in muon.param_groups[0]["params"]]
    assert shapes == [(8, 8), (8, 8)]
    assert sorted(tuple(p.shape) for p in rest.param_groups[0]["params"]) == [(27, 8), (27, 8)]
    assert rest.param_groups[0]["lr"] == pytest.approx(0.05)


def test_muon_moves_kernels_as_matrices() -> None:
    module = compiled(pipeline.analyse_text(CNN).program)
    model = module.Net(generator=torch.Generator().manual_seed(0))
    muon, _ = build(module, model, read_label("muon"), 0.25)
    names = [record.name for record in module.PLAN][1:-1]
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    model(torch.randn(2, 1, 6, 6)).square().sum().backward()
    gradients = [model.get_parameter(name).grad.clone() for name in names]
    muon.step()
    for name, gradient in zip(names, gradients, strict=True):
        alone = torch.nn.Parameter(before[name].flatten(1).clone())
        alone.grad = gradient.flatten(1)
        torch.optim.Muon([alone], lr=0.25, momentum=0.95, weight_decay=0.0).step()
        moved = model.get_parameter(name).detach().flatten(1)
        torch.testing.assert_close(moved, alone.detach())
        assert not torch.equal(moved, before[name].flatten(1))


def test_keys_differ_where_outcomes_may(file: Path, text: Path) -> None:
    base = job(file, text)
    keys = [key_of(base, VERSIONS)]
    for changed in (
        {"lr": 0.26}, {"seed": 2}, {"optimizer": "adam"}, {"mass": 1.0}, {"steps": 7},
        {"threads": 2}, {"source": base["source"] + "\n"}, {"data_sha256": "1"},
    ):  # fmt: skip
        keys.append(key_of(job(file, text, **changed), VERSIONS))
    keys.append(key_of(base, {"torch": "3"}))
    assert len(set(keys)) == len(keys)
    assert key_of(job(file, text, data="elsewhere", stem="x"), VERSIONS) == keys[0]


def test_keys_follow_the_source_of_an_own_optimizer(
    file: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = job(file, text, optimizer="my_own_rules:make")
    keys = []
    for source in ("", "x = 1\n", "x = 2\n", "x = 1\n"):
        if source:
            (tmp_path / "my_own_rules.py").write_text(source)
        trial._checksum.cache_clear()
        keys.append(key_of(mine, VERSIONS))
    assert len(set(keys)) == 3
    assert keys[1] == keys[3]


def test_schedules() -> None:
    def factors(schedule: str) -> list[float]:
        return list(map(falling(schedule, 4), range(4)))

    assert factors("linear") == [1, 0.75, 0.5, 0.25]
    assert factors("constant") == [1, 1, 1, 1]
    assert factors("cosine") == pytest.approx([1, 0.8535533905932737, 0.5, 0.14644660940672627])
