"""Options: each is declared once, and the command line and Python say the same of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest

from modnorm import api
from modnorm.codegen.options import CompileOptions
from modnorm.measure.options import CheckOptions
from modnorm.options import REQUIRED, ModelOptions, Option, Options, declared, given
from modnorm.report.options import ReportOptions
from modnorm.sweep.options import TransferOptions

FUNCTIONS: list[tuple[Callable[..., Any], type[Options], set[str]]] = [
    (api.compile, CompileOptions, {"quiet", "check"}),
    (api.load, ModelOptions, set()),
    (api.explain, ModelOptions, {"root"}),
    (api.report, ReportOptions, {"output", "force"}),
    (api.check, CheckOptions, {"plot", "output", "force", "quiet"}),
    (api.transfer, TransferOptions, {"dry_run", "partial", "finished", "plot", "output", "quiet"}),
]
"""Functions, the options that they take, and those of the command line only."""
OWN = {"path", "pattern", "progress"}
"""Arguments that are no options of a command; `progress` is the opposite of one."""


@pytest.mark.parametrize(("function", "kind", "left_out"), FUNCTIONS)
def test_keywords_are_the_options(
    function: Callable[..., Any], kind: type[Options], left_out: set[str]
) -> None:
    given = inspect.signature(function).parameters
    known = {name: option for name, option in declared(kind).items() if name not in left_out}
    assert set(given) - OWN == set(known)
    types = get_type_hints(function, localns={"FilePath": str})
    for name, option in known.items():
        if given[name].kind is inspect.Parameter.VAR_KEYWORD:
            continue
        absent = {REQUIRED: inspect.Parameter.empty, dict: None}
        assert given[name].default == absent.get(option.default, option.default), name
        names = get_args(types[name])
        if option.choices and type(None) not in names:
            assert names in ((), tuple(option.choices)), name


@pytest.mark.parametrize("kind", [kind for _, kind, _ in FUNCTIONS])
def test_nothing_unknown_is_said_of_an_option(kind: type[Options]) -> None:
    known = {"default", "help", *Option.__annotations__}
    assert all(vars(option).keys() <= known for option in declared(kind).values())


def test_options_stay_as_they_are() -> None:
    options = CheckOptions(seeds=3)
    assert (options.seeds, options.steps, options.sizes) == (3, 5, {})
    assert options.but(steps=7).steps == 7
    with pytest.raises(AttributeError, match="steps"):
        options.steps = 7  # type: ignore[misc]
    with pytest.raises(TypeError, match="'step'"):
        CheckOptions(step=3)  # type: ignore[call-arg]


def test_other_keywords_are_no_options() -> None:
    assert given(CheckOptions, {"path": "a.mod", "seeds": 3, "vary": None}).vary == {}
    with pytest.raises(ValueError, match="vary must be a dict by names, not None"):
        given(TransferOptions, {"vary": None})
