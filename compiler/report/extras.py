"""What a report shows beside a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modnorm.pipeline import Analysis
    from modnorm.report.checked import Checked
    from modnorm.report.monitor import Monitored


@dataclass(frozen=True)
class Extras:
    """Another model, what `check` measured, a run's record."""

    against: Analysis | None = None
    checked: Checked | None = None
    run: Monitored | None = None


NOTHING = Extras()
