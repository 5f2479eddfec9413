"""The pytest front door on a real cluster: what pytest's users expect of -k, --lf, -n and Ctrl-C, with real jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from cluster_fixtures import needs_slurm

from harness.cluster import PrivateCluster
from harness.run.paths import RunPaths

pytestmark = [pytest.mark.apptainer, pytest.mark.cluster, needs_slurm]
RATE = "xscow-2.cpu.smoke::count::throughput::counts"


@pytest.fixture
def at(
    built_project: Path, slurm_cluster: PrivateCluster, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The built project on the cluster; runs of other tests stay beside ours."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_", "PYTEST_")):
            monkeypatch.delenv(name)
    for name, value in slurm_cluster.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTEST_ADDOPTS", f"-o cache_dir={tmp_path}/cache")
    monkeypatch.chdir(built_project)
    return built_project


def command(*arguments: str) -> list[str]:
    options = ["--tutorial", "2", "--variant", "cpu", "--site", "default"]
    return [sys.executable, "-m", "pytest", "--pyargs", "harness.suite", *options, *arguments]


def suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=180, check=False)


def new_runs(at: Path, before: set[Path]) -> list[RunPaths]:
    return [RunPaths(path.parent) for path in sorted(set(at.glob("runs/*/ledger.json")) - before)]


def ledgers(at: Path) -> set[Path]:
    return set(at.glob("runs/*/ledger.json"))


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_selection_is_submitted_once_by_two_workers_and_reported_once(at: Path, tmp_path: Path) -> None:
    before = ledgers(at)
    report = tmp_path / "report"
    done = suite("-n", "2", "-k", "counts or digest", "-v", "--report", str(report), f"--junitxml={tmp_path}/junit.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = new_runs(at, before)
    assert f"{RATE} " in done.stdout
    assert "PASSED" in done.stdout
    assert str(run.folder) in done.stdout
    (told,) = json.loads((report / "report.json").read_text())["runs"]
    assert told["run_id"] == run.run_id
    case = ET.parse(tmp_path / "junit.xml").find(".//testcase[@name='counts']/properties/property[@name='run_id']")
    assert case is not None
    assert case.get("value") == run.run_id


@pytest.fixture
def nothing_starts(at: Path) -> Iterator[Callable[[], None]]:
    """Until it is called (or the test ends), jobs pend."""

    drained = True

    def nodes(state: str) -> None:
        subprocess.run(["scontrol", "update", "NodeName=ALL", f"State={state}", "Reason=test"], check=True)

    def start() -> None:
        nonlocal drained
        if drained:
            nodes("RESUME")
        drained = False

    nodes("DRAIN")
    yield start
    start()


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_ctrl_c_leaves_the_run_alive_and_says_how_to_collect_it(
    at: Path, nothing_starts: Callable[[], None], workers: tuple[str, ...]
) -> None:
    before = ledgers(at)
    process = subprocess.Popen(
        command(*workers, "-m", "run"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: any(json.loads(path.read_text()).get("job_id") for path in ledgers(at) - before))
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    (run,) = new_runs(at, before)
    assert process.returncode == 2, output + errors
    assert "the runs go on without pytest; judge them later: pytest --pyargs harness.suite" in output
    assert "--collect" in output
    nothing_starts()
    collected = suite("--collect", "-m", "run")
    assert collected.returncode == 0, collected.stdout
    assert run.run_id in collected.stdout
    assert new_runs(at, before) == [run]


def test_submitted_now_collected_later_and_the_failed_test_alone_again(at: Path) -> None:
    before = ledgers(at)
    sent = suite("--submit-only")
    assert sent.returncode == 0, sent.stdout
    (run,) = new_runs(at, before)
    assert f"{run.folder}" in sent.stdout
    assert "submitted, not judged" in sent.stdout
    until(run.exit_code.exists)
    result = json.loads(run.result.read_text())
    result["steps"]["count"]["outputs"]["sum"] = 0
    run.result.write_text(json.dumps(result))
    failed = suite("--collect")
    assert failed.returncode == 1, failed.stdout
    assert "sum = 0, expected ≥ 1" in failed.stdout
    again = suite("--collect", "--lf")
    assert "1 failed" in again.stdout
    assert "passed" not in again.stdout
    assert new_runs(at, before) == [run]
