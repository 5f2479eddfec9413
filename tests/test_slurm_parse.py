"""Readers of Slurm's output, on text recorded from Slurm 22.05 and from newer ones."""

from __future__ import annotations

import pytest

from harness.errors import SchedulerError
from harness.scheduler import JobState
from harness.scheduler.slurm_parse import (
    SACCT_COMPLETION_FIELDS,
    hint_for,
    is_no_answer,
    job_state,
    one_line,
    parse_ping,
    parse_sacct,
    parse_sbatch,
    parse_squeue,
)


def row(*values: str) -> str:
    """One line as squeue pads it (shorter here)."""
    return "".join(f"{value:<40}|" for value in values)


@pytest.mark.parametrize(
    ("text", "job_id"),
    [("1001\n", "1001"), ("1001;private\n", "1001"), ("Welcome to the cluster\n1001\n", "1001")],
)
def test_sbatch(text: str, job_id: str) -> None:
    assert parse_sbatch(text) == job_id


def test_sbatch_without_an_id_is_an_error() -> None:
    with pytest.raises(SchedulerError, match="no job id"):
        parse_sbatch("Submitted\n")


def test_squeue_exit_code_is_a_wait_status() -> None:
    found = parse_squeue(
        row("1002", "FAILED", "768", "0", "1795250813", "1795250814", "1795250815", "n1", "NonZeroExitCode")
        + "\n"
        + row("1003", "FAILED", "9", "0", "1795250813", "1795250814", "1795250815", "n1", "JobLaunchFailure")
    )
    failed, killed = found["1002"], found["1003"]
    assert (failed.state, failed.exit_code, failed.signal) == (JobState.FAILED, 3, None)
    assert (failed.submitted, failed.started, failed.ended) == (1795250813, 1795250814, 1795250815)
    assert (failed.node, failed.reason) == ("n1", "NonZeroExitCode")
    assert (killed.state, killed.exit_code, killed.signal) == (JobState.FAILED, None, 9)


def test_squeue_forecasts_are_not_facts() -> None:
    found = parse_squeue(
        row("7_3", "PENDING", "0", "2", "1795250813", "1795259999", "1795260000", "", "JobArrayTaskLimit")
        + "\n"
        + row("8", "RUNNING", "0", "0", "1795250813", "1795250814", "1795254414", "n[1-2]", "None")
    )
    pending, running = found["7_3"], found["8"]
    assert (pending.state, pending.started, pending.ended, pending.exit_code) == (JobState.PENDING, None, None, None)
    assert (pending.reason, pending.restarts) == ("JobArrayTaskLimit", 2)
    assert (running.state, running.started, running.ended) == (JobState.RUNNING, 1795250814, None)
    assert (running.node, running.reason) == ("n[1-2]", "")


def test_squeue_reason_may_hold_anything() -> None:
    reason = "(Nodes required for job are DOWN|DRAINED, or reserved)"
    line = row("1", "PENDING", "0", "0", "1795250813", "N/A", "N/A", "", reason)
    assert parse_squeue(line)["1"].reason == reason


def test_squeue_row_with_missing_fields_is_an_error() -> None:
    with pytest.raises(SchedulerError, match="expected 9 fields"):
        parse_squeue("1001 COMPLETED")


def test_sacct() -> None:
    text = (
        "12|NODE_FAIL|0:0|1795250813|1795250814|1795250820|n1\n"
        "12|COMPLETED|0:0|1795250813|1795250830|1795250840|n2\n"
        "12.batch|COMPLETED|0:0|1795250830|1795250830|1795250840|n2\n"
        "13|CANCELLED by 1000|0:15|2026-11-21T08:46:53|Unknown|Unknown|None assigned\n"
        "14|OUT_OF_MEMORY|0:125|1795250813|1795250830|1795250840|n2\n"
    )
    found = parse_sacct(text)
    assert set(found) == {"12", "13", "14"}
    assert (found["12"].state, found["12"].node) == (JobState.COMPLETED, "n2")  # the last attempt
    assert (found["13"].state, found["13"].reason) == (JobState.CANCELLED, "CANCELLED by 1000")
    assert (found["13"].started, found["13"].node) == (None, "")
    assert found["13"].submitted is not None
    assert (found["14"].state, found["14"].signal) == (JobState.OUT_OF_MEMORY, 125)


def test_a_completion_record_without_a_state_is_unknown() -> None:
    """What `sacct -c` of 22.05 makes of a job whose name holds a blank."""
    found = parse_sacct("1002||0:0|1795250813|1795250813|n1\n", SACCT_COMPLETION_FIELDS)
    assert found["1002"].state is JobState.UNKNOWN
    assert found["1002"].exit_code is None


def test_sacct_row_of_another_shape_is_an_error() -> None:
    with pytest.raises(SchedulerError, match="expected 7 fields"):
        parse_sacct("1002|COMPLETED\n")


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("COMPLETING", JobState.RUNNING),
        ("CANCELLED+", JobState.CANCELLED),
        ("DEADLINE", JobState.TIMEOUT),
        ("BOOT_FAIL", JobState.NODE_FAIL),
        ("REQUEUE_HOLD", JobState.PENDING),
        ("SOMETHING_NEW", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
    ],
)
def test_states(word: str, state: JobState) -> None:
    assert job_state(word) is state


def test_messages_become_one_line() -> None:
    text = (
        "sbatch: error: invalid partition specified: nope\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert one_line(text) == (
        "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified"
    )
    assert one_line("sbatch: unrecognized option '--foo'\nTry \"sbatch --help\" for more information\n") == (
        "unrecognized option '--foo'"
    )
    assert one_line("") == "it said nothing"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("sbatch: error: Invalid generic resource (gres) specification", "sinfo -o '%P %G'"),
        ("sbatch: error: invalid partition specified: x", "sinfo -s"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "--time"),
        ("Requested node configuration is not available", "no single node"),
        ("Memory specification can not be satisfied\nRequested node configuration is not available", "--mem"),
    ],
)
def test_known_complaints_have_a_hint(text: str, word: str) -> None:
    hint = hint_for(text)
    assert hint is not None
    assert word in hint


def test_no_answer_is_told_from_a_refusal() -> None:
    assert is_no_answer("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert is_no_answer("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    assert not is_no_answer("sbatch: error: Batch job submission failed: Invalid partition name specified")
    assert hint_for("something new") is None


def test_ping() -> None:
    assert parse_ping("Slurmctld(primary) at vm is UP\n")
    assert parse_ping("Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n")
    assert not parse_ping("Slurmctld(primary) at vm is DOWN\n***\n** RESTORE SLURMCTLD DAEMON TO SERVICE **\n")
