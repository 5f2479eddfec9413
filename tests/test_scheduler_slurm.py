"""The Slurm driver on a real Slurm."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm

from harness.cluster import ClusterSpec, PrivateCluster
from harness.errors import MissingToolError, SchedulerError, SchedulerUnavailableError, UserError
from harness.scheduler import JobRequest, JobState, JobStatus, Outcome, SlurmScheduler, Waiter, detect_scheduler

pytestmark = [needs_slurm, pytest.mark.cluster]
WaitFor = Callable[..., dict[str, JobStatus]]


def request(folder: Path, body: str, *args: str, name: str = "test", **more: object) -> JobRequest:
    script = folder / f"{name}.sh"
    script.write_text(f"#!/bin/bash\n{body}\n")
    return JobRequest(script=script, args=args, name=name, workdir=folder, output=folder / f"{name}.out", **more)  # type: ignore[arg-type]


def test_ends_of_jobs_in_one_query(slurm: SlurmScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    """Every way a script can end, all polled together."""
    before = time.time()
    jobs = {
        "good": slurm.submit(
            request(tmp_path, "pwd; echo $1:$EXTRA", "a b", name="good", environment={"EXTRA": "x,y=z"})
        ),
        "exit3": slurm.submit(request(tmp_path, "exit 3", name="exit3")),
        "kill9": slurm.submit(request(tmp_path, "kill -9 $$", name="kill9")),
        "gpu": slurm.submit(
            request(tmp_path, "echo $CUDA_VISIBLE_DEVICES", name="gpu", options=("--gres=gpu:h200:1",))
        ),
        "shard": slurm.submit(
            request(tmp_path, "echo $CUDA_VISIBLE_DEVICES", name="shard", options=("--gres=shard:16",))
        ),
        "percent": slurm.submit(request(tmp_path, "echo literal", name="p@1", options=())),
    }
    found = wait_for(slurm, *jobs.values())
    polls = slurm.commands_run
    slurm.poll(list(jobs.values()))
    assert slurm.commands_run == polls + 1, "one command for all jobs"

    good = found[jobs["good"]]
    assert (good.state, good.exit_code, good.signal, good.reason) == (JobState.COMPLETED, 0, None, "")
    assert good.node in ("n1", "n2")
    assert good.submitted and good.started and good.ended
    assert int(before) <= good.submitted <= good.started <= good.ended <= time.time() + 1
    assert (tmp_path / "good.out").read_text().splitlines() == [str(tmp_path), "a b:x,y=z"]
    failed = found[jobs["exit3"]]
    assert (failed.state, failed.exit_code, failed.reason) == (JobState.FAILED, 3, "NonZeroExitCode")
    killed = found[jobs["kill9"]]
    assert (killed.state, killed.exit_code, killed.signal) == (JobState.FAILED, None, 9)
    assert (tmp_path / "gpu.out").read_text().strip() in ("0", "1")
    assert (tmp_path / "shard.out").read_text().strip() in ("0", "1")


def test_a_percent_sign_in_the_output_path_is_literal(slurm: SlurmScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    folder = tmp_path / "100%j"
    folder.mkdir()
    job = slurm.submit(request(folder, "echo here"))
    assert wait_for(slurm, job)[job].state is JobState.COMPLETED
    assert (folder / "test.out").read_text() == "here\n"


def test_cancelled(slurm: SlurmScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    running = slurm.submit(request(tmp_path, "echo started; sleep 60"))
    pending = slurm.submit(request(tmp_path, "true", options=("--hold",), name="held"))
    deadline = time.monotonic() + 15
    while slurm.poll([running])[running].state is not JobState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    held = slurm.poll([pending])[pending]
    assert (held.state, held.reason, held.started) == (JobState.PENDING, "JobHeldUser", None)
    assert slurm.find("held") == [pending]
    slurm.cancel([running, pending, "1"])  # an unknown job is no error
    slurm.cancel([running])
    found = wait_for(slurm, running, pending)
    assert {status.state for status in found.values()} == {JobState.CANCELLED}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gres=rocket:1",), r"^sbatch: .*Invalid generic resource.*; no node has that GPU.*sinfo"),
        (("--gres=gpu:9",), r"Requested node configuration is not available; no single node has all"),
        (("--partition=nope",), r"invalid partition specified: nope; .*`sinfo -s` lists the partitions"),
        (("--time=9-0",), r"Requested time limit is invalid.*; ask for less --time"),
        (("--mem=900G",), r"Memory specification.*; ask for less --mem"),
        (("--no-such-option",), r"unrecognized option '--no-such-option'; `sbatch --help`"),
    ],
)
def test_rejected(slurm: SlurmScheduler, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(SchedulerError, match=message) as caught:
        slurm.submit(request(tmp_path, "true", options=options))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, SchedulerUnavailableError)


def test_a_request_that_would_fail_without_a_word_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="job name 'two words'"):
        JobRequest(script=tmp_path, workdir=tmp_path, output=tmp_path / "o", name="two words")
    with pytest.raises(UserError, match="no such job script"):
        JobRequest(script=tmp_path / "no.sh", workdir=tmp_path, output=tmp_path / "o", name="x")
    with pytest.raises(UserError, match="folder for the job's output"):
        request(tmp_path, "true").__class__(
            script=tmp_path / "test.sh", workdir=tmp_path, output=tmp_path / "no/o", name="x"
        )


def test_unknown_jobs_are_unknown_never_good(slurm: SlurmScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    job = slurm.submit(request(tmp_path, "true"))
    wait_for(slurm, job)
    found = slurm.poll(["1", job, "2", "no id", "3;4"])
    assert found[job].state is JobState.COMPLETED
    assert found["no id"].state is found["3;4"].state is JobState.UNKNOWN
    assert found["1"].state is found["2"].state is JobState.UNKNOWN
    assert slurm.poll(["1"])["1"].state is JobState.UNKNOWN  # squeue fails when asked for one unknown job
    lost = Waiter(slurm, check_s=0.1, first_interval_s=0.1).wait(["1"], timeout_s=20)["1"]
    assert lost.outcome is Outcome.LOST
    assert "neither squeue nor accounting knows" in str(lost)


def test_array_elements_have_their_own_ids(slurm: SlurmScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    job = slurm.submit(request(tmp_path, "exit $SLURM_ARRAY_TASK_ID", options=("--array=0-2",)))
    polls = slurm.commands_run
    assert all(status.state.is_active for status in slurm.poll([f"{job}_0", f"{job}_2"]).values())
    assert slurm.commands_run == polls + 1
    found = wait_for(slurm, f"{job}_0", f"{job}_2")
    assert found[f"{job}_0"].state is JobState.COMPLETED
    assert (found[f"{job}_2"].state, found[f"{job}_2"].exit_code) == (JobState.FAILED, 2)


def test_a_job_that_can_never_start_is_given_up_with_the_reason(slurm: SlurmScheduler, tmp_path: Path) -> None:
    job = slurm.submit(request(tmp_path, "true", options=("--hold",)))
    try:
        result = Waiter(slurm, check_s=0.1, first_interval_s=0.1).wait([job], pending_timeout_s=0.2)[job]
        assert result.outcome is Outcome.PENDING_TIMEOUT
        assert str(result) == f"job {job}: pending too long, PENDING (JobHeldUser)"
    finally:
        slurm.cancel([job])


def test_a_controller_that_is_away_is_a_blip_and_old_jobs_are_in_the_completion_log(
    short_dir: Path, tmp_path: Path, wait_for: WaitFor
) -> None:
    """One small cluster: controller killed while polling, brought back, then a new cluster that knows no old job."""
    spec = ClusterSpec(nodes=1, gpus=0, shards=0, extra=("MessageTimeout=2",))
    with PrivateCluster(short_dir / "box", spec) as cluster:
        slurm = SlurmScheduler(os.environ | cluster.environment())
        good = slurm.submit(request(tmp_path, "exit 0", name="good"))
        bad = slurm.submit(request(tmp_path, "exit 4", name="bad"))
        wait_for(slurm, good, bad)
        cluster.stop_daemon("slurmctld")
        with pytest.raises(SchedulerUnavailableError, match="Unable to contact slurm controller"):
            slurm.poll([good])
        with pytest.raises(SchedulerUnavailableError):
            slurm.submit(request(tmp_path, "true"))
        assert not slurm.answers()
        cluster.start_daemon("slurmctld")
        assert wait_for(slurm, good)[good].state is JobState.COMPLETED  # the waiter sits the blip out
    with PrivateCluster(short_dir / "box", spec) as cluster:
        found = SlurmScheduler(os.environ | cluster.environment()).poll([good, bad, "1"])
        assert (found[good].state, found[good].exit_code) == (JobState.COMPLETED, 0)
        assert (found[bad].state, found[bad].exit_code) == (JobState.FAILED, 4)
        assert found["1"].state is JobState.UNKNOWN


def test_no_slurm_commands(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="squeue: there is no such command"):
        SlurmScheduler({"PATH": str(tmp_path)}).poll(["1"])


def test_detection(slurm_cluster: PrivateCluster, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"]} | slurm_cluster.environment()
    assert detect_scheduler(environment).name == "slurm"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # a port on which nobody listens
        dead = tmp_path / "slurm.conf"
        dead.write_text(f"ClusterName=c\nSlurmctldHost=localhost\nSlurmctldPort={closed.getsockname()[1]}\n")
        found = detect_scheduler(environment | {"SLURM_CONF": str(dead)})
        assert (found.name, found.reason) == ("slurm", f"SLURM_CONF={dead}")  # silent, yet meant
    assert detect_scheduler({"PATH": str(tmp_path)}).name == "local"
    assert "no sbatch" in detect_scheduler({"PATH": str(tmp_path)}).reason
