"""No scheduler at all: jobs are plain processes of this machine, yet durable.

Each job has a folder of its own under ``root``, and a supervisor (:mod:`local_runner`) in a session of its own that
owes nothing to the submitter. Any process that can read the folder can poll the job, also years later.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from harness.errors import SchedulerError, UserError
from harness.processes import ProcessName, boot_id
from harness.scheduler import local_runner
from harness.scheduler.base import JobGroup, JobRequest, JobState, JobStatus

_START_LIMIT_S = 30.0  # a supervisor needs 0.05 s; after this long without a sign of life it never started


class LocalScheduler:
    """Runs each job script with ``bash``; ``#SBATCH`` lines are comments to it, and ``request.options`` are ignored.

    Args:
        root: folder of the job records; made when needed. One folder, one sequence of ids.
        slots: how many jobs run at once; the others wait as PENDING, in no promised order. All users of one
            ``root`` must give the same number.
        environment: the environment jobs start from; default: this process's.

    ``poll`` starts no process and costs a few small file reads per job.
    """

    name = "local"

    def __init__(self, root: Path, *, slots: int = 1, environment: Mapping[str, str] | None = None) -> None:
        if slots < 1:
            raise UserError(f"slots must be at least 1, not {slots}", where="local scheduler")
        self._root = root.absolute()
        self._slots = slots
        self._environment = dict(os.environ if environment is None else environment)

    def submit(self, request: JobRequest) -> str:
        """Start the job's supervisor and return once it has reported itself (about 0.05 s).

        Raises:
            SchedulerError: the record cannot be written or the supervisor does not start.
        """
        try:
            record = self._new_record()
            local_runner.write_json(record / "request.json", self._describe(request))
            with (record / "runner.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", local_runner.__file__, str(record)],
                    env={**self._environment, **request.environment, "HARNESS_LOCAL_JOB_ID": record.name},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise SchedulerError(f"cannot start a job: {error}", where=str(self._root)) from error
        self._await_report(record, process)
        return record.name

    def submit_together(self, requests: Sequence[JobRequest], group: JobGroup) -> list[str]:
        """Start a supervisor for each: slots decide how many run at once, so there is nothing to be saved here."""
        return [self.submit(request) for request in requests]

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Status of the jobs from their records and from /proc; never raises for a job that is not there."""
        return {job_id: self._status(job_id) for job_id in job_ids}

    def cancel(self, job_ids: Sequence[str]) -> None:
        """SIGTERM to all of a job's processes, SIGKILL 5 s later to those that stay. Returns without waiting."""
        for job_id in job_ids:
            started = _read(self._root / job_id / "started.json")
            if started is None or (self._root / job_id / "ended.json").exists():
                continue
            runner, child = _process(started, "runner"), _process(started, "child")
            if runner is not None and runner.is_alive():
                runner.signal(SIGTERM)
            elif child is not None and child.is_alive():
                # The supervisor was killed: nobody will follow up, so end the whole session of the script at once.
                os.killpg(child.pid, SIGKILL)

    def find(self, name: str) -> list[str]:
        """Ids of all recorded jobs of that name, oldest first."""
        found = []
        for record in sorted(self._root.glob("local-*"), key=lambda path: int(path.name.partition("-")[2])):
            request = _read(record / "request.json")
            if request is not None and request["name"] == name:
                found.append(record.name)
        return found

    def _describe(self, request: JobRequest) -> dict[str, Any]:
        return {
            "name": request.name,
            "script": str(request.script.absolute()),
            "args": list(request.args),
            "workdir": str(request.workdir.absolute()),
            "output": str(request.output.absolute()),
            "submitted": time.time(),
            "slots": [str(self._root / f"slot-{number}.lock") for number in range(self._slots)],
        }

    def _new_record(self) -> Path:
        self._root.mkdir(parents=True, exist_ok=True)
        numbers = (path.name.partition("-")[2] for path in self._root.glob("local-*"))
        number = max((int(text) for text in numbers if text.isdigit()), default=0)
        while True:  # mkdir is what makes an id ours when two processes submit at once
            number += 1
            record = self._root / f"local-{number}"
            try:
                record.mkdir()
            except FileExistsError:
                continue
            return record

    def _await_report(self, record: Path, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while not (record / "started.json").exists():
            if process.poll() is not None and not (record / "started.json").exists():
                words = (record / "runner.log").read_text(encoding="utf-8", errors="replace").strip()[-300:]
                raise SchedulerError(f"the job's supervisor ended at once: {words}", where=str(record))
            if time.monotonic() > deadline:
                raise SchedulerError("the job's supervisor does not start", where=str(record))
            time.sleep(0.01)

    def _status(self, job_id: str) -> JobStatus:
        record = self._root / job_id
        request = _read(record / "request.json")
        if request is None:
            return JobStatus(job_id, JobState.UNKNOWN, reason=f"no record of this job under {self._root}")
        submitted = float(request["submitted"])
        started = _read(record / "started.json")
        if started is None:
            return _not_reported(job_id, submitted)
        # Liveness first, exit status second: read the other way round, a job that ends in between looks lost.
        running = _running_status(job_id, submitted, started)
        ended = _read(record / "ended.json")
        return running if ended is None else _ended_status(job_id, submitted, started, ended)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SchedulerError(f"cannot read the job's record: {error}", where=str(path)) from error
    return value


def _process(started: dict[str, Any], role: str) -> ProcessName | None:
    entry = started.get(role)
    return entry and ProcessName(entry["pid"], entry["start_ticks"], started["boot_id"])


def _not_reported(job_id: str, submitted: float) -> JobStatus:
    if time.time() - submitted < _START_LIMIT_S:
        return JobStatus(job_id, JobState.PENDING, reason="starting", submitted=submitted)
    return JobStatus(job_id, JobState.UNKNOWN, reason="it was never started", submitted=submitted)


def _running_status(job_id: str, submitted: float, started: dict[str, Any]) -> JobStatus:
    """The status of a job that has no exit status."""
    runner, child = _process(started, "runner"), _process(started, "child")
    state, reason = JobState.RUNNING, ""
    if started["host"] != socket.gethostname():
        reason = f"it runs on {started['host']}: only there can one see whether it still does"
    elif started["boot_id"] != boot_id():
        state, reason = JobState.NODE_FAIL, "the machine was restarted while the job ran"
    elif runner is not None and runner.is_alive():
        if child is None:
            state, reason = JobState.PENDING, "waiting for a free slot"
    elif child is not None and child.is_alive():
        reason = "its supervisor was killed; the exit status will not be known"
    else:
        state, reason = JobState.UNKNOWN, "its supervisor was killed; the exit status is not known"
    return JobStatus(
        job_id, state, reason=reason, node=started["host"], submitted=submitted, started=started.get("started")
    )


def _ended_status(job_id: str, submitted: float, started: dict[str, Any], ended: dict[str, Any]) -> JobStatus:
    if ended["cancelled"]:
        state = JobState.CANCELLED
    else:
        state = JobState.COMPLETED if ended["exit_code"] == 0 else JobState.FAILED
    return JobStatus(
        job_id=job_id,
        state=state,
        reason=ended["reason"],
        exit_code=ended["exit_code"],
        signal=ended["signal"],
        node=started["host"],
        submitted=submitted,
        started=started.get("started"),
        ended=ended["ended"],
    )
