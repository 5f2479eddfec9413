"""The error tree. Every error says what happened, where, and what to do, in one line.

Libraries raise these; only ``harness.cli`` turns them into an exit code.
"""

from __future__ import annotations


class HarnessError(Exception):
    """A failure that was found: exit code 1.

    Args:
        what: what is wrong, without a final full stop.
        where: the file (with line or key), host or job it was found at.
        fix: the one action that mends it, ideally a command line.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        """One line: ``where: what; fix``, line breaks folded."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.fix:
            text = f"{text}; {self.fix}"
        return " ".join(text.split())


class UserError(HarnessError):
    """A mistake in what the user asked for or wrote: exit code 2."""

    exit_code = 2


class SpecError(UserError):
    """A file of the project (tutorial.toml, stack.toml, site, Dockerfile) that does not say what it must."""


class MissingToolError(UserError):
    """A program that must be on this machine is not."""


class CommandError(HarnessError):
    """An external program failed.

    Attributes:
        command: the argument vector.
        returncode: its exit status; negative for a signal, as in :mod:`subprocess`.
        output: the last lines it printed.
    """

    def __init__(
        self,
        what: str,
        *,
        command: list[str],
        returncode: int,
        output: str,
        where: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.command = command
        self.returncode = returncode
        self.output = output


class SchedulerError(HarnessError):
    """The scheduler refused a request; its own words are in ``what``."""


class SchedulerUnavailableError(SchedulerError):
    """The scheduler did not answer: neither a pass nor a failure of the job."""
