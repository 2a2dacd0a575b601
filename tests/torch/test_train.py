"""examples/train.py on small modules: training, resuming bit for bit, every refusal."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from small_modules import IMAGES, TEXT

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import screen  # noqa: E402
import train  # noqa: E402
import trainer  # noqa: E402

from modnorm.data import tasks, texts  # noqa: E402

torch.set_num_threads(1)

Invoke = Callable[..., Result]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both modules, a text of five characters and an .npz of two-coloured images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.py").write_text(TEXT)
    (tmp_path / "images.py").write_text(IMAGES)
    (tmp_path / "own.txt").write_text("abcd\n" * 400)
    return tmp_path


@pytest.fixture
def invoke(files: Path) -> Invoke:
    def run(*arguments: object, module: str = "text.py", fit: bool = True) -> Result:
        fitting = ["--data", "own.txt", "--context", "8", "--batch", "4"] if fit else []
        words = [module, "--threads", "1", *fitting, *map(str, arguments)]
        result = CliRunner().invoke(train.main, words)
        if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def state(path: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, whatever the nesting."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# -------------------------------------------------------------- random numbers and buffers

EFFECTS = """
input tokens: int[batch, seq] < 5
model LM = Linear(5) @ Dropout(1/4) @ BatchMeanSubtract @ Embed(5, 8)
"""


def test_a_model_with_random_numbers_and_buffers_resumes_bit_for_bit(
    invoke: Invoke, files: Path
) -> None:
    (files / "lm.mod").write_text(EFFECTS)
    common = ["--steps", 6, "--eval-every", 2, "--eval-batches", 2, "--seed", 3]
    for optimizer in ("normed_adam", "dualized_sgd"):
        own = [*common, "--optimizer", optimizer, "--force", "--checkpoint-every", 2]
        whole = invoke(*own, "--checkpoint", "whole.pt", "--log", "a.jsonl", module="lm.mod")
        assert whole.exit_code == 0, whole.output
        stopped = train.Run.save
        kept: list[bytes] = []

        def save(run: Any, path: Path, stopped: Any = stopped, kept: Any = kept) -> None:
            stopped(run, path)
            kept.append(path.read_bytes())

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train.Run, "save", save)
            invoke(*own, "--checkpoint", "part.pt", module="lm.mod")
        (files / "part.pt").write_bytes(kept[1])
        assert state("part.pt")["step"] == 4
        own.remove("--force")
        resumed = invoke(*own, "--checkpoint", "part.pt", "--resume", module="lm.mod")
        assert resumed.exit_code == 0, resumed.output
        assert same(state("whole.pt"), state("part.pt"))
        assert state("whole.pt")["model"]["batch_mean_subtract.running_mean"].any()


def test_it_trains_in_train_and_is_measured_in_eval(
    invoke: Invoke, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "lm.mod").write_text(EFFECTS)
    modes: list[str] = []
    for name in ("loss_in_training", "measure"):
        before = getattr(tasks.Task, name)

        def spied(
            task: Any, forward: Any, *rest: Any, name: str = name, before: Any = before
        ) -> Any:
            modes.append(f"{name} {forward.training}")
            return before(task, forward, *rest)

        monkeypatch.setattr(tasks.Task, name, spied)
    assert invoke("--steps", 2, "--eval-every", 1, module="lm.mod").exit_code == 0
    train_, measured = "loss_in_training True", "measure False"
    assert modes == [measured, train_, measured, train_, measured]


def test_a_batch_too_small_to_train_on_is_said(invoke: Invoke, files: Path) -> None:
    (files / "lm.mod").write_text(EFFECTS)
    result = invoke("--batch", 1, "--context", 1, "--data", "own.txt", module="lm.mod", fit=False)
    assert result.exit_code == 1
    assert "does not train on batches of shape (1, 1): a batch's mean needs" in result.output


# ---------------------------------------------------------------------------------------- training


def test_the_held_out_loss_falls_to_what_the_text_allows(invoke: Invoke) -> None:
    result = invoke("--steps", 200, "--lr", 0.2, "--log", "log.jsonl")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert rows[0]["settings"]["optimizer"] == "normed_adam"
    assert [row["step"] for row in rows[1:]] == list(range(0, 201, 20))
    assert rows[-1]["held_out_loss"] < 0.05  # each character follows from the one before
    assert rows[-1]["held_out_accuracy"] == 1.0
    assert rows[-1]["lr"] == 0.0
    assert "held-out loss" in result.output
    assert "\x1b" not in result.output


def test_images_are_classified(invoke: Invoke, files: Path) -> None:
    np = pytest.importorskip("numpy")
    y = np.arange(300) % 3
    x = np.zeros((300, 4, 4), np.uint8)
    x[np.arange(300), y, y] = 200
    np.savez("own.npz", x=x, y=y)
    result = invoke("--data", "own.npz", "--steps", 60, "--log", "log.jsonl", "--batch", 10,
                    module="images.py", fit=False)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.output
    last = json.loads(Path("log.jsonl").read_text().splitlines()[-1])
    assert last["held_out_accuracy"] == 1.0


def test_training_images_have_mean_0_and_rms_1(files: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (40, 4, 4), dtype=torch.uint8, generator=generator)
    part = tasks.Examples(40, bytes(x.flatten().tolist()), bytes(8 * 40))
    found = tasks.Images("own", (4, 4), 3, "uint8", part, part, "")
    task = tasks.Classification(found, (1, 4, 4), 40, 1)
    images, labels = task.pick(task.train, torch.arange(40))
    assert images.shape == (40, 1, 4, 4)
    assert labels.tolist() == [0] * 40
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(images.square().mean(), torch.tensor(1.0))


def test_held_out_windows_are_the_same_for_every_seed_and_never_trained_on(files: Path) -> None:
    text = texts.encode("own", "abcd" * 90 + "efgh" * 10)
    task = tasks.NextCharacter(text, 3, 8, 5)
    first, again = list(task.held_out()), list(task.held_out())
    assert same(first, again)
    assert len(first) == 5
    held_out = torch.cat([torch.cat([x, y[:, -1:]], 1) for x, y in first])
    assert held_out.min() >= 4
    drawn, after = task.draw(torch.Generator().manual_seed(0))
    assert drawn.max() < 4
    assert torch.equal(drawn[:, 1:], after[:, :-1])


def test_the_last_window_reaches_the_end_of_the_training_text(files: Path) -> None:
    text = texts.encode("own", "a" * 89 + "b" + "c" * 10)
    task = tasks.NextCharacter(text, 200, 9, 1)
    _, after = task.draw(torch.Generator().manual_seed(0))
    assert set(after.flatten().tolist()) == {0, 1}


def test_one_seed_gives_one_run(invoke: Invoke) -> None:
    for name, seed in (("a.pt", 3), ("b.pt", 3), ("c.pt", 4)):
        assert invoke("--steps", 5, "--seed", seed, "--checkpoint", name).exit_code == 0
    assert same(state("a.pt"), state("b.pt"))
    assert not same(state("a.pt")["model"], state("c.pt")["model"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes(invoke: Invoke, dtype: str) -> None:
    assert invoke("--steps", 5, "--dtype", dtype, "--checkpoint", "a.pt").exit_code == 0
    assert state("a.pt")["model"]["out.weight"].dtype == getattr(torch, dtype)


# ---------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("optimizer", ["normed_adam", "normed_sgd"])
def test_a_run_stopped_anywhere_ends_in_the_same_bits(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    options = ["--steps", 12, "--optimizer", optimizer, "--eval-every", 5]
    assert invoke(*options, "--checkpoint", "whole.pt", "--log", "whole.jsonl").exit_code == 0
    real = trainer.Run.train_step
    stops = iter([1, 4, 5, 11])
    stop = next(stops)

    def interrupted(self: trainer.Run) -> torch.Tensor:
        loss = real(self)
        if self.step == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(trainer.Run, "train_step", interrupted)
    parts = [*options, "--checkpoint", "parts.pt", "--log", "parts.jsonl", "--resume"]
    for _ in range(4):
        result = invoke(*parts)
        assert result.exit_code == 128 + signal.SIGINT
        assert f"stopped at step {stop}, kept in parts.pt" in result.output
        assert state("parts.pt")["step"] == stop
        stop = next(stops, None)
    assert invoke(*parts).exit_code == 0
    assert same(state("whole.pt"), state("parts.pt"))

    def rows(name: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in Path(name).read_text().splitlines()]
        return [{k: v for k, v in row.items() if k != "steps_per_second"} for row in found]

    assert rows("whole.jsonl") == rows("parts.jsonl")


def test_a_killed_run_goes_on_from_its_last_checkpoint(invoke: Invoke, files: Path) -> None:
    options = ["--steps", 1500, "--eval-batches", 1, "--checkpoint-every", 50]
    assert invoke(*options, "--checkpoint", "whole.pt").exit_code == 0
    command = [sys.executable, str(EXAMPLES / "train.py"), "text.py", "--threads", "1", "--data",
               "own.txt", "--context", "8", "--batch", "4", *map(str, options), "--checkpoint",
               "parts.pt"]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not Path("parts.pt").exists():
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert state("parts.pt")["step"] < 1500
    assert invoke(*options, "--checkpoint", "parts.pt", "--resume").exit_code == 0
    assert same(state("whole.pt"), state("parts.pt"))


def test_a_log_written_past_the_checkpoint_is_cut_back(invoke: Invoke) -> None:
    options = ["--steps", 6, "--eval-every", 2, "--log", "log.jsonl", "--checkpoint", "a.pt"]
    assert invoke(*options).exit_code == 0
    whole = Path("log.jsonl").read_text()
    early = state("a.pt") | {"step": 4}
    torch.save(early, "a.pt")
    assert invoke(*options, "--resume").exit_code == 0
    steps = [json.loads(line).get("step") for line in Path("log.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line).get("step") for line in whole.splitlines()]


def test_a_finished_run_is_only_measured_again(invoke: Invoke) -> None:
    invoke("--steps", 5, "--checkpoint", "a.pt")
    before = state("a.pt")
    result = invoke("--steps", 5, "--checkpoint", "a.pt", "--resume")
    assert result.exit_code == 0
    assert "resumed from a.pt at step 5" in result.output
    assert same(state("a.pt"), before)


def test_another_number_of_threads_is_noted(invoke: Invoke) -> None:
    invoke("--steps", 5, "--checkpoint", "a.pt")
    torch.save(state("a.pt") | {"threads": 7}, "a.pt")
    result = invoke("--steps", 5, "--checkpoint", "a.pt", "--resume")
    assert result.exit_code == 0
    assert "made with threads 7, this run has 1" in result.output


# ---------------------------------------------------------------------------------------- refusals


def refused(result: Result, *parts: str, code: int = 1) -> None:
    assert result.exit_code == code, result.output
    lines = result.output.strip().splitlines()
    assert all(part in result.output for part in parts), result.output
    assert "Traceback" not in result.output
    if code == 1:
        assert lines[-1].startswith("error: ")


def rewritten(old: str, new: str, source: str = TEXT, name: str = "text.py") -> None:
    assert source.count(old) == 1
    Path(name).write_text(source.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('("batch", "seq"), 5)', '("batch", "seq"), 4)', ("5 distinct", "4", "-p vocab=5")),
        ('("batch", "seq"), 5)', '("batch", 16), 5)', ("fixes the context", "--context 16")),
        ('("batch", "seq"), 5)', '(2, "seq"), 5)', ("fixes the batch", "--batch 2")),
        ('("batch", "seq"), 5)', '("batch", "seq", 3), 5)', ("neither int[batch, seq]",)),
        ('"int", ("batch", "seq"), 5', '"float", ("batch", 16), None', ("takes images",)),
        ("INPUTS = (", 'INPUTS = (Input("mask", "float", (), None), ', ("2 inputs (mask, tok",)),
        ("class NormedAdam", "class Other", ("no NormedAdam",)),
        ("MODEL, PLAN_HASH", "NAME, PLAN_HASH", ("no MODEL", "not a file that modnorm compile")),
        ("return self.out(", "return self.token(", ("does not take an input of shape (1, 8)",)),
        ("return self.out(", "return (1, ", ("output is tuple", "(1, 8, 5)")),
        ("self.out = nn.Linear(8, 5", "self.out = nn.Linear(8, 4", ("(1, 8, 4)", "5 characters")),
        ("class Tiny(nn.Module):", "class Tiny(nn.Module:", ("SyntaxError",)),
    ],
)
def test_a_module_that_does_not_fit_is_refused(
    invoke: Invoke, old: str, new: str, parts: tuple[str, ...]
) -> None:
    rewritten(old, new)
    refused(invoke("--steps", 2), *parts)


def test_a_context_longer_than_the_position_table_names_the_longest(invoke: Invoke) -> None:
    refused(invoke("--context", 17), "holds 16 places", "--context 16")
    assert invoke("--context", 16, "--steps", 1).exit_code == 0


def test_a_text_shorter_than_the_context_is_refused(invoke: Invoke) -> None:
    Path("own.txt").write_text("abcd\n" * 10)
    refused(invoke(), "holds out 5 characters, too few for windows of 8")


def test_images_of_another_size_are_refused(invoke: Invoke) -> None:
    np = pytest.importorskip("numpy")
    np.savez("own.npz", x=np.zeros((200, 5, 5)), y=np.zeros(200, int))
    refused(invoke("--data", "own.npz", module="images.py", fit=False),
            "5 × 5", "images: float[batch, 1, 4, 4]")  # fmt: skip
    refused(invoke("--data", "own.npz"), "is images, but tokens: int[batch, seq] < 5 takes text")
    np.savez("own.npz", x=np.zeros((200, 4, 4)), y=np.arange(200) % 7)
    refused(invoke("--data", "own.npz", module="images.py", fit=False), "(1, 7)", "7 classes")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--optimizer", "adamw"], 2, "normed_adam"),
        (["--optimizer", "dualized_sgd"], 1, "no DualizedSGD"),
        (["--optimizer", "normed_sgd", "--weight-decay", "0.1"], 1, "--weight-decay 0"),
        (["--lr", "0"], 2, "--lr"),
        (["--steps", "0"], 2, "--steps"),
        (["--device", "toaster"], 2, "'toaster'"),
        (["--data", "nothing.txt"], 1, "no file named 'nothing.txt'"),
        (["-p", "d_embed=64"], 2, "fixed when it was compiled"),
        (["-p", "d_embed"], 2, "NAME=VALUE"),
        (["-p", "d=1", "-p", "d=2"], 2, "d is given twice"),
        (["--resume"], 2, "need --checkpoint"),
        (["--checkpoint-every", "5"], 2, "need --checkpoint"),
        (["--lr", "1e30", "--steps", "9"], 1, "smaller --lr"),
        (["--log", "no/such/folder.jsonl"], 1, "cannot be written"),
        (["--checkpoint", "no/such/folder.pt", "--steps", "1"], 1, "cannot be written"),
    ],
)
def test_options_that_cannot_be_had_are_refused(
    invoke: Invoke, arguments: list[str], code: int, part: str
) -> None:
    refused(invoke(*arguments), part, code=code)


@pytest.mark.parametrize("force", [[], ["--force"], ["--resume", "--checkpoint", "c.pt"]])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--log", "a", "--monitor", "a"],
            "a is --log and --monitor at once: give another",
        ),
        (["--log", "./c.pt", "--checkpoint", "c.pt"], "is --checkpoint and --log at once"),
        (["--monitor", "text.py"], "text.py is the model and --monitor at once"),
        (["--log", "link"], "link is the model and --log at once"),
        (["--log", "hard"], "hard is --data and --log at once"),
    ],
)
def test_a_file_has_one_use(
    invoke: Invoke, files: Path, arguments: list[str], said: str, force: list[str]
) -> None:
    Path("link").symlink_to("text.py")
    Path("hard").hardlink_to("own.txt")
    before = {p.name: p.read_bytes() for p in files.iterdir()}
    refused(invoke("--steps", "1", *arguments, *force), said)
    assert {p.name: p.read_bytes() for p in files.iterdir()} == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused(invoke: Invoke) -> None:
    refused(invoke("--device", "cuda"), "--device cpu")


def test_mistakes_in_a_mod_file_are_shown_as_the_compiler_shows_them(invoke: Invoke) -> None:
    Path("bad.mod").write_text("model GPT = Linaer(4)\n")
    result = invoke(module="bad.mod")
    assert result.exit_code == 1
    assert "error[" in result.output
    assert "bad.mod:1" in result.output


def test_what_is_no_module_is_refused(invoke: Invoke) -> None:
    Path("broken.py").write_text("import no_such_package_here")
    refused(invoke(module="broken.py"), "broken.py cannot be imported", "no_such_package_here")
    refused(invoke(module="own.txt"), "neither a .py")
    refused(invoke(module="gone.py"), "gone.py", code=2)


def test_checkpoints_of_another_run_are_refused(invoke: Invoke) -> None:
    invoke("--steps", 3, "--checkpoint", "a.pt")
    refused(invoke("--steps", 3, "--checkpoint", "a.pt"), "add --resume")
    again = ["--steps", 3, "--checkpoint", "a.pt", "--resume"]
    refused(invoke(*again, "--lr", 0.25), "lr 0.4 there, 0.25 here")
    Path("own.txt").write_text("abdc\n" * 400)
    refused(invoke(*again), "data_sha256")
    Path("own.txt").write_text("abcd\n" * 400)
    assert invoke(*again).exit_code == 0
    rewritten('"a" * 64', '"c" * 64')
    refused(invoke(*again), "another plan", "cccccccccccc")


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 rubbish"])
def test_a_damaged_checkpoint_is_refused_and_left_alone(invoke: Invoke, content: bytes) -> None:
    Path("a.pt").write_bytes(content)
    refused(invoke("--checkpoint", "a.pt", "--resume"), "a.pt is damaged")
    assert Path("a.pt").read_bytes() == content


def test_ruined_weights_never_replace_a_checkpoint(invoke: Invoke) -> None:
    options = ["--steps", 50, "--eval-every", 50, "--checkpoint", "a.pt"]
    rewritten("p.mul_(1", "p.mul_(float('nan') if s['step'] == 6 else 1")
    refused(invoke(*options, "--checkpoint-every", 3), "no longer finite at step 6", "--lr")
    assert state("a.pt")["step"] == 3
    refused(invoke(*options, "--resume"), "the training loss is nan at step 7")
    assert state("a.pt")["step"] == 3


def test_a_held_out_loss_that_is_not_finite_is_refused(invoke: Invoke) -> None:
    rewritten("p.mul_(1", "p.mul_(float('nan') if s['step'] == 5 else 1")
    refused(invoke("--steps", 5), "the held-out loss is nan at step 5", "--lr")


def test_a_failed_write_keeps_the_last_checkpoint(
    invoke: Invoke, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(value: object, file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("write failed: no space left")

    options = ["--steps", 5, "--checkpoint", "a.pt"]
    monkeypatch.setattr(trainer.torch, "save", full)
    refused(invoke(*options), "a.pt cannot be written: write failed: no space left")
    assert sorted(path.name for path in files.iterdir()) == ["images.py", "own.txt", "text.py"]


# -------------------------------------------------------------------------------------- the screen


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_nothing_shown_is_wider_than_the_console(width: int) -> None:
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, highlight=False)
    shown = screen.Screen(20_000, images=True, console=console)
    with shown:
        shown.row(screen.Row(0, None, 4.17, 0.01, None))
        shown.progress(10_000, 2.5)
        shown.row(screen.Row(10_000, 2.5, 2.61, 0.2, 123.4))
        shown.row(screen.Row(20_000, 2.4, 2.7, 0.2, 123.4))
    shown.finish(20_000, 2.7, 200.0, False, None)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    lines = re.split(r"[\r\n]+", plain)
    assert max(len(line.rstrip()) for line in lines) <= width
    assert any("10,000" in line and "2.6100" in line for line in lines)
    assert any("━" in line and "loss 2.500" in line for line in lines)


def test_without_a_terminal_the_table_alone_is_written() -> None:
    written = io.StringIO()
    shown = screen.Screen(20, images=False, console=Console(file=written, width=30))
    with shown:
        shown.row(screen.Row(0, None, 4.17, 0.01, None))
        shown.progress(10, 2.5)
        shown.row(screen.Row(20, 2.5, 2.61, 0.2, 123.4))
    assert written.getvalue().splitlines() == [
        "  step  held out    train   steps/s",
        "     0    4.1700        –         –",
        "    20    2.6100   2.5000     123.4",
    ]


def test_constants_of_a_mod_file_reach_the_compiler(files: Path) -> None:
    text = "param d = 4\ninput x: float[batch, 16]\nmodel Net = Linear(d * 2)\n"
    Path("own.mod").write_text(text)
    module = trainer.load_module(Path("own.mod"), dict(map(trainer.constant, ["d=12/4"])))
    assert [entry.shape for entry in module.PLAN] == [(6, 16)]


def test_constants_are_read_exactly() -> None:
    words = ["a=3", "b=1/3", "c=0.1", "d=true", "e=relu"]
    values = {"a": 3, "b": Fraction(1, 3), "c": Fraction(1, 10), "d": True, "e": "relu"}
    assert dict(map(trainer.constant, words)) == values


def test_durations_are_written_as_clocks_do() -> None:
    assert list(map(screen.lasting, (7, 750, 10931))) == ["0:07", "12:30", "3:02:11"]
