"""What the job library tells the processes of a step: which GPUs are theirs, who they are, where they go on.

The jobs are written here, with programs of a few lines in the image of the small project; Slurm and its GPUs (devices
that compute nothing) are real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from tiny_project import REPOSITORY, make_tiny_project

from harness.cluster import PrivateCluster
from harness.run.paths import RunPaths
from harness.run.result import load_result

PYTHON = ".".join(map(str, sys.version_info[:2]))
CONDA_JOB = f"""\
#!/bin/bash
set -euo pipefail
cd "${{SLURM_SUBMIT_DIR:-$PWD}}"
source jobs/lib/job.sh
source jobs/lib/conda.sh
job_begin xscow-2 tutorial2 cuda
[ -z "${{GPUS_WANTED:-}}" ] || job_need_gpus "$GPUS_WANTED"
job_need_conda env envs {PYTHON} '' 'by hand'
job_programs program.py <<'START'
shift
exec python -m harness.runtime.launch program.py "$@"
START
job_ranks 1 1 count "$@"
"""
SHOW = """\
import json, os, pathlib
names = ("CUDA_VISIBLE_DEVICES", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
where = pathlib.Path(os.environ["HARNESS_RUN_DIR"]) / f"seen-{os.environ['HARNESS_NODE']}.json"
where.write_text(json.dumps({name: os.environ.get(name) for name in names}))
"""
EPOCHS = """\
import os, pathlib, time
from harness.runtime import DeviceFacts, ProgramArguments, StepRun, Throughput, run_program

def main():
    parser = ProgramArguments("Count, one file per epoch.")
    parser.parameter("to", 4, "epochs")
    args = parser.parse_args()
    with StepRun.from_environment("count", tutorial="xscow-2", parameters=vars(args), keeps="checkpoints") as run:
        run.use_device(DeviceFacts(kind="cpu", name="a CPU", count=1))
        folder = run.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        done = len(list(folder.iterdir()))
        run.output("resumed_after", done)
        meter = Throughput(warm_up=1)
        for epoch in range(done + 1, args.to + 1):
            with meter.window(1):
                (folder / f"epoch-{epoch}").write_text(os.environ["HARNESS_ATTEMPT"])
            while epoch == 2 and not os.environ["HARNESS_ATTEMPT"] != "0":
                time.sleep(0.05)
        run.throughput("counts", meter, unit="counts/s", resumed_after=done, left=args.to - done)
        run.output("written_by", [p.read_text() for p in sorted(folder.iterdir())])

run_program(main)
"""


@pytest.fixture
def conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an environment and the job above, no scheduler in reach; its programs are written by the tests."""
    root = make_tiny_project(tmp_path / "project")
    (root / "envs/env/bin").mkdir(parents=True)
    (root / "envs/env/bin/python").symlink_to(sys.executable)
    (root / "test.job").write_text(CONDA_JOB)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")) or name in ("CUDA_VISIBLE_DEVICES", "PROCESSES"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
    monkeypatch.setenv("RUN_ID", "run")
    monkeypatch.chdir(root)
    return root


def bash(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(["bash", "test.job"], env=environment, capture_output=True, text=True, check=False)


def seen(root: Path, node: str) -> dict[str, str | None]:
    content: dict[str, str | None] = json.loads((root / f"runs/run/seen-{node}.json").read_text())
    return content


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("variables", "given"),
    [
        ({}, "0,1"),
        ({"CUDA_VISIBLE_DEVICES": "3,1,2"}, "3,1"),
        ({"PROCESSES": "3"}, "0,1,2"),
        ({"PROCESSES": "1"}, "0,1"),
    ],
)
def test_without_a_scheduler_a_job_sees_as_many_gpus_as_it_asks_for(
    conda: Path, variables: dict[str, str], given: str
) -> None:
    """On a machine with four, as a program that needs no GPU but tells of them makes it look."""
    tools = conda / "bin"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(
        '#!/bin/sh\nfor n in 0 1 2 3; do echo "GPU $n: NVIDIA H200 (UUID: GPU-$n)"; done\n'
    )
    (tools / "nvidia-smi").chmod(0o755)
    (conda / "program.py").write_text(SHOW)
    done = bash(GPUS_WANTED="2", PATH=f"{tools}:{os.environ['PATH']}", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    node = next((conda / "runs/run").glob("seen-*.json"))
    assert json.loads(node.read_text())["CUDA_VISIBLE_DEVICES"] == given
    asked = max(2, int(variables.get("PROCESSES", 2)))  # what the judge holds the run to
    assert json.loads((conda / "runs/run/job.json").read_text())["gpus"] == str(asked)

    more = bash(GPUS_WANTED="2", PATH=f"{tools}:{os.environ['PATH']}", PROCESSES="5", RUN_ID="more")
    assert more.returncode == 2
    assert "5 GPU(s) needed, 4 given" in more.stderr


def test_a_shell_that_is_a_rank_of_something_else_does_not_silence_the_job(conda: Path) -> None:
    """Rank 1 writes no result."""
    (conda / "program.py").write_text(EPOCHS)
    stray = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "elsewhere"}
    done = bash(HARNESS_NODE_RANK="1", NPROC_PER_NODE="4", RUN_ID="run", SLURM_RESTART_COUNT="1", **stray)
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_result(conda / "runs/run/attempt-1/result.json").steps["count"].outputs["resumed_after"] == 0


@needs_slurm
@pytest.mark.cluster
def test_a_job_that_is_put_back_into_the_queue_goes_on_and_so_does_a_new_one_of_the_same_run(
    conda: Path, slurm_cluster: PrivateCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slurm_cluster.environment().items():
        monkeypatch.setenv(name, value)
    (conda / "program.py").write_text(EPOCHS)
    run = RunPaths(conda / "runs/run")
    command = ["sbatch", "--parsable", "--requeue", "--output=log", "--open-mode=append", "test.job"]
    job = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    until((run.folder / "checkpoints/epoch-2").exists)
    subprocess.run(["scontrol", "requeue", job], check=True)
    until((run.folder / "attempt-1/exit_code").exists, 120)
    result = load_result(run.result)
    step = result.steps["count"]
    assert (result.attempt, result.job_id, step.status) == ("1", job, "completed"), Path("log").read_text()
    assert step.outputs["resumed_after"] == 2
    assert step.outputs["written_by"] == ["0", "0", "1", "1"]
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["epoch-1", "epoch-2"]
    assert not (run.folder / "result.json").exists() or load_result(run.folder / "result.json").attempt == "0"

    done = subprocess.run(["sbatch", "--wait", "--output=log2", "test.job", "--to", "6"], check=False)
    assert done.returncode == 0, Path("log2").read_text()
    assert run.attempt_folder.name == "attempt-2", "the newest attempt is what is judged"
    step = load_result(run.result).steps["count"]
    assert (step.outputs["resumed_after"], step.outputs["written_by"]) == (4, ["0", "0", "1", "1", "2", "2"])


IMAGE_JOB = """\
#!/bin/bash
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$PWD}"
source jobs/lib/job.sh
job_begin xscow-2 tutorial2 cpu
job_need_image
job_ranks 2 1 count "$@"
"""


@pytest.fixture
def on_two_nodes(built_project: Path, slurm_cluster: PrivateCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, value in slurm_cluster.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(built_project)
    monkeypatch.setenv("RUN_ID", "two-nodes")
    (built_project / "two-nodes.job").write_text(IMAGE_JOB)
    yield built_project
    (built_project / "two-nodes.job").unlink()
    shutil.rmtree(built_project / "runs/two-nodes", ignore_errors=True)
    (built_project / "let-go").unlink(missing_ok=True)


@needs_slurm
@pytest.mark.cluster
@pytest.mark.apptainer
def test_each_node_of_a_job_in_an_image_uses_the_gpus_it_was_given(on_two_nodes: Path) -> None:
    """GPU 0 of one node is another job's: the two nodes of the job are given different ones."""
    hold = ["sbatch", "--parsable", "--nodelist=n1", "--gres=gpu:1", "--output=/dev/null", "--wrap"]
    wait = f"touch {on_two_nodes}/held; while [ ! -e {on_two_nodes}/let-go ]; do sleep 0.1; done"
    subprocess.run([*hold, wait], check=True, capture_output=True)
    until((on_two_nodes / "held").exists)
    command = [
        "sbatch",
        "--wait",
        "--nodes=2",
        "--cpus-per-task=1",
        "--gres=gpu:1",
        "--output=two-nodes.log",
        "two-nodes.job",
    ]
    try:
        done = subprocess.run([*command, "--to", "10"], check=False)
    finally:
        (on_two_nodes / "let-go").touch()
    log = Path("two-nodes.log").read_text()
    assert done.returncode == 0, log
    shown = sorted(line for line in log.splitlines() if line.startswith("node n"))
    assert shown == ["node n1 GPUs 1", "node n2 GPUs 0"], log


def test_shards_are_recommended_where_one_gpu_is_needed_only() -> None:
    """All shards of a job are on one GPU: a job of two would be refused."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "jobs").glob("*.job"))]
    recommending = [text for text in texts if "--gres=shard" in text]
    assert recommending
    assert all("\njob_need_gpus 1\n" in text and "#SBATCH --nodes=1\n" in text for text in recommending)
    assert all("--gres=shard" in text for text in texts if "\njob_need_gpus 1\n" in text and "--nodes=1\n" in text)
