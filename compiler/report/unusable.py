"""What is raised for something that a report cannot show."""

from __future__ import annotations


class Unusable(ValueError):
    """Something that a report cannot show; its text is a sentence for the user."""
