"""The run itself: did the job end well, is there a result, is it the one asked for, did every step complete."""

from __future__ import annotations

import signal
from typing import NamedTuple

from harness.judge.numbers import shown
from harness.judge.verdict import Check, Status
from harness.run.evidence import Evidence, SchedulerWord
from harness.tutorial import Tutorial


class _Ruling(NamedTuple):
    status: Status
    message: str


# What a batch scheduler's final states mean to a student, and what to do. Slurm's words; others are translated to them.
_BAD_ENDS: dict[str, tuple[str, str]] = {
    "TIMEOUT": ("the job ran out of time", "ask for more (#SBATCH --time) or run a smaller preset"),
    "DEADLINE": ("the job reached its deadline", "submit again without --deadline or with a later one"),
    "CANCELLED": ("the job was cancelled", "submit it again"),
    "REVOKED": ("the job was revoked by another cluster", "submit it again"),
    "NODE_FAIL": ("the node was lost", "submit again; tell the administrator the node's name"),
    "BOOT_FAIL": ("the node did not start", "submit again; tell the administrator the node's name"),
    "LAUNCH_FAILED": ("the node could not start the job", "submit again; tell the administrator the node's name"),
    "OUT_OF_MEMORY": ("the job used more host memory than it asked for", "ask for more (#SBATCH --mem)"),
    "PREEMPTED": ("the job had to make room for a more important one", "submit it again"),
    "UNKNOWN": ("the scheduler no longer knows the job", "submit it again; the run folder's log shows how far it came"),
}
_UNFINISHED = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED")
_HELD = "collect it again when it has ended"


def judge_run_state(evidence: Evidence, tutorial: Tutorial) -> list[Check]:
    """The checks of group ``run``, in the order of :func:`harness.judge.plan.plan_checks`."""
    job = job_ruling(evidence)
    return [
        _check(None, "job", job),
        _check(None, "result", _result(evidence, job)),
        _check(None, "identity", _identity(evidence, tutorial)),
        *(_check(step.name, "completed", _step(evidence, step.name)) for step in tutorial.steps),
    ]


def why_absent(evidence: Evidence) -> str:
    """One clause that says why there is no result; empty where there is one."""
    if evidence.result is not None:
        return ""
    job = job_ruling(evidence)
    cause = job.message.partition(";")[0] if job.status == "fail" else ""
    return cause if cause and not evidence.result_exists else evidence.result_problem or "there is no result"


def _check(step: str | None, name: str, ruling: _Ruling) -> Check:
    return Check(group="run", step=step, name=name, status=ruling.status, message=ruling.message)


def job_ruling(evidence: Evidence) -> _Ruling:
    """How the job ended, by the scheduler's word and its exit status; both must be good."""
    word = _scheduler_ruling(evidence, evidence.scheduler) if evidence.scheduler else None
    if word is not None and word.status == "fail":
        return word
    if evidence.exit_code_problem:
        return _Ruling("fail", evidence.exit_code_problem)
    if evidence.exit_code is not None:
        return _exit_ruling(evidence, evidence.exit_code)
    if word is not None:
        return word
    if evidence.result is None:
        return _Ruling(
            "fail",
            f"the job left no exit status{_where(evidence)}: it still runs, was killed, or never started; {_HELD}",
        )
    return _Ruling(
        "warn",
        "no exit status is on record: the program was started by hand, or the job was killed after its last step",
    )


def _scheduler_ruling(evidence: Evidence, word: SchedulerWord) -> _Ruling:
    state = word.state.upper().split(" ")[0].rstrip("+")
    reason = f" ({word.reason})" if word.reason and word.reason.lower() != "none" else ""
    where = _where(evidence)
    if state in _BAD_ENDS:
        cause, fix = _BAD_ENDS[state]
        return _Ruling("fail", f"{cause}{where}: {word.state}{reason}; {fix}")
    if state in _UNFINISHED:
        return _Ruling("fail", f"the job has not ended: {word.state}{reason}; {_HELD}")
    if word.signal:
        return _signal_ruling(word.signal, where)
    if word.exit_code:
        return _exit_ruling(evidence, word.exit_code)
    if state == "COMPLETED":
        return _Ruling("pass", f"the job ended with exit status 0{where}")
    return _Ruling("fail", f"the job ended as {shown(word.state)}{reason}{where}; {_see_log(evidence)}")


def _exit_ruling(evidence: Evidence, code: int) -> _Ruling:
    if code == 0:
        return _Ruling("pass", f"the job ended with exit status 0{_where(evidence)}")
    if 128 < code < 128 + 65:  # the shell's way to say that a signal ended the program
        return _signal_ruling(code - 128, _where(evidence))
    return _Ruling("fail", f"the job ended with exit status {code}{_where(evidence)}; {_see_log(evidence)}")


def _signal_ruling(number: int, where: str) -> _Ruling:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    hint = {
        "SIGKILL": "most often the kernel's or the scheduler's memory limit: ask for more memory",
        "SIGTERM": "somebody or the scheduler stopped it: submit it again",
        "SIGINT": "somebody stopped it: submit it again",
        "SIGXCPU": "it used up its CPU time limit",
    }.get(name, "see the last lines of the log")
    return _Ruling("fail", f"the job was killed by signal {number} ({name}){where}; {hint}")


def _result(evidence: Evidence, job: _Ruling) -> _Ruling:
    if evidence.result is not None:
        return _Ruling("pass", "result.json is whole; steps: " + (", ".join(evidence.result.steps) or "none"))
    problem = evidence.result_problem or "there is no result"
    if evidence.result_exists:
        return _Ruling("fail", f"{problem}; the disk may be full, or the file was edited")
    if job.status == "pass":
        return _Ruling(
            "fail",
            f"the job ended without a result: its exit status is 0 but {problem}; {_see_log(evidence)}",
        )
    return _Ruling("fail", f"{problem}: {job.message}")


def _identity(evidence: Evidence, tutorial: Tutorial) -> _Ruling:
    result, asked = evidence.result, evidence.asked
    if result is None:
        return _Ruling("fail", f"nothing to compare: {why_absent(evidence)}")
    if asked.tutorial and asked.tutorial != tutorial.id:
        return _Ruling("fail", f"the run was asked for {asked.tutorial}, not for {tutorial.id}")
    pairs = (
        ("tutorial", tutorial.id, result.tutorial),
        ("variant", asked.variant, result.variant),
        ("preset", asked.preset, result.preset),
        ("run", asked.run_id, result.run_id),
        ("attempt", asked.attempt, result.attempt),
    )
    for noun, wanted, found in pairs:
        if wanted is not None and wanted != found:
            hint = (
                "the job was started again and this is what the earlier attempt left"
                if noun == "attempt"
                else "the result was copied from, or written by, another run"
            )
            return _Ruling("fail", f"the result is of {noun} {shown(found)}, asked for was {shown(wanted)}: {hint}")
    if evidence.preset not in tutorial.presets or evidence.variant not in tutorial.resources:
        return _Ruling("fail", f"{tutorial.id} has no {evidence.variant} variant with the preset {evidence.preset}")
    name = f"{result.tutorial}, {result.variant}, {result.preset}"
    if asked.variant is None or asked.preset is None:
        return _Ruling("pass", f"{name}; nothing on record says what was asked for, so its own word counts")
    return _Ruling("pass", f"{name}, attempt {result.attempt}, as asked")


def _step(evidence: Evidence, name: str) -> _Ruling:
    if evidence.result is None:
        return _Ruling("fail", f"not run to its end: {why_absent(evidence)}")
    step = evidence.result.steps.get(name)
    if step is None:
        present = ", ".join(evidence.result.steps) or "none"
        return _Ruling("fail", f"step '{name}' is not in result.json (it holds: {present}); {_see_log(evidence)}")
    if step.error is not None:
        return _Ruling("fail", f"step '{name}' failed with {step.error.type}: {step.error.message or '(no message)'}")
    if step.status != "completed":
        return _Ruling("fail", f"step '{name}' failed and did not say why; {_see_log(evidence)}")
    return _Ruling("pass", f"completed in {max(0.0, step.ended_at - step.started_at):.1f} s")


def _where(evidence: Evidence) -> str:
    node = evidence.node
    return f" on {node}" if node else ""


def _see_log(evidence: Evidence) -> str:
    last = next((line.strip() for line in reversed(evidence.log_tail) if line.strip()), None)
    if last is None:
        return "the log is empty or missing"
    return f"the log ends: {last if len(last) <= 160 else '…' + last[-159:]}"
