"""The monitor's file: its format, runs that go on, what it refuses, TensorBoard, many processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_cases import KINDS, PLAN, Named, give_gradients, parameters

import modnorm
from modnorm.kernels import NormedAdam, NormedSGD
from modnorm.kernels.monitor import Monitor

MEASURES = ("norm", "slack", "cosine", "spent")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def adam(**options: Any) -> tuple[Named, NormedAdam]:
    named = parameters()
    return named, NormedAdam(named, **{"lr": 0.1, "plan": PLAN, **options})


def steps(named: Named, optimizer: Any, first: int, last: int, monitor: Any = None) -> None:
    for step in range(first, last + 1):
        give_gradients(named, step)
        if monitor is not None:
            monitor.record(step / 8)
        optimizer.step()


def recorded(path: Path, last: int = 8, every: int = 2) -> bytes:
    """The file of a run that nothing interrupts."""
    named, optimizer = adam()
    with Monitor(optimizer, path, every=every) as monitor:
        steps(named, optimizer, 1, last, monitor)
    return path.read_bytes()


# --- format --------------------------------------------------------------------------------------


def test_the_lines(path: Path) -> None:
    header, *rows = [json.loads(line) for line in recorded(path).decode("ascii").splitlines()]
    assert header == {
        "modnorm": "monitor",
        "version": 1,
        "model": "model",
        "optimizer": "NormedAdam",
        "weights": [w.name for w in PLAN],
        "targets": [w.target for w in PLAN],
    }
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for row in rows:
        assert list(row) == ["step", "lr", "loss", *MEASURES]
        assert all(len(row[key]) == len(PLAN) for key in MEASURES)


def test_each_line_is_there_at_once(path: Path) -> None:
    named, optimizer = adam()
    monitor = Monitor(optimizer, path, every=1)
    assert path.read_text().count("\n") == 1
    for step in range(1, 4):
        steps(named, optimizer, step, step)
        assert len(modnorm.read_monitor(path).rows) == step
    monitor.close()


def test_the_folder_may_be_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    (path.parent / "other").mkdir()
    named, optimizer = adam()
    with Monitor(optimizer, path.name, every=1):
        monkeypatch.chdir(path.parent / "other")
        steps(named, optimizer, 1, 1)
    assert len(modnorm.read_monitor(path).rows) == 1


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("saved", "killed"), [(4, 4), (4, 5), (3, 6), (1, 6)])
def test_a_run_that_goes_on_leaves_the_same_file(
    path: Path, kind: Any, saved: int, killed: int
) -> None:
    """The checkpoint is of one step, the process ended some steps later."""
    whole = path.with_name("whole.jsonl")
    named = parameters()
    optimizer = kind(named, lr=0.1, plan=PLAN)
    with Monitor(optimizer, whole, every=2) as monitor:
        steps(named, optimizer, 1, 8, monitor)

    named = parameters()
    optimizer = kind(named, lr=0.1, plan=PLAN)
    monitor = Monitor(optimizer, path, every=2)
    steps(named, optimizer, 1, saved, monitor)
    values = [p.detach().clone() for _, p in named]
    state = optimizer.state_dict()
    state = torch.load(_saved(path, state), weights_only=True)
    steps(named, optimizer, saved + 1, killed, monitor)
    monitor.close()

    named = parameters()
    for (_, p), value in zip(named, values, strict=True):
        p.data.copy_(value)
    optimizer = kind(named, lr=0.5, plan=PLAN)
    with Monitor(optimizer, path, every=2, step=saved) as monitor:
        optimizer.load_state_dict(state)  # the monitor may be there already
        steps(named, optimizer, saved + 1, 8, monitor)
    assert path.read_bytes() == whole.read_bytes()


def _saved(path: Path, state: Any) -> Path:
    file = path.with_name("state.pt")
    torch.save(state, file)
    return file


def test_a_file_cut_anywhere_goes_on(path: Path) -> None:
    whole = recorded(path)
    first = whole.index(b"\n") + 1
    cuts = [0, 1, first // 2, *range(first - 2, len(whole) + 1, 37), len(whole) - 1, len(whole)]
    _, optimizer = adam()
    for cut in cuts:
        path.write_bytes(whole[:cut])
        Monitor(optimizer, path, every=2, step=8).close()
        kept = path.read_bytes()
        lines = max(whole[:cut].count(b"\n"), 1)  # the first is written again
        assert kept == b"".join(whole.splitlines(keepends=True)[:lines]), cut
        assert not modnorm.read_monitor(path).cut


def test_later_steps_are_taken_out(path: Path) -> None:
    whole = recorded(path)
    _, optimizer = adam()
    for step, left in ((9, 4), (7, 3), (6, 3), (2, 1), (1, 0)):
        path.write_bytes(whole)
        Monitor(optimizer, path, step=step).close()
        assert len(modnorm.read_monitor(path).rows) == left


def test_a_file_without_steps_is_begun_again(path: Path) -> None:
    named, optimizer = adam()
    Monitor(optimizer, path).close()
    with Monitor(optimizer, path, every=1):
        steps(named, optimizer, 1, 1)
    assert len(modnorm.read_monitor(path).rows) == 1


def test_steps_are_not_lost_unasked(path: Path) -> None:
    whole = recorded(path)
    _, optimizer = adam()
    with pytest.raises(ValueError, match="has steps up to 8: to go on with it, say with step="):
        Monitor(optimizer, path)
    assert path.read_bytes() == whole
    assert not optimizer._optimizer_step_post_hooks


def test_a_cell_that_runs_once_more_begins_anew(path: Path) -> None:
    whole = recorded(path)
    named, optimizer = adam()
    left_open = Monitor(optimizer, path, every=2, overwrite=True)
    assert modnorm.read_monitor(path).rows == ()
    steps(named, optimizer, 1, 3, left_open)
    named, optimizer = adam()
    with pytest.raises(ValueError, match="overwrite=True"):
        Monitor(optimizer, path, every=2)
    with Monitor(optimizer, path, every=2, overwrite=True) as monitor:
        steps(named, optimizer, 1, 8, monitor)
    assert path.read_bytes() == whole
    assert not left_open.optimizer._optimizer_step_post_hooks, "that one is closed"


def test_another_models_steps_may_be_written_over_too(path: Path) -> None:
    recorded(path)
    plan = (*PLAN[:-1], PLAN[-1]._replace(target=9.0))
    other = NormedAdam(parameters(), lr=0.1, plan=plan)
    Monitor(other, path, overwrite=True).close()
    assert modnorm.read_monitor(path).targets[-1] == 9.0


@pytest.mark.parametrize(
    "text", ["import torch\n", "{}\n", "[1]\n", "null\n", '{"modnorm": "log"}\n', "\n", "[" * 9999]
)
def test_only_a_monitors_file_is_written_over(path: Path, text: str) -> None:
    path.write_text(text)
    _, optimizer = adam()
    with pytest.raises(ValueError, match="something else than this: it is no monitor's file"):
        Monitor(optimizer, path, overwrite=True)
    assert path.read_text() == text


# --- what is refused -----------------------------------------------------------------------------


def test_a_file_has_one_monitor_at_a_time(path: Path) -> None:
    named, optimizer = adam()
    link = path.with_name("link.jsonl")
    with Monitor(optimizer, path, every=1) as first:
        os.symlink(path, link)
        for same in (path, link, path.parent / "sub" / ".." / path.name):
            with pytest.raises(ValueError, match=r"another monitor writes .*close\(\) that one"):
                Monitor(adam()[1], same)
        Monitor(adam()[1], path.with_name("other.jsonl")).close()
        steps(named, optimizer, 1, 2, first)
    assert len(modnorm.read_monitor(path).rows) == 2
    with Monitor(optimizer, link, every=1, step=2):  # closed: the next may go on
        steps(named, optimizer, 3, 3)
    assert [row.step for row in modnorm.read_monitor(path).rows] == [1, 2, 3]


def test_a_monitor_that_could_not_begin_is_in_nobodys_way(path: Path) -> None:
    path.write_text("something else\n", encoding="utf-8")
    with pytest.raises(ValueError, match="something else than this"):
        Monitor(adam()[1], path)
    path.unlink()
    Monitor(adam()[1], path).close()


def test_the_file_of_another_run_is_left_alone(path: Path) -> None:
    whole = recorded(path)
    _, optimizer = adam()
    plan = (*PLAN[:-1], PLAN[-1]._replace(target=9.0))
    turned = (PLAN[1], PLAN[0], *PLAN[2:])
    for other, named in (
        (NormedSGD(parameters(), lr=0.1, plan=PLAN), "optimizer: NormedAdam instead of NormedSGD"),
        (NormedAdam(parameters(), lr=0.1, plan=plan), rf"{PLAN[-1].name}.*{PLAN[-1].name}.*9\.0"),
        (NormedAdam(parameters(plan=PLAN[1:]), lr=0.1, plan=PLAN[1:]), "weight 0: .*embed.weight"),
        (NormedAdam(parameters(plan=turned), lr=0.1, plan=turned), "weight 0: .*embed.weight"),
    ):
        with pytest.raises(ValueError, match="something else than this: .*" + named):
            Monitor(other, path, step=4)
        assert path.read_bytes() == whole
    Monitor(optimizer, path, step=8).close()


@pytest.mark.parametrize(
    "text",
    [
        "import torch\n",
        "{}\n",
        "[1, 2]\n",
        "null\n",
        '{"modnorm": "monitor"}\n',
        '{"modnorm": "monitor", "weights": 3, "targets": 3}\n',
        '{"modnorm": "other", "weights": ["a"], "targets": [1]}\n{"step": 3}\n',
        "no line's end",
        "\n\n",
    ],
)
def test_other_files_are_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    _, optimizer = adam()
    with pytest.raises(ValueError, match=r"run\.jsonl' is there, for something else than this"):
        Monitor(optimizer, path, step=3)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "row",
    [
        "{",
        "[]",
        "{}",
        '{"step": "x"}',
        '{"step": 1e999}',
        "\x00",
        pytest.param("[" * 99999, id="deep"),
    ],
)
def test_a_damaged_line_is_no_reason_to_drop_others(path: Path, row: str) -> None:
    first, second, *rest = recorded(path).decode().splitlines()
    text = "\n".join([first, second, row, *rest, ""])
    path.write_text(text)
    _, optimizer = adam()
    with pytest.raises(ValueError, match="damaged"):
        Monitor(optimizer, path, step=8)
    assert path.read_text() == text


def test_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _, optimizer = adam()
    for path, reason in (
        (tmp_path / "missing" / "run.jsonl", "No such file or directory"),
        (tmp_path, "it is no ordinary file"),
        (Path(os.devnull), "it is no ordinary file"),
        (tmp_path / "file" / "run.jsonl", "Not a directory"),
    ):
        with pytest.raises(OSError, match=rf"the monitor cannot write .*: {reason}"):
            Monitor(optimizer, path)
    assert not optimizer._optimizer_step_pre_hooks
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    _, optimizer = adam()
    with pytest.raises(OSError, match=r"the monitor cannot write .*: Permission denied"):
        Monitor(optimizer, tmp_path / "run.jsonl")


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": 2.5}, {"every": None}, {"step": -1}, {"step": "4"}]
)
def test_options_out_of_range(path: Path, options: Any) -> None:
    _, optimizer = adam()
    (key,) = options
    with pytest.raises(ValueError, match=f"{key} must be a whole number, at least"):
        Monitor(optimizer, path, **options)
    assert not path.exists()


def test_other_optimizers(path: Path) -> None:
    other: Any = torch.optim.SGD([p for _, p in parameters()], lr=0.1)
    with pytest.raises(TypeError, match=r"must be one of this file, not .*SGD"):
        Monitor(other, path)


def test_training_outlives_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    named, optimizer = adam()
    with Monitor(optimizer, folder / "run.jsonl", every=1):
        steps(named, optimizer, 1, 1)
        shutil.rmtree(folder)
        with pytest.warns(UserWarning, match="the monitor stops, since its file is lost"):
            steps(named, optimizer, 2, 2)
        steps(named, optimizer, 3, 3)
    plain, other = adam()
    steps(plain, other, 1, 3)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(named, plain, strict=True))


# --- TensorBoard ---------------------------------------------------------------------------------


class Writer:
    """What TensorBoard's writers have in common."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, float]]] = {}
        self.closed = False

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.seen.setdefault(tag, []).append((step, value))

    def close(self) -> None:
        self.closed = True


def test_scalars_are_those_of_the_file(path: Path) -> None:
    named, optimizer = adam()
    writer = Writer()
    with Monitor(optimizer, path, every=2, tensorboard=writer) as monitor:
        steps(named, optimizer, 1, 5, monitor)
    assert not writer.closed  # it belongs to someone else
    found = modnorm.read_monitor(path)
    wanted: dict[str, list[tuple[int, float]]] = {}
    for row in found.rows:
        for key in MEASURES:
            for name, value in zip(found.weights, getattr(row, key), strict=True):
                if value is not None:
                    wanted.setdefault(f"{key}/{name}", []).append((row.step, value))
        wanted.setdefault("lr", []).append((row.step, 0.1))
        wanted.setdefault("loss", []).append((row.step, row.step / 8))
    assert writer.seen == wanted
    assert len(writer.seen["slack/a.weight"]) == 2
    assert "slack/still.weight" not in writer.seen


@pytest.mark.parametrize("given", [True, "events"])
def test_without_tensorboard(path: Path, monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    _, optimizer = adam()
    with pytest.raises(ImportError, match="tensorboard= needs the package tensorboard: pip"):
        Monitor(optimizer, path, tensorboard=given)
    assert not path.exists()
    for nothing in (None, False):
        Monitor(optimizer, path, tensorboard=nothing).close()


@pytest.mark.parametrize("given", [True, "events"])
def test_a_real_writer(path: Path, monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(path.parent)
    named, optimizer = adam()
    with Monitor(optimizer, path, every=2, tensorboard=given) as monitor:
        steps(named, optimizer, 1, 4, monitor)
    with Monitor(optimizer, path, every=2, step=2, tensorboard=given) as monitor:  # once more
        steps(named, optimizer, 3, 4, monitor)
    folder = path.parent / ("run.tensorboard" if given is True else given)
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    found = modnorm.read_monitor(path)
    spent = [(e.step, e.value) for e in events.Scalars("spent/a.weight")]
    place = found.weights.index("a.weight")
    assert [step for step, _ in spent] == [2, 4]  # what was taken out of the file is gone here too
    wanted = [row.spent[place] for row in found.rows]
    assert [value for _, value in spent] == pytest.approx(wanted, rel=1e-6)


# --- many processes ------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    named, optimizer = adam()
    writer = Writer()
    with Monitor(optimizer, path, every=1, tensorboard=writer) as monitor:
        steps(named, optimizer, 1, 2, monitor)
        assert bool(optimizer._optimizer_step_pre_hooks) == (rank == 0)
    assert path.exists() == bool(writer.seen) == (rank == 0)


@pytest.mark.parametrize("loss", ["a", torch.ones(2), [1.0]])
def test_a_loss_that_is_no_number_is_said_at_once(path: Path, loss: Any) -> None:
    named, optimizer = adam()
    with Monitor(optimizer, path, every=1) as monitor:
        with pytest.raises(ValueError, match="the loss must be a number"):
            monitor.record(loss)
        steps(named, optimizer, 0, 1)
    assert "loss" not in json.loads(path.read_text(encoding="utf-8").splitlines()[1])
