"""Throughput near its gate: more runs are made, linked and judged together; nothing else is mended by them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from tiny_project import HARNESS, harness

from harness.cluster import PrivateCluster
from harness.run.paths import RunPaths

pytestmark = [pytest.mark.apptainer, pytest.mark.cluster, needs_slurm]
FLOOR = 1.0  # counts/s, of the tiny project's tutorial


@pytest.fixture
def at(built_project: Path, slurm_cluster: PrivateCluster, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The built project with no runs yet, on the cluster."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    for name, value in slurm_cluster.environment().items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(built_project / "runs")
    (built_project / "runs").mkdir()
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.chdir(built_project)
    return built_project


@pytest.fixture
def spoiled(at: Path) -> Callable[..., RunPaths]:
    """A run that ended, and then measured this rate, and counted this sum."""

    def make(rate: float, total: int = 55) -> RunPaths:
        done = harness(at, "submit", "2", "--preset", "smoke")
        assert done.returncode == 0, done.stderr
        run = RunPaths(at / done.stdout.strip())
        deadline = time.monotonic() + 60
        while not run.exit_code.exists():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.05)
        result = json.loads(run.result.read_text())
        step = result["steps"]["count"]
        step["metrics"]["counts"].update(value=rate, samples=[rate] * 3)
        step["outputs"]["sum"] = total
        run.result.write_text(json.dumps(result))
        return run

    return make


def ledger(run: RunPaths) -> dict[str, object]:
    return json.loads(run.ledger.read_text())  # type: ignore[no-any-return]


def test_two_more_runs_decide_and_the_ledgers_name_one_another(at: Path, spoiled: Callable[..., RunPaths]) -> None:
    run = spoiled(0.95 * FLOOR)
    alone = harness(at, "check", "--run", str(run.folder))
    assert alone.returncode == 1, "a smoke run is not run again unless somebody says so"
    assert "too slow: 0.95 counts/s" in alone.stdout
    assert "needs re-run" in alone.stdout
    # Two at a time, in two shells: the re-runs are made once, and both wait for them.
    command = [str(HARNESS), "check", "--run", str(run.folder), "--rerun", "2", "--report"]
    both = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for name in "ab"
    ]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert f"note: {run.run_id}: its throughput is near a gate; 2 more runs decide" in said[0][1] + said[1][1]
    first = ledger(run)["reruns"]
    assert isinstance(first, list)
    again = [RunPaths(at / "runs" / name) for name in first]
    assert [ledger(other)["rerun_of"] for other in again] == [run.run_id] * 2
    verdict = json.loads(run.verdict.read_text())
    (rate,) = [c for c in verdict["checks"] if c["group"] == "throughput" and c["name"] == "counts"]
    assert rate["status"] == "pass"
    assert "the median of 3 runs" in rate["message"]
    judged_again = json.loads(again[0].verdict.read_text())
    assert judged_again["run"]["rerun_of"] == run.run_id
    assert judged_again["overall"] in ("pass", "warn")
    later = harness(at, "check", "--run", str(run.folder), "--rerun", "2")
    assert later.returncode == 0, "any later judging counts the re-runs, and makes no more"
    assert len(list(at.glob("runs/*/ledger.json"))) == 3
    comment = harness(at, "report", "--markdown", "-o", "comment.md", env={"HARNESS_LANGUAGE": "zh"})
    assert comment.returncode == 0, comment.stderr
    text = (at / "comment.md").read_text(encoding="utf-8")
    assert text.count("**xscow-2.cpu.smoke**") == 3, "a run and its re-runs are judged together, and all shown"
    assert "失败" not in text
    chinese = harness(at, "status", "--language", "zh")
    assert "作业号" in chinese.stdout
    assert chinese.stdout.count("已结束") == 3


def test_no_re_run_mends_an_output_or_a_rate_that_noise_does_not_explain(
    at: Path, spoiled: Callable[..., RunPaths]
) -> None:
    wrong = spoiled(0.95 * FLOOR, total=0)
    far = spoiled(0.5 * FLOOR)
    for run, words in ((wrong, "sum = 0, expected ≥ 1"), (far, "too slow: 0.5 counts/s")):
        done = harness(at, "check", "--run", str(run.folder), "--rerun", "2")
        assert done.returncode == 1
        assert words in done.stdout
    assert len(list(at.glob("runs/*/ledger.json"))) == 2, "and none was submitted"
