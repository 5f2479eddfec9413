"""Waiting for jobs at the least cost to the scheduler."""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from harness.errors import SchedulerUnavailableError
from harness.scheduler.base import JobState, JobStatus, Scheduler

# How many times as long as it looks at files a waiter rests: thousands of runs must not keep a login node busy.
_REST = 10


class Outcome(enum.Enum):
    """Why waiting for a job is over."""

    DONE = "done"  # the caller's own check said so, e.g. the run folder holds a result
    ENDED = "ended"  # the scheduler says that it ended; see the status
    LOST = "lost"  # nobody knows it any more
    PENDING_TIMEOUT = "pending too long"
    TIMEOUT = "waited too long"


@dataclass(frozen=True)
class WaitResult:
    """The end of waiting for one job.

    Attributes:
        job_id: the scheduler's id.
        outcome: why waiting is over.
        status: what the scheduler said last; None when it was never asked or never answered.
    """

    job_id: str
    outcome: Outcome
    status: JobStatus | None

    def __str__(self) -> str:
        """One line for a person, with the scheduler's own reason."""
        text = f"job {self.job_id}: {self.outcome.value}"
        if self.status is not None and self.outcome is not Outcome.DONE:
            text += f", {self.status.state.value}"
            text += f" ({self.status.reason})" if self.status.reason else ""
        return text


def poll_delays(
    limit_s: float = 60.0, jitter: Callable[[], float] = random.random, first_s: float = 1.0
) -> Iterator[float]:
    """Seconds between two polls: 1, 2, 4, 8 ... up to ``limit_s``, each shortened by up to a fifth.

    The jitter, 0 to 1, keeps many waiters that were started together from asking at the same instants.
    """
    delay = min(first_s, limit_s)
    while True:
        yield delay * (1 - 0.2 * jitter())
        delay = min(delay * 2, limit_s)


class Waiter:
    """Waits for jobs, asking the scheduler once for all of them at 0, 1, 3, 7, 15 ... s, then once a minute.

    Cost: a job of one hour costs about 65 scheduler polls, whether it waits alone or with a thousand others. Between
    two polls only ``done`` is called, for each silent job every ``check_s`` seconds: let it be one ``stat`` of a file.
    Where there are so many jobs that this takes a while, it is done less often, for a tenth of the time at most.
    A job that is ``done`` is not asked about at all. ``polls`` and ``checks`` count the calls.

    A scheduler that does not answer is a blip: waiting goes on, until it has been silent for ``silence_limit_s``.

    Args:
        scheduler: whom to ask.
        check_s: seconds between two calls of ``done``.
        first_interval_s, max_interval_s: the shortest and the longest time between two polls.
        silence_limit_s: how long the scheduler may stay silent.
        on_status: called with each status that differs from the job's last one, for a progress display.
        clock, sleep, jitter: replaced in tests.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        check_s: float = 1.0,
        first_interval_s: float = 1.0,
        max_interval_s: float = 60.0,
        silence_limit_s: float = 1800.0,
        on_status: Callable[[JobStatus], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._scheduler = scheduler
        self._check_s = check_s
        self._first_interval_s = first_interval_s
        self._max_interval_s = max_interval_s
        self._silence_limit_s = silence_limit_s
        self._on_status = on_status
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._check_took_s = 0.0
        self.polls = 0
        self.checks = 0

    def wait(
        self,
        job_ids: Iterable[str],
        *,
        done: Callable[[str], bool] = lambda job_id: False,
        pending_timeout_s: float | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, WaitResult]:
        """Wait until every job is over, and say how each ended.

        Args:
            job_ids: the jobs.
            done: says from the run folder, without the scheduler, that a job is over.
            pending_timeout_s: how long a job may stay PENDING before it is given up (it is not cancelled).
            timeout_s: how long to wait in all.

        Raises:
            SchedulerUnavailableError: it was silent for longer than ``silence_limit_s``.
        """
        watch = _Watch(list(dict.fromkeys(job_ids)), self._clock(), pending_timeout_s, timeout_s)
        for delay in poll_delays(self._max_interval_s, self._jitter, self._first_interval_s):
            self._check(watch, done)
            if watch.waiting:
                self._poll(watch)
                # A result written while we asked outranks what the scheduler said about the job.
                self._check(watch, done)
            watch.give_up_overdue(self._clock())
            self._rest(watch, delay, done)
            if not watch.waiting:
                break
        return watch.results

    def _check(self, watch: _Watch, done: Callable[[str], bool]) -> None:
        begun = self._clock()
        for job_id in [*watch.waiting, *watch.ended]:
            self.checks += 1
            if done(job_id):
                watch.finish(job_id, Outcome.DONE)
        watch.ended.clear()
        self._check_took_s = self._clock() - begun

    def _poll(self, watch: _Watch) -> None:
        self.polls += 1
        try:
            statuses = self._scheduler.poll(list(watch.waiting))
        except SchedulerUnavailableError:
            if self._clock() - watch.last_answer > self._silence_limit_s:
                raise
            return
        watch.last_answer = self._clock()
        for status in statuses.values():
            if watch.take(status) and self._on_status is not None:
                self._on_status(status)

    def _rest(self, watch: _Watch, delay: float, done: Callable[[str], bool]) -> None:
        """Sleep until the next poll is due, but no longer than until every job is done or overdue."""
        due = self._clock() + delay
        while watch.waiting and (left := due - self._clock()) > 0:
            self._sleep(min(left, max(self._check_s, _REST * self._check_took_s)))
            self._check(watch, done)
            watch.give_up_overdue(self._clock())


class _Watch:
    """What is known during one call of :meth:`Waiter.wait`."""

    def __init__(
        self, job_ids: list[str], now: float, pending_timeout_s: float | None, timeout_s: float | None
    ) -> None:
        self.waiting = dict.fromkeys(job_ids)  # an ordered set
        self.ended: list[str] = []  # by this poll; `done` has not been asked since
        self.results: dict[str, WaitResult] = {}
        self.last_answer = now
        self._statuses: dict[str, JobStatus] = {}
        self._start = now
        self._pending_timeout_s = pending_timeout_s
        self._timeout_s = timeout_s

    def finish(self, job_id: str, outcome: Outcome) -> None:
        """Stop waiting for a job."""
        self.waiting.pop(job_id, None)
        self.results[job_id] = WaitResult(job_id, outcome, self._statuses.get(job_id))

    def take(self, status: JobStatus) -> bool:
        """Note a status; True when it differs from the job's last one."""
        before = self._statuses.get(status.job_id)
        self._statuses[status.job_id] = status
        if status.state is JobState.UNKNOWN:
            # Accounting may lag behind the queue: only a job that is unknown twice running is lost.
            if before is not None and before.state is JobState.UNKNOWN:
                self._end(status.job_id, Outcome.LOST)
        elif not status.state.is_active:
            self._end(status.job_id, Outcome.ENDED)
        return status != before

    def give_up_overdue(self, now: float) -> None:
        """Stop waiting for jobs whose time is over."""
        waited = now - self._start
        for job_id in list(self.waiting):
            status = self._statuses.get(job_id)
            pending = status is not None and status.state is JobState.PENDING
            if pending and self._pending_timeout_s is not None and waited >= self._pending_timeout_s:
                self.finish(job_id, Outcome.PENDING_TIMEOUT)
            elif self._timeout_s is not None and waited >= self._timeout_s:
                self.finish(job_id, Outcome.TIMEOUT)

    def _end(self, job_id: str, outcome: Outcome) -> None:
        self.finish(job_id, outcome)
        self.ended.append(job_id)
