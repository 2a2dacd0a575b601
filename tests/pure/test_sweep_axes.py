"""What a sweep is asked for: values, ranges, learning rates by optimizer."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from modnorm.cli import cli
from modnorm.sweep.axes import BadAxis, beyond, labels, rates, values


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("32,64,128", (32, 64, 128)),
        ("128, 32", (32, 128)),
        ("0.1,0.2,2^-3", (0.1, 0.125, 0.2)),
        ("2^-2..2^1", (0.25, 0.5, 1, 2)),
        ("2^-1..2^1:0.5", (0.5, 2**-0.5, 1, 2**0.5, 2)),
        ("2^-4..2^0:2", (2**-4, 2**-2, 1)),
        ("32..256", (32, 64, 128, 256)),
        ("3..12,20", (3, 6, 12, 20)),
        ("0.1..0.8", (0.1, 0.2, 0.4, 0.8)),
        ("1e-3", (0.001,)),
        ("2^5", (32,)),
        (".5", (0.5,)),
    ],
)
def test_values(text: str, found: tuple[float, ...]) -> None:
    assert values(text) == found


def test_whole_values_are_ints() -> None:
    assert all(isinstance(value, int) for value in values("32,2^6,128..512"))
    assert all(isinstance(value, float) for value in values("2^-1..2^1"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no positive number"),
        ("32,", "'' is no positive number"),
        ("a", "'a' is no positive number: write 64, 0.1, 1e-3 or 2^-3"),
        ("-1", "'-1' is no positive number"),
        ("0", "'0' is no positive number"),
        ("nan", "'nan' is no positive number"),
        ("inf", "'inf' is no positive number"),
        ("1e999", "'1e999' is no positive number"),
        ("2^99999", "'2^99999' is no positive number"),
        ("2^-99999", "'2^-99999' is no positive number"),
        ("2^", "'2^' is no positive number"),
        ("1.2.3^2", "'1.2.3^2' is no positive number"),
        ("9" * 400, "is no positive number"),
        ("1,2,1", "has the value 1 twice"),
        ("1..4,2", "has the value 2 twice"),
        ("4..1", "does not rise"),
        ("2..2", "does not rise"),
        ("1..", "'' is no positive number"),
        ("0.1..1", "by doubling from 0.1 it gets to 0.8 and then to 1.6"),
        ("2^0..2^1:0.3", "by steps of 2^0.3 from 1 it gets to"),
        ("2^-8..2^2:0", "'0' is no positive number"),
        ("2^-8..2^2:1e-9", "more than 1,000 values"),
        (",".join(map(str, range(1, 1100))), "more than 1,000 values"),
    ],
)
def test_what_are_no_values(text: str, said: str) -> None:
    with pytest.raises(BadAxis) as caught:
        values(text)
    assert said in str(caught.value)


@given(st.integers(-20, 0), st.integers(1, 12), st.sampled_from([1.0, 0.5, 0.25, 0.2]))
def test_grids_that_overlap_have_numbers_in_common(low: int, count: int, step: float) -> None:
    """A wider grid, and what lies past the end of a narrow one, is the same to the last digit."""
    narrow = values(f"2^{low}..2^{low + count}:{step}")
    wide = values(f"2^{low - 1}..2^{low + count + 1}:{step}")
    assert set(narrow) <= set(wide)
    ends = beyond(narrow, True), beyond(narrow, False)
    assert set(ends) <= set(wide)
    assert ends[0] < narrow[0] < narrow[-1] < ends[1]


def test_past_the_end_of_a_list() -> None:
    assert beyond([0.1, 0.3, 0.6], low=True) == pytest.approx(0.1 / 3)
    assert beyond([0.1, 0.2, 0.4], low=False) == 0.8
    assert beyond([0.1, 0.3], low=False) == 0.9


# --- optimizers -------------------------------------------------------------------------------


def test_labels() -> None:
    found = labels(["normed_adam, adam,muon", "adam", "dualized_sgd:momentum=0.9:steps=5"])
    assert found == ("normed_adam", "adam", "muon", "dualized_sgd:momentum=0.9:steps=5")
    assert labels(["mine.optim:make,own:make:beta=2"]) == ("mine.optim:make", "own:make:beta=2")


@pytest.mark.parametrize("text", ["", "adamx", "adam,", "adam:0.9", "adam:lr", "adam:x=1:x=2"])
def test_what_are_no_labels(text: str) -> None:
    with pytest.raises(BadAxis):
        labels([text])


def test_labels_under_other_names_are_the_same_label() -> None:
    assert labels(["AdamW,adam", "adamw", "NormedAdam:eps=0"]) == ("adam", "normed_adam:eps=0")
    assert rates(["AdamW=0.25", "0.5"], labels(["adamw,Muon"])) == {"adam": (0.25,), "muon": (0.5,)}


def test_a_grid_of_rates_ends_where_doubling_does() -> None:
    found = rates(["1e-3..1e-1"], ("adam",))["adam"]
    assert found == pytest.approx([0.001 * 2**i for i in range(7)], rel=1e-12)
    assert found[-1] <= 0.1 < 2 * found[-1]
    assert rates(["0.1..1:0.5"], ("sgd",))["sgd"] == pytest.approx(
        [0.1 * 2 ** (i / 2) for i in range(7)]
    )
    assert rates(["0.1..0.8"], ("sgd",))["sgd"] == (0.1, 0.2, 0.4, 0.8)
    with pytest.raises(BadAxis, match=r"by doubling from 0\.1 it gets to 0\.1 and then"):
        rates(["0.1..0.15"], ("sgd",))


def test_rates_of_the_optimizers() -> None:
    named = ("normed_adam", "adam", "dualized_sgd:momentum=0.9", "dualized_sgd")
    found = rates(
        [
            "2^-2..2^0",
            "adam=2^-9..2^-8",
            "dualized_sgd=1,2",
            "dualized_sgd:momentum=0.9=3,4",
        ],
        named,
    )
    assert found == {
        "normed_adam": (0.25, 0.5, 1.0),
        "adam": (2**-9, 2**-8),
        "dualized_sgd:momentum=0.9": (3.0, 4.0),
        "dualized_sgd": (1.0, 2.0),
    }
    assert list(found) == list(named), "in the order of the optimizers"
    assert all(isinstance(lr, float) for some in found.values() for lr in some)


def test_an_optimizer_without_learning_rates_has_those_of_the_rest() -> None:
    found = rates(["adam=0.25"], ("normed_adam", "adam"))
    assert found == {"normed_adam": tuple(2.0**x for x in range(-8, 3)), "adam": (0.25,)}
    assert rates([], ("adam",)) == {"adam": found["normed_adam"]}
    assert rates(["1", "adam=0.25"], ("normed_adam", "adam"))["normed_adam"] == (1.0,)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["1,2", "2,4"], "the learning rates are given twice"),
        (["1", "adam=1,2", "adam=2,4"], "the learning rates of adam are given twice"),
        (["muon=1,2", "1"], "given for 'muon', which is not among --optimizer"),
        (["adam="], "'' is no positive number"),
    ],
)
def test_what_are_no_rates(texts: list[str], said: str) -> None:
    with pytest.raises(BadAxis) as caught:
        rates(texts, ["normed_adam", "adam"])
    assert said in str(caught.value)


# --- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vary", "d"], "'d' is not of the form NAME=VALUE"),
        (["--vary", "d=a"], "Invalid value for '--vary': 'a' is no positive number"),
        (["--vary", "d=1,2", "--vary", "d=4"], "'d' is given twice"),
        (["--lr", "x..y"], "--lr: 'x' is no positive number"),
        (["--lr", "sgd=1,2"], "--lr: learning rates are given for 'sgd'"),
        (
            ["--optimizer", "adamx"],
            "--optimizer: there is no optimizer 'adamx' (did you mean `adam`?)",
        ),
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--schedule", "step"], "Invalid value for '--schedule'"),
        (["--tolerance", "0"], "Invalid value for '--tolerance': 0.0 is no positive number"),
        (["--tolerance", "nan"], "Invalid value for '--tolerance': nan is no positive number"),
        (["--tolerance", "inf"], "Invalid value for '--tolerance': inf is no positive number"),
        (["--from", "sweep.json"], "Give FILE.mod to sweep, or --from a finished sweep's JSON"),
        (["--plot", "a.gif"], "--plot draws png svg pdf: 'a.gif' ends in none of them"),
        (["--plot", "a.png", "-o", "./a.png"], "one would be lost"),
        (["-o", "./net.transfer.db"], "is the --store: its runs would be lost"),
        (["--store", "a.png", "--plot", "./a.png"], "is the --store: its runs would be lost"),
    ],
)
def test_usage(words: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["transfer", "net.mod", *words], prog_name="modnorm")
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "words",
    [
        ["--vary", "d=1,2"], ["-p", "d=2"], ["--lr", "1"], ["--jobs", "1"], ["--store", "a.db"],
        ["--dry-run"], ["--seeds", "1"], ["--model", "Net"],
    ],
)  # fmt: skip
def test_a_finished_sweep_takes_nothing_to_run(words: list[str]) -> None:
    done = CliRunner().invoke(cli, ["transfer", "--from", "a.json", *words], prog_name="modnorm")
    assert done.exit_code == 2
    assert f"{words[0]} says what to run, but --from shows" in " ".join(done.stderr.split())


def test_a_finished_sweep_takes_how_to_show_it() -> None:
    words = ["--metric", "held_out", "--tolerance", "1", "--format", "json", "-q", "-o", "a.json"]
    done = CliRunner().invoke(cli, ["transfer", "--from", "no.json", *words], prog_name="modnorm")
    assert (done.exit_code, done.stderr[:31]) == (1, "error: `no.json` cannot be read")


def test_a_file_or_a_finished_sweep() -> None:
    done = CliRunner().invoke(cli, ["transfer"], prog_name="modnorm")
    assert done.exit_code == 2
    assert "Give FILE.mod to sweep, or --from a finished sweep's JSON" in done.stderr
