"""The file that keeps runs, and the plan that says which ones there are."""

from __future__ import annotations

import math
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modnorm.sweep.plan import Curve, Plan, combinations
from modnorm.sweep.pool import Job
from modnorm.sweep.problems import TrialFailed
from modnorm.sweep.records import Outcome, Trial
from modnorm.sweep.run import drive, remaining, spoken
from modnorm.sweep.store import APPLICATION, StoreError, opened, peek
from tests.sweeps import sweep

DONE = Outcome("done", 4.25, 0.1 + 0.2, 1 / 3, 0.5, 300, 1.25)
DIVERGED = Outcome("diverged", 4.25, None, None, None, 17, 0.5)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "net.transfer.db")


# --- the store ----------------------------------------------------------------------------------


def test_what_is_kept_comes_back(path: str) -> None:
    wild = replace(DIVERGED, first_loss=math.inf)
    with opened(path) as store:
        store.add("a", "adam lr=1", DONE)
        store.add("b", "adam lr=2", DIVERGED)
        store.add("c", "adam lr=4", wild)
    with opened(path) as store:
        assert store.outcomes("abcd") == {"a": DONE, "b": DIVERGED, "c": wild}
        assert store.outcomes(["b", "x"]) == {"b": DIVERGED}
        assert store.outcomes([]) == {}
        store.add("n", "adam lr=8", replace(DIVERGED, first_loss=math.nan))
        assert math.isnan(store.outcomes(["n"])["n"].first_loss)


def test_many_keys(path: str) -> None:
    keys = [f"k{number}" for number in range(1300)]
    with opened(path) as store:
        for key in keys[:7]:
            store.add(key, key, DONE)
        store.add(keys[-1], "last", DONE)
        assert store.outcomes(keys).keys() == {*keys[:7], keys[-1]}


def test_a_run_is_kept_once(path: str) -> None:
    with opened(path) as store:
        store.add("a", "adam", DONE)
        with pytest.raises(StoreError, match="UNIQUE"):
            store.add("a", "adam", DIVERGED)
        assert store.outcomes(["a"]) == {"a": DONE}


HOLD = """
import sys
from modnorm.sweep.records import Outcome
from modnorm.sweep.store import opened
with opened(sys.argv[1]) as store:
    store.add("a", "adam", Outcome("done", 4.25, 0.1 + 0.2, 1 / 3, 0.5, 300, 1.25))
    print("open", flush=True)
    sys.stdin.read()
"""


def test_one_sweep_at_a_time(path: str) -> None:
    """The lock goes with the process that has it, and what that kept is there."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"open"
        with pytest.raises(StoreError, match="in use by another sweep"), opened(path):
            pass
        assert peek(path, lambda store: store.outcomes(["a"])) == {"a": DONE}, "to look is allowed"
    finally:
        other.kill()
        other.communicate()
    with opened(path) as store:
        assert store.outcomes(["a"]) == {"a": DONE}
    assert peek(path, lambda store: store.outcomes(["a"])) == {"a": DONE}


def _empty(path: Path) -> None:
    path.touch()


def _text(path: Path) -> None:
    path.write_text("no database\n" * 200, encoding="utf-8")


def _spoilt(path: Path) -> None:
    """One page is damaged, so that the check says where in several lines."""
    _filled(path)
    content = bytearray(path.read_bytes())
    content[4106:4300] = b"\xff" * 194
    path.write_bytes(bytes(content))


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (key TEXT)")


def _newer(path: Path) -> None:
    with opened(str(path)):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")


def _cut(path: Path) -> None:
    _filled(path)
    path.write_bytes(path.read_bytes()[:6000])


def _scrambled(path: Path) -> None:
    _filled(path)
    content = bytearray(path.read_bytes())
    content[4096:] = random.Random(0).randbytes(len(content) - 4096)
    path.write_bytes(bytes(content))


def _filled(path: Path) -> None:
    with opened(str(path)) as store:
        for number in range(200):
            store.add(f"key{number}", "adam", DONE)


def _earlier(path: Path) -> None:
    """As an earlier version made it, without checksums."""
    _filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE sums")
    connection.close()


def _beheaded(path: Path) -> None:
    """The first bytes are damaged, by which the system tells a database."""
    _filled(path)
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])


def _unmarked(path: Path) -> None:
    """All of the header is damaged, the mark of a store with it."""
    _filled(path)
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_text, "is no store of runs, or is damaged"),
        (_foreign, "is a database of something else"),
        (_newer, "another version of modnorm (its layout is 7, this one's 1)"),
        (_cut, "damaged"),
        (_scrambled, "damaged"),
        (_spoilt, "damaged"),
        (_beheaded, "is damaged (its beginning is not that of a store)"),
        (_unmarked, "is damaged (its beginning is not that of a store)"),
        (_folder, "is a folder"),
    ],
)
def test_what_is_no_store(make: Callable[[Path], None], said: str, path: str) -> None:
    make(Path(path))
    before = Path(path).read_bytes() if Path(path).is_file() else b""
    with pytest.raises(StoreError) as caught, opened(path):
        pass
    assert said in str(caught.value)
    assert "give " in str(caught.value), "how to mend it"
    assert "\n" not in str(caught.value)
    assert before == (Path(path).read_bytes() if Path(path).is_file() else b""), "untouched"


@pytest.mark.parametrize("make", [_text, _foreign])
def test_a_foreign_file_gives_its_place_on_request_only(
    make: Callable[[Path], None], path: str
) -> None:
    make(Path(path))
    with pytest.raises(StoreError, match="--force to begin one in its place"), opened(path):
        pass
    with opened(path, force=True) as store:
        store.add("a", "adam", DONE)
    with opened(path, force=True) as store:  # it is a store now
        assert store.outcomes(["a"]) == {"a": DONE}


@pytest.mark.parametrize("make", [_newer, _cut, _scrambled, _spoilt, _beheaded, _unmarked])
def test_no_store_gives_its_place(make: Callable[[Path], None], path: str) -> None:
    """Runs may be in it, which took hours."""
    make(Path(path))
    before = Path(path).read_bytes()
    with pytest.raises(StoreError), opened(path, force=True):
        pass
    assert Path(path).read_bytes() == before


def test_a_link_to_a_foreign_file_stays_a_link(tmp_path: Path, path: str) -> None:
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "a.db"
    _text(real)
    Path(path).symlink_to(real)
    Path(f"{real}-journal").write_bytes(b"its own")
    with pytest.raises(StoreError, match="it is in use"), opened(path, force=True):
        pass
    Path(f"{real}-journal").unlink()
    with opened(path, force=True) as store:
        store.add("a", "adam", DONE)
    assert Path(path).is_symlink()
    with opened(str(real)) as store:
        assert store.outcomes(["a"]) == {"a": DONE}


def found_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The content of each file, and when it was written."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


@pytest.mark.parametrize("make", [_empty, _filled, _earlier])
def test_to_look_writes_nothing(make: Callable[[Path], None], path: str) -> None:
    make(Path(path))
    before = found_in(Path(path).parent)
    expected = {} if make is _empty else {"key7": DONE}
    assert peek(path, lambda store: store.outcomes(["key7"])) == expected
    assert found_in(Path(path).parent) == before


def test_to_look_at_what_was_left_in_haste_writes_nothing(path: str) -> None:
    """What the killed sweep had not finished is left out, and not undone in the file."""
    _filled(Path(path))
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1')\n"
        "c.execute('BEGIN')\n"
        "c.execute('UPDATE runs SET steps = 5')\n"
        "rows = [(f'x{n}', 'x' * 999) for n in range(99)]\n"
        "c.executemany('INSERT INTO sums VALUES (?, ?)', rows)\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False)
    before = found_in(Path(path).parent)
    assert len(before) == 2, "the file, and what is to be undone in it"
    assert peek(path, lambda store: store.outcomes(["key7"])) == {"key7": DONE}
    assert found_in(Path(path).parent) == before


def test_a_foreign_database_that_is_in_use_stays(path: str) -> None:
    _foreign(Path(path))
    Path(path + "-journal").write_bytes(b"its own")
    with pytest.raises(StoreError, match="it is in use"), opened(path, force=True):
        pass
    assert Path(path + "-journal").read_bytes() == b"its own"


def test_a_foreign_database_is_not_even_recovered(path: str) -> None:
    """To open a database whose program was killed is to change it."""
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1')\n"
        "c.execute('CREATE TABLE t (x)')\n"
        "c.execute('BEGIN')\n"
        "c.executemany('INSERT INTO t VALUES (?)', [('x' * 999,)] * 999)\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False)
    before = Path(path).read_bytes(), Path(path + "-journal").read_bytes()
    for force in (False, True):
        with pytest.raises(StoreError, match="something else"), opened(path, force=force):
            pass
    assert before == (Path(path).read_bytes(), Path(path + "-journal").read_bytes())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_no_store(path: str) -> None:
    os.mkfifo(path)
    for force in (False, True):
        with pytest.raises(StoreError, match="no ordinary file"), opened(path, force=force):
            pass


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "weird"),
        ("status", b"done"),
        ("first_loss", "text"),
        ("train_loss", "0.5 or so"),
        ("train_loss", b"\xff"),
        ("held_out_loss", "x"),
        ("accuracy", "x"),
        ("steps", "many"),
        ("steps", 2.5),
        ("steps", -1),
        ("seconds", "long"),
        ("seconds", -1.0),
        ("seconds", math.inf),
    ],
)
@pytest.mark.parametrize("sums", [True, False])
def test_a_column_with_what_cannot_be_in_it(
    path: str, column: str, value: object, sums: bool
) -> None:
    """Also in a store of an earlier version, which has no checksums."""
    with opened(path) as store:
        store.add("a", "adam lr=1", DONE)
        store.add("b", "adam lr=2", DONE)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE runs SET {column} = ? WHERE key = 'a'", (value,))
        if not sums:
            connection.execute("DROP TABLE sums")
    connection.close()
    said = "is damaged, in the run 'adam lr=1': give another --store"
    with opened(path) as store:
        assert store.outcomes(["b"]) == {"b": DONE}
        with pytest.raises(StoreError) as caught:
            store.outcomes(["a", "b"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_that_was_changed_is_seen(path: str) -> None:
    with opened(path) as store:
        store.add("a", "adam", DONE)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET train_loss = 0.25")
    connection.close()
    with opened(path) as store, pytest.raises(StoreError, match="is damaged, in the run 'adam'"):
        store.outcomes(["a"])


def test_flipped_bytes_never_give_another_outcome(path: str) -> None:
    """What is read is what was kept, or there is a sentence, or the run is missing."""
    with opened(path) as store:
        for number in range(8):
            store.add(f"key{number}", "adam", replace(DONE, steps=number))
    whole, rng = Path(path).read_bytes(), random.Random(0)
    kept = {f"key{number}": replace(DONE, steps=number) for number in range(8)}
    content = [at for at in range(len(whole)) if whole[at]]  # most of the file is empty
    told = list[str]()
    for at in rng.sample(content, min(len(content), 400)):
        byte = whole[at] ^ (1 << rng.randrange(8))
        Path(path).write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
        try:
            with opened(path) as store:
                found = store.outcomes(kept)
        except StoreError as error:
            told.append(str(error))
        else:
            assert found.items() <= kept.items()
    assert len(told) > 100
    assert not any("\n" in text for text in told)


def test_an_empty_file_becomes_a_store(path: str) -> None:
    _empty(Path(path))
    with opened(path) as store:
        store.add("a", "adam", DONE)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION,)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"), opened(str(tmp_path / "no" / "a.db")):
        pass


# --- the plan -----------------------------------------------------------------------------------

RATES = (0.25, 0.5, 1.0, 2.0)


class Made(Plan):
    """A plan whose runs are told apart by their names."""

    def key(self, curve: Curve, lr: float, seed: int) -> str:
        return f"{curve.sizes[0][1]}/{lr!r}/{seed}"

    def job(self, curve: Curve, lr: float, seed: int) -> Any:
        return {"d": curve.sizes[0][1], "lr": lr, "seed": seed}


class Shared(Made):
    """One whose runs are the same at all sizes."""

    def key(self, curve: Curve, lr: float, seed: int) -> str:
        return f"{lr!r}/{seed}"


def plan_of(curves: int = 1, seeds: int = 1, extend: int = 2, kind: type[Plan] = Made) -> Plan:
    return kind(
        sweep({}, {}, seeds=range(seeds)),
        tuple(Curve("adam", (("d", 2**i),), RATES, cost=2.0**i) for i in range(curves)),
        extend,
    )


def made(best: float, lr: float, seed: int = 0) -> Outcome:
    """A run whose loss is lowest at log2(lr) = best."""
    loss = 1 + abs(math.log2(lr) - best) / 10
    return Outcome("done", 4.0, loss, loss, None, 3, 1.0)


def settled(plan: Plan, best: float) -> list[float]:
    """The learning rates of a curve after all of its runs."""
    found: dict[str, Outcome] = {}
    while True:
        trials = plan.trials(plan.curves[0], found)
        new = [trial for trial in trials if trial.key not in found]
        if not new:
            return sorted({trial.lr for trial in trials})
        found.update((trial.key, made(best, trial.lr)) for trial in new)


@pytest.mark.parametrize(
    ("best", "rates"),
    [
        (-0.9, [*RATES]),
        (0.1, [*RATES]),
        (1.2, [*RATES, 4.0]),
        (3.0, [*RATES, 4.0, 8.0]),
        (9.0, [*RATES, 4.0, 8.0]),
        (-3.1, [2**-4, 2**-3, *RATES]),
        (-2.2, [2**-3, *RATES]),
    ],
)
def test_curves_go_on_past_their_ends(best: float, rates: list[float]) -> None:
    assert settled(plan_of(), best) == rates
    assert settled(plan_of(extend=0), best) == [*RATES]


def test_a_curve_waits_for_all_its_seeds() -> None:
    plan = plan_of(seeds=2)
    found = {t.key: made(9.0, t.lr) for t in plan.trials(plan.curves[0], {}) if t.seed == 0}
    assert len(plan.trials(plan.curves[0], found)) == 8
    found |= {t.key: made(0.4, t.lr) for t in plan.trials(plan.curves[0], found) if t.seed == 1}
    assert len(plan.trials(plan.curves[0], found)) == 10, "the mean is lowest at the upper end"


def test_divergence_counts_as_the_first_loss() -> None:
    """A diverged run is worse than one that learned, and as bad as one that ended above."""
    plan = plan_of()
    losses = {0.25: 3.9, 0.5: 9.0, 1.0: None, 2.0: math.nan}
    found = {}
    for trial in plan.trials(plan.curves[0], {}):
        loss = losses[trial.lr]
        found[trial.key] = replace(DONE, first_loss=4.0, train_loss=loss)
        if loss is None:
            found[trial.key] = replace(DIVERGED, first_loss=4.0)
    rates = {trial.lr for trial in plan.trials(plan.curves[0], found)}
    assert rates == {0.125, *RATES}


def test_curves_go_on_by_the_loss_that_decides() -> None:
    plan = plan_of()
    found = {
        t.key: replace(made(0.1, t.lr), held_out_loss=made(9.0, t.lr).train_loss)
        for t in plan.trials(plan.curves[0], {})
    }
    assert {t.lr for t in plan.trials(plan.curves[0], found)} == {*RATES}
    plan = replace(plan, metric="held_out")
    assert {t.lr for t in plan.trials(plan.curves[0], found)} == {*RATES, 4.0}


def test_all_diverged() -> None:
    """Smaller learning rates may be stable."""
    plan = plan_of()
    found = {t.key: DIVERGED for t in plan.trials(plan.curves[0], {})}
    assert {t.lr for t in plan.trials(plan.curves[0], found)} == {0.125, *RATES}


def test_one_learning_rate_has_no_next() -> None:
    plan = replace(plan_of(), curves=(Curve("adam", (("d", 1),), (0.5,)),))
    assert settled(plan, 9.0) == [0.5]


def test_combinations() -> None:
    vary = {"d": (32, 64), "blocks": (2, 4)}
    assert combinations(vary) == [
        (("d", 32), ("blocks", 2)), (("d", 32), ("blocks", 4)),
        (("d", 64), ("blocks", 2)), (("d", 64), ("blocks", 4)),
    ]  # fmt: skip
    assert combinations(vary, {"d": 64, "blocks": 3}) == [
        (("d", 32), ("blocks", 3)), (("d", 64), ("blocks", 3)),
        (("d", 64), ("blocks", 2)), (("d", 64), ("blocks", 4)),
    ]  # fmt: skip
    assert combinations(vary, {"d": 32, "blocks": 2}) == [
        (("d", 32), ("blocks", 2)), (("d", 64), ("blocks", 2)), (("d", 32), ("blocks", 4)),
    ]  # fmt: skip
    assert combinations({}) == combinations({}, {}) == [()]


# --- the drive ----------------------------------------------------------------------------------


class Shuffled:
    """A pool that ends jobs in some order."""

    def __init__(self, size: int, seed: int, best: Callable[[Job], float]) -> None:
        self.size, self.best, self.chance = size, best, random.Random(seed)
        self.running: dict[str, Job] = {}
        self.begun: list[Job] = []

    def submit(self, tag: str, job: Job) -> None:
        assert len(self.running) < self.size
        self.running[tag] = job
        self.begun.append(job)

    def finished(self, timeout: float | None = None) -> list[tuple[str, Outcome | Exception]]:
        tag = self.chance.choice(sorted(self.running))
        job = self.running.pop(tag)
        return [(tag, made(self.best(job), job["lr"], job["seed"]))]

    def close(self) -> None:
        self.running.clear()


def untold(*said: object) -> None:
    """Shows nothing."""


def everything(plan: Plan, outcomes: dict[str, Outcome]) -> Iterator[tuple[Trial, Outcome]]:
    for curve in plan.curves:
        for trial in sorted(plan.trials(curve, outcomes), key=lambda t: (t.lr, t.seed)):
            yield trial, outcomes[trial.key]


def test_the_order_of_completion_does_not_matter(tmp_path: Path) -> None:
    plan = plan_of(curves=3, seeds=2)
    results = []
    for seed in range(12):
        pool = Shuffled(1 + seed % 4, seed, lambda job: -4.0 + 3 * math.log2(job["d"]))
        with opened(str(tmp_path / f"{seed}.db")) as store:
            drive(plan, store, pool, untold)
            results.append(list(everything(plan, plan.known(store))))
        assert len(pool.begun) == len(results[-1]), "each once"
    assert all(result == results[0] for result in results)
    assert {trial.lr for trial, _ in results[0]} == {2**-4, 2**-3, *RATES, 4.0, 8.0}


def test_large_models_come_first(path: str) -> None:
    plan = plan_of(curves=3)
    pool = Shuffled(2, 0, lambda job: 0.0)
    with opened(path) as store:
        drive(plan, store, pool, untold)
    sizes = [job["d"] for job in pool.begun]
    assert sizes == sorted(sizes, reverse=True)


class Failing(Shuffled):
    def finished(self, timeout: float | None = None) -> list[tuple[str, Outcome | Exception]]:
        ((tag, result),) = super().finished()
        return [(tag, RuntimeError("out of memory") if tag.startswith("4/1.0") else result)]


def test_a_run_that_fails_is_named_and_the_rest_kept(path: str) -> None:
    plan = plan_of(curves=3)
    pool = Failing(3, 1, lambda job: 0.0)
    with opened(path) as store:
        with pytest.raises(TrialFailed) as caught:
            drive(plan, store, pool, untold)
        assert "adam d=4 lr=1 seed=0" in str(caught.value)
        assert "RuntimeError: out of memory" in str(caught.value)
        assert len(plan.known(store)) == len(pool.begun) - 1, "what was on its way is kept"
        assert not pool.running
    before = len(pool.begun)
    pool = Shuffled(3, 1, lambda job: 0.0)
    with opened(path) as store:
        drive(plan, store, pool, untold)
    assert len(pool.begun) == 12 - (before - 1)


def test_runs_that_are_the_same_are_made_once(path: str) -> None:
    """As those of an optimizer that masses mean nothing to."""
    plan = plan_of(curves=3, kind=Shared)
    pool = Shuffled(2, 3, lambda job: 9.0)
    with opened(path) as store:
        drive(plan, store, pool, untold)
        found = plan.known(store)
    assert len(pool.begun) == 6
    assert len(list(everything(plan, found))) == 18


def test_other_runs_of_a_store_are_left_alone(path: str) -> None:
    with opened(path) as store:
        store.add("1/4.0/0", "past the end", made(-0.5, 4.0))
        store.add("foreign", "another sweep's", DONE)
        plan = plan_of()
        drive(plan, store, Shuffled(1, 0, lambda job: -0.5), untold)
        assert {trial.lr for trial, _ in everything(plan, plan.known(store))} == {*RATES}


# --- what remains -------------------------------------------------------------------------------


def test_the_estimate_goes_by_alike_runs() -> None:
    small, large = (
        Curve("adam", (("d", d),), RATES, cost=cost) for d, cost in ((1, 1.0), (2, 4.0))
    )
    assert remaining([], [small], 1) is None
    assert remaining([(large, 8.0)], [large], 1) == 8.0
    assert remaining([(large, 8.0)], [small], 1) == 2.0, "by cost, as there is nothing like it"
    over = [(large, 8.0), (small, 4.0)]
    assert remaining(over, [small], 1) == 4.0
    assert remaining(over, [small, small, large, large], 2) == 12.0
    assert remaining(over, [large], 8) == 8.0
    assert remaining(over, [], 2) == 0.0


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.1, "1 s"), (60, "60 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
