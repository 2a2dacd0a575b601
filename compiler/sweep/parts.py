"""The first, the middle and the last part of a model's weights, and masses 1 : m : 1 for them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from modnorm.data.fetch import DataError


def roles(plan: Sequence[Any]) -> list[str]:
    """What part each weight of a plan belongs to: "first", "body" or "last".

    The parts are the model's own: its outermost composition's parts that hold weights, by the
    names that all weights do not share.

    Raises:
        DataError: if there are fewer than three.
    """
    paths = [record.name.split(".") for record in plan]
    shared = 0
    while (
        paths
        and all(len(path) > shared + 1 for path in paths)
        and (len({path[shared] for path in paths}) == 1)
    ):
        shared += 1
    tops = [path[shared] for path in paths]
    order = list(dict.fromkeys(tops))
    if len(order) < 3:
        raise DataError(
            f"the weights are in {len(order)} part{'' if len(order) == 1 else 's'} "
            f"({', '.join(order)}), but a first, a middle and a last part are needed to tell them "
            "apart: write the model as a composition of three or more"
        )
    ends = {order[0]: "first", order[-1]: "last"}
    return [ends.get(top, "body") for top in tops]


def with_body_mass(plan: Sequence[Any], mass: float) -> tuple[Any, ...]:
    """The plan with masses 1 : mass : 1 for its first part, its body and its last part.

    Targets are shares of the total mass over the sensitivities downstream (Large et al. 2024,
    arXiv 2405.14813), so that each changes as its part's share does.

    Raises:
        DataError: if the plan has fewer than three parts, or one has no mass to begin with.
    """
    parts = roles(plan)
    old = dict.fromkeys(("first", "body", "last"), Fraction(0))
    for part, record in zip(parts, plan, strict=True):
        old[part] += Fraction(record.mass)
    if empty := [part for part, total in old.items() if not total]:
        raise DataError(f"the {empty[0]} part has mass 0, so that its mass cannot be set")
    new = {"first": Fraction(1), "body": Fraction(mass), "last": Fraction(1)}
    total, before = sum(new.values()), sum(old.values())
    return tuple(
        record._replace(
            mass=float(Fraction(record.mass) * new[part] / old[part]),
            target=float(Fraction(record.target) * (new[part] / total) / (old[part] / before)),
        )
        for part, record in zip(parts, plan, strict=True)
    )
