"""What can prove a cause: a line of a known speaker, a fatal exception, how the job ended, a recorded fact.

Words alone prove nothing: "CUDA out of memory, retrying with a smaller batch" is progress, not a failure. So a line
counts only from its beginning (:func:`said`: the speaker's own prefix is part of the pattern), and an exception only
where its traceback ended the program (:func:`raised`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from harness.judge.causes.cause import Matcher, Sighting
from harness.judge.causes.trail import Line, Trail
from harness.run.evidence import Evidence

BEFORE_ALL = -1.0


def said(pattern: str, *, told_late: bool = False) -> Matcher:
    """A line that begins with ``pattern``, outside of tracebacks.

    Args:
        told_late: the line is written when the job ends, about something that happened before.
    """
    compiled = re.compile(pattern)

    def match(trail: Trail) -> Iterable[Sighting]:
        for index, text in trail.spoken:
            if compiled.match(text):
                yield Sighting(BEFORE_ALL if told_late else float(index), trail.lines[index])

    return match


def raised(types: str, message: str = "") -> Matcher:
    """A fatal exception of a class whose name is all of ``types``, whose message holds ``message`` (both patterns)."""
    kind, text = re.compile(types), re.compile(message)

    def match(trail: Trail) -> Iterable[Sighting]:
        for exception in trail.raised:
            if kind.fullmatch(exception.type) and text.search(exception.message):
                known = exception.index is not None
                line = (
                    trail.lines[exception.index or 0]
                    if known
                    else Line("result.json", 0, f"{exception.type}: {exception.message}")
                )
                yield Sighting(float(exception.index or 0) if known else trail.end, line, exception.chain)

    return match


def both(proof: Matcher, condition: Matcher) -> Matcher:
    """``proof``, where ``condition`` is met too: a warning explains a failure only where that failure happened."""

    def match(trail: Trail) -> Iterable[Sighting]:
        return proof(trail) if any(True for _ in condition(trail)) else ()

    return match


def any_of(*matchers: Matcher) -> Matcher:
    """Whatever one of the matchers sees."""

    def match(trail: Trail) -> Iterable[Sighting]:
        for matcher in matchers:
            yield from matcher(trail)

    return match


def ended(*states: str, reason: str = "", first: bool = False) -> Matcher:
    """The scheduler's final state is one of ``states`` (its first word), with a reason that holds ``reason``.

    Args:
        first: what it means happened before anything the log could tell (a node died).
    """
    wanted = re.compile(reason, re.IGNORECASE)

    def match(trail: Trail) -> Iterable[Sighting]:
        word = trail.evidence.scheduler
        if word is None or word.state.upper().split(" ")[0].rstrip("+") not in states:
            return
        if wanted.search(word.reason or ""):
            yield Sighting(BEFORE_ALL if first else trail.end, _scheduler_line(trail.evidence))

    return match


def died_of(*signals: int) -> Matcher:
    """The job's last program was ended by one of these signals, by the scheduler's word or the exit status."""

    def match(trail: Trail) -> Iterable[Sighting]:
        evidence = trail.evidence
        if evidence.scheduler is not None and evidence.scheduler.signal in signals:
            yield Sighting(trail.end, _scheduler_line(evidence))
        elif evidence.exit_code is not None and evidence.exit_code - 128 in signals:
            yield Sighting(trail.end, Line("exit_code", 1, str(evidence.exit_code)))

    return match


def exited(*codes: int) -> Matcher:
    """The job script's exit status is one of ``codes``."""

    def match(trail: Trail) -> Iterable[Sighting]:
        evidence = trail.evidence
        if evidence.exit_code in codes:
            yield Sighting(trail.end, Line("exit_code", 1, str(evidence.exit_code)))
        elif evidence.exit_code is None and evidence.scheduler is not None and evidence.scheduler.exit_code in codes:
            yield Sighting(trail.end, _scheduler_line(evidence))

    return match


def refused(pattern: str = "") -> Matcher:
    """The scheduler refused the job when it was submitted, in words that hold ``pattern``; the ledger keeps them."""
    wanted = re.compile(pattern, re.IGNORECASE)

    def match(trail: Trail) -> Iterable[Sighting]:
        answer = trail.evidence.ledger.get("rejected")
        if isinstance(answer, str) and wanted.search(answer):
            yield Sighting(BEFORE_ALL, Line("ledger.json", 0, answer))

    return match


def fact(find: Callable[[Evidence], str | None], file: str = "result.json") -> Matcher:
    """A fact of the run's records: ``find`` says what is wrong, or None."""

    def match(trail: Trail) -> Iterable[Sighting]:
        found = find(trail.evidence)
        if found is not None:
            yield Sighting(trail.end, Line(file, 0, found))

    return match


def _scheduler_line(evidence: Evidence) -> Line:
    word = evidence.scheduler
    if word is None:
        return Line("scheduler", 0, "")
    reason = f" ({word.reason})" if word.reason and word.reason.lower() != "none" else ""
    ending = f" exit {word.exit_code or 0}:{word.signal or 0}" if word.exit_code or word.signal else ""
    return Line("scheduler", 0, f"{word.state}{reason}{ending}")
