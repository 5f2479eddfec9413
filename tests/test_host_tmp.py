"""A build must not touch the machine it runs on."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import pytest
from tiny_project import exported, harness

pytestmark = pytest.mark.apptainer


def test_a_dockerfile_that_cleans_up_tmp_cleans_up_its_own(project: Path) -> None:
    """The engine shows the host's /tmp while it builds; `rm -rf` there once removed everything on a build node."""
    name = f"harness-test-{secrets.token_hex(8)}"
    canaries = [Path("/tmp") / name, Path("/var/tmp") / name]
    for canary in canaries:
        canary.write_text("here")
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    # Only the canary is named: were the host's folder in reach, nothing else of it would suffer.
    remove = f"RUN rm -rf /tmp/{name} /var/tmp/{name}; echo kept > /tmp/{name}-in-image\n"
    dockerfile.write_text(dockerfile.read_text() + remove)
    try:
        done = harness(project, "build", "2")
        assert done.returncode == 0, done.stderr
        assert all(canary.is_file() for canary in canaries)
        assert not Path(f"/tmp/{name}-in-image").exists()
    finally:
        for canary in canaries:
            canary.unlink(missing_ok=True)
    # As with Docker, what a RUN leaves in /tmp is in the image.
    image = exported(project, project / "exported.sif")
    listed = subprocess.run(
        ["unsquashfs", "-o", _offset(image), "-l", str(image), f"tmp/{name}-in-image"], capture_output=True, text=True
    )
    assert f"tmp/{name}-in-image" in listed.stdout, listed.stderr


def _offset(image: Path) -> str:
    """Where the system partition begins in the file, bytes."""
    listing = subprocess.run(
        ["apptainer", "sif", "list", str(image)], capture_output=True, text=True, check=True
    ).stdout
    row = next(line for line in listing.splitlines() if "Squashfs/*System" in line)
    return row.split("|")[3].strip().split("-")[0]
