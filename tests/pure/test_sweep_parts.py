"""First, body and last: which weights they are, and what masses 1 : m : 1 make of their targets."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import pytest

from modnorm.data.fetch import DataError
from modnorm.sweep.parts import roles, with_body_mass


class Record(NamedTuple):
    name: str
    mass: float = 1.0
    target: float = 0.5


def plan(*names: str) -> list[Record]:
    return [Record(f"{name}.weight") for name in names]


def test_roles_are_those_of_the_outermost_parts() -> None:
    names = ("embed.token", "embed.position", "block.0.a", "block.0.b", "block.1.a", "linear")
    assert roles(plan(*names)) == ["first", "first", "body", "body", "body", "last"]


def test_what_all_names_share_is_left_aside() -> None:
    assert roles(plan("net.a", "net.b.0", "net.b.1", "net.c")) == ["first", "body", "body", "last"]


def test_two_parts_are_too_few() -> None:
    with pytest.raises(DataError, match=r"the weights are in 2 parts \(a, b\)"):
        roles(plan("a.x", "a.y", "b"))


def test_no_weights_have_no_parts() -> None:
    with pytest.raises(DataError, match="in 0 parts"):
        roles([])


def test_masses_add_up() -> None:
    records = with_body_mass(plan("a", "b.0", "b.1", "c"), 3)
    assert sum(Fraction(record.mass) for record in records) == 5


def test_a_part_without_mass_is_refused() -> None:
    records = [Record("a", 0.0), Record("b"), Record("c")]
    with pytest.raises(DataError, match="first part has mass 0"):
        with_body_mass(records, 2)
