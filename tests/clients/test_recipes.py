"""The recipes of docs/recipes.md, as they stand there, against a loop of plain torch."""

from __future__ import annotations

import contextlib
import importlib
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import modnorm  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import docs  # noqa: E402

STEPS, BATCHES = 8, 2
"""Steps of a run, and batches a step."""
KEPT = {
    "lightning": "step=5.ckpt",
    "transformers": "checkpoint-5",
    "accelerate": "5",
}
"""What each trainer calls its checkpoint after five steps: in the middle of the second epoch."""
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("lightning", "float32"): QUIET | {"accelerator": "cpu"},
    ("lightning", "mixed"): QUIET | {"accelerator": "cpu", "precision": "bf16-mixed"},
    ("lightning", "bfloat16"): QUIET | {"accelerator": "cpu", "precision": "bf16-true"},
    ("transformers", "float32"): {"use_cpu": True},
    ("transformers", "mixed"): {"use_cpu": True, "bf16": True},
    ("accelerate", "float32"): {"cpu": True},
    ("accelerate", "mixed"): {"cpu": True, "mixed_precision": "bf16"},
}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files of the page, from which modules are imported."""
    folder = tmp_path_factory.mktemp("recipes")
    for block in docs.blocks((ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")):
        if block.word:
            (folder / block.word).write_text(block.text, encoding="utf-8")
    (folder / "tiny.py").write_text(modnorm.compile(folder / "tiny.mod"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No name is looked up: a trainer that asks a hub, or reports to one, is seen."""
    asked: list[Any] = []

    def refuse(host: Any, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(f"{host} is not to be asked")

    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert asked == []


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate, on which Trainer stands too, keeps the first precision of a process."""
    with contextlib.suppress(ImportError):
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


@contextlib.contextmanager
def seen(tiny: ModuleType) -> Iterator[list[Any]]:
    """The batches that go through models of a generated file meanwhile."""
    with entering(lambda module, _: isinstance(module, tiny.Tiny)) as batches:
        yield batches


@contextlib.contextmanager
def entering(chosen: Callable[[torch.nn.Module, Any], bool]) -> Iterator[list[Any]]:
    """What goes into chosen modules meanwhile, which get asked with the first of their inputs."""
    batches: list[Any] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and chosen(module, inputs[0]):
            batches.append(inputs[0].clone())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield batches
    finally:
        handle.remove()


def by_hand(tiny: ModuleType, batches: list[Any], precision: str) -> tuple[Any, list[float]]:
    """The model after those batches, and the norm of each step's gradient before it is clipped."""
    model = tiny.Tiny(generator=torch.Generator().manual_seed(0))
    model.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    optimizer = tiny.NormedAdam(model.named_parameters(), lr=0.4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    norms: list[float] = []
    for number, inputs in enumerate(batches, 1):
        wanted = torch.cat((inputs[:, 1:], (inputs[:, -1:] + 1) % 65), dim=1)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"):
            logits = model(inputs)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        (loss / BATCHES).backward()
        if number % BATCHES == 0:
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model, norms


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(("trainer", "precision"), list(OPTIONS))
def test_a_recipe_trains_and_resumes_bit_for_bit(
    trainer: str, precision: str, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch; with gradients that are clipped and accumulated."""
    pytest.importorskip(trainer)
    monkeypatch.chdir(tmp_path)
    options = OPTIONS[trainer, precision]
    tiny = importlib.import_module("tiny")
    recipe = importlib.import_module(f"with_{trainer}")
    with seen(tiny) as batches:
        whole = recipe.train("whole", STEPS, **options)
    assert len(batches) == STEPS * BATCHES
    wanted, norms = by_hand(tiny, batches, precision)
    assert max(norms) > 1
    assert same(whole, wanted)
    with seen(tiny) as again:
        resumed = recipe.train("resumed", STEPS, f"whole/{KEPT[trainer]}", **options)
    assert len(again) == (STEPS - 5) * BATCHES
    assert all(torch.equal(a, b) for a, b in zip(again, batches[-len(again) :], strict=True))
    assert same(resumed, whole)


# --- models of others -----------------------------------------------------------------------

ADOPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "lightning": ("step=5.ckpt", QUIET | {"accelerator": "cpu"}),
    "transformers": ("checkpoint-5", {"use_cpu": True}),
}


def looked_up(module: torch.nn.Module, tokens: Any) -> bool:
    """Whether a batch of a trainer goes into the table of tokens: adopting runs one example."""
    table = isinstance(module, torch.nn.Embedding) and module.num_embeddings == 65
    return table and len(tokens) == 8


@pytest.mark.parametrize("trainer", ADOPTED)
def test_an_adopted_model_trains_and_resumes_bit_for_bit(
    trainer: str, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With clipped gradients, from a checkpoint in the middle of an epoch."""
    for needed in ("transformers", trainer):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    kept, options = ADOPTED[trainer]
    recipe = importlib.import_module(f"adopted_{trainer}")
    with entering(looked_up) as batches:
        whole = recipe.train("whole", STEPS, **options)
    assert len(batches) == STEPS
    model = recipe.gpt2()
    optimizer = modnorm.adopt(model, batches[0][:1], lr=0.1, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for tokens in batches:
        logits, wanted = model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        # Trainer counts the first of a row too, which nothing predicts
        (loss / (tokens if trainer == "transformers" else wanted).numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert same(whole, model)
    with entering(looked_up) as again:
        resumed = recipe.train("resumed", STEPS, f"whole/{kept}", **options)
    assert len(again) == STEPS - 5
    assert same(resumed, whole)


def test_the_head_of_a_frozen_model_is_adopted(recipes: Path) -> None:
    try:
        import timm  # noqa: F401
    except Exception as error:  # torchvision, which it needs, may be one for another torch
        pytest.skip(f"timm cannot be imported: {error}")
    losses = importlib.import_module("adopted_timm").train(steps=12)
    assert losses[-1] < losses[0]
