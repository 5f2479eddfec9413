"""SIGKILL at any moment of submitting and of judging: no run is lost, none is submitted twice, none is judged twice.

The harness kills itself at the Nth thing it does to the world: an audit hook counts folders made, files opened for
writing, renames, removals and processes started.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from tiny_project import HARNESS, harness
from trivial_project import make_trivial_project

from harness.cluster import ClusterSpec, PrivateCluster
from harness.run.paths import RunPaths

pytestmark = [pytest.mark.cluster, needs_slurm]
RUNS = 3  # of each submission
TOOLS = {name: shutil.which(name) for name in ("sbatch", "squeue", "scancel")}

# Python imports it by itself at its start.
HOOK = """\
import atexit, os, signal, sys

limit = int(os.environ["KILL_AT_EVENT"])
seen = 0


def hook(event, arguments):
    global seen
    if event == "open":
        path, mode = str(arguments[0]), arguments[1] or ""
        if "/runs/" not in path or not set(mode) & set("wax"):
            return
    elif event not in ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen", "sqlite3.connect"):
        return
    seen += 1
    if seen == limit:
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(hook)
if "EVENTS_FILE" in os.environ:
    atexit.register(lambda: open(os.environ["EVENTS_FILE"], "w").write(str(seen)))
"""


@contextmanager
def site(folder: Path) -> Iterator[Path]:
    """A project and a cluster of its own; calls of Slurm's commands are written to ``sbatch-calls`` ..."""
    with (
        pytest.MonkeyPatch.context() as patch,
        PrivateCluster(folder / "box", ClusterSpec(nodes=2, gpus=0, shards=0)) as cluster,
    ):
        for name in list(os.environ):
            if name.startswith(("SLURM_", "SBATCH_", "HARNESS_HISTORY")):
                patch.delenv(name)
        for name, value in cluster.environment().items():
            patch.setenv(name, value)
        (folder / "bin").mkdir()
        for name, real in TOOLS.items():
            wrapper = folder / "bin" / name
            wrapper.write_text(f'#!/bin/sh\necho "$*" >>{folder}/{name}-calls\nexec {real} "$@"\n')
            wrapper.chmod(0o755)
            (folder / f"{name}-calls").touch()
            (folder / f"{name}-calls").chmod(0o666)
        patch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        yield make_trivial_project(folder / "project")


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with site(tmp_path_factory.mktemp("killed")) as project:
        yield project


def start(at: Path, moment: int, command: Sequence[str], **more: str) -> subprocess.Popen[str]:
    """The harness, to be killed at that moment."""
    hook = {"PYTHONPATH": str(at.parent / "hook"), "KILL_AT_EVENT": str(moment), **more}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [str(HARNESS), *command], cwd=at, env=os.environ | hook, stdout=pipe, stderr=pipe, text=True
    )


def events(at: Path, command: Sequence[str]) -> int:
    """How many moments a command has, from one that is left alone."""
    record = at.parent / "events"
    process = start(at, 0, command, EVENTS_FILE=str(record))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return int(record.read_text())


def kill_at_moments(at: Path, command: Sequence[str], number: int) -> int:
    """Run a command many times at once, each killed at another moment, spread over all of it; says how many were."""
    moments = events(at, command)
    assert moments > 10
    chosen = sorted(random.Random(4).sample(range(1, moments + 1), min(number, moments)))
    processes = [start(at, moment, command) for moment in chosen]
    for process in processes:
        process.communicate(timeout=120)
    killed = [process.returncode for process in processes].count(-9)
    assert killed >= len(chosen) - 2, "parallel writers may pass a late moment in another order, no more"
    return len(chosen)


def idle() -> None:
    """Wait until Slurm has nothing left to run."""
    deadline = time.monotonic() + 120
    while subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout.strip():
        assert time.monotonic() < deadline, "the jobs do not end"
        time.sleep(0.2)


def verdict(run: RunPaths) -> str:
    return str(json.loads(run.verdict.read_text())["overall"])


def test_a_submission_killed_at_any_moment(at: Path) -> None:
    submissions = 1 + kill_at_moments(at, ["submit", "2", "--preset", "smoke", "--repeat", str(RUNS)], 20)
    idle()
    names = [
        word
        for line in (at.parent / "sbatch-calls").read_text().splitlines()
        for word in line.split()
        if "job-name" in word
    ]
    assert len(names) == len(set(names)), "something was submitted twice"
    assert 1 < len(names) <= submissions
    runs = [RunPaths(path.parent) for path in at.glob("runs/*/ledger.json")]
    jobs = subprocess.run(["squeue", "-hr", "--states=all", "-o", "%i"], capture_output=True, text=True, check=True)
    ran = [run for run in runs if run.exit_code.exists()]
    assert len(ran) == len(jobs.stdout.split()), "every job that Slurm had belongs to a run with a ledger"
    assert all(int(run.job.read_text().count(run.run_id)) == 1 for run in ran)
    shown = harness(at, "status", "-n", "1000")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count(" ended ") == len(ran)
    reported = harness(at, "report", "-n", "1000")
    assert reported.returncode == 0, reported.stderr
    assert {verdict(run) for run in ran} == {"pass"}
    assert {verdict(run) for run in runs if run not in ran} <= {"fail"}
    for run in ran:
        ledger = json.loads(run.ledger.read_text())
        assert ledger["steps"] == {"count": {"to": 10}}
        assert ledger["user"] and ledger["definition_sha256"] and ledger["image_sha256"] and ledger["submitted_at"]
        if ledger["job_id"] is not None:
            assert ledger["job_id"].partition("_")[0] in jobs.stdout


def test_judging_killed_at_any_moment(at: Path) -> None:
    folders = harness(at, "submit", "2", "--preset", "smoke", "--repeat", str(RUNS)).stdout.split()
    assert harness(at, "wait", *folders).returncode == 0
    kill_at_moments(at, ["check", *folders], 8)
    checked = harness(at, "check", *folders)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {verdict(RunPaths(at / folder)) for folder in folders} == {"pass"}
    rows = sqlite3.connect(at / "runs/.history.sqlite").execute("SELECT run_id, count(*) FROM runs GROUP BY run_id")
    counted = dict(rows.fetchall())
    assert all(counted[folder.partition("/")[2]] == 1 for folder in folders)


def test_a_killed_submission_is_found_by_who_checks_it(at: Path) -> None:
    """Slurm took the array, the harness died before it could write down the ids."""
    before = set(at.glob("runs/tutorial2-*"))
    slow = at.parent / "slow"
    slow.mkdir()
    (slow / "sbatch").write_text(f'#!/bin/sh\n{at.parent}/bin/sbatch "$@" >/dev/null\nkill -9 $PPID\n')
    (slow / "sbatch").chmod(0o755)
    done = harness(
        at, "submit", "2", "--preset", "smoke", "--repeat", "2", env={"PATH": f"{slow}:{os.environ['PATH']}"}
    )
    assert done.returncode == -9
    runs = [RunPaths(path) for path in set(at.glob("runs/tutorial2-*")) - before]
    assert [json.loads(run.ledger.read_text())["job_id"] for run in runs] == [None, None]
    checked = harness(at, "check", *(f"runs/{run.run_id}" for run in runs))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [verdict(run) for run in runs] == ["pass", "pass"]


def test_more_runs_than_an_array_takes_are_a_few_arrays_and_one_command_each_to_ask_and_to_cancel(at: Path) -> None:
    def calls(name: str) -> int:
        record = at.parent / f"{name}-calls"
        return len(record.read_text().splitlines()) if record.exists() else 0

    before = {name: calls(name) for name in ("sbatch", "squeue", "scancel")}
    submitted = harness(at, "submit", "2", "--preset", "smoke", "--repeat", "1001", "-o", "--hold")
    folders = submitted.stdout.split()
    assert len(set(folders)) == 1001, submitted.stderr
    assert calls("sbatch") == before["sbatch"] + 2
    shown = harness(at, "status", "-n", "1001")
    assert shown.stdout.count("PENDING (JobHeldUser)") == 1001
    cancelled = harness(at, "cancel", *folders)
    assert cancelled.stdout.count("cancelled") == 1001, cancelled.stderr
    assert calls("squeue") == before["squeue"] + 1
    assert calls("scancel") == before["scancel"] + 1
    assert "PENDING" not in harness(at, "status", "-n", "1001").stdout


def test_somebody_else_may_look_and_judge_and_changes_nothing(short_dir: Path) -> None:
    """In a folder of its own: pytest closes the folders above its tests to other users."""
    if os.getuid() != 0:
        pytest.skip("only root may run commands as somebody else")
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*nobody, str(HARNESS), "--version"], capture_output=True, cwd="/", check=False).returncode != 0:
        pytest.skip("this Python's folder is closed to other users")
    with site(short_dir) as at:
        _look_and_judge(at, nobody)


def _look_and_judge(at: Path, nobody: list[str]) -> None:
    def by_nobody(*command: str) -> subprocess.CompletedProcess[str]:
        home = {**os.environ, "HOME": "/nonexistent"}
        return subprocess.run(
            [*nobody, str(HARNESS), *command], cwd=at, env=home, capture_output=True, text=True, check=False
        )

    held, ran = [
        harness(at, "submit", "2", "--preset", "smoke", *options).stdout.strip() for options in (["-o", "--hold"], [])
    ]
    assert harness(at, "check", ran).returncode == 0
    before = {path: path.read_bytes() for path in (at / ran).rglob("*") if path.is_file()}
    shown = by_nobody("status")
    assert shown.returncode == 0, shown.stderr
    assert "PENDING (JobHeldUser)" in shown.stdout
    checked = by_nobody("check", ran)
    assert checked.returncode == 0, checked.stderr
    assert "✓ pass" in checked.stdout
    assert "were not kept" in checked.stderr
    assert "not recorded" in checked.stderr
    assert "name a folder of your own" in checked.stderr
    assert "not compared with earlier runs" not in checked.stderr, "a history that can be read is used"
    assert {path: path.read_bytes() for path in (at / ran).rglob("*") if path.is_file()} == before
    refused = by_nobody("cancel", held)
    assert refused.returncode == 1
    assert "error: scancel:" in refused.stderr
    assert harness(at, "cancel", held).returncode == 0
    assert json.loads((at / held / "ledger.json").read_text())["cancelled_by"] == "root"


def test_a_run_given_up_by_a_scheduler_that_forgot_it_is_lost_with_the_reason(at: Path) -> None:
    (folder,) = harness(at, "submit", "2", "--preset", "smoke", "-o", "--hold").stdout.split()
    ledger = json.loads((at / folder / "ledger.json").read_text())
    subprocess.run(["scancel", ledger["job_id"]], check=True)
    (at / folder / "ledger.json").write_text(json.dumps({**ledger, "job_id": "4242"}))  # one that nobody has ever known
    checked = harness(at, "check", folder)
    assert checked.returncode == 1
    assert "no longer knows the job" in checked.stdout
    assert "neither squeue nor accounting" in checked.stdout + (at / folder / "verdict.json").read_text()


def test_a_log_folder_that_is_gone_fails_the_runs_and_no_other(at: Path) -> None:
    folders = harness(at, "submit", "2", "--preset", "smoke", "--repeat", "2", "-o", "--hold").stdout.split()
    ledger = json.loads((at / folders[0] / "ledger.json").read_text())
    shutil.rmtree(at / "runs" / ".groups" / ledger["group"])
    subprocess.run(["scontrol", "release", ledger["job_id"].partition("_")[0]], check=True)
    checked = harness(at, "check", *folders, "--timeout", "60")
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert [verdict(RunPaths(at / folder)) for folder in folders] == ["fail", "fail"]
    assert "could not write the job's output file" in checked.stdout, checked.stdout
    (good,) = harness(at, "submit", "2", "--preset", "smoke").stdout.split()
    assert harness(at, "check", good).returncode == 0
