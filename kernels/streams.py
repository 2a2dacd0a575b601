"""How far the end of a residual stream moves with what is added on the way."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from operator import mul
from typing import NamedTuple


# modnorm: begin
class ResidualStream(NamedTuple):
    """What a residual stream is behind each of its branches; first, what it is behind none."""

    reach: tuple[float, ...]  # how far its end moves with the sum there
    terms: tuple[float, ...]  # how many terms the sum has


def residual_stream(branches: Iterable[tuple[float, float]]) -> ResidualStream:
    """The stream x + f(norm(x)) + … with these branches.

    A branch is (how far it moves with a stream of one term, how many terms it adds: 1 as a rule). A
    norm that reads n terms has sensitivity 1/n.
    """
    terms, growth = [1.0], list[float]()
    for sensitivity, length in branches:
        growth.append(1 + sensitivity / terms[-1])
        terms.append(terms[-1] + length)
    reach = [*accumulate(reversed(growth), mul, initial=1.0)]
    return ResidualStream(tuple(reversed(reach)), tuple(terms))


# modnorm: end
