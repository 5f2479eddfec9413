"""Readers for what Slurm's commands print. Pure functions: they start no command and read no file."""

from __future__ import annotations

import re
from datetime import datetime

from harness.errors import SchedulerError
from harness.scheduler.base import JobState, JobStatus

# Field -> the width squeue pads it to, and cuts it at: as wide as it gets, for 10,000 jobs are 10,000 such lines. Where
# a job runs on more nodes than fit, the first ones are told.
_SQUEUE_WIDTHS = {
    "JobArrayID": 24,
    "State": 20,
    "exit_code": 8,
    "RestartCnt": 8,
    "SubmitTime": 20,
    "StartTime": 20,
    "EndTime": 20,
    "NodeList": 128,
}
SQUEUE_FIELDS = tuple(_SQUEUE_WIDTHS)
# Every field ends with the suffix. The reason, free text, comes last.
SQUEUE_FORMAT = ",".join(f"{field}:{width}|" for field, width in {**_SQUEUE_WIDTHS, "Reason": 256}.items())
SACCT_FIELDS = ("JobID", "State", "ExitCode", "Submit", "Start", "End", "NodeList")
SACCT_COMPLETION_FIELDS = ("JobID", "State", "ExitCode", "Start", "End", "NodeList")

_ACTIVE = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
}
_ENDED = {
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "NODE_FAIL": JobState.NODE_FAIL,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "LAUNCH_FAILED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "PREEMPTED": JobState.PREEMPTED,
}

_NO_ANSWER = re.compile(
    r"unable to contact slurm controller|connect failure|connection (refused|reset|timed out)|socket timed out"
    r"|zero bytes were transmitted|communication (connection|shutdown)|slurm backup controller in standby"
    r"|message (send|receive) failure|transport endpoint|protocol authentication error|munge",
    re.IGNORECASE,
)
_UNKNOWN_JOB = re.compile(r"invalid job id specified", re.IGNORECASE)
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled", re.IGNORECASE)

# What sbatch says -> what to do about it. The first that matches is shown.
_HINTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (
            r"invalid generic resource",
            "no node has that GPU or GRES name; `sinfo -o '%P %G'` lists what there is",
        ),
        (
            r"memory specification can not be satisfied",
            "ask for less --mem; `sinfo -o '%P %m'` shows MiB per node",
        ),
        (
            r"invalid partition",
            "`sinfo -s` lists the partitions",
        ),
        (
            r"time limit is invalid",
            "ask for less --time; `sinfo -o '%P %l'` shows each partition's limit",
        ),
        (
            r"node count specification invalid|more processors requested",
            "ask for fewer nodes or CPUs; `sinfo -o '%P %D %c'` shows what each partition has",
        ),
        (
            r"requested node configuration is not available",
            "no single node has all that was asked for; `sinfo -o '%P %c %m %G'` shows CPUs, MiB and GPUs per node",
        ),
        (
            r"invalid account",
            "`sacctmgr show assoc user=$USER` lists your accounts",
        ),
        (
            r"invalid qos",
            "`sacctmgr show assoc user=$USER format=account,partition,qos` lists what you may use",
        ),
        (
            r"submit limit|maxsubmitjob|qosmax|assocmax|job violates accounting/qos policy",
            "a limit of your account is reached; wait for jobs to end, or ask the administrators",
        ),
        (
            r"unrecognized option|invalid option",
            "`sbatch --help` lists the options this Slurm knows",
        ),
        (
            r"unable to open file|this does not look like a batch script|batch script is empty",
            "name a readable script that starts with #!",
        ),
    )
)


def is_job_id(text: str) -> bool:
    """Whether this is an id that Slurm gives to jobs: ``12``, or ``12_3`` for an element of an array."""
    return bool(re.fullmatch(r"[0-9]{1,10}(?:_[0-9]{1,10})?", text))


def is_no_answer(stderr: str) -> bool:
    """Whether a failed command says that the controller did not answer, rather than that it refused."""
    return bool(_NO_ANSWER.search(stderr))


def is_unknown_job(stderr: str) -> bool:
    """Whether squeue or scancel failed because the one job asked for is unknown."""
    return bool(_UNKNOWN_JOB.search(stderr))


def is_accounting_disabled(stderr: str) -> bool:
    """Whether sacct says that this cluster keeps no accounting database."""
    return bool(_NO_ACCOUNTING.search(stderr))


def one_line(stderr: str) -> str:
    """A command's complaint without its name, on one line: ``sbatch: error: A\\nsbatch: error: B`` -> ``A; B``."""
    parts: list[str] = []
    for line in stderr.splitlines():
        text = re.sub(r"^(?:\w+: (?:(?:error|fatal|warning): )?|slurm_load_\w+ error: )", "", line.strip())
        if text and text not in parts and not text.startswith(("Try ", "***", "** ")):
            parts.append(text)
    return "; ".join(parts) or "it said nothing"


def hint_for(stderr: str) -> str | None:
    """What to do about a known complaint of sbatch; None for an unknown one."""
    return next((hint for pattern, hint in _HINTS if pattern.search(stderr)), None)


def parse_sbatch(stdout: str) -> str:
    """Job id from ``sbatch --parsable``: ``1234`` or ``1234;cluster``; lines a site's plug-in adds are passed over.

    Raises:
        SchedulerError: there is no job id in it.
    """
    for line in reversed(stdout.splitlines()):
        if match := re.fullmatch(r"(\d+)(?:;[\w.-]+)?", line.strip()):
            return match[1]
    raise SchedulerError(f"sbatch returned 0 but printed no job id: {stdout.strip()[:200]!r}", where="sbatch")


def parse_squeue(stdout: str) -> dict[str, JobStatus]:
    """Rows of ``squeue -h -r -O <SQUEUE_FORMAT>`` by job id, with SLURM_TIME_FORMAT=%s.

    Raises:
        SchedulerError: a row has not the fields that were asked for.
    """
    rows = (line for line in stdout.splitlines() if line.strip())
    return {status.job_id: status for status in map(_squeue_row, rows)}


def parse_sacct(stdout: str, fields: tuple[str, ...] = SACCT_FIELDS) -> dict[str, JobStatus]:
    """Rows of ``sacct -n -P -X -o <fields>`` by job id; with ``-c`` give SACCT_COMPLETION_FIELDS.

    The last row of an id counts: a requeued job has one row per attempt, the newest last.

    Raises:
        SchedulerError: a row has not the fields that were asked for.
    """
    found = {}
    for line in stdout.splitlines():
        if not line.strip():
            continue
        values = line.split("|")
        if len(values) != len(fields):
            raise SchedulerError(f"expected {len(fields)} fields, got {line!r}", where="sacct")
        row = dict(zip(fields, values, strict=True))
        if "." not in row["JobID"]:  # 12.batch and 12.0 are steps of a job
            found[row["JobID"]] = _sacct_row(row)
    return found


def parse_ping(stdout: str) -> bool:
    """Whether ``scontrol ping`` found a controller, primary or backup, that is UP."""
    return bool(re.search(r"^Slurmctld\(.*\) at \S+ is UP", stdout, re.MULTILINE))


def job_state(word: str) -> JobState:
    """State from squeue's or sacct's word, also ``CANCELLED by 1000`` and ``COMPLETED+``; new words are UNKNOWN."""
    name = word.strip().split(" ", maxsplit=1)[0].rstrip("+").upper()
    return _ACTIVE.get(name) or _ENDED.get(name) or JobState.UNKNOWN


def _squeue_row(line: str) -> JobStatus:
    values = [value.strip() for value in line.split("|", maxsplit=len(SQUEUE_FIELDS))]
    if len(values) != len(SQUEUE_FIELDS) + 1:
        raise SchedulerError(f"expected {len(SQUEUE_FIELDS) + 1} fields, got {line.strip()!r}", where="squeue")
    row = dict(zip((*SQUEUE_FIELDS, "Reason"), values, strict=True))
    raw = int(row["exit_code"] or 0)  # squeue prints the wait status: exit code in the high byte, signal in the low one
    return _status(
        row["JobArrayID"],
        row["State"],
        code=raw >> 8,
        signal=raw & 0x7F,
        times=(row["SubmitTime"], row["StartTime"], row["EndTime"]),
        node=row["NodeList"],
        reason=row["Reason"].rstrip("|").rstrip(),
        restarts=int(row["RestartCnt"] or 0),
    )


def _sacct_row(row: dict[str, str]) -> JobStatus:
    code, _, number = row["ExitCode"].partition(":")
    state = row["State"]
    return _status(
        row["JobID"],
        state,
        code=int(code or 0),
        signal=int(number or 0),
        times=(row.get("Submit", ""), row["Start"], row["End"]),
        node=row["NodeList"],
        reason=state if " " in state else "",  # CANCELLED by 1000
        restarts=0,
    )


def _status(
    job_id: str,
    word: str,
    *,
    code: int,
    signal: int,
    times: tuple[str, str, str],
    node: str,
    reason: str,
    restarts: int,
) -> JobStatus:
    state = job_state(word)
    submitted, started, ended = map(_epoch, times)
    known_end = not state.is_active and state is not JobState.UNKNOWN
    if state is JobState.UNKNOWN:
        reason = f"Slurm's state {word!r} is not known here" if word else "Slurm's record has no state"
    return JobStatus(
        job_id=job_id,
        state=state,
        reason="" if reason in ("None", "(null)") else reason,
        exit_code=code if known_end and not signal else None,
        signal=signal or None if known_end else None,
        node="" if node in ("(null)", "None assigned", "None") else node,
        submitted=submitted,
        # A pending job's start, and an active job's end, are forecasts.
        started=None if state is JobState.PENDING else started,
        ended=None if state.is_active else ended,
        restarts=restarts,
    )


def _epoch(text: str) -> float | None:
    """Seconds since 1970 from ``%s`` output, or from local ISO time where Slurm does not honour SLURM_TIME_FORMAT."""
    if re.fullmatch(r"\d+", text):
        return float(text)
    if re.match(r"\d{4}-\d\d-\d\dT", text):
        return datetime.fromisoformat(text).timestamp()
    return None
