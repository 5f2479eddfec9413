"""What a scheduler says of a job, in words that need no scheduler to be read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SchedulerWord:
    """What the scheduler says of the job, as plain text.

    Attributes:
        state: its own word, such as ``COMPLETED``, ``TIMEOUT``, ``CANCELLED by 1000``.
        reason: why, where it says so (``NonZeroExitCode``, ``Resources``).
        exit_code: exit status of the job script.
        signal: number of the signal that ended it, 0 or None for none.
        node: where it ran.
    """

    state: str
    reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    node: str | None = None
