"""Reading a monitor's file: what is in it, what is tolerated, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import modnorm
from modnorm.report.monitor import EXPECTED, MEASURES, Monitored, MonitorError, Recorded

HEADER: dict[str, Any] = {
    "modnorm": "monitor",
    "version": 1,
    "model": "Tiny",
    "optimizer": "NormedAdam",
    "weights": ["embed.weight", "linear.weight"],
    "targets": [0.25, 0],
}
ROW: dict[str, Any] = {
    "step": 10,
    "lr": 0.1,
    "loss": 2.5,
    "norm": [1.5, 1],
    "slack": [1.25, None],
    "cosine": [-0.5, None],
    "spent": [0.75, None],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def lines(*objects: Any) -> str:
    return "".join(json.dumps(x) + "\n" for x in objects)


def refused(path: Path, text: str | bytes, **options: Any) -> str:
    """What is said of a file with this text, without its name."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(MonitorError) as caught:
        modnorm.read_monitor(path, **options)
    message = str(caught.value)
    place = "" if caught.value.line is None else f", line {caught.value.line}"
    assert message == f"`{path}`{place}: {caught.value.reason}"
    return message.removeprefix(f"`{path}`").removeprefix(", ")


def test_a_file(path: Path) -> None:
    path.write_text(lines(HEADER, ROW))
    row = Recorded(
        step=10,
        lr=0.1,
        lrs=(0.1, 0.1),
        loss=2.5,
        norm=(1.5, 1),
        slack=(1.25, None),
        cosine=(-0.5, None),
        spent=(0.75, None),
    )
    weights = ("embed.weight", "linear.weight")
    wanted = Monitored("Tiny", "NormedAdam", weights, (0.25, 0.0), (row,), False)
    assert modnorm.read_monitor(path) == wanted
    assert modnorm.read_monitor(str(path), weights) == wanted


def test_what_may_be_left_out_or_added(path: Path) -> None:
    row = {key: value for key, value in ROW.items() if key != "loss"}
    rows = [row | {"step": 1, "lrs": [0.1, None]}, ROW | {"step": 2, "loss": None, "more": [3]}]
    path.write_text(lines(HEADER | {"more": 1}, *rows))
    first, second = modnorm.read_monitor(path).rows
    assert (first.loss, second.loss) == (None, None)
    assert (first.lrs, second.lrs) == ((0.1, None), (0.1, 0.1))


def test_no_steps_yet(path: Path) -> None:
    for text in (lines(HEADER), json.dumps(HEADER)):
        path.write_text(text)
        assert modnorm.read_monitor(path).rows == ()


def test_a_cut_last_line_is_left_out(path: Path) -> None:
    whole = lines(HEADER, ROW, ROW | {"step": 20})
    start = len(lines(HEADER, ROW))
    for end in range(start, len(whole)):
        path.write_text(whole[:end])
        found = modnorm.read_monitor(path)
        complete = end == len(whole) - 1  # all but the line's end
        assert found.cut == (end > start and not complete)
        assert [row.step for row in found.rows] == ([10, 20] if complete else [10])


def test_a_cut_first_line_is_no_file(path: Path) -> None:
    whole = json.dumps(HEADER)
    for end in range(len(whole)):
        message = refused(path, whole[:end])
        assert message.startswith("line 1: this is no JSON: ")
        assert message.endswith(EXPECTED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modnorm": "plan"}, "invalid enum value 'plan' at `modnorm`; the first line of a"),
        ({"version": 2}, "invalid enum value 2 at `version`; the first line of a monitor's file"),
        ({"version": True}, "expected `int`, got `bool` at `version`; the first line"),
        ({"model": None}, "expected `str`, got `null` at `model`"),
        ({"optimizer": 3}, "expected `str`, got `int` at `optimizer`"),
        ({"weights": "a"}, "expected `array`, got `str` at `weights`"),
        ({"weights": ["a", 2]}, "expected `str`, got `int` at `weights[1]`"),
        ({"targets": None}, "expected `array`, got `null` at `targets`"),
        ({"targets": [1]}, "`targets` has 1 values for 2 weights"),
        ({"targets": [1, None]}, "expected `float`, got `null` at `targets[1]`"),
        ({"targets": [1, "x"]}, "expected `float`, got `str` at `targets[1]`"),
    ],
)
def test_headers_that_are_wrong(path: Path, change: dict[str, Any], message: str) -> None:
    assert refused(path, lines(HEADER | change, ROW)).startswith(f"line 1: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({key: [1]}, f"`{key}` has 1 values for 2 weights") for key in MEASURES),
        *(({key: None}, f"expected `array`, got `null` at `{key}`") for key in MEASURES),
        ({"norm": [1, "2"]}, "expected `float | null`, got `str` at `norm[1]`"),
        ({"norm": [1, True]}, "expected `float | null`, got `bool` at `norm[1]`"),
        ({"norm": [1, 10**400]}, "number out of range at `norm[1]`"),
        ({"norm": [1, 10**4000]}, "number out of range at `norm[1]`"),
        ({"lr": "0.1"}, "expected `float | null`, got `str` at `lr`"),
        ({"lrs": [1]}, "`lrs` has 1 values for 2 weights"),
        ({"lrs": None}, "expected `array`, got `null` at `lrs`"),
        ({"loss": [1]}, "expected `float | null`, got `array` at `loss`"),
        ({"step": 2.5}, "expected `int`, got `float` at `step`"),
        ({"step": True}, "expected `int`, got `bool` at `step`"),
        ({"step": None}, "expected `int`, got `null` at `step`"),
        ({"step": 10}, "`step` must be a whole number above 10, not 10"),
    ],
)
def test_rows_that_are_wrong(path: Path, change: dict[str, Any], message: str) -> None:
    text = lines(HEADER, ROW, ROW | {"step": 20} | change)
    assert refused(path, text).startswith(f"line 3: {message}")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_is_not_json(path: Path, word: str) -> None:
    text = lines(HEADER, ROW).replace("0.75", word)
    assert refused(path, text).startswith("line 2: this is no JSON: invalid character (byte ")
    large = lines(HEADER, ROW).replace("0.75", "1e999")
    assert refused(path, large) == "line 2: number out of range at `spent[0]`"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "this is no JSON: input data was truncated"),
        (b"x", "this is no JSON: invalid character (byte 0)"),
        (b"\x00\x00", "this is no JSON: invalid character (byte 0)"),
        (b"\xff\xfe", "this is no JSON: invalid character (byte 0)"),
        (b"[1]", "expected `object`, got `array`"),
        (b"3", "expected `object`, got `int`"),
        (b"{}", "object missing required field `step`"),
        pytest.param(b'{"a": ' + b"[" * 99999, "this is no JSON: nested too deeply", id="deep"),
    ],
)
def test_a_damaged_line_is_named(path: Path, line: bytes, message: str) -> None:
    text = lines(HEADER, ROW).encode() + line + b"\n" + lines(ROW | {"step": 20}).encode()
    assert refused(path, text) == f"line 3: {message}"


def test_weights_of_another_model(path: Path) -> None:
    text = lines(HEADER, ROW)
    names = HEADER["weights"]
    for weights, reason in (
        ([*names, "bias.weight"], "it has no `bias.weight`"),
        ([*names, "a", "b", "c"], "it has no `a` and 2 more"),
        (names[:1], "it has `linear.weight`"),
        (names[::-1], "it has the same names in another order"),
    ):
        message = refused(path, text, weights=weights)
        assert message == f"line 1: these are the weights of another model: {reason}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "run.jsonl", "no such file or directory"),
        (tmp_path, "is a directory"),
        (f"{tmp_path}/a\0b", "embedded null byte"),
    ):
        with pytest.raises(MonitorError, match=f"it cannot be read: {reason}"):
            modnorm.read_monitor(path)


@given(st.data())
def test_no_text_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Bytes are changed, taken out or put in anywhere: it is read, or refused in words."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    text = bytearray(lines(HEADER, ROW, ROW | {"step": 20}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 6))
        new = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from([b"1e999", b"[", b"\n"])))
        text[place : place + length] = new
    path.write_bytes(bytes(text))
    try:
        found = modnorm.read_monitor(path)
    except MonitorError:
        return
    for row in found.rows:
        assert len(row.norm) == len(row.spent) == len(row.lrs) == len(found.weights)
