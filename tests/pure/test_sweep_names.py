"""Labels of optimizers: NAME:option=value…, and functions of the user's own."""

from __future__ import annotations

import re

import pytest

from modnorm.sweep.axes import NAMES, BadAxis, Label, read_label, usual


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_label(name: str) -> None:
    assert read_label(name) == Label(name)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *[("adamw", "adam"), ("AdamW", "adam"), ("Adam", "adam"), ("ADAMW", "adam")],
        *[("muon", "muon"), ("Muon", "muon"), ("SGD", "sgd"), ("Sgd", "sgd")],
        *[("NormedAdam", "normed_adam"), ("normedadam", "normed_adam"), ("normed-adam", None)],
        *[("NormedSGD", "normed_sgd"), ("Normed_SGD", "normed_sgd"), ("normed_SGD", None)],
        *[("DualizedSGD", "dualized_sgd"), ("dualizedSgd", "dualized_sgd")],
    ],
)
def test_names_as_people_write_them(written: str, name: str | None) -> None:
    name = name or written.lower().replace("-", "_")
    assert read_label(written) == Label(name)
    assert read_label(f"{written}:weight_decay=0.1") == Label(name, {"weight_decay": 0.1})
    assert usual(f"{written}:weight_decay=0.1") == f"{name}:weight_decay=0.1"


def test_own_modules_keep_their_names() -> None:
    assert usual("My_Rules:AdamW") == "My_Rules:AdamW"


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
        ("adamm", "no optimizer 'adamm' (did you mean `adam`?): choose from normed_adam"),
        ("adamx", "(did you mean `adam`?)"),
        ("NormedAdamm", "(did you mean `normed_adam`?)"),
        ("lion", "no optimizer 'lion': choose from normed_adam, normed_sgd, dualized_sgd, adam, "),
        ("torch.optim.AdamW", "or name a function of your own as module:function"),
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
    with pytest.raises(BadAxis, match=re.escape(said)):
        read_label(text)
