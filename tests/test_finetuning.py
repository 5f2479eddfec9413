"""Fine-tuning with LLaMA-Factory: its tutorials as Slurm jobs in their images, and their programs by several processes.

Minutes, and an image of 700 MB: only `make test-all` runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from tiny_project import REPOSITORY, harness, image_of

from harness.catalog.catalog import Catalog
from harness.cluster import ClusterSpec, PrivateCluster

TUTORIALS = ("xscow-6", "scow-9", "scow-10", "scow-12", "scow-13")
pytestmark = [pytest.mark.apptainer, pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def catalog(cache: Path) -> Catalog:
    """The CPU images of this checkout, built here; the stack's stage comes from the cache where nothing changed."""
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test-all` installs it")
    root = cache / "catalog"
    done = harness(REPOSITORY, "build", *TUTORIALS, env={"CATALOG": str(root), "HARNESS_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    return Catalog(root)


@pytest.fixture
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCluster]:
    """Two nodes of two cores: jobs run one after the other, so that none measures its neighbour."""
    with PrivateCluster(tmp_path_factory.mktemp("nodes"), ClusterSpec(nodes=2, cpus=2)) as cluster:
        yield cluster


@needs_slurm
def test_the_models_learn_who_they_are_as_slurm_jobs(
    catalog: Catalog, two_nodes: PrivateCluster, tmp_path: Path
) -> None:
    environment = {**os.environ, **two_nodes.environment(), "CATALOG": str(catalog.root)}
    suite = [sys.executable, "-m", "pytest", "--pyargs", "harness.suite", "-p", "no:cacheprovider", "-v"]
    asked = ["--tutorial", ",".join(TUTORIALS), "--variant", "cpu", "--preset", "smoke"]
    done = subprocess.run(
        [*suite, *asked, "--report", str(tmp_path / "report")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for check in (
        "scow-10.cpu.smoke::finetune::output::world_size PASSED",
        "scow-12.cpu.smoke::finetune::output::steps PASSED",
        "scow-13.cpu.smoke::finetune::output::world_size PASSED",
        "scow-13.cpu.smoke::finetune::throughput::train_throughput PASSED",
    ):
        assert check in done.stdout


@pytest.mark.parametrize("case", ["Equal", "Resumed", "Refused", "Alone", "RandomWeights"])
def test_the_programs_by_several_processes_after_a_kill_and_with_bad_input(catalog: Catalog, case: str) -> None:
    """The unittest cases of tests/in_image/test_identity.py, by the image's own Python."""
    userns = ["--userns"] if os.geteuid() == 0 else []
    inside = ["apptainer", "exec", *userns, "--cleanenv", "--no-home", "--bind", f"{REPOSITORY}:/mnt:ro"]
    command = ["env", "-C", "/mnt/tests/in_image", "python", "-m", "unittest", "-v", f"test_identity.{case}"]
    images = image_of(catalog.root, "scow-9.cpu")
    done = subprocess.run([*inside, *images, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "skipped" not in done.stderr
