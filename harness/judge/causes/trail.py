"""What a run left behind, in the order it happened: log lines, the exceptions that ended it, and who said what.

Reading (:func:`gather_trail`) is apart from everything that follows, which is pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.judge.causes.tracebacks import Raised, parse_tracebacks, split_speaker
from harness.judge.verdict import printable
from harness.run.evidence import Evidence

# A training log is megabytes of progress. What went wrong stands at its start (image, data, device) or at its end.
HEAD_BYTES = 256 * 1024
TAIL_BYTES = 1024 * 1024

# What jobs/lib/job.sh prints first.
ATTEMPT_MARK = "run: runs/"

# An exception after which a program printed this much was caught, and the program went on.
SURVIVED_LINES = 20


@dataclass(frozen=True)
class Line:
    """One line of a file of the run, without terminal colours and without what only a terminal would have shown.

    Attributes:
        file: the file's name as a person finds it: relative to the run folder, or ``../NAME`` beside it.
        number: counted from 1; 0 where it is not a line of a file (a scheduler's word).
        text: the line.
    """

    file: str
    number: int
    text: str

    @property
    def where(self) -> str:
        """``log.txt:12``, or the bare name of the witness."""
        return f"{self.file}:{self.number}" if self.number else self.file


@dataclass(frozen=True)
class Trail:
    """Everything a matcher may look at.

    Attributes:
        lines: of the log, oldest first.
        raised: exceptions whose traceback was printed and which the program did not survive, in log order; then those
            that only result.json tells of.
        spoken: (index, text without the speaker's name) of the lines outside tracebacks, where source text is quoted
            that proves nothing. Empty lines are left out.
        evidence: the run's records.
    """

    lines: tuple[Line, ...]
    raised: tuple[Raised, ...]
    spoken: tuple[tuple[int, str], ...]
    evidence: Evidence

    @property
    def end(self) -> float:
        """A position after every line."""
        return float(len(self.lines))


def gather_trail(evidence: Evidence) -> Trail:
    """Read the run's log. A log that is missing or unreadable is an empty one: the other witnesses still speak."""
    for path in log_files(evidence):
        lines = read_lines(path, _shown_name(path, evidence.paths.folder))
        if lines:
            return make_trail(lines, evidence)
    return make_trail((), evidence)


def log_files(evidence: Evidence) -> list[Path]:
    """Where a log may be, best witness first.

    The scheduler's log holds what the job script and the scheduler said beside the program's own output. ``harness
    submit`` puts it into the run folder; the job scripts' own ``--output=runs/%x-%j.out`` puts it beside that.
    """
    paths = evidence.paths
    job_id = evidence.fact("job_id")
    beside = sorted(paths.folder.parent.glob(f"*-{job_id}.out")) if job_id and job_id.isalnum() else []
    return [paths.scheduler_log, *beside, paths.log]


def _shown_name(path: Path, folder: Path) -> str:
    return path.name if path.parent == folder else f"../{path.name}"


def read_lines(path: Path, name: str) -> tuple[Line, ...]:
    """The file's first 256 KiB and last 1 MiB as lines with their true numbers; () where it cannot be read."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            if size <= HEAD_BYTES + TAIL_BYTES:
                return tuple(_numbered(stream.read(), name, 1))
            head = stream.read(HEAD_BYTES)
            skipped = _count_newlines(stream.read(1 << 20) for _ in range((size - HEAD_BYTES - TAIL_BYTES) >> 20))
            tail = stream.read()
    except OSError:
        return ()
    first = head.count(b"\n") + 1 + skipped
    return (*_numbered(head, name, 1), *_numbered(tail, name, first))


def _count_newlines(blocks: Iterable[bytes]) -> int:
    return sum(block.count(b"\n") for block in blocks)


_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _numbered(data: bytes, name: str, first: int) -> Iterable[Line]:
    for number, text in enumerate(data.decode("utf-8", errors="replace").split("\n"), first):
        # A progress bar rewrites its line with carriage returns; only what it ended with was to be read.
        last = text.rstrip("\r").rpartition("\r")[2]
        yield Line(name, number, _COLOUR.sub("", last).rstrip())


def last_attempt(lines: Sequence[Line]) -> Sequence[Line]:
    """The lines of the last attempt: a job that was put back into the queue appends to its log."""
    starts = [index for index, line in enumerate(lines) if line.text.startswith(ATTEMPT_MARK)]
    return lines[starts[-1] :] if len(starts) > 1 else lines


def make_trail(lines: Sequence[Line], evidence: Evidence) -> Trail:
    """The trail of a log's lines and the run's records."""
    lines = last_attempt(lines)
    raised, quoted = parse_tracebacks([line.text for line in lines])
    told = _told_by_result(evidence)
    fatal = [
        exception
        for exception in raised
        if any(exception.is_same_as(other) for other in told) or not _survived(exception, lines, quoted)
    ]
    new = [exception for exception in told if not any(exception.is_same_as(other) for other in fatal)]
    spoken = tuple(
        (index, split_speaker(line.text)[1]) for index, line in enumerate(lines) if line.text and index not in quoted
    )
    return Trail(tuple(lines), (*fatal, *new), spoken, evidence)


def _told_by_result(evidence: Evidence) -> list[Raised]:
    """The exceptions that left a step, as result.json tells them."""
    steps = evidence.result.steps.values() if evidence.result else ()
    return [
        Raised(step.error.type.rpartition(".")[2], printable(step.error.message), None, chain=-1)
        for step in steps
        if step.error is not None
    ]


# What is said after a death, by those who notice it; it does not show that the program lived on.
_AFTERMATH = re.compile(
    r"""^\s*$
    | ^(?:slurmstepd|srun|torchrun|INFO|WARNING|FATAL|ERROR|error):?
    | \[(?:W|E|F)\d{3,4}\ | ^[WEF]\d{4}\ | ProcessGroup | NCCL | elastic | ^\s*frame\ \#\d+ | ^={5,} | ^-{5,}
    | ^(?:\w+:\ )?\d+\ (?:Aborted|Killed) | ^terminate\ called | ^\s+what\(\): | ^Fatal\ Python | ^Root\ Cause
    | ^Failures: | ^Traceback | resource_tracker | ^\s*(?:rank|exitcode|error_file|traceback|time|host)\s*:
    """,
    re.VERBOSE,
)


def _survived(exception: Raised, lines: Sequence[Line], quoted: frozenset[int]) -> bool:
    """Whether the program went on: more than a screenful of ordinary output follows."""
    ordinary = 0
    for index in range((exception.index or 0) + 1, len(lines)):
        if index in quoted or _AFTERMATH.search(lines[index].text):
            continue
        ordinary += 1
        if ordinary > SURVIVED_LINES:
            return True
    return False
