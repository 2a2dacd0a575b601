"""What a report shows beside a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modnorm.pipeline import Analysis
    from modnorm.report.checked import Findings
    from modnorm.report.monitor import Monitored


@dataclass(frozen=True)
class Extras:
    """Another model, what `check` measured, a run's record."""

    against: Analysis | None = None
    checked: Findings | None = None
    run: Monitored | None = None


NOTHING = Extras()
