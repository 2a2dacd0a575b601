"""Labels of optimizers: NAME:option=value…, and functions of the user's own."""

from __future__ import annotations

import pytest

from modnorm.sweep.names import NAMES, BadLabel, Label, read_label


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_label(name: str) -> None:
    assert read_label(name) == Label(name)


def test_options_have_the_values_that_they_look_like() -> None:
    label = read_label("dualized_sgd:momentum=0.9:steps=5:nesterov=false:nonfinite=skip")
    assert label == Label(
        "dualized_sgd", {"momentum": 0.9, "steps": 5, "nesterov": False, "nonfinite": "skip"}
    )
    assert label.normed


def test_own_functions() -> None:
    label = read_label("my.rules:adam:base=32")
    assert label == Label("my.rules:adam", {"base": 32}, "my.rules:adam")
    assert not label.normed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adamm", "no optimizer 'adamm': choose from normed_adam"),
        ("", "no optimizer ''"),
        ("adamm:lr=3", "no optimizer 'adamm'"),
        (":adam", "no optimizer ''"),
        ("adam:0.9", "'0.9' in 'adam:0.9' is not option=value"),
        ("adam:a=", "'a=' in"),
        ("adam:a=1:a=2", "'a=2' in"),
        ("adam:1=2", "'1=2' in"),
    ],
)
def test_what_is_no_label(text: str, said: str) -> None:
    with pytest.raises(BadLabel, match=said.replace("(", r"\(")):
        read_label(text)
