"""Files of examples/train.py: damage shows, nothing half-right is taken over, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from small_modules import TEXT

import modnorm
from modnorm.measure import seal, weights

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import checkpoint  # noqa: E402
import train  # noqa: E402
import trainer  # noqa: E402

torch.set_num_threads(1)

Invoke = Callable[..., Result]
OTHERS = "somebody's own\n"
MOD = """
input tokens: int[batch, seq] < 5
model Tiny = Linear(5, 8) @ Embed(5, 8)
"""


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    Path("text.py").write_text(TEXT)
    Path("own.txt").write_text("abcd\n" * 400)

    def run(*arguments: object, module: str = "text.py") -> Result:
        words = [module, "--threads", "1", "--data", "own.txt", "--context", "8", "--batch", "4"]
        result = CliRunner().invoke(train.main, [*words, *map(str, arguments)])
        if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.output.strip().splitlines()[-1].startswith("error: "), result.output
    assert all(part in result.output for part in parts), result.output


# --- checksums ------------------------------------------------------------------------------------


def test_torch_and_modnorm_read_a_checkpoint(invoke: Invoke) -> None:
    """The checksum is the archive's comment."""
    Path("tiny.mod").write_text(MOD)
    assert invoke("--steps", 3, "--checkpoint", "a.pt", module="tiny.mod").exit_code == 0
    assert torch.load("a.pt", weights_only=True)["step"] == 3
    assert modnorm.check("tiny.mod", checkpoint="a.pt").violations == ()


def test_every_flipped_bit_is_seen(invoke: Invoke) -> None:
    assert invoke("--steps", 3, "--checkpoint", "a.pt").exit_code == 0
    whole = Path("a.pt").read_bytes()
    rng = random.Random(0)
    for at in rng.sample(range(len(whole) - seal.SIZE), 300):
        bit = 1 << rng.randrange(8)
        Path("b.pt").write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        with pytest.raises(checkpoint.Trouble, match="is damaged: its checksum"):
            checkpoint.read(Path("b.pt"))
        with pytest.raises(modnorm.CheckError, match=r"`b\.pt` is damaged: its checksum"):
            weights.load("b.pt", torch.nn.Linear(1, 1))
    for cut in (*range(1, 120), len(whole) // 2, len(whole) - 1):
        Path("b.pt").write_bytes(whole[:-cut])
        with pytest.raises(checkpoint.Trouble, match="is damaged"):
            checkpoint.read(Path("b.pt"))


def test_damage_is_told_and_the_file_left_alone(invoke: Invoke) -> None:
    assert invoke("--steps", 3, "--checkpoint", "a.pt").exit_code == 0
    damaged = bytearray(Path("a.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 4
    Path("a.pt").write_bytes(damaged)
    refused(invoke("--steps", 3, "--checkpoint", "a.pt", "--resume"), "a.pt is damaged")
    assert Path("a.pt").read_bytes() == damaged


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_note(invoke: Invoke) -> None:
    assert invoke("--steps", 3, "--checkpoint", "a.pt").exit_code == 0
    torch.save(torch.load("a.pt", weights_only=True), "a.pt")
    result = invoke("--steps", 3, "--checkpoint", "a.pt", "--resume")
    assert result.exit_code == 0
    assert "a.pt has no checksum" in result.output


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_no_checkpoint(invoke: Invoke) -> None:
    os.mkfifo("a.pt")
    for words in ([], ["--resume"], ["--force"]):
        refused(invoke("--steps", 3, "--checkpoint", "a.pt", *words), "a.pt is no ordinary file")
    Path("tiny.mod").write_text(MOD)
    with pytest.raises(modnorm.CheckError, match=r"`a\.pt`: it is no ordinary file"):
        modnorm.check("tiny.mod", checkpoint="a.pt")


# --- every field ----------------------------------------------------------------------------------


def edited(state: dict[Any, Any], path: str, value: object) -> None:
    *way, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    for key in way:
        state = state[key]
    if callable(value):
        value = value(state[last])
    if value is Ellipsis:
        del state[last]
    else:
        state[last] = value


def negated(tensor: torch.Tensor) -> torch.Tensor:
    assert (tensor > 0).any()
    return -tensor


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[0] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("plan", None, "it names no plan"),
        ("plan", 3, "it names no plan"),
        ("settings", None, "it has no settings"),
        ("settings", [1], "it has no settings"),
        ("settings/lr", "0.5", "lr 0.5 there"),
        ("settings/steps", 3.0, "steps 3.0 there"),
        ("settings/seed", ..., "seed None there"),
        ("schedule", None, "schedule is NoneType"),
        ("schedule", {}, "schedule has no base_lrs"),
        ("schedule/last_epoch", "3", "last_epoch is '3'"),
        ("schedule/base_lrs", [], "base_lrs is no list of 1"),
        ("schedule/_last_lr", [float("nan")], "_last_lr 0 is nan"),
        ("step", "3", "step is '3'"),
        ("step", 2.5, "step is 2.5"),
        ("step", True, "step is True"),
        ("step", -1, "step is -1"),
        ("step", 4, "of step 4 of 3"),
        ("step", ..., "has no step"),
        ("loss_sum", None, "loss_sum is None"),
        ("loss_sum", float("inf"), "loss_sum is inf"),
        ("loss_count", "many", "loss_count is 'many'"),
        ("threads", "1", "threads is '1'"),
        ("torch", 2, "torch is 2"),
        ("model", None, "model is NoneType"),
        ("model/out.weight", with_nan, "out.weight is not finite"),
        ("model/out.weight", lambda x: x[:2], "(2, 8) of torch.float32 instead of (5, 8)"),
        ("model/out.weight", lambda x: x.double(), "torch.float64 instead of"),
        ("model/out.weight", lambda x: x.to_sparse(), "is sparse"),
        ("model/out.weight", ..., "has no out.weight"),
        ("model/out.weight", [1.0], "out.weight is list, no tensor"),
        ("model/more", torch.ones(2), "'more', which is not known"),
        ("optimizer", None, "cannot be resumed"),
        ("optimizer", {}, "cannot be resumed"),
        ("optimizer", ..., "has no optimizer"),
        ("batches", None, "batches is NoneType"),
        ("batches", lambda x: x[:8], "batches is (8,)"),
        ("batches", torch.zeros_like, "batches is no state of a generator"),
        ("rng", torch.zeros_like, "rng is no state of a generator"),
        ("rng", "x", "rng is str"),
        ("cuda_rng", None, "cuda_rng is no list of 0"),
        ("cuda_rng", [torch.zeros(3)], "cuda_rng is no list of 0"),
        ("more", 1, "'more', which is not known"),
    ],
)
def test_a_field_that_is_wrong_is_named_before_anything_changes(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, path: str, value: object, said: str
) -> None:
    assert invoke("--steps", 3, "--checkpoint", "a.pt").exit_code == 0
    state = torch.load("a.pt", weights_only=True)
    edited(state, path, value)
    checkpoint.write(Path("a.pt"), state)
    written = Path("a.pt").read_bytes()
    seen: list[bool] = []
    real = trainer.Run.restore

    def watched(self: trainer.Run, *arguments: Any) -> None:
        before = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        draws = self.batches.get_state()
        try:
            real(self, *arguments)
        finally:
            now = self.model.state_dict()
            same = all(torch.equal(before[name], now[name]) for name in before)
            seen.append(same and torch.equal(draws, self.batches.get_state()) and not self.step)

    monkeypatch.setattr(trainer.Run, "restore", watched)
    refused(invoke("--steps", 3, "--checkpoint", "a.pt", "--resume"), said)
    assert seen == [True], "nothing has changed"
    assert Path("a.pt").read_bytes() == written


def test_a_negative_second_moment_is_refused(invoke: Invoke) -> None:
    """By the optimizer of a generated file, through which it would become NaN."""
    Path("tiny.mod").write_text(MOD)
    words = ["--steps", 3, "--checkpoint", "a.pt"]
    assert invoke(*words, module="tiny.mod").exit_code == 0
    state = torch.load("a.pt", weights_only=True)
    edited(state, "optimizer/state/0/exp_avg_sq", negated)
    checkpoint.write(Path("a.pt"), state)
    written = Path("a.pt").read_bytes()
    refused(invoke(*words, "--resume", module="tiny.mod"), "exp_avg_sq: negative instead of")
    assert Path("a.pt").read_bytes() == written


@pytest.mark.parametrize("held", [None, 3, [1, 2], "text", {}, torch.ones(2)])
def test_what_is_no_dict_of_a_run(invoke: Invoke, held: object) -> None:
    invoke("--steps", 3)
    checkpoint.write(Path("a.pt"), held)  # type: ignore[arg-type]
    refused(invoke("--steps", 3, "--checkpoint", "a.pt", "--resume"), "a.pt is damaged or no")


# --- what kills leave -----------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--checkpoint", "--log"])
def test_halves_that_kills_left_are_removed(invoke: Invoke, option: str) -> None:
    left = [Path(".a.x.1234.part"), Path(".a.x.99.part")]
    others = [Path(".a.x.more.part"), Path("a.x.1234.part"), Path(".b.x.1234.part")]
    for path in (*left, *others):
        path.write_text("half")
    assert invoke("--steps", 3, option, "a.x").exit_code == 0
    assert not any(path.exists() for path in left)
    assert all(path.read_text() == "half" for path in others)
    left[0].write_text("half")
    checkpoint.write(Path("a.x"), {})
    assert not left[0].exists(), "and where it is saved"


# --- what is there --------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--checkpoint", "--log", "--monitor"])
def test_a_file_that_is_there_is_replaced_on_request_only(invoke: Invoke, option: str) -> None:
    Path("tiny.mod").write_text(MOD)
    Path("mine").write_text(OTHERS)
    words = ["--steps", 3, "--monitor-every", 1, option, "mine"]
    refused(invoke(*words, module="tiny.mod"), "mine is there already", "--resume", "--force")
    assert Path("mine").read_text() == OTHERS
    assert invoke(*words, "--force", module="tiny.mod").exit_code == 0
    first = Path("mine").read_bytes()
    assert OTHERS.encode() not in first
    refused(invoke(*words, module="tiny.mod"), "mine is there already")
    assert Path("mine").read_bytes() == first
    assert invoke(*words, "--force", module="tiny.mod").exit_code == 0


def test_a_run_goes_on_in_no_other_files(invoke: Invoke) -> None:
    Path("tiny.mod").write_text(MOD)
    Path("mine").write_text(OTHERS)
    words = ["--steps", 3, "--checkpoint", "a.pt", "--resume"]
    for option in ("--log", "--monitor"):
        result = invoke(*words, option, "mine", module="tiny.mod")
        refused(result, "--force")
        assert Path("mine").read_text() == OTHERS
    refused(invoke("--steps", 3, "--checkpoint", "mine", "--resume"), "mine is damaged or no")
    assert Path("mine").read_text() == OTHERS


def test_a_logs_first_line_says_whose_it_is(invoke: Invoke) -> None:
    assert invoke("--steps", 3, "--log", "log.jsonl").exit_code == 0
    head = json.loads(Path("log.jsonl").read_text().splitlines()[0])
    assert head["modnorm"] == "log"
    assert head["settings"]["steps"] == 3


def test_a_line_that_is_no_row_is_not_dropped_unasked(invoke: Invoke) -> None:
    words = ["--steps", 6, "--eval-every", 2, "--log", "log.jsonl", "--checkpoint", "a.pt"]
    assert invoke(*words).exit_code == 0
    lines = Path("log.jsonl").read_text().splitlines()
    with_note = "\n".join([*lines[:2], "# a note of mine", *lines[2:]]) + "\n"
    Path("log.jsonl").write_text(with_note)
    refused(invoke(*words, "--resume"), "log.jsonl is damaged, in line 3", "--force")
    assert Path("log.jsonl").read_text() == with_note
    Path("log.jsonl").write_text("\n".join(lines) + '\n{"step": 6, "tr')
    assert invoke(*words, "--resume").exit_code == 0, "a cut last line is no damage"
