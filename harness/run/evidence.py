"""All that is known about one run, gathered once, so that judging it needs neither disk layout nor scheduler.

Gathering never raises because a run went wrong: what is missing or broken becomes a reason in :class:`Evidence`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.run.paths import RunPaths
from harness.run.records import read_exit_code
from harness.run.result import ResultError, RunResult, load_result
from harness.run.scheduler_word import SchedulerWord as SchedulerWord

LOG_TAIL_BYTES = 16_384
LOG_TAIL_LINES = 60


@dataclass(frozen=True)
class ExpectedImage:
    """The image a run must have used; the caller knows it from the catalog or the build.

    Attributes:
        sha256: digest of the image file.
        definition_sha256: digest of the definition the image must have been built from; None: not known, not compared.
    """

    sha256: str
    definition_sha256: str | None = None


@dataclass(frozen=True)
class Asked:
    """What was asked for. An attribute is None where nothing on record says it."""

    tutorial: str | None = None
    variant: str | None = None
    preset: str | None = None
    attempt: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Evidence:
    """One run, as found.

    Attributes:
        paths: the run folder.
        result: the run's own record, or None.
        result_problem: why ``result`` is None; None when there is a result.
        result_exists: a result.json is there, readable or not.
        exit_code: exit status of the job script, or None where none is on record.
        exit_code_problem: why the recorded exit status cannot be read, or None.
        log_tail: last lines of the log, oldest first; empty where there is no log.
        job: what the job script wrote about itself (job.json), empty where it did not.
        ledger: what was written when the run was submitted (ledger.json), empty where it was not.
        asked: what was asked for.
        scheduler: the scheduler's word, or None where it was not asked or did not answer.
    """

    paths: RunPaths
    result: RunResult | None
    result_problem: str | None = None
    result_exists: bool = False
    exit_code: int | None = None
    exit_code_problem: str | None = None
    log_tail: tuple[str, ...] = ()
    job: Mapping[str, Any] = field(default_factory=dict)
    ledger: Mapping[str, Any] = field(default_factory=dict)
    asked: Asked = field(default_factory=Asked)
    scheduler: SchedulerWord | None = None

    @property
    def variant(self) -> str | None:
        """The variant to judge by: the one asked for, else the one the result names."""
        return self.asked.variant or (self.result.variant if self.result else None)

    @property
    def preset(self) -> str | None:
        """The preset to judge by: the one asked for, else the one the result names."""
        return self.asked.preset or (self.result.preset if self.result else None)

    @property
    def tutorial(self) -> str | None:
        """Id of the tutorial asked for, else the one the result names."""
        return self.asked.tutorial or (self.result.tutorial if self.result else None)

    def fact(self, name: str) -> str | None:
        """A text from the job's record, else from the ledger; None where neither has it."""
        return _text(self.job, name) or _text(self.ledger, name)

    @property
    def without_image(self) -> bool:
        """It ran in a conda environment, and was asked to: a ledger that asked for an image is not overruled."""
        return (_text(self.ledger, "environment") or _text(self.job, "environment")) == "conda"

    @property
    def node(self) -> str | None:
        """The machine it ran on, by the best witness."""
        if self.result is not None:
            return self.result.host
        return self.fact("node") or self.fact("host") or (self.scheduler.node if self.scheduler else None)


def gather_evidence(paths: RunPaths, *, asked: Asked | None = None, scheduler: SchedulerWord | None = None) -> Evidence:
    """Read a run folder. ``asked`` overrides, attribute by attribute, what ledger.json and job.json say was asked."""
    job, ledger = _record(paths.job), _record(paths.ledger)
    result, problem = _result(paths.result)
    exit_code, exit_code_problem = read_exit_code(paths.exit_code)
    return Evidence(
        paths=paths,
        result=result,
        result_problem=problem,
        result_exists=paths.result.exists(),
        exit_code=exit_code,
        exit_code_problem=exit_code_problem,
        # The scheduler's log holds the program's output too, and the job script's and the scheduler's own last words.
        log_tail=log_tail(paths.scheduler_log) or log_tail(paths.log),
        job=job,
        ledger=ledger,
        asked=_asked(asked or Asked(), ledger, job),
        scheduler=scheduler,
    )


def log_tail(path: Path, *, lines: int = LOG_TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log, at most 16 KiB; bytes that are not UTF-8 are shown as U+FFFD. Empty without a log."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - LOG_TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ()  # no log is a fact, not an error: the run checks name the cause
    # A progress bar rewrites its line with carriage returns; only what it ended with was to be read.
    found = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    while found and not found[-1].strip():
        found.pop()
    return tuple(found[-lines:])


def _result(path: Path) -> tuple[RunResult | None, str | None]:
    try:
        return load_result(path), None
    except FileNotFoundError:
        return None, "there is no result.json"
    except ResultError as error:
        return None, f"result.json cannot be believed: {error.what}"
    except OSError as error:
        return None, f"result.json cannot be read: {error.strerror}"


def _record(path: Path) -> dict[str, Any]:
    """A JSON object, or {} where there is none or a half-written one: these files only add detail."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value) else None


def _asked(given: Asked, ledger: Mapping[str, Any], job: Mapping[str, Any]) -> Asked:
    def pick(name: str) -> str | None:
        return _text(ledger, name) or _text(job, name)

    return Asked(
        tutorial=given.tutorial or pick("tutorial"),
        variant=given.variant or pick("variant"),
        preset=given.preset or pick("preset"),
        # Only the job knows its attempt: a requeued job starts again under the same ledger.
        attempt=given.attempt or _text(job, "attempt"),
        run_id=given.run_id or pick("run_id"),
    )
