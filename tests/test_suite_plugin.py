"""The pytest plugin, run as people run it: in its own process, on run folders made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from judge_support import RUN_ID, good_result, make_run, small_project

import harness

# The suite asks harness.run.campaign for runs and images; here its functions answer from the test's folder.
CAMPAIGN = """
from pathlib import Path
import harness.run.campaign as module
from harness.errors import HarnessError
from harness.run.evidence import ExpectedImage, SchedulerWord, gather_evidence
from harness.run.paths import RunPaths

events = Path("events.txt")

def note(text):
    with events.open("a") as stream:
        stream.write(text + "\\n")

def submit_run(project, tutorial, variant, preset, site):
    if Path("refuse").exists():
        raise HarnessError("sbatch: invalid partition", fix="see sinfo")
    note(f"submit {tutorial.id} {variant} {preset} {site}")
    return RunPaths(project.runs / "given")

def latest_run(project, tutorial, variant, preset, *, environment):
    note("latest")
    run = RunPaths(project.runs / "given")
    return run if run.folder.exists() else None

def wait_for_runs(project, runs, done=None, timeout_s=None):
    note("wait " + ",".join(run.run_id for run in runs))
    if Path("interrupt").exists():
        raise KeyboardInterrupt

module.submit_run, module.latest_run, module.wait_for_runs = submit_run, latest_run, wait_for_runs
module.gather = lambda project, run: gather_evidence(run)
module.expected_image = lambda project, run: ExpectedImage("ab" * 32, "cd" * 32)
"""

Pytest = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    small_project(tmp_path)
    (tmp_path / "fake_campaign.py").write_text(CAMPAIGN, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def run_pytest(project: Path) -> Pytest:
    # Loading the plugin twice under two names is an error of pytest's.
    installed = any(entry.value == "harness.pytest_plugin" for entry in entry_points(group="pytest11"))
    plugins = ["-p", "fake_campaign", *([] if installed else ["-p", "harness.pytest_plugin"])]
    source = str(Path(harness.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [str(project), source, os.environ.get("PYTHONPATH")]))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", *plugins, "--pyargs", "harness.suite", *arguments]
        environment = {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200"}
        environment.pop("PYTEST_ADDOPTS", None)
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=60)

    return call


def result(**changes: Any) -> dict[str, Any]:
    data = good_result()
    data["run_id"] = "given"
    data.update(changes)
    return data


def test_given_run_passes(project: Path, run_pytest: Pytest) -> None:
    folder = make_run(project / "runs" / RUN_ID, good_result()).folder
    done = run_pytest("--run", str(folder), "-v", "--junitxml=junit.xml", "--report", "report", "-W", "error")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "::xscow-2.cpu.smoke::train::throughput::train_throughput PASSED" in done.stdout
    assert "::xscow-2.cpu.smoke::image::digest PASSED" in done.stdout
    assert "::xscow-2.cpu.smoke::train::output::test_accuracy[source=mnist] SKIPPED" in done.stdout
    assert "xscow-2.cpu.smoke: pass" in done.stdout
    assert (folder / "verdict.json").is_file()
    assert sorted(path.name for path in (project / "report").iterdir()) == ["index.html", "junit.xml", "report.json"]
    cases = ET.parse(project / "junit.xml").findall(".//testcase[@name='train_throughput']")
    properties = {p.get("name"): p.get("value") for p in cases[0].findall("properties/property")}
    assert properties["value"] == "4170.0"
    assert properties["unit"] == "images/s"
    assert properties["floor"] == "500.0"
    assert properties["image_sha256"] == "ab" * 32
    assert properties["run_id"] == RUN_ID
    assert properties["device"] == "AMD EPYC 7763"
    assert not (project / "events.txt").exists()


def test_a_site_s_own_checks_are_tests(project: Path, run_pytest: Pytest) -> None:
    (project / "sites").mkdir()
    site = 'name = "demo"\ntitle = { en = "Demo", zh = "演示" }\nchecks = "demo_checks.py"\n'
    (project / "sites" / "demo.toml").write_text(site, encoding="utf-8")
    code = "from harness.hooks import failed\ndef check_it(run):\n    return failed(f'not at {run.site.name}')\n"
    (project / "sites" / "demo_checks.py").write_text(code, encoding="utf-8")
    folder = make_run(project / "runs" / RUN_ID, good_result()).folder
    done = run_pytest("--run", str(folder), "-m", "site", "-v")
    assert done.returncode == 1, done.stdout
    assert "::xscow-2.cpu.smoke::site::check_it FAILED" in done.stdout
    assert "not at demo" in done.stdout
    assert "1 failed" in done.stdout
    assert "passed" not in done.stdout


def test_missing_metric_fails(project: Path, run_pytest: Pytest) -> None:
    data = good_result()
    data["steps"]["train"]["metrics"] = {}
    folder = make_run(project / "runs" / RUN_ID, data).folder
    done = run_pytest("--run", str(folder), "-k", "throughput", "--junitxml=junit.xml")
    assert done.returncode == 1
    assert "the metric 'train_throughput' is missing" in done.stdout
    assert "Traceback" not in done.stdout
    failure = ET.parse(project / "junit.xml").find(".//failure")
    assert failure is not None
    assert failure.get("message", "").startswith("the metric 'train_throughput' is missing")
    assert "end of the log" in (failure.text or "")


def test_warning_and_last_failed(project: Path, run_pytest: Pytest) -> None:
    data = good_result()
    data["steps"]["train"]["metrics"]["train_throughput"]["samples"] = []
    data["steps"]["train"]["outputs"]["classes"] = 9
    folder = str(make_run(project / "runs" / RUN_ID, data).folder)
    done = run_pytest("--run", folder)
    assert done.returncode == 1
    assert "CheckWarning: xscow-2.cpu.smoke: 0 raw samples" in done.stdout
    again = run_pytest("--run", folder, "--lf")
    assert "1 failed" in again.stdout
    assert "passed" not in again.stdout


def test_broken_folder_fails_every_selection(project: Path, run_pytest: Pytest) -> None:
    folder = make_run(project / "runs" / RUN_ID, None, exit_code="0").folder
    done = run_pytest("--run", str(folder), "-m", "throughput or output")
    assert done.returncode == 1
    assert " passed" not in done.stdout


def test_submits_first_then_waits(project: Path, run_pytest: Pytest) -> None:
    make_run(project / "runs" / "given", result())
    done = run_pytest("--tutorial", "2", "--variant", "cpu", "--site", "here", "-m", "image")
    assert done.returncode == 0, done.stdout
    assert (project / "events.txt").read_text().split("\n")[:2] == ["submit xscow-2 cpu smoke here", "wait given"]
    assert "3 passed" in done.stdout


def test_collect_only_and_deselected_submit_nothing(project: Path, run_pytest: Pytest) -> None:
    listed = run_pytest("--tutorial", "xscow-2", "--variant", "cpu", "--preset", "full", "--collect-only", "-q")
    assert "::xscow-2.cpu.full::run::job" in listed.stdout
    assert run_pytest("--tutorial", "2", "--variant", "cpu", "-k", "nothing").returncode == 5
    assert not (project / "events.txt").exists()


def test_submit_only_and_collect(project: Path, run_pytest: Pytest) -> None:
    none = run_pytest("--tutorial", "2", "--variant", "cpu", "--collect")
    assert none.returncode == 1
    assert "there is no run of it to collect" in none.stdout
    sent = run_pytest("--tutorial", "2", "--variant", "cpu", "--submit-only")
    assert sent.returncode == 0
    assert "submitted, not judged" in sent.stdout
    make_run(project / "runs" / "given", result())
    assert run_pytest("--tutorial", "2", "--variant", "cpu", "--collect").returncode == 0


def test_refused_job_and_ctrl_c(project: Path, run_pytest: Pytest) -> None:
    (project / "refuse").touch()
    refused = run_pytest("--tutorial", "2", "--variant", "cpu", "--submit-only")
    assert refused.returncode == 1
    assert "sbatch: invalid partition; see sinfo" in refused.stdout
    (project / "refuse").unlink()
    (project / "interrupt").touch()
    stopped = run_pytest("--tutorial", "2", "--variant", "cpu")
    assert stopped.returncode == 2
    assert "judge them later: pytest" in stopped.stdout
    assert "--tutorial 2 --variant cpu --collect" in stopped.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--tutorial", "xscow-3"), "ERROR: unknown tutorial 'xscow-3'; nearest: xscow-2"),
        (("--tutorial", "2", "--preset", "bench"), "xscow-2 has no preset 'bench'; valid: smoke, full"),
        (("--run", "nowhere"), "nowhere: no such run folder"),
        (("--tutorial", "2", "--submit-only", "--collect"), "--submit-only goes with neither"),
    ],
)
def test_usage_errors(run_pytest: Pytest, arguments: tuple[str, ...], expected: str) -> None:
    done = run_pytest(*arguments)
    assert done.returncode == 4, done.stdout
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_suite_without_a_tutorial(run_pytest: Pytest) -> None:
    done = run_pytest()
    assert done.returncode == 2
    assert "say what to qualify: --tutorial 2" in done.stdout


def test_plugin_is_cheap_elsewhere(project: Path) -> None:
    names = "sorted(m for m in sys.modules if m.split('.')[0] in {'harness', 'pydantic', 'jinja2'})"
    code = f"import sys, harness.pytest_plugin; print({names})"
    source = str(Path(harness.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['harness', 'harness.pytest_plugin']"
