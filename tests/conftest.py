"""Fixtures of all tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_fixtures import short_dir, slurm, slurm_cluster, wait_for  # noqa: F401
from hub_support import hub, supplied  # noqa: F401
from small_disk import disk  # noqa: F401
from tiny_project import REPOSITORY, harness, make_tiny_project

from harness.image.keys import KEY_VARIABLE, signing_key

NO_ENGINE = "no apptainer or singularity: scripts/install-apptainer; `make test` installs it"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real images first: they take longest, and a worker that begins one last keeps the others waiting."""
    items.sort(key=lambda item: item.get_closest_marker("image") is None)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell starts background jobs with SIGINT ignored, and what they start inherits that; Ctrl-C is tested here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cache() -> Path:
    """A cache for bases and stages; HARNESS_TEST_CACHE puts it elsewhere."""
    return Path(os.environ.get("HARNESS_TEST_CACHE") or REPOSITORY / "cache" / "test")


@pytest.fixture(scope="session", autouse=True)
def signing_key_of_the_tests(cache: Path) -> Iterator[None]:
    """Tests never make or use the key of the person who runs them.

    One key for all workers and sessions: they share a catalog in the cache, which trusts who built into it first.
    """
    home = {"XDG_CONFIG_HOME": str(cache.absolute() / "config")}
    if shutil.which("openssl"):
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "config.lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
            fcntl.flock(lock, fcntl.LOCK_EX)
            key = signing_key(home).path
            fcntl.flock(lock, fcntl.LOCK_UN)
            patch.setenv(KEY_VARIABLE, str(key))
            yield
    else:
        yield


@pytest.fixture
def project(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own with one small tutorial; its image is not built."""
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.delenv("CATALOG", raising=False)
    return make_tiny_project(tmp_path / "project")


@pytest.fixture(scope="session")
def built_project(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A project with one small tutorial, its image and its job scripts: tests share it and only add runs."""
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip(NO_ENGINE)
    root = make_tiny_project(tmp_path_factory.mktemp("built") / "project")
    for command in (["jobs"], ["defs"], ["build", "2"]):
        done = harness(root, *command, env={"HARNESS_CACHE": str(cache)})
        assert done.returncode == 0, done.stderr
    return root
