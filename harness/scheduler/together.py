"""Batch scripts that run several jobs as one: an array with one element per job, or one allocation for all in turn.

Pure text: what is handed to the scheduler is an ordinary batch script that a person can read.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.scheduler.base import JobRequest

# What a request says itself, whatever its script says.
_OWN = re.compile(r"#SBATCH\s+(?:--(?:job-name|output|error|chdir)\b|-[JoeD]\b)")
_TIME = re.compile(r"#SBATCH\s+(?:--time[=\s]|-t\s*)(\S+)")


def directives(script: str) -> tuple[str, ...]:
    """The ``#SBATCH`` lines of a batch script up to its first command, without name and output."""
    found = []
    for line in script.splitlines():
        text = line.strip()
        if text.startswith("#SBATCH"):
            if not _OWN.match(text):
                found.append(text)
        elif text and not text.startswith("#"):
            break
    return tuple(found)


def group_requests(requests: Sequence[JobRequest], *, same_time: bool = True) -> list[list[JobRequest]]:
    """Requests that ask for the same resources, in the same folder with the same options, in the order given.

    Args:
        same_time: whether the time limit is one of those resources.
    """
    groups: dict[tuple[object, ...], list[JobRequest]] = {}
    asked_by = {script: directives(script.read_text(encoding="utf-8")) for script in {r.script for r in requests}}
    for request in requests:
        asked = asked_by[request.script]
        if not same_time:
            asked = tuple(line for line in asked if not _TIME.match(line))
        groups.setdefault((asked, request.options, request.workdir), []).append(request)
    return list(groups.values())


def array_script(requests: Sequence[JobRequest]) -> str:
    """A batch script whose array element N runs request N."""
    first = directives(requests[0].script.read_text(encoding="utf-8"))
    cases = "\n".join(f"{index})\n{_commands(request)}\n;;" for index, request in enumerate(requests))
    return "\n".join(
        [
            "#!/bin/bash",
            *first,
            f"#SBATCH --array=0-{len(requests) - 1}",
            'case "$SLURM_ARRAY_TASK_ID" in',
            cases,
            "esac",
            "",
        ]
    )


def pack_script(requests: Sequence[JobRequest]) -> str:
    """A batch script that runs all requests one after another; one that fails does not keep the others from running.

    Raises:
        UserError: a script states no time limit, so that the sum is unknown.
    """
    texts = {request.script: request.script.read_text(encoding="utf-8") for request in requests}
    minutes = {script: _minutes(text, script) for script, text in texts.items()}
    limits = [minutes[request.script] for request in requests]
    kept = [line for line in directives(texts[requests[0].script]) if not _TIME.match(line)]
    return "\n".join(
        [
            "#!/bin/bash",
            *kept,
            f"#SBATCH --time={sum(limits)}",
            "failed=0",
            # Bash reads a script as it goes: a job that reads its standard input must not eat the rest of it.
            *(f"(\n{_commands(request)}\n) </dev/null || failed=$((failed + 1))" for request in requests),
            f'echo "$failed of {len(requests)} failed"',
            "[ $failed -eq 0 ]",
            "",
        ]
    )


def _commands(request: JobRequest) -> str:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in request.environment.items()]
    words = shlex.join(["bash", str(request.script), *request.args])
    return "\n".join([*exports, f"exec {words} >{shlex.quote(str(request.output))} 2>&1"])


def _minutes(text: str, script: Path) -> int:
    """The time limit of a batch script in minutes, rounded up, from any of Slurm's forms but ``infinite``."""
    match = next((m for line in directives(text) if (m := _TIME.match(line))), None)
    if match is None:
        raise UserError("it states no --time, so several jobs cannot share an allocation", where=str(script))
    days, _, clock = match[1].rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts) or len(parts) > 3 or (days and not days.isdecimal()):
        raise UserError(f"--time={match[1]} is not a time", where=str(script), fix="write HH:MM:SS")
    numbers = [int(part) for part in parts]
    if days:  # D-HH, D-HH:MM, D-HH:MM:SS
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # MM, MM:SS
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return int(days or 0) * 1440 + hours * 60 + minutes + (1 if seconds else 0)
