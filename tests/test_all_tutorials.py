"""Every tutorial of the checkout: its CPU image, its smoke preset as a Slurm job in that image, its verdict.

`make test` runs one tutorial of every software stack; where packages come over the network, of the two smallest, for
all seven are gigabytes to download: `make test-stacks` does. `make test-all` runs all the others as well. Stages of
stacks come from the cache where nothing changed (HARNESS_TEST_CACHE); with nothing cached, building them is most of the
time. The runs stay in ``runs/``: `make measured` writes docs/tutorials/measured.md from them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from tiny_project import REPOSITORY, harness

from harness.cluster import ClusterSpec, PrivateCluster
from harness.judge.verdict import Verdict, load_verdict
from harness.project import Project
from harness.run.paths import RunPaths
from harness.run.result import load_result
from harness.tutorial import Tutorial, load_tutorial, tutorial_ids

# One of every stack, the quickest.
SMALL_STACKS = ("xscow-1", "scow-14")
OTHER_STACKS = ("xscow-5", "xscow-6", "xscow-7", "xscow-8", "xscow-9")
ONE_PER_STACK = SMALL_STACKS + OTHER_STACKS

DOWNLOAD = "HARNESS_TEST_DOWNLOADS"  # set by those targets of the Makefile that say they download gigabytes

PROJECT = Project(REPOSITORY)
ALL = {name: load_tutorial(PROJECT, name) for name in tutorial_ids(PROJECT)}
ON_CPUS = tuple(name for name, tutorial in ALL.items() if "cpu" in tutorial.resources)

pytestmark = [pytest.mark.apptainer, pytest.mark.image, pytest.mark.cluster, pytest.mark.timeout(5400)]


def judged(names: Iterable[str], cache: Path, scratch: Path, *settings: str) -> dict[str, Verdict]:
    """Build the images of ``names``, submit their smoke presets together, wait, judge: the public commands.

    Args:
        settings: parameters other than the preset's: ``backend=transformers``.
    """
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test` installs it")
    places = {"CATALOG": str(cache.absolute() / "catalog"), "HARNESS_CACHE": str(cache.absolute())}
    wanted = [ALL[name] for name in names]
    built = harness(REPOSITORY, "build", "--all", *(tutorial.id for tutorial in wanted), env=places)
    assert built.returncode == 0, built.stderr
    found: dict[str, Verdict] = {}
    for nodes in sorted({tutorial.resources["cpu"].nodes for tutorial in wanted}):
        together = [tutorial for tutorial in wanted if tutorial.resources["cpu"].nodes == nodes]
        # no larger than the largest job: the others take turns, so that none measures its neighbour
        spec = ClusterSpec(nodes=nodes, cpus=max(tutorial.resources["cpu"].cpus for tutorial in together))
        with PrivateCluster(scratch / f"{nodes}", spec) as cluster:
            found |= _run(together, {**places, **cluster.environment()}, scratch / "report", settings)
    return found


def _run(
    tutorials: list[Tutorial], environment: dict[str, str], report: Path, settings: Iterable[str]
) -> dict[str, Verdict]:
    ids = [tutorial.id for tutorial in tutorials]
    given = [word for setting in settings for word in ("--set", setting)]
    submitted = harness(REPOSITORY, "submit", *ids, "--preset", "smoke", *given, env=environment)
    assert submitted.returncode == 0, submitted.stderr
    runs = [RunPaths(REPOSITORY / line) for line in submitted.stdout.split()]
    assert len(runs) == len(tutorials)
    for run in runs:
        checked = harness(REPOSITORY, "check", "--run", str(run.folder), "--report", str(report), env=environment)
        assert run.verdict.is_file(), checked.stdout + checked.stderr
    return {verdict.run.tutorial: verdict for verdict in (load_verdict(run.verdict) for run in runs)}


def assert_right(verdicts: dict[str, Verdict], names: Iterable[str]) -> None:
    """Everything passed that was judged, on Slurm; a throughput that scatters may warn where others work as well."""
    assert set(verdicts) == set(names)
    problems = [
        f"{name}: {check.step}::{check.group}::{check.name}: {check.message}"
        for name, verdict in verdicts.items()
        for check in verdict.checks
        if check.status == "fail" or (check.status == "warn" and check.group != "throughput")
    ]
    assert not problems, "\n".join(problems)
    for name, verdict in verdicts.items():
        assert verdict.overall in ("pass", "warn"), name
        assert verdict.run.job_id, name
        judged_outputs = [check for check in verdict.checks if check.group == "output" and check.status == "pass"]
        assert judged_outputs, f"{name}: nothing was judged"


def test_every_stack_with_a_cpu_image_has_its_tutorial() -> None:
    assert {ALL[name].stack for name in ONE_PER_STACK} == {ALL[name].stack for name in ON_CPUS}
    assert len(ONE_PER_STACK) == len({ALL[name].stack for name in ONE_PER_STACK})


def packages_are_on_this_machine() -> bool:
    """Whether pip is configured with package folders of this machine: then installing downloads little or nothing."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    return "file://" in listed


@needs_slurm
@pytest.mark.parametrize("names", [OTHER_STACKS, SMALL_STACKS], ids=["others", "small"])
def test_one_tutorial_of_every_stack_passes_as_a_slurm_job(
    names: tuple[str, ...], cache: Path, short_dir: Path
) -> None:
    if names == OTHER_STACKS and not (os.environ.get(DOWNLOAD) or packages_are_on_this_machine()):
        pytest.skip("gigabytes of packages to download; `make test-stacks` and `make test-all` do")
    assert_right(judged(names, cache, short_dir), names)


@needs_slurm
@pytest.mark.slow
def test_the_other_tutorials_pass_as_slurm_jobs(cache: Path, short_dir: Path) -> None:
    others = tuple(name for name in ON_CPUS if name not in ONE_PER_STACK)
    assert_right(judged(others, cache, short_dir), others)


@needs_slurm
@pytest.mark.slow
def test_a_served_model_passes_with_plain_transformers_too_under_its_own_name(cache: Path, short_dir: Path) -> None:
    names = ("xscow-8", "scow-6")
    verdicts = judged(names, cache, short_dir, "backend=transformers")
    assert_right(verdicts, names)
    for verdict in verdicts.values():
        assert {check.name for check in verdict.checks if check.group == "throughput"} >= {"transformers_token_rate"}
        assert "vllm_token_rate" not in verdict.to_json()


@needs_slurm
@pytest.mark.slow
def test_vllm_shares_every_layer_between_two_processes_and_answers_the_same(cache: Path, short_dir: Path) -> None:
    """Tensor parallelism for real, on two cores; that the answers are those of plain transformers is judged."""
    verdict = judged(("xscow-8",), cache, short_dir, "tensor_parallel=2")["xscow-8"]
    assert_right({"xscow-8": verdict}, ("xscow-8",))
    run = RunPaths(PROJECT.runs / verdict.run.run_id)
    outputs = load_result(run.result).steps["serve"].outputs
    assert (outputs["served_by"], outputs["tensor_parallel"]) == ("vllm", 2)
    assert outputs["plain_answers_are_the_same"] is True
    log = (run.outputs("serve") / "server.log").read_text(encoding="utf-8")
    assert "Worker_TP0" in log
    assert "Worker_TP1" in log
    [met] = set(re.findall(r"/(vllm_dist_\w+)", log))
    assert not list(Path("/dev/shm").glob(f"{met}*")), "memory of the node that nobody would free"
