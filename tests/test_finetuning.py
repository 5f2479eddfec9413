"""Fine-tuning with LLaMA-Factory: the programs by several processes, after a kill, and with bad input.

Minutes, and an image of 700 MB: only `make test-all` runs it. As Slurm jobs: test_all_tutorials.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_project import REPOSITORY, harness, image_of

from harness.catalog.catalog import Catalog

pytestmark = [pytest.mark.apptainer, pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def catalog(cache: Path) -> Catalog:
    """The CPU image of this checkout, built here; the stack's stage comes from the cache where nothing changed."""
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test-all` installs it")
    root = cache / "catalog"
    done = harness(REPOSITORY, "build", "scow-9", env={"CATALOG": str(root), "HARNESS_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    return Catalog(root)


@pytest.mark.parametrize("case", ["Equal", "Resumed", "Precision", "Refused", "Alone", "RandomWeights"])
def test_the_programs_by_several_processes_after_a_kill_and_with_bad_input(catalog: Catalog, case: str) -> None:
    """The unittest cases of tests/in_image/test_identity.py, by the image's own Python."""
    userns = ["--userns"] if os.geteuid() == 0 else []
    inside = ["apptainer", "exec", *userns, "--cleanenv", "--no-home", "--bind", f"{REPOSITORY}:/mnt:ro"]
    command = ["env", "-C", "/mnt/tests/in_image", "python", "-m", "unittest", "-v", f"test_identity.{case}"]
    images = image_of(catalog.root, "scow-9.cpu")
    done = subprocess.run([*inside, *images, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "skipped" not in done.stderr
