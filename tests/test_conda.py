"""Conda jobs: without an image, in an environment that is held against the same lock; judged, and never mixed.

No conda can be had here. What a job needs of it is a prefix with ``bin/python`` and the packages of the lock; the
tests make one with venv and pip. That conda itself reads environment.yml has not been tried.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from test_tutorials import small_cluster  # noqa: F401 - the fixture
from tiny_project import REPOSITORY, harness, make_tiny_project

from harness.cluster import PrivateCluster
from harness.image.driver import reachable
from harness.lock.python import index_options
from harness.project import Project
from harness.run.paths import RunPaths
from harness.run.result import load_result
from harness.stack import load_stack, stack_names
from harness.stack_conda import environment_file
from harness.stack_lock import read_stack_lock
from harness.tutorial import load_tutorial, tutorial_ids

JOB = "jobs/tutorial2.conda.cpu.job"
HOW = "PIP_NO_DEPS=1 conda env create -p envs/tiny.cpu -f containers/tiny/cpu.environment.yml"


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with its conda jobs, this Python's own version in its stack; no environment yet."""
    root = make_tiny_project(tmp_path / "project")
    stack = root / "containers/tiny/stack.toml"
    version = f'python = "{sys.version_info[0]}.{sys.version_info[1]}"'
    stack.write_text(stack.read_text("utf-8").replace('python = "3.11"', version), encoding="utf-8")
    assert harness(root, "jobs").returncode == 0
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
    monkeypatch.chdir(root)
    return root


def make_environment(prefix: Path) -> Path:
    venv.create(prefix, with_pip=False, symlinks=True)
    return prefix


def bash(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", JOB, *options]
    environment = {**os.environ, "PRESET": "smoke", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def run_of(output: str, root: Path) -> RunPaths:
    match = re.search(r"^run: (runs/\S+)$", output, re.MULTILINE)
    assert match, output
    return RunPaths(root / match[1])


# -- the environment ------------------------------------------------------------------------------------------------


def test_a_missing_environment_is_one_line_that_says_how_to_make_it(at: Path) -> None:
    done = bash()
    assert done.returncode == 2
    assert done.stderr == f"error: no conda environment envs/tiny.cpu; make it: {HOW}\n"


def test_an_environment_that_is_not_as_locked_is_refused_before_the_work(at: Path) -> None:
    environment = make_environment(at / "envs/tiny.cpu")
    (at / "containers/tiny/requirements.lock").write_text("tinything==1.2 \\\n    --hash=sha256:00\n")
    done = bash()
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the conda environment {environment} is not as locked: tinything is missing")
    assert not run_of(done.stdout, at).result.exists()
    (site,) = environment.glob("lib/python*/site-packages")
    record = site / "tinything-1.1.dist-info/METADATA"
    record.parent.mkdir()
    record.write_text("Metadata-Version: 2.1\nName: tinything\nVersion: 1.1\n")
    assert "tinything is 1.1, locked is 1.2; make it again:" in bash().stderr
    record.write_text(record.read_text().replace("1.1", "1.2"))
    assert bash().returncode == 0


def test_another_python_is_refused(at: Path) -> None:
    make_environment(at / "mine")
    script = at / JOB
    script.write_text(re.sub(r"envs 3\.\d+", "envs 3.99", script.read_text("utf-8")), encoding="utf-8")
    assert "locked is 3.99" in bash(CONDA_ENV="mine").stderr


def test_a_session_is_refused(at: Path) -> None:
    assert "OPEN=jupyter works inside an image" in bash(OPEN="jupyter").stderr


# -- the run --------------------------------------------------------------------------------------------------------


def test_compiled_kernels_go_to_the_jobs_scratch(at: Path) -> None:
    """All caches that the job names; HOME stays the person's, who has tokens there."""
    make_environment(at / "mine")
    (at / "home").mkdir()
    (at / "scratch").mkdir()
    done = bash("--misbehave=litter", CONDA_ENV="mine", HOME=str(at / "home"), TMPDIR=str(at / "scratch"))
    assert done.returncode == 0, done.stderr
    littered = load_result(run_of(done.stdout, at).result).steps["count"].outputs["littered"]
    assert littered.pop("home") == str(at / "home/.cache")
    assert set(littered) >= {"GPTQMODEL_TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"}
    assert all(place.startswith(f"{at}/scratch/") for place in littered.values()), littered
    assert not list((at / "scratch").iterdir())


def test_it_runs_the_same_steps_and_the_verdict_says_that_no_image_was_used(at: Path) -> None:
    make_environment(at / "mine")
    done = bash(CONDA_ENV="mine", PYTHONPATH="/nowhere", HARNESS_PRESET="full")
    assert done.returncode == 0, done.stderr
    run = run_of(done.stdout, at)
    result = load_result(run.result)
    assert (result.tutorial, result.variant, result.preset) == ("xscow-2", "cpu", "smoke")
    assert result.image.sha256 is None
    assert result.steps["count"].parameters["to"] == 10
    assert "greeting good day" in run.log.read_text()  # the stack's ENV
    assert json.loads(run.job.read_text())["environment"] == "conda"
    checked = harness(at, "check", "--run", str(run.folder))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    verdict = json.loads(run.verdict.read_text())
    checks = {(check["group"], check["name"]): check for check in verdict["checks"]}
    assert checks["image", "digest"]["status"] == "skip"
    assert checks["image", "digest"]["message"].startswith("no image was used")
    assert checks["output", "sum"]["status"] == "pass"
    assert verdict["run"]["environment"] == "conda"


def test_a_run_asked_for_in_an_image_cannot_pass_without_one(at: Path) -> None:
    make_environment(at / "mine")
    run = run_of(bash(CONDA_ENV="mine").stdout, at)
    ledger = {"tutorial": "xscow-2", "variant": "cpu", "preset": "smoke", "environment": "apptainer"}
    run.ledger.write_text(
        json.dumps({**ledger, "run_id": run.run_id, "image_sha256": "0" * 64, "definition_sha256": "1" * 64})
    )
    assert harness(at, "check", "--run", str(run.folder)).returncode == 1
    assert "ran outside an image" in run.verdict.read_text()


def test_history_keeps_them_apart(at: Path) -> None:
    make_environment(at / "mine")
    run = run_of(bash(CONDA_ENV="mine").stdout, at)
    assert harness(at, "check", "--run", str(run.folder)).returncode == 0
    shown = harness(at, "history").stdout
    assert "cpu-conda" in shown
    assert not re.search(r"cpu(?!-conda)[ .]+smoke", shown)


@pytest.fixture
def on_slurm(at: Path, slurm_cluster: PrivateCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, value in slurm_cluster.environment().items():
        monkeypatch.setenv(name, value)
    yield at


@needs_slurm
def test_submitted_as_a_job_and_judged(on_slurm: Path) -> None:
    make_environment(on_slurm / "envs/tiny.cpu")
    submitted = harness(on_slurm, "submit", "2", "--preset", "smoke", "--conda")
    assert submitted.returncode == 0, submitted.stderr
    folder = on_slurm / submitted.stdout.strip()
    assert json.loads((folder / "ledger.json").read_text())["environment"] == "conda"
    checked = harness(on_slurm, "check", "2")
    assert checked.returncode == 0, checked.stdout + checked.stderr


# -- what is generated ----------------------------------------------------------------------------------------------


def test_every_tutorial_has_its_conda_jobs_and_every_stack_its_environments() -> None:
    project = Project(REPOSITORY)
    for name in tutorial_ids(project):
        tutorial = load_tutorial(project, name)
        for variant in tutorial.resources:
            assert project.job_file(tutorial.stem, variant, "conda").is_file()
    for name in stack_names(project):
        stack = load_stack(project, name)
        for variant, parts in stack.variants.items():
            text = environment_file(project, stack, variant).read_text("utf-8")
            assert f"\n  - python={parts.python}\n" in text
            lock = read_stack_lock(project, name, variant)
            assert lock is not None
            # Either the whole lock, or, where the base brings what nobody locked, the base's own pins.
            assert (f"\n      - -r {parts.lock}\n" in text) is not bool(parts.conda.pip)
            # torch comes from the lock, from conda, or with what pip installs.
            in_lock = lock.python is not None and "torch" in lock.python.packages
            assert in_lock or any(package.startswith("pytorch-gpu=") for package in parts.conda.packages)


def test_a_compiler_is_found_without_activation(tmp_path: Path) -> None:
    """Packages such as gxx_linux-64 name it x86_64-conda-linux-gnu-g++ and leave the rest to activation."""
    project = Project(REPOSITORY)
    for name in stack_names(project):
        for parts in load_stack(project, name).variants.values():
            assert not [package for package in parts.conda.packages if "_linux-64" in package]
    (tmp_path / "prefix/bin").mkdir(parents=True)
    start = tmp_path / "start"
    start.write_text('echo "$1 ${CXX:-none}"\n')
    command = ["bash", "jobs/lib/in-conda.sh", tmp_path / "prefix", "--bind", f"{tmp_path}:/tmp", start, "step"]
    said = [subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout]
    (tmp_path / "prefix/bin/g++").symlink_to("/bin/true")
    said.append(subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout)
    assert said == ["step none\n", f"step {tmp_path}/prefix/bin/g++\n"]


def test_an_environment_that_no_lock_stands_behind_says_so() -> None:
    text = (REPOSITORY / "containers/llamafactory/cuda.environment.yml").read_text("utf-8")
    assert "without a lock" in text and "from its image's lock" not in text


def test_drift_of_an_environment_is_found(at: Path) -> None:
    assert harness(at, "conda").returncode == 0
    assert harness(at, "conda", "--check").returncode == 0
    file = at / "containers/tiny/cpu.environment.yml"
    file.write_text(file.read_text("utf-8").replace("python=3", "python=2"), encoding="utf-8")
    done = harness(at, "conda", "--check")
    assert done.returncode == 1
    assert "cpu.environment.yml; harness conda" in done.stderr


@needs_slurm
@pytest.mark.slow
def test_a_real_tutorial_in_an_environment_of_its_lock(
    small_cluster: PrivateCluster,  # noqa: F811
    tmp_path: Path,
) -> None:
    """xscow-1 with every package of the pytorch lock, by its hash, installed as environment.yml tells pip to."""
    prefix = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "uv", "venv", "-q", "--python", "3.11", prefix], check=True)
    install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--require-hashes", "--python", prefix]
    parts = load_stack(Project(REPOSITORY), "pytorch").variants["cpu"]
    install += index_options(reachable(parts.extra_indexes, print))
    lock = REPOSITORY / "containers/pytorch/requirements.cpu.lock"
    subprocess.run([*install, "-r", lock], check=True)
    environment = {**os.environ, **small_cluster.environment(), "CONDA_ENV": str(prefix), "PRESET": "smoke"}
    environment["RUN_ID"] = f"conda-{os.getpid()}"
    folder = REPOSITORY / "runs" / environment["RUN_ID"]
    command = ["sbatch", "--wait", f"--output={tmp_path}/log", "jobs/tutorial1.conda.cpu.job"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text(encoding="utf-8")
    checked = harness(REPOSITORY, "check", "--run", str(folder), "--report", str(tmp_path / "report"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
