"""What keeps a sweep from being made."""

from __future__ import annotations

from modnorm.data.fetch import DataError


class SweepError(DataError):
    """The sweep cannot be made as asked; its text says why and how to mend it."""


class TrialFailed(SweepError):
    """A run ended in an error, which is no divergence."""
