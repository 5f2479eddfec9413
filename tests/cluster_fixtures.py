"""A private Slurm cluster for the tests; ``conftest.py`` imports the fixtures from here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cluster import ClusterSpec, PrivateCluster
from harness.cluster.programs import missing_tools
from harness.scheduler import JobStatus, Scheduler, SlurmScheduler, Waiter

needs_slurm = pytest.mark.skipif(
    bool(missing_tools()), reason=f"no {', '.join(missing_tools())} here: run scripts/install-packages slurm"
)

SPEC = ClusterSpec(nodes=2, cpus=8, gpus=2, shards=128)


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCluster]:
    """A running cluster of two nodes, each with 2 GPUs of type h200 and 128 shards, for the whole session."""
    if missing := missing_tools():
        pytest.skip(f"no {', '.join(missing)} here: run scripts/install-packages slurm")
    with PrivateCluster(tmp_path_factory.mktemp("slurm"), SPEC) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: PrivateCluster) -> SlurmScheduler:
    """The driver, talking to that cluster."""
    return SlurmScheduler(os.environ | slurm_cluster.environment())


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for unix sockets, which pytest's own may not."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def wait_for() -> Callable[..., dict[str, JobStatus]]:
    """``wait_for(scheduler, *ids)``: the statuses once all have ended; fails after 30 s."""

    def wait(scheduler: Scheduler, *job_ids: str) -> dict[str, JobStatus]:
        waiter = Waiter(scheduler, check_s=0.1, max_interval_s=0.1, jitter=lambda: 1.0, first_interval_s=0.05)
        results = waiter.wait(job_ids, timeout_s=30)
        statuses = {job_id: result.status for job_id, result in results.items() if result.status is not None}
        assert all(not status.state.is_active for status in statuses.values()), statuses
        return statuses

    return wait
