"""What goes wrong with a history."""

from __future__ import annotations

from harness.errors import HarnessError


class HistoryError(HarnessError):
    """The database of earlier runs does not answer, or cannot be used."""
