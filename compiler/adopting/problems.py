"""What keeps a model and its optimizers from being looked at."""

from __future__ import annotations


class AuditError(Exception):
    """A model or an optimizer cannot be looked at: its text says why, and how to mend it."""
