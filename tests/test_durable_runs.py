"""Runs that outlive whoever submitted them: groups of jobs, killed harnesses, a controller that is away."""

from __future__ import annotations

import json
import os
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
from harness.run.paths import RunPaths

pytestmark = [pytest.mark.apptainer, pytest.mark.cluster, needs_slurm]
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCluster]:
    """A cluster that these tests may break."""
    with PrivateCluster(tmp_path_factory.mktemp("durable"), ClusterSpec(nodes=2, cpus=8)) as cluster:
        yield cluster


@pytest.fixture
def at(
    built_project: Path, own_cluster: PrivateCluster, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The built project with no runs yet, on that cluster; Slurm's commands are counted (:func:`calls`)."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    for name, value in own_cluster.environment().items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(built_project / "runs")
    (built_project / "runs").mkdir()
    tools = tmp_path / "bin"
    tools.mkdir()
    for command in COMMANDS:
        real = shutil.which(command)
        (tools / command).write_text(f'#!/bin/sh\necho "{command} $*" >>{tmp_path}/calls\nexec {real} "$@"\n')
        (tools / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.chdir(built_project)
    return built_project


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[str], list[str]]:
    """The calls of one of Slurm's commands so far."""

    def called(command: str) -> list[str]:
        record = tmp_path / "calls"
        lines = record.read_text().splitlines() if record.exists() else []
        return [line for line in lines if line.split()[0] == command]

    return called


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def folders(done: subprocess.CompletedProcess[str], root: Path) -> list[RunPaths]:
    assert done.returncode == 0, done.stderr
    return [RunPaths(root / line) for line in done.stdout.split()]


def verdict(run: RunPaths) -> str:
    return str(json.loads(run.verdict.read_text())["overall"])


@pytest.mark.parametrize("pack", [False, True], ids=["array", "pack"])
def test_many_runs_cost_one_sbatch_and_each_has_its_own_verdict(
    at: Path, calls: Callable[[str], list[str]], pack: bool
) -> None:
    presets = "smoke,smoke,smoke,smoke,smoke,smoke"
    runs = folders(harness(at, "submit", "2", "--preset", presets, *(["--pack"] if pack else [])), at)
    assert len({run.run_id for run in runs}) == 6
    assert len(calls("sbatch")) == 1
    for run in runs:
        assert harness(at, "wait", "--run", str(run.folder)).returncode == 0
    jobs = {json.loads(run.job.read_text())["job_id"] for run in runs}
    assert len(jobs) == (1 if pack else 6)
    for run in runs:
        checked = harness(at, "check", "--run", str(run.folder))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "arguments ['--to', '10']" in run.scheduler_log.read_text()
    asked = len(calls("squeue")) + len(calls("sacct"))
    assert harness(at, "status").stdout.count("ended") == 6
    assert len(calls("squeue")) + len(calls("sacct")) == asked, "runs that say how they ended need no scheduler"


def test_status_asks_once_for_all_silent_runs(at: Path, calls: Callable[[str], list[str]]) -> None:
    runs = folders(harness(at, "submit", "2", "--preset", "smoke,smoke,smoke", "-o", "--hold"), at)
    before = len(calls("squeue"))
    shown = harness(at, "status")
    assert shown.stdout.count("PENDING (JobHeldUser)") == 3
    assert len(calls("squeue")) == before + 1
    for run in runs:
        assert harness(at, "cancel", "--run", str(run.folder)).returncode == 0
        checked = harness(at, "check", "--run", str(run.folder))
        assert checked.returncode == 1
        assert "CANCELLED" in checked.stdout


def killed_submission(at: Path, tmp_path: Path, after_sbatch: bool) -> RunPaths:
    """``harness submit`` killed with SIGKILL, before or after Slurm took the job; before it could note the job's id."""
    real = os.environ["PATH"].split(":")[0] + "/sbatch"
    slow = tmp_path / "slow"
    slow.mkdir()
    work = f'{real} "$@" >{slow}/answer\n' if after_sbatch else ""
    (slow / "sbatch").write_text(f"#!/bin/sh\n{work}touch {slow}/here\nexec sleep 600\n")
    (slow / "sbatch").chmod(0o755)
    environment = {**os.environ, "PATH": f"{slow}:{os.environ['PATH']}"}
    command = [str(HARNESS), "submit", "2", "--preset", "smoke"]
    process = subprocess.Popen(command, cwd=at, env=environment, start_new_session=True)
    until((slow / "here").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (ledger,) = at.glob("runs/*/ledger.json")
    assert json.loads(ledger.read_text())["job_id"] is None
    return RunPaths(ledger.parent)


def test_a_harness_killed_after_submission_loses_no_run_and_submits_none_twice(
    at: Path, tmp_path: Path, calls: Callable[[str], list[str]]
) -> None:
    run = killed_submission(at, tmp_path, after_sbatch=True)
    checked = harness(at, "check", "2")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert verdict(run) in ("pass", "warn")
    assert len(calls("sbatch")) == 1


def test_a_harness_killed_before_submission_leaves_a_run_that_fails_and_says_why(at: Path, tmp_path: Path) -> None:
    run = killed_submission(at, tmp_path, after_sbatch=False)
    done = harness(at, "check", "--run", str(run.folder))
    assert done.returncode == 1
    assert "has no job" in done.stderr
    assert "submit it again" in done.stderr


def test_a_controller_that_is_away_delays_submission_and_waiting_and_costs_no_run(
    at: Path, own_cluster: PrivateCluster
) -> None:
    own_cluster.stop_daemon("slurmctld")
    try:
        command = [str(HARNESS), "submit", "2", "--preset", "smoke"]
        process = subprocess.Popen(command, cwd=at, stdout=subprocess.PIPE, text=True)
        until(lambda: list(at.glob("runs/*/ledger.json")))
    finally:
        own_cluster.start_daemon("slurmctld")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(list(at.glob("runs/*/ledger.json"))) == 1
    run = RunPaths(at / output.strip())
    assert harness(at, "check", "--run", str(run.folder)).returncode == 0


def test_two_harnesses_that_collect_one_run_agree(at: Path) -> None:
    (run,) = folders(harness(at, "submit", "2", "--preset", "smoke"), at)
    command = [str(HARNESS), "check", "--run", str(run.folder), "--report"]
    both = [subprocess.Popen([*command, f"report-{n}"], cwd=at, stdout=subprocess.PIPE, text=True) for n in "ab"]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert verdict(run) in ("pass", "warn")
    assert outputs[1].replace("report-b", "report-a") == outputs[0]
