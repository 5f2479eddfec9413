"""Serving a model (xscow-8, scow-6): the server of plain transformers, asked for what vLLM is asked for.

An image of 900 MB: only `make test-all` runs it. As Slurm jobs, with both engines: test_all_tutorials.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_project import REPOSITORY, harness, image_of

pytestmark = [pytest.mark.apptainer, pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(5400)]


def test_plain_transformers_serve_as_the_client_asks(cache: Path) -> None:
    """The unittest cases of tests/in_image/test_plain_server.py, by the image's own Python."""
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test-all` installs it")
    root = cache / "catalog"
    built = harness(REPOSITORY, "build", "xscow-8", env={"CATALOG": str(root), "HARNESS_CACHE": str(cache)})
    assert built.returncode == 0, built.stderr
    userns = ["--userns"] if os.geteuid() == 0 else []
    inside = ["apptainer", "exec", *userns, "--cleanenv", "--no-home", "--bind", f"{REPOSITORY}:/mnt:ro"]
    command = ["env", "-C", "/mnt/tests/in_image", "python", "-m", "unittest", "-v", "test_plain_server"]
    images = image_of(root, "tutorial8.cpu")
    done = subprocess.run([*inside, *images, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "skipped" not in done.stderr
