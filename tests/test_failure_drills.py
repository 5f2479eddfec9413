"""Everything that goes wrong on a cluster, done to a real one: each drill ends in the right verdict, and in time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from tiny_project import HARNESS, harness

from harness.cluster import ClusterSpec, PrivateCluster
from harness.cluster.cgroups import why_no_memory_limits
from harness.cluster.config import Partition
from harness.run.paths import RunPaths

pytestmark = [pytest.mark.apptainer, pytest.mark.cluster, needs_slurm]
JOB = "jobs/tutorial2.apptainer.cpu.job"
# A lost node is noticed after SlurmdTimeout; jobs of `low` make room for those of `high`.
SPEC = ClusterSpec(
    nodes=4,
    cpus=4,
    gpus=0,
    shards=0,
    partitions=(
        Partition("main", nodes=("n1", "n2"), default=True),
        Partition("slow", nodes=("n4",)),
        Partition("low", nodes=("n3",), options=("PriorityTier=1", "PreemptMode=CANCEL")),
        Partition("requeue", nodes=("n3",), options=("PriorityTier=1", "PreemptMode=REQUEUE")),
        Partition("high", nodes=("n3",), options=("PriorityTier=10",)),
    ),
    extra=("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE", "SlurmdTimeout=4", "MessageTimeout=2"),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCluster]:
    with PrivateCluster(tmp_path_factory.mktemp("drills"), SPEC) as running:
        yield running


@pytest.fixture
def at(built_project: Path, cluster: PrivateCluster, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.chdir(built_project)
    return built_project


@pytest.fixture(scope="module", autouse=True)
def out_of_time(built_project: Path, cluster: PrivateCluster) -> RunPaths:
    """A job beyond its limit: the first one started and the last judged, for Slurm looks at limits twice a minute."""
    run = RunPaths(built_project / "runs" / "out-of-time")
    environment = {**os.environ, **cluster.environment(), "RUN_ID": run.run_id, "PRESET": "smoke"}
    command = ["sbatch", "--parsable", "--partition=slow", "--time=1", "--output=/dev/null", JOB, "--misbehave", "hang"]
    done = subprocess.run(command, cwd=built_project, env=environment, check=True, capture_output=True, text=True)
    limit = ["scontrol", "update", f"jobid={done.stdout.strip()}", "TimeLimit=0-00:00:01"]
    subprocess.run(limit, env=environment, check=True)
    return run


@pytest.fixture
def submit(at: Path, request: pytest.FixtureRequest) -> Callable[..., RunPaths]:
    """``submit("hang", *sbatch_options)``: a job in which the program misbehaves; returns once it does."""

    def submitted(misbehave: str, *options: str) -> RunPaths:
        run = RunPaths(at / "runs" / re.sub(r"\W+", "-", request.node.name))
        shutil.rmtree(run.folder, ignore_errors=True)
        environment = {**os.environ, "RUN_ID": run.run_id, "PRESET": "smoke"}
        command = ["sbatch", "--parsable", f"--output={at}/runs/%j.out", *options, JOB, "--misbehave", misbehave]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        if misbehave == "memory":
            until(lambda: (run.folder / "job.json").is_file())  # it has started; it may be killed at any moment
        elif misbehave != "no":
            until(lambda: run.log.is_file() and "hanging" in run.log.read_text())
        return run

    return submitted


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def job_id(run: RunPaths) -> str:
    return str(json.loads((run.folder / "job.json").read_text())["job_id"])


def state(run: RunPaths) -> str:
    command = ["squeue", "-h", "--states=all", f"--jobs={job_id(run)}", "-o", "%T"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def check(at: Path, run: RunPaths) -> subprocess.CompletedProcess[str]:
    return harness(at, "check", "--run", str(run.folder), "--timeout", "90")


def assert_fails(at: Path, run: RunPaths, *words: str) -> None:
    done = check(at, run)
    assert done.returncode == 1, done.stdout + done.stderr
    for word in words:
        assert word in done.stdout, done.stdout
    assert json.loads(run.verdict.read_text())["overall"] == "fail"


def test_a_cancelled_job(at: Path, submit: Callable[..., RunPaths]) -> None:
    run = submit("hang")
    subprocess.run(["scancel", job_id(run)], check=True)
    assert_fails(at, run, "was cancelled")


def test_a_job_killed_by_a_signal(at: Path, submit: Callable[..., RunPaths]) -> None:
    run = submit("hang")
    kill_processes(run)
    assert_fails(at, run, "killed by signal 9")


def test_a_preempted_job_that_is_not_requeued(at: Path, submit: Callable[..., RunPaths]) -> None:
    run = submit("hang", "--partition=low", "--exclusive")
    subprocess.run(["srun", "--partition=high", "--exclusive", "true"], check=True, timeout=60)
    assert_fails(at, run, "make room", "PREEMPTED")


def test_a_preempted_job_that_is_requeued_passes_with_its_second_attempt(
    at: Path, submit: Callable[..., RunPaths]
) -> None:
    run = submit("outlive", "--partition=requeue", "--exclusive", "--requeue")
    subprocess.run(["srun", "--partition=high", "--exclusive", "true"], check=True, timeout=60)
    done = check(at, run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(run.result.read_text())["attempt"] == "1"


def lose_node(at: Path, cluster: PrivateCluster, run: RunPaths, lost: str) -> Iterator[None]:
    """The node stops answering for as long as the caller likes; its processes live on, as on a node cut off."""
    cluster.stop_daemon(f"slurmd.{lost}")
    try:
        yield
    finally:
        cluster.start_daemon(f"slurmd.{lost}")
        subprocess.run(["scontrol", "update", f"nodename={lost}", "state=resume"], check=False, capture_output=True)
        nodes = ["sinfo", "-h", "-N", "-p", "main", "-o", "%T"]
        until(lambda: set(subprocess.run(nodes, capture_output=True, text=True, check=True).stdout.split()) == {"idle"})


def test_a_lost_node_without_requeue(at: Path, cluster: PrivateCluster, submit: Callable[..., RunPaths]) -> None:
    run = submit("hang", "--no-requeue", "--nodelist=n1")
    for _ in lose_node(at, cluster, run, "n1"):
        assert_fails(at, run, "node was lost", "NODE_FAIL")
        kill_processes(run)


def test_a_lost_node_with_requeue_and_an_attempt_that_outlives_it(
    at: Path, cluster: PrivateCluster, submit: Callable[..., RunPaths]
) -> None:
    """The first attempt ends after the second one and must not touch what that one left."""
    update = ["scontrol", "update", "nodename=n2"]
    subprocess.run([*update, "state=drain", "reason=drill"], check=True)
    run = submit("outlive", "--requeue")
    subprocess.run([*update, "state=resume"], check=True)
    for _ in lose_node(at, cluster, run, "n1"):
        done = check(at, run)
        assert done.returncode == 0, done.stdout + done.stderr
        second = run.result.read_bytes()
        assert json.loads(second)["attempt"] == "1"
        assert json.loads(second)["steps"]["count"]["outputs"]["kept_before"] == ["of-0"], "it goes on from there"
        assert [path.name for path in (run.folder / "kept").iterdir()] == ["of-0"], "what is another's stays as it is"
        until((run.folder / "exit_code").exists)  # of the first attempt
        first = json.loads((run.folder / "result.json").read_text())
        assert (first["attempt"], first["steps"]["count"]["outputs"]["sum"]) == ("0", -1)
        assert run.result.read_bytes() == second
        assert check(at, run).returncode == 0


def kill_processes(run: RunPaths) -> None:
    """SIGKILL to every process of a run, whether or not Slurm still knows of it."""
    markers = {f"RUN_ID={run.run_id}".encode(), f"HARNESS_RUN_ID={run.run_id}".encode()}  # outside and in the image
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and markers & set((entry / "environ").read_bytes().split(b"\0")):
                os.kill(int(entry.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is another user's


def test_a_controller_that_restarts_while_the_job_runs_and_while_it_is_waited_for(
    at: Path, cluster: PrivateCluster, submit: Callable[..., RunPaths]
) -> None:
    run = submit("hang")
    # A restart as an administrator does it: what was submitted a moment ago is saved first.
    subprocess.run(["scontrol", "shutdown", "slurmctld"], check=True)
    until(lambda: not any(daemon.alive for daemon in cluster.daemons() if daemon.name == "slurmctld"))
    command = [str(HARNESS), "check", "--run", str(run.folder), "--timeout", "90"]
    waiting = subprocess.Popen(command, cwd=at, stdout=subprocess.PIPE, text=True)
    try:
        assert harness(at, "status").returncode == 0, "no answer is no error"
    finally:
        cluster.start_daemon("slurmctld")
    until(lambda: state(run) == "RUNNING")
    subprocess.run(["scancel", job_id(run)], check=True)
    output, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 1
    assert "was cancelled" in output


def test_a_run_folder_that_vanished(at: Path) -> None:
    done = harness(at, "submit", "2", "--preset", "smoke", "-o", "--hold")
    folder = at / done.stdout.strip()
    job = json.loads((folder / "ledger.json").read_text())["job_id"]
    shutil.rmtree(folder)
    subprocess.run(["scontrol", "release", job], check=True)
    gone = harness(at, "check", "--run", str(folder))
    assert gone.returncode == 2
    assert "no such run folder" in gone.stderr


def test_a_truncated_result(at: Path, submit: Callable[..., RunPaths]) -> None:
    run = submit("no")
    until(run.exit_code.exists)
    whole = run.result.read_bytes()
    run.result.write_bytes(whole[: len(whole) // 2])
    assert_fails(at, run, "cannot be believed")


def test_a_clock_that_jumps(at: Path, submit: Callable[..., RunPaths]) -> None:
    """Times from the future, or before their own beginning, neither hang nor break anything that reads them."""
    run = submit("no")
    until(run.exit_code.exists)
    result = json.loads(run.result.read_text())
    result["steps"]["count"]["ended_at"] = result["steps"]["count"]["started_at"] - 3600
    run.result.write_text(json.dumps(result))
    job = json.loads(run.job.read_text())
    run.job.write_text(json.dumps({**job, "job_started_at": str(time.time() + 86400)}))
    assert harness(at, "status").returncode == 0
    assert check(at, run).returncode in (0, 1)
    assert harness(at, "report", "-n", "3").returncode == 0


def test_a_job_out_of_time(at: Path, out_of_time: RunPaths) -> None:
    assert_fails(at, out_of_time, "ran out of time", "TIMEOUT")


@pytest.mark.skipif(bool(why_no_memory_limits()), reason=f"{why_no_memory_limits()}; runs as root with cgroup v1")
def test_a_job_that_uses_more_memory_than_it_asked_for(
    at: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, submit: Callable[..., RunPaths]
) -> None:
    """The kernel kills it, Slurm says so, and the verdict names host memory with the line that proves it."""
    spec = ClusterSpec(nodes=1, cpus=2, gpus=0, shards=0, enforce_memory=True)
    with PrivateCluster(tmp_path_factory.mktemp("memory"), spec) as limited:
        for name, value in limited.environment().items():
            monkeypatch.setenv(name, value)
        run = submit("memory", "--mem=250M", "--no-requeue")
        assert_fails(at, run, "more host memory than it asked for", "OUT_OF_MEMORY", "--mem")
        cause = json.loads(run.verdict.read_text())["cause"]
        assert cause["id"] == "host-memory"
        assert "oom-kill" in cause["evidence"][0]["text"] or "OUT_OF_MEMORY" in cause["evidence"][0]["text"]
