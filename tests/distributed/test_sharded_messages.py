"""What ranks send: as much as the documentation says, and nothing that could be left out."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("alone_left", [False, True])
@pytest.mark.parametrize(
    ("kind", "form", "name"),
    [
        ("NormedSGD", "rows", "gpt"),
        ("NormedSGD", "columns", "rescnn"),
        ("DualizedSGD", "rows", "gpt"),
    ],
)
def test_no_message_can_be_left_out(
    world: Any, kind: str, form: str, name: str, alone_left: bool
) -> None:
    """But for the second, which says what is no number; see the tests of that."""
    of = world(2)
    _, count = of.call("sharded_faults.with_a_part_dropped", name, kind, form, 1, alone_left)[0]
    assert count > 3
    for which in range(2, count):
        for worst, _ in of.call(
            "sharded_faults.with_a_part_dropped", name, kind, form, which, alone_left
        ):
            assert worst > 1e-5, which
    with pytest.raises(RuntimeError, match="a gradient on some ranks only"):
        of.call("sharded_faults.with_a_part_dropped", name, kind, form, 0, alone_left)


def sizes(world: Any, form: str, kind: str) -> tuple[int, int]:
    found = world(3).call("sharded_faults.bytes_of_a_step", "gpt", kind, form)
    assert len({one["all_reduce"] for one in found}) == 1
    return found[0]["all_reduce"], sum(one["all_to_all_single"] for one in found)


D, HIDDEN, VOCAB, CONTEXT, BLOCKS = 24, 96, 37, 16, 2
MATRICES = [*[(D, D)] * 4 * BLOCKS, *[(HIDDEN, D), (D, HIDDEN)] * BLOCKS, (VOCAB, D)]
TABLES = [(VOCAB, D), (CONTEXT, D)]
HEADERS = (len(MATRICES) + len(TABLES)) * (2 + 1 + 2) * 8


def test_bytes_to_normalise_rows(world: Any) -> None:
    found, none = sizes(world, "rows", "NormedSGD")
    wanted = sum(4 * a + 8 * b + 4 for a, b in MATRICES) + HEADERS
    assert found == pytest.approx(wanted, rel=0.05)
    assert none == 0


def test_bytes_to_normalise_columns(world: Any) -> None:
    found, none = sizes(world, "last", "NormedSGD")
    wanted = sum(8 * (a + b) + 4 for a, b in MATRICES) + sum(4 * a for a, _ in TABLES) + HEADERS
    assert found == pytest.approx(wanted, rel=0.05)
    assert none == 0


@pytest.mark.parametrize("form", ["rows", "last"])
def test_bytes_to_dualize(world: Any, form: str) -> None:
    """Each entry of a matrix goes to the owner and back, of which a part is there already."""
    found, sent = sizes(world, form, "DualizedSGD")
    rows = HEADERS + (form == "last") * sum(4 * a for a, _ in TABLES)
    assert found == pytest.approx(rows, rel=0.05)
    assert sent == 2 * 4 * sum(a * b for a, b in MATRICES)
    assert sum(world(3).call("sharded_faults.owned", "gpt", form)) == sent / 2
