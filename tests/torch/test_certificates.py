"""Certificates hold: what is measured on programs never exceeds what is proved of them."""

from __future__ import annotations

import os

from certified import Measured
from checks import compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from pythonic import Text
from strategies import Sample, programs

from modnorm.ops.edges import ONE_HOT

ROUNDING = 1e-9
STEPS = 30 if os.environ.get("MODNORM_LONG") else 4
EXAMPLES = settings().max_examples
SEEDS = st.integers(0, 2**16)


def check_certificate(text: Text, seed: int = 0, steps: int = STEPS) -> tuple[float, ...]:
    """Measured over proved: an update's effect, an input's, the output's size."""
    case = compiled(text)
    if case is None or case.program.certificate is None:
        return ()
    found = case.program.certificate
    whole = found.parts[case.program.tree.id]
    measured = Measured(case, seed)
    tried = []
    if found.kappa is not None and any(r.target for r in measured.records):
        tried.append((measured.driven_up(measured.update_effect, steps), found.kappa))
    if isinstance(found.sensitivity, float) and measured.floats:
        tried.append((measured.driven_up(measured.input_effect, steps), found.sensitivity))
    if ONE_HOT not in found.outputs:
        tried.append((measured.driven_up(measured.output_size, steps), whole.high))
    for most, bound in tried:
        assert most <= bound * (1 + ROUNDING), (most, bound)
    return tuple(most / bound for most, bound in tried if bound)


@settings(max_examples=2 * EXAMPLES)
@given(programs(), SEEDS)
def test_nothing_moves_further_than_proved(sample: Sample, seed: int) -> None:
    check_certificate(sample.text, seed)
