"""`modnorm transfer` as a command and as a function: what is run, kept, shown and refused."""

from __future__ import annotations

import html
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

import modnorm
from modnorm.cli import cli
from modnorm.data import texts
from modnorm.data.fetch import Unreachable
from modnorm.data.texts import Text
from modnorm.sweep.pool import Processes
from modnorm.sweep.problems import TrialFailed

LM = """\
param d = 4
param depth = 1
input ids: int[batch, seq] < 9
model LM = Linear(9) @ (Tanh @ Linear(d)) ** depth @ Embed(9, d)
"""
NET = """\
param d = 8
param heads = 2
input x: float[batch, seq, 6]
model Net = Linear(4) @ MergeHeads @ SplitHeads(heads) @ Linear(d)
"""
QUICK = [
    "--data", "text.txt", "--steps", "3", "--batch", "2", "--context", "4", "--eval-batches", "2",
]  # fmt: skip
SWEEP = ["lm.mod", "--vary", "d=4,8", "--lr", "2^-3..2^0", "--extend", "0", *QUICK]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with programs and a text in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("lm.mod").write_text(LM, encoding="utf-8")
    Path("net.mod").write_text(NET, encoding="utf-8")
    Path("text.txt").write_text("abcdefghi" * 200, encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["transfer", *arguments], prog_name="modnorm")


def files() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"net.mod", "lm.mod", "text.txt"}


def names(path: str = "lm.transfer.db") -> list[str]:
    """What a store says of its runs."""
    with sqlite3.connect(path) as connection:
        return sorted(name for (name,) in connection.execute("SELECT name FROM runs"))


def unmarked(path: str) -> str:
    """A file without the mark in its last line, which says who made it."""
    text, mark = Path(path).read_text(encoding="utf-8").rsplit("<!--", 1)
    assert mark.startswith(" made by modnorm, sha256 ")
    return text


def timeless(found: Any) -> Any:
    """A result without what differs from one time to the next."""
    if isinstance(found, dict):
        return {name: timeless(value) for name, value in found.items() if name != "seconds"}
    return [timeless(value) for value in found] if isinstance(found, list) else found


# --- what is run and shown ----------------------------------------------------------------------


def test_a_sweep_from_beginning_to_end() -> None:
    """Its forms all come from one set of runs, which are made once."""
    pytest.importorskip("matplotlib")
    asked = run(*SWEEP, "--dry-run")
    assert asked.exit_code == 0
    assert asked.stdout.startswith("8 runs, 0 of them in lm.transfer.db\nabout ")
    assert "3 steps of the smallest and the largest model" in asked.stdout
    assert files() == set()

    done = run(*SWEEP, "--jobs", "2", "-o", "sweep.json")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    found = json.loads(Path("sweep.json").read_text(encoding="utf-8"))
    assert found.pop("signature").startswith("made by modnorm, sha256 ")
    assert (found["model"], found["source"]) == ("LM", "lm.mod")
    assert found["vary"] == {"d": [4, 8]}
    assert found["params"] == {"depth": 1}
    assert found["rates"] == {"normed_adam": [0.125, 0.25, 0.5, 1.0]}
    assert found["settings"]["steps"] == 3
    trials = found["trials"]
    assert [(t["sizes"], t["lr"], t["seed"]) for t in trials] == [
        ({"d": d}, lr, 0) for d in (4, 8) for lr in (0.125, 0.25, 0.5, 1.0)
    ]
    assert all(t["status"] == "done" and t["steps"] == 3 for t in trials)
    assert len({t["train_loss"] for t in trials}) == 8
    assert names() == sorted(f"normed_adam d={d} lr={lr} seed=0" for d in (4, 8) for lr in RATES)

    assert run(*SWEEP, "--dry-run").stdout == "8 runs, 8 of them in lm.transfer.db\n"
    before = Path("lm.transfer.db").read_bytes()
    again = run(*SWEEP, "--format", "json", "--plot", "curves.png")
    assert json.loads(again.stdout) == found, "seconds too: nothing was run"
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    text = run(*SWEEP)
    assert max(map(len, text.stdout.splitlines())) <= 80
    assert "normed_adam" in text.stdout
    for suffix, start in (("html", "<!"), ("md", "#")):
        shown = run("--from", "sweep.json", "-o", f"sweep.{suffix}")
        assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "", "")
        assert Path(f"sweep.{suffix}").read_text(encoding="utf-8").startswith(start)
    assert run("--from", "sweep.json").stdout == text.stdout
    assert Path("lm.transfer.db").read_bytes() == before

    made = modnorm.transfer(
        "lm.mod", vary={"d": [8, 4]}, lr="2^-3..2^0", data="text.txt", steps=3, batch=2,
        context=4, eval_batches=2, extend=0,
    )  # fmt: skip
    assert made.json == found
    assert str(made) == text.stdout.rstrip("\n")
    assert made.plot().startswith(b"\x89PNG")
    page = html.unescape(made._repr_html_() or "")
    assert page.startswith('<iframe srcdoc="<!doctype html>')
    assert unmarked("sweep.html") in page
    assert made._repr_markdown_() == unmarked("sweep.md").removesuffix("\n")
    assert Path("lm.transfer.db").read_bytes() == before


def test_a_dry_run_learns_the_time_from_runs_that_are_over() -> None:
    """Of 8 runs of 1,000 s the half is over: 4,000 s remain, or 1,000 s four at once."""
    few = ["lm.mod", "--vary", "d=4,8", "--extend", "0", *QUICK]
    assert run(*few, "--lr", "2^-3..2^-2", "--jobs", "1").exit_code == 0
    with sqlite3.connect("lm.transfer.db") as connection:
        connection.execute("UPDATE runs SET seconds = 1000")
        connection.execute("DELETE FROM sums")  # as in a store of an earlier version
    asked = run(*few, "--lr", "2^-3..2^0", "--dry-run", "--jobs", "1").stdout
    assert asked.startswith("8 runs, 4 of them in lm.transfer.db\nabout 67 min for what is missing")
    assert "1 at once: an estimate from runs that are over" in asked
    assert "about 17 min " in run(*few, "--lr", "2^-3..2^0", "--dry-run", "--jobs", "4").stdout


def test_a_dry_run_knows_that_more_steps_take_longer() -> None:
    def told(steps: int) -> float:
        asked = run("lm.mod", *QUICK, "--dry-run", "--jobs", "1", "--steps", str(steps)).stdout
        number, unit = re.search(r"about ([\d.]+) (s|min|h) for", asked).groups()  # type: ignore[union-attr]
        return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]

    assert told(1_000_000) > 30 * told(10_000)


def test_a_dry_run_tells_what_does_not_fit() -> None:
    done = run("lm.mod", *QUICK, "--dry-run", "--optimizer", "adam:wings=2")
    assert done.exit_code == 1
    assert "the optimizer adam cannot be made" in done.stderr


def test_a_program_as_text_has_a_store_of_its_own() -> None:
    options = {"lr": "0.5", "data": "text.txt", "steps": 2, "batch": 2, "context": 4, "jobs": 1}
    made = modnorm.transfer(LM, vary={"d": [4]}, eval_batches=1, **options)  # type: ignore[arg-type]
    assert made.json["source"] == "<text>"
    assert files() == {"text.transfer.db"}
    for form in ("json", "markdown"):
        made.format = form
        assert (made._repr_html_() is None, made._repr_markdown_() is None) == (
            True,
            form == "json",
        )


RATES = ("0.125", "0.25", "0.5", "1")


def test_axes_seeds_and_optimizers() -> None:
    Path("mine.py").write_text(
        "import torch\n"
        "def make(module, model, lr, momentum=0.0):\n"
        "    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)\n",
        encoding="utf-8",
    )
    done = run(
        "lm.mod", "--vary", "d=4,6", "--vary", "depth=1,2", "--vary", "mass=1,4", "--star",
        "--optimizer", "normed_sgd,adam", "--optimizer", "mine:make:momentum=0.5",
        "--lr", "0.25", "--lr", "adam=0.01", "--seeds", "2", "--jobs", "2", "--store", "a.db",
        "--format", "json", *QUICK,
    )  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    stored = names("a.db")
    assert files() >= {"a.db", "mine.py"}
    star = [(4, 1), (6, 1), (4, 2)]
    assert [name for name in stored if name.startswith("normed_sgd")] == sorted(
        f"normed_sgd d={d} depth={depth} mass={mass} lr=0.25 seed={seed}"
        for d, depth, mass in [*((d, depth, 1) for d, depth in star), (4, 1, 4)]
        for seed in (0, 1)
    )
    plain = [name for name in stored if name.startswith("adam")]
    assert len(plain) == 6, "masses mean nothing to it, so that these runs are made once"
    assert len([name for name in stored if name.startswith("mine:make:momentum=0.5")]) == 6
    assert len(stored) == 8 + 6 + 6


def test_divergence_is_a_result() -> None:
    done = run(
        "lm.mod", "--optimizer", "sgd", "--lr", "1,1e30", "--extend", "0", "--steps", "8",
        "--format", "json", *QUICK[:2], *QUICK[4:],
    )  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    fine, wild = json.loads(done.stdout)["trials"]
    assert (fine["status"], wild["status"]) == ("done", "diverged")
    assert wild["train_loss"] is None


def test_what_is_there_by_now() -> None:
    asked = [*SWEEP, "--format", "json"]
    part = run(*asked, "--partial")
    assert part.exit_code == 0
    assert (json.loads(part.stdout)["trials"], json.loads(part.stdout)["missing"]) == ([], 8)
    assert files() == set()
    done = run("lm.mod", "--vary", "d=4", *asked[3:])
    part = run(*asked, "--partial")
    assert json.loads(part.stdout)["trials"] == json.loads(done.stdout)["trials"]
    assert json.loads(part.stdout)["missing"] == 4


def test_a_stand_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shakespeare cannot be had, it is said once, and the sweep is of what is used."""

    def out_of_reach() -> Text:
        raise Unreachable("no registry")

    monkeypatch.setattr(texts, "shakespeare", out_of_reach)
    Path("wide.mod").write_text(LM.replace("9", "65"), encoding="utf-8")
    done = run("wide.mod", "--lr", "0.5", *QUICK[2:], "--jobs", "1", "-o", "a.json")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("shakespeare cannot be fetched: no registry") == 1
    settings = json.loads(Path("a.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["data"], settings["data_sha256"]) == ("python", texts.python_source().sha256)


def test_a_foreign_store_gives_way_on_request_only() -> None:
    Path("a.db").write_text("no database\n" * 200, encoding="utf-8")
    before = Path("a.db").read_bytes()
    for more in ((), ("--dry-run",), ("--partial",), ("--dry-run", "--force")):
        done = run(*QUICK, "lm.mod", "--store", "a.db", "--jobs", "1", *more)
        assert done.exit_code == 1
        assert "`a.db` is no store of runs" in done.stderr
        assert "--force" in done.stderr
        assert Path("a.db").read_bytes() == before
    done = run(*QUICK, "lm.mod", "--store", "a.db", "--jobs", "1", "--force")
    assert done.exit_code == 0, done.stderr
    assert Path("a.db").read_bytes().startswith(b"SQLite format 3")


@pytest.mark.parametrize("store", ["lm.mod", "part.mod", "text.txt", "link"])
@pytest.mark.parametrize("more", [[], ["--force"], ["--dry-run"], ["--partial"]])
def test_what_is_read_is_no_store(store: str, more: list[str]) -> None:
    """The program, what it imports and the data, by whatever name, also from Python."""
    Path("part.mod").write_text("def part(d) = Linear(9) @ Tanh @ Embed(9, d)\n", encoding="utf-8")
    Path("lm.mod").write_text(
        'from "part.mod" import part\ninput ids: int[batch, seq] < 9\nmodel LM = part(4)\n',
        encoding="utf-8",
    )
    Path("link").symlink_to("text.txt")
    before = Path(store).read_bytes()
    reads = {
        "lm.mod": "the file that is being compiled",
        "part.mod": "a file that the compiled one imports",
    }.get(store, "the file that `--data` reads")
    said = f"the store `{store}` is {reads}: give another --store"
    done = run(*QUICK, "lm.mod", "--store", store, *more)
    assert (done.exit_code, done.stderr) == (1, f"error: {said}\n")
    if not more:
        for force in (False, True):
            with pytest.raises(modnorm.DataError, match=re.escape(said)):
                modnorm.transfer(
                    "lm.mod", vary={}, lr=[0.5], data="text.txt", store=store, force=force
                )
    assert Path(store).read_bytes() == before
    assert Path("link").is_symlink()


def test_force_for_the_output_is_not_for_the_default_store() -> None:
    Path("lm.transfer.db").write_text("mine\n", encoding="utf-8")
    done = run(*QUICK, "lm.mod", "--lr", "0.5", "-o", "a.json", "--force")
    assert done.exit_code == 1
    assert "or --store with --force to begin one in its place" in done.stderr
    assert Path("lm.transfer.db").read_text(encoding="utf-8") == "mine\n"


def test_a_foreign_store_stays_where_the_sweep_cannot_be_run() -> None:
    Path("a.db").write_text("mine\n", encoding="utf-8")
    for words in (["--optimizer", "adam:wings=2"], ["--context", "5000"], ["--vary", "width=1,2"]):
        done = run(*QUICK, "lm.mod", "--store", "a.db", "--force", "--jobs", "1", *words)
        assert done.exit_code == 1
        assert Path("a.db").read_text(encoding="utf-8") == "mine\n"


def test_to_ask_writes_nothing() -> None:
    Path("e.db").touch()
    Path("a.json").write_text("mine\n", encoding="utf-8")
    for words in (["--dry-run"], ["--dry-run", "-o", "a.json"], ["--partial"]):
        done = run(*SWEEP, "--store", "e.db", *words)
        assert done.exit_code == 0, done.stderr
    assert Path("e.db").read_bytes() == b""
    assert Path("a.json").read_text(encoding="utf-8") == "mine\n"


# --- what is refused before anything is run -----------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lm.mod", "--vary", "width=4,8"], "width"),
        (["lm.mod", "-p", "width=4"], "width"),
        (["net.mod", "--vary", "d=8,7"], "(at d = 7)"),
        (["no.mod"], "no.mod"),
        (["lm.mod", "--data", "no.txt"], "no.txt"),
        (["lm.mod", "-o", "no/folder.json"], "there is no folder `no`"),
        (["lm.mod", "-o", "lm.mod"], "it is the file that is being compiled"),
        (["lm.mod", "--store", "net.mod"], "`net.mod` is no store of runs, or is damaged"),
        (["--from", "no.json"], "`no.json` cannot be read"),
        (["--from", "text.txt"], "`text.txt` is no finished sweep"),
        (["lm.mod", "--star", "--vary", "mass=1,2", "--vary", "d=4,8"], "1 : m : 1"),
    ],
)
def test_mistakes_that_are_found_at_once(words: list[str], said: str) -> None:
    Path("lm.mod").write_text(LM.replace("Embed(9, d)", "tare(Embed(9, d), 3)"), encoding="utf-8")
    given = [] if words[0] == "--from" or "--data" in words else QUICK
    done = run(*words, *given)
    assert done.exit_code == 1, done.output
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert files() == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lm.mod", "--data", "long.txt"], "long.txt has 12 distinct characters"),
        (["lm.mod", "--optimizer", "adam:wings=2"], "the optimizer adam cannot be made"),
        (["lm.mod", "--optimizer", "nowhere:make"], "there is no module 'nowhere'"),
        (["lm.mod", "--context", "5000"], "too few for windows of 5000"),
        (["two.mod", "--vary", "mass=1,2"], "the weights are in 2 parts"),
    ],
)
def test_mistakes_that_one_step_shows(words: list[str], said: str) -> None:
    """They are found in the smallest model, before a run of the sweep begins."""
    Path("long.txt").write_text("abcdefghijkl" * 200, encoding="utf-8")
    Path("two.mod").write_text(
        "input ids: int[batch, seq] < 9\nmodel Two = Linear(9) @ Embed(9, 4)\n", encoding="utf-8"
    )
    done = run(*QUICK, *words, "--jobs", "1", "--store", "a.db")
    assert done.exit_code == 1, done.output
    assert said in " ".join(done.stderr.split())
    assert done.stderr.startswith("error: the run ")
    assert "Traceback" not in done.stderr
    assert names("a.db") == []


def test_without_torch() -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom modnorm.cli import main\n"
        f"sys.argv[1:] = {['transfer', *SWEEP]!r}\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "modnorm[torch]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": [0.0]}, "no positive number"),
        ({"lr": "a"}, "no positive number"),
        ({"lr": 3}, "neither numbers nor a text"),
        ({"vary": ["d"]}, "vary must be a dict"),
        ({"vary": {"d": [4, 4]}}, "twice"),
        ({"optimizer": "adamx"}, "no optimizer 'adamx'"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": True}, "seeds must be an integer of at least 1, not True"),
        ({"extend": -1}, "extend must be an integer of at least 0"),
        ({"extend": "2"}, "extend must be an integer of at least 0, not '2'"),
        ({"jobs": 0}, "jobs must be an integer of at least 1"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"schedule": "step"}, "the schedule is one of"),
        ({"metric": "loss"}, "the metric is one of"),
        ({"tolerance": 0}, "the tolerance must be positive"),
        ({"format": "pdf"}, "the format of a sweep is one of"),
    ],
)
def test_values_that_an_option_cannot_have(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        modnorm.transfer("lm.mod", **{"vary": {"d": [4, 8]}, "data": "text.txt", **options})
    assert files() == set()


# --- workers ------------------------------------------------------------------------------------

WORK = """
import os, time
from modnorm.sweep.records import Outcome

class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")

def work(job):
    if job["do"] == "die":
        os._exit(9)
    if job["do"] == "fail":
        raise Unsendable("no", "luck")
    if job["do"] == "quit":
        raise SystemExit(3)
    return Outcome("done", 4.0, 1.0, 1.0, None, 1, float(job["do"]))
"""


def test_a_worker_that_dies_is_told_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("somework.py").write_text(WORK, encoding="utf-8")
    monkeypatch.syspath_prepend(os.getcwd())
    found: dict[str, Any] = {}
    with closing(Processes(2, work="somework:work")) as pool:
        for part in (["1", "die"], ["fail", "2"], ["quit", "3"]):
            for do in part:
                pool.submit(do, {"do": do})
            while len(found.keys() & set(part)) < len(part):
                found.update(pool.finished(1.0))
    assert [found[do].seconds for do in "123"] == [1.0, 2.0, 3.0]
    assert isinstance(found["die"], TrialFailed)
    assert "its process was ended from outside or crashed" in str(found["die"])
    for do, said in (("fail", "Unsendable: no luck"), ("quit", "SystemExit: 3")):
        assert isinstance(found[do], TrialFailed)
        assert re.fullmatch(rf"{said} \(somework.py, line \d+\)", str(found[do]))


def test_workers_have_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    text = WORK.replace('float(job["do"])', 'float(os.environ["SECONDS"])')
    Path("otherwork.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(os.getcwd())
    for seconds in ("5", "6"):
        monkeypatch.setenv("SECONDS", seconds)
        with closing(Processes(1, work="otherwork:work")) as pool:
            pool.submit("run", {"do": ""})
            (_, found), *_ = pool.finished()
        assert found.seconds == float(seconds)


def test_a_run_that_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and what was run before it is kept."""
    Path("mine.py").write_text(
        "import os\nimport torch\n"
        "def make(module, model, lr):\n"
        "    if lr == 0.5:\n"
        "        os._exit(9)\n"
        "    return torch.optim.SGD(model.parameters(), lr=lr)\n",
        encoding="utf-8",
    )
    done = run("lm.mod", "--optimizer", "mine:make", "--lr", "0.25,0.5", "--jobs", "1", *QUICK)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: the run mine:make lr=0.5 seed=0 failed: its process")
    assert names() == ["mine:make lr=0.25 seed=0"]


def test_a_script_needs_no_guard() -> None:
    """It is not run once more by each worker."""
    Path("script.py").write_text(
        "import modnorm\nprint('begun', flush=True)\n"
        "modnorm.transfer('lm.mod', vary={}, lr=[0.5], data='text.txt', steps=1, batch=2,"
        " context=4, eval_batches=1)\nprint('done')\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "begun\ndone\n")


# --- Ray ----------------------------------------------------------------------------------------


def test_ray_makes_the_same_runs() -> None:
    pytest.importorskip("ray")
    here, there = (
        run(*SWEEP, "--jobs", "2", "--format", "json", "--store", f"{place}.db", *words)
        for place, words in (("here", []), ("there", ["--ray"]))
    )
    assert (there.exit_code, there.stderr) == (0, "")
    assert timeless(json.loads(there.stdout)) == timeless(json.loads(here.stdout))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_no_cluster_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    done = run(*SWEEP, "--ray", address)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: no Ray cluster at {address}: ")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run(*SWEEP, "--ray")
    assert done.exit_code == 1
    assert done.stderr == 'error: --ray needs Ray: `pip install "modnorm[ray]"`\n'
