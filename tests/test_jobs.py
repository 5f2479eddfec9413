"""The job scripts, as people use them: sbatch on a real Slurm, bash without one; and everything that goes wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cluster_fixtures import needs_slurm
from tiny_project import harness, main_file

from harness.catalog.catalog import Catalog
from harness.cluster import PrivateCluster
from harness.run.paths import RunPaths
from harness.run.result import load_result

CPU_JOB = "jobs/tutorial2.apptainer.cpu.job"
GPU_JOB = "jobs/tutorial2.apptainer.job"
pytestmark = [pytest.mark.apptainer, pytest.mark.cluster]


@pytest.fixture
def at(built_project: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Path]:
    """The built project as working directory, no scheduler in reach."""
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
    monkeypatch.chdir(built_project)
    yield built_project


@pytest.fixture
def on_slurm(at: Path, slurm_cluster: PrivateCluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The built project on a real cluster."""
    for name, value in slurm_cluster.environment().items():
        monkeypatch.setenv(name, value)
    return at


def sbatch(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Submit and wait for the end; the exit code is the job's."""
    command = ["sbatch", "--parsable", "--wait", *arguments]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=120)


def bash(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", *arguments]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=120)


def run_of(output: str, root: Path) -> RunPaths:
    """The run folder a job named in its output."""
    match = re.search(r"^run: (runs/\S+)$", output, re.MULTILINE)
    assert match, output
    return RunPaths(root / match[1])


def job_output(root: Path, job_id: str) -> str:
    return (root / f"runs/tutorial2-{job_id.strip()}.out").read_text()


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@needs_slurm
def test_plain_sbatch_runs_in_the_image_and_is_judged(on_slurm: Path) -> None:
    done = sbatch(CPU_JOB, PRESET="smoke")
    assert done.returncode == 0, done.stderr
    run = run_of(job_output(on_slurm, done.stdout), on_slurm)
    result = load_result(run.result)
    manifest = Catalog(on_slurm / "catalog").current("tutorial2.cpu")
    assert manifest is not None
    assert (result.tutorial, result.variant, result.preset) == ("xscow-2", "cpu", "smoke")
    assert result.job_id == done.stdout.strip()
    assert result.image.sha256 == manifest.sha256
    assert result.image.definition_sha256 == manifest.definition_sha256
    step = result.steps["count"]
    assert step.status == "completed"
    assert step.parameters["to"] == 10
    assert len(step.metrics["counts"].samples) == 3
    assert {"queue", "image_start", "measured"} <= set(step.phases)
    assert run.exit_code.read_text() == "0\n"

    checked = harness(on_slurm, "check", "--run", str(run.folder), "--report", "report-a")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (on_slurm / "report-a/index.html").is_file()
    properties = {p.get("value") for p in ElementTree.parse(on_slurm / "report-a/junit.xml").iter("property")}
    assert {"counts/s", result.run_id} <= properties


def test_bash_without_a_scheduler_runs_the_same_script(at: Path) -> None:
    done = bash(CPU_JOB, "--to", "12", PRESET="smoke")
    assert done.returncode == 0, done.stderr
    run = run_of(done.stdout, at)
    assert load_result(run.result).steps["count"].parameters["to"] == 12
    assert "arguments ['--to', '10', '--to', '12']" in run.log.read_text()
    assert harness(at, "check", "--run", str(run.folder)).returncode == 0


@needs_slurm
def test_submit_and_check_work_from_different_processes(on_slurm: Path) -> None:
    submitted = harness(on_slurm, "submit", "2", "--preset", "smoke", "--set", "to=12")
    assert submitted.returncode == 0, submitted.stderr
    folder = on_slurm / submitted.stdout.strip()
    checked = harness(on_slurm, "check", "2")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads((folder / "verdict.json").read_text())["overall"] in ("pass", "warn")
    assert folder.name in harness(on_slurm, "status").stdout
    assert load_result(folder / "result.json").steps["count"].parameters["to"] == 12
    assert json.loads((folder / "ledger.json").read_text())["parameters"] == {"to": 12}


@needs_slurm
@pytest.mark.parametrize("gres", ["gpu:1", "shard:16"])
def test_a_gpu_job_without_a_driver_fails_before_its_work_and_never_passes(on_slurm: Path, gres: str) -> None:
    image = str(Catalog(on_slurm / "catalog").current_link("tutorial2.cpu"))
    done = sbatch(f"--gres={gres}", GPU_JOB, PRESET="smoke", IMAGE=image)
    assert done.returncode == 2
    output = job_output(on_slurm, done.stdout)
    assert len(errors(output)) == 1
    assert "nvidia-smi" in errors(output)[0]
    assert "--gres=gpu:1" in errors(output)[0]
    run = run_of(output, on_slurm)
    assert not run.result.exists()
    assert json.loads(run.job.read_text())["gpu_shared"] == ("1" if gres.startswith("shard") else "0")
    assert harness(on_slurm, "check", "--run", str(run.folder)).returncode == 1


def test_a_program_that_fell_back_to_the_cpu_in_a_gpu_job_fails(at: Path, tmp_path: Path) -> None:
    """A driver that answers, a program that still computes on the CPU: the classic false pass."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA Fake (UUID: GPU-0)'\n")
    driver.chmod(0o755)
    image = str(Catalog(at / "catalog").current_link("tutorial2.cpu"))
    done = bash(GPU_JOB, PRESET="smoke", IMAGE=image, PATH=f"{driver.parent}:{os.environ['PATH']}")
    run = run_of(done.stdout, at)
    assert load_result(run.result).steps["count"].device is not None, done.stderr
    checked = harness(at, "check", "--run", str(run.folder))
    assert checked.returncode == 1
    assert "CPU fallback" in checked.stdout


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"IMAGE": "nowhere.sif"}, "no image nowhere.sif"),
        ({"CATALOG": "empty"}, "make build-sif TUT=xscow-2 VARIANT=cpu"),
        ({"PRESET": "huge"}, "use smoke, bench or full"),
        ({"DATA": "/nowhere"}, "DATA=/nowhere"),
        ({"MODELS": "/nowhere"}, "MODELS=/nowhere"),
    ],
)
def test_what_is_missing_is_said_in_one_line_before_the_work(at: Path, env: dict[str, str], words: str) -> None:
    done = bash(CPU_JOB, **env)
    assert done.returncode == 2
    assert len(errors(done.stderr)) == 1
    assert words in errors(done.stderr)[0]


def test_half_a_data_set_is_an_error_not_a_fallback(at: Path, tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers/a.txt").write_text("1")
    done = bash(CPU_JOB, DATA=str(tmp_path), PRESET="smoke")
    assert done.returncode == 2
    assert "b.txt is missing" in errors(done.stderr)[0]
    # Whole in another of its usual folders is whole.
    (tmp_path / "other/numbers").mkdir(parents=True)
    for name in ("a.txt", "b.txt"):
        (tmp_path / "other/numbers" / name).write_text("1")
    assert bash(CPU_JOB, DATA=str(tmp_path), PRESET="smoke").returncode == 0


def test_the_program_sees_the_models_root_and_half_a_model_is_an_error(at: Path, tmp_path: Path) -> None:
    (tmp_path / "counter").mkdir()
    done = bash(CPU_JOB, MODELS=str(tmp_path), PRESET="smoke")
    assert done.returncode == 2
    assert f"model incomplete: {tmp_path}/counter/config.json is missing" in errors(done.stderr)[0]
    (tmp_path / "counter/config.json").write_text("{}")
    done = bash(CPU_JOB, MODELS=str(tmp_path), PRESET="smoke")
    assert done.returncode == 0, done.stderr
    assert "model /models/counter\n" in done.stdout
    assert "model None\n" in bash(CPU_JOB, PRESET="smoke").stdout


def test_what_libraries_leave_at_home_goes_to_the_jobs_scratch(at: Path) -> None:
    """Kernels compiled at run time: into the folders the job names, or below a home that can be written."""
    done = bash(CPU_JOB, "--misbehave=litter", PRESET="smoke")
    assert done.returncode == 0, done.stderr
    outputs = load_result(run_of(done.stdout, at).result).steps["count"].outputs
    assert outputs["littered"]["home"] == "/tmp/.cache"
    assert set(outputs["littered"]) >= {"GPTQMODEL_TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"}
    assert all(place.startswith("/tmp/") for place in outputs["littered"].values())
    assert not (Path.home() / ".cache/litter").exists()
    assert not Path("/tmp/.cache/litter").exists()  # the job's own /tmp, which went with it


def test_a_preset_that_needs_a_model_ends_with_the_line_that_fetches_it(at: Path, tmp_path: Path) -> None:
    done = bash(CPU_JOB, PRESET="bench", MODELS=str(tmp_path))
    assert done.returncode == 2
    said = errors(done.stderr)[0]
    assert f"model missing: preset bench needs tiny/counter, which is not below {tmp_path}" in said
    assert said.endswith(".venv/bin/harness models fetch 'tiny/counter', or set MODELS to a folder that has it")


def test_outside_the_checkout_the_script_says_where_to_submit(at: Path, tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(at / CPU_JOB)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "submit from its root" in done.stderr


def test_a_damaged_image_does_not_start(at: Path, tmp_path: Path) -> None:
    image = main_file(at / "catalog", "tutorial2.cpu")
    copy = tmp_path / image.parent.name / image.name
    copy.parent.mkdir()
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    done = bash(CPU_JOB, IMAGE=str(copy))
    assert done.returncode == 2
    (line,) = errors(done.stderr)
    assert "is damaged" in line
    assert line.endswith("; build it again: make build-sif TUT=xscow-2 VARIANT=cpu")


@needs_slurm
def test_a_rejected_job_is_one_line_with_slurms_words_and_leaves_nothing_running(on_slurm: Path) -> None:
    done = harness(on_slurm, "submit", "2", "--option=--partition=nowhere")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert "nowhere" in error


@needs_slurm
def test_a_job_killed_while_it_works_fails_with_the_reason(on_slurm: Path) -> None:
    submitted = subprocess.run(
        ["sbatch", "--parsable", CPU_JOB, "--misbehave", "hang"], capture_output=True, text=True, check=True
    )
    job_id = submitted.stdout.strip()
    log = on_slurm / f"runs/tutorial2-{job_id}.out"
    _wait_until(lambda: log.is_file() and "hanging" in log.read_text())
    subprocess.run(["scancel", "--signal=KILL", "--full", job_id], check=True)
    run = run_of(log.read_text(), on_slurm)
    checked = harness(on_slurm, "check", "--run", str(run.folder))
    assert checked.returncode == 1
    assert re.search("killed|signal|cancel", checked.stdout, re.IGNORECASE), checked.stdout


def test_a_job_that_ends_0_without_a_result_fails(at: Path) -> None:
    done = bash(CPU_JOB, "--misbehave", "end", PRESET="smoke")
    assert done.returncode == 0, done.stderr
    checked = harness(at, "check", "--run", str(run_of(done.stdout, at).folder))
    assert checked.returncode == 1
    assert "without a result" in checked.stdout


def test_an_image_older_than_the_checkout_is_refused_and_its_runs_fail(project: Path) -> None:
    for command in (["jobs"], ["build", "2"]):
        assert harness(project, *command).returncode == 0
    program = project / "tutorials/xscow-2/count.py"
    program.write_text(program.read_text() + "# edited\n")
    refused = harness(project, "submit", "2")
    assert refused.returncode == 2
    assert "make build-sif" in refused.stderr
    done = subprocess.run(
        ["bash", CPU_JOB],
        cwd=project,
        env={**os.environ, "PRESET": "smoke"},
        capture_output=True,
        text=True,
        check=True,
    )
    checked = harness(project, "check", "--run", str(run_of(done.stdout, project).folder))
    assert checked.returncode == 1
    assert "definition" in checked.stdout


def _wait_until(condition, limit_s: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@needs_slurm
def test_pytest_is_a_front_door_that_submits_judges_and_reports(on_slurm: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", "harness.suite", "-p", "no:cacheprovider", "-v"]
    options = ["--tutorial", "2", "--variant", "cpu", "--preset", "smoke", f"--junitxml={tmp_path}/junit.xml"]
    done = subprocess.run([*command, *options], cwd=on_slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "xscow-2.cpu.smoke::count::throughput::counts PASSED" in done.stdout
    properties = {(p.get("name"), p.get("value")) for p in ElementTree.parse(tmp_path / "junit.xml").iter("property")}
    assert ("unit", "counts/s") in properties

    # The same runs again, without submitting: only what is on disk is judged.
    runs = len(list((on_slurm / "runs").iterdir()))
    collected = subprocess.run(
        [*command, *options, "--collect"], cwd=on_slurm, capture_output=True, text=True, check=False
    )
    assert collected.returncode == 0, collected.stdout
    assert len(list((on_slurm / "runs").iterdir())) == runs


@needs_slurm
def test_the_demo_brings_its_own_cluster_says_so_and_stops_it(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF")
    done = harness(at, "demo", "--tutorial", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scheduler: a private Slurm cluster, started for this demo" in done.stderr
    assert "xscow-2.cpu.smoke" in done.stdout
    assert (at / "report/index.html").is_file()
    assert harness(at, "cluster", "status", "--box", ".cluster-demo").returncode == 1


def test_a_site_without_a_scheduler_runs_plain_processes_and_the_demo_says_so(at: Path) -> None:
    site = (at / "sites/default.toml").read_text(encoding="utf-8").replace('name = "default"', 'name = "laptop"')
    (at / "sites/laptop.toml").write_text('scheduler = "local"\n' + site, encoding="utf-8")
    assert harness(at, "jobs", "--site", "laptop").returncode == 0
    done = harness(at, "demo", "--tutorial", "2", "--site", "laptop")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plain processes" in done.stderr
    assert "xscow-2.cpu.smoke" in done.stdout
