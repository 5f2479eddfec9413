"""The private Slurm cluster: configuration text, life cycle, and that nothing outlives it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from typer.testing import CliRunner

import harness
from harness.cli.cluster import app
from harness.cluster import ClusterSpec, Partition, PrivateCluster
from harness.cluster.cgroups import cgroup_conf, why_no_memory_limits
from harness.cluster.config import BoxLayout, Ports, fits_sockets, gres_conf, parse_version, slurm_conf
from harness.errors import HarnessError, MissingToolError, UserError
from harness.processes import ProcessName, boot_id, name_process

SMALL = ClusterSpec(nodes=1, cpus=2, gpus=1, shards=64)


def run(cluster: PrivateCluster, *command: str) -> str:
    done = subprocess.run(
        command, env=os.environ | cluster.environment(), capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


def wait_until(condition: object, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


# --- configuration


def test_configuration_names_every_node_and_partition() -> None:
    spec = ClusterSpec(
        nodes=2,
        cpus=8,
        memory_mib=16000,
        gpus=4,
        shards=64,
        partitions=(Partition("a", nodes=("n2",)), Partition("b")),
        extra=("MinJobAge=10",),
    )
    box = BoxLayout(Path("/box"), Path("/box"))
    text = slurm_conf(spec, box, Ports(20001, (20002, 20003)), user="me", hostname="here", first_job_id=7)
    assert "NodeName=n2 NodeHostName=here NodeAddr=127.0.0.1 Port=20003 CPUs=8 RealMemory=16000 " in text
    assert "Gres=gpu:h200:4,shard:64" in text
    assert "PartitionName=a Nodes=n2 Default=YES MaxTime=10080 State=UP" in text
    assert "PartitionName=b Nodes=ALL Default=NO" in text
    assert "SlurmUser=me\n" in text
    assert "MinJobAge=10\n" in text
    assert "socket=/box/munge/munge.sock" in text


def test_configuration_without_gpus_names_no_gres() -> None:
    spec = ClusterSpec(nodes=1, gpus=0, shards=0)
    box = BoxLayout(Path("/box"), Path("/box"))
    text = slurm_conf(spec, box, Ports(20001, (20002,)), user="me", hostname="here", first_job_id=1)
    assert "gres" not in text.lower()
    assert gres_conf(spec, []).strip() == ""


def test_gres_has_a_device_file_for_each_gpu() -> None:
    lines = gres_conf(ClusterSpec(gpus=2, shards=8), [Path("/d/a"), Path("/d/b"), Path("/d/c")]).splitlines()
    assert lines == ["Name=gpu Type=h200 File=/d/a", "Name=gpu Type=h200 File=/d/b", "Name=shard Count=8"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"nodes": 0}, "nodes must be 1 to 999"),
        ({"cpus": 0}, "cpus must be at least 1"),
        ({"gpus": 3, "shards": 64}, "multiple of the 3 GPUs"),
        ({"gpus": 0, "shards": 64}, "shards need GPUs"),
        ({"gpu_type": "H 200"}, "lower-case word"),
        ({"partitions": ()}, "at least one partition"),
    ],
)
def test_impossible_clusters_are_refused(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        ClusterSpec(**values)  # type: ignore[arg-type]


def test_cgroup_plugin_by_version() -> None:
    assert parse_version("slurm-wlm 22.05.8\n") == (22, 5)
    assert cgroup_conf((22, 5), enforce_memory=False) == "CgroupPlugin=cgroup/v1\n"
    assert cgroup_conf(parse_version("slurm 23.11.4"), enforce_memory=False) == "CgroupPlugin=disabled\n"
    assert "ConstrainRAMSpace=yes" in cgroup_conf((23, 11), enforce_memory=True)
    with pytest.raises(HarnessError, match="no version"):
        parse_version("what?")


def test_a_machine_that_cannot_limit_memory_says_why(tmp_path: Path) -> None:
    assert "no cgroup v1 memory controller" in (why_no_memory_limits(tmp_path) or "")


def test_long_paths_do_not_fit_sockets() -> None:
    assert fits_sockets(Path("/" + "d" * 60))
    assert not fits_sockets(Path("/" + "d" * 80))
    assert not fits_sockets(Path("/" + "目" * 30))  # bytes count, not letters


# --- processes


def test_a_recycled_pid_is_another_process() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        name = name_process(child.pid)
        assert name is not None
        stranger = ProcessName(child.pid, name.start_ticks - 1, boot_id())
        assert name.is_alive()
        assert not stranger.is_alive()
        stranger.signal(signal.SIGKILL)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    assert not name.is_alive()
    name.signal(signal.SIGKILL)


def test_signals_work_without_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    child = subprocess.Popen(["sleep", "60"])
    name = name_process(child.pid)
    assert name is not None
    name.signal(signal.SIGTERM)
    assert child.wait(timeout=10) == -signal.SIGTERM


# --- life cycle


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.programs.find_tool", lambda name: None if name == "slurmctld" else name)
    with pytest.raises(MissingToolError, match=r"slurmctld; install Slurm and munge: scripts/install-packages slurm"):
        PrivateCluster(tmp_path / "box").start()


@needs_slurm
@pytest.mark.cluster
def test_two_clusters_side_by_side(slurm_cluster: PrivateCluster, short_dir: Path) -> None:
    with PrivateCluster(short_dir / "box", SMALL) as cluster:
        assert run(cluster, "sinfo", "-h", "-N", "-o", "%N").split() == ["n1", "n1"]  # one node in two partitions
        assert run(slurm_cluster, "sinfo", "-h", "-o", "%D") == "2"
        assert slurm_cluster.is_running()
        with pytest.raises(UserError, match="runs in this box already"):
            PrivateCluster(short_dir / "box", ClusterSpec(nodes=3)).start()
        assert cluster.is_running()
    assert not cluster.is_running()
    assert slurm_cluster.is_running()
    cluster.stop()  # twice is fine


@needs_slurm
@pytest.mark.cluster
def test_nothing_outlives_the_stop(short_dir: Path) -> None:
    """Children of jobs that left their session are what Slurm itself forgets."""
    pids = short_dir / "pids"
    script = f"setsid sleep 1234 & echo $! >> {pids}; env -i setsid sleep 1234 & echo $! >> {pids}; sleep 1234"
    with PrivateCluster(short_dir / "box", SMALL) as cluster:
        run(cluster, "sbatch", "--output=/dev/null", f"--wrap={script}")
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        jobs = [name_process(int(pid)) for pid in pids.read_text().split()]
        daemons = [name_process(daemon.pid) for daemon in cluster.daemons()]
        assert all(jobs)
        assert all(daemons)
        # A person's shell that uses the cluster is no part of it.
        shell = subprocess.Popen(["sleep", "60"], env=os.environ | cluster.environment())
    assert not any(name.is_alive() for name in [*jobs, *daemons] if name)
    assert shell.poll() is None
    shell.kill()
    shell.wait()
    assert not [path for path in (short_dir / "box").rglob("*") if path.is_socket() or path.is_char_device()]


@needs_slurm
@pytest.mark.cluster
def test_a_cluster_left_by_a_killed_process_is_stopped_or_replaced(short_dir: Path) -> None:
    box = short_dir / "box"
    program = (
        "import os, sys; from pathlib import Path; from harness.cluster import *;"
        "PrivateCluster(Path(sys.argv[1]), ClusterSpec(nodes=1, gpus=1, shards=0)).start(); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", program, str(box)]
    environment = os.environ | {"PYTHONPATH": str(Path(harness.__file__).parents[1])}
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == -9
    found = PrivateCluster(box)
    assert found.is_running()
    assert found.spec == ClusterSpec(nodes=1, gpus=1, shards=0)
    left = [name_process(daemon.pid) for daemon in found.daemons()]
    found.stop_daemon("slurmctld")  # now it is half dead
    assert not found.is_running()
    with PrivateCluster(box, SMALL) as again:
        assert not any(name.is_alive() for name in left if name)
        assert run(again, "srun", "-n1", "sh", "-c", "echo $SLURMD_NODENAME") == "n1"
    found.stop()


@needs_slurm
@pytest.mark.cluster
def test_a_long_folder_gets_its_sockets_elsewhere(tmp_path: Path) -> None:
    box = tmp_path / ("long" * 25) / ".cluster"
    before = set(Path("/tmp").glob("hc-*"))
    with PrivateCluster(box, SMALL) as cluster:
        assert run(cluster, "srun", "--gres=gpu:1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES") == "0"
        assert len(set(Path("/tmp").glob("hc-*")) - before) >= 1
    assert set(Path("/tmp").glob("hc-*")) <= before


@needs_slurm
@pytest.mark.cluster
def test_a_daemon_that_fails_is_named_with_its_words(short_dir: Path) -> None:
    spec = ClusterSpec(nodes=1, gpus=0, shards=0, extra=("NoSuchKey=1",))
    cluster = PrivateCluster(short_dir / "box", spec)
    with pytest.raises(HarnessError, match=r"log: slurmctld ended .*NoSuchKey") as caught:
        cluster.start()
    assert "\n" not in str(caught.value)
    assert cluster.daemons() == []


@needs_slurm
@pytest.mark.cluster
def test_daemons_listen_on_loopback_only(slurm_cluster: PrivateCluster) -> None:
    conf = (slurm_cluster.box / "etc/slurm.conf").read_text()
    port = int(next(line for line in conf.splitlines() if line.startswith("SlurmctldPort=")).partition("=")[2])
    with socket.socket() as probe:  # an address of this machine that is not 127.0.0.1
        assert probe.connect_ex(("127.0.0.2", port)) != 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) == 0


@needs_slurm
@pytest.mark.cluster
def test_a_folder_of_somebody_else_is_left_alone(short_dir: Path) -> None:
    (short_dir / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"no cluster \(thesis.tex\)"):
        PrivateCluster(short_dir).start()
    PrivateCluster(short_dir).stop()
    assert (short_dir / "thesis.tex").exists()


@needs_slurm
@pytest.mark.cluster
def test_a_path_slurm_cannot_hold_is_refused(short_dir: Path) -> None:
    with pytest.raises(UserError, match=r"cannot hold ' ' in a path"):
        PrivateCluster(short_dir / "my box").start()


@pytest.fixture
def nobodys_python(short_dir: Path) -> Iterator[list[str]]:
    """A command that runs Python as an ordinary user with ``harness`` importable; skips where there is no way."""
    if os.getuid() != 0:
        pytest.skip("these tests run as an ordinary user already")
    drop = shutil.which("setpriv")
    if drop is None:
        pytest.skip("no setpriv")
    package = Path(harness.__file__).parent
    shutil.copytree(package, short_dir / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a+rX", str(short_dir)], check=True)
    drop_to = [drop, "--reuid=65534", "--regid=65534", "--clear-groups"]
    for python in (sys.executable, "/usr/bin/python3"):
        works = [*drop_to, "env", python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
        with_it = subprocess.run(works, capture_output=True, check=False)
        if with_it.returncode == 0:
            yield [*drop_to, "env", f"PYTHONPATH={short_dir}", python]
            return
    pytest.skip("no Python that an ordinary user may run")


@needs_slurm
@pytest.mark.cluster
def test_an_ordinary_user_gets_a_cluster_with_gpus(short_dir: Path, nobodys_python: list[str]) -> None:
    home = short_dir / "home"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    program = (
        "import os, subprocess, sys; from pathlib import Path; from harness.cluster import *\n"
        "with PrivateCluster(Path(sys.argv[1]), ClusterSpec(nodes=2, gpus=2)) as cluster:\n"
        "    subprocess.run(['srun', '-n1', '--gres=gpu:2', 'sh', '-c', 'id -u; echo $CUDA_VISIBLE_DEVICES'],\n"
        "        env=os.environ | cluster.environment(), check=True, timeout=30)\n"
        "print(cluster.daemons())\n"
    )
    done = subprocess.run(
        [*nobodys_python, "-c", program, str(home / "box")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["65534", "0,1", "[]"], done.stderr


# --- the command line


@needs_slurm
@pytest.mark.cluster
def test_command_line_from_start_to_stop(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short_dir)
    cli = CliRunner()

    def call(*words: str) -> str:
        result = cli.invoke(app, [*words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    with pytest.raises(HarnessError, match=r"does not run; harness cluster start"):
        cli.invoke(app, ["env"], catch_exceptions=False)
    try:
        shown = call("start", "--nodes", "1", "--gpus", "2", "--gpu-type", "a100")
        assert "started 1 node of 16 CPUs, 2 pretended a100 GPUs, 128 shards in .cluster" in shown
        exports = call("env")
        done = subprocess.run(
            ["bash", "-c", f"{exports}\nsinfo -h -N -o %G -p gpu"], capture_output=True, text=True, check=True
        )
        assert "gpu:a100:2" in done.stdout
        assert "running: 1 node" in call("status")
    finally:
        assert "stopped the cluster in .cluster" in call("stop")
    assert "no cluster in .cluster" in call("stop")
    with pytest.raises(HarnessError, match="does not run"):
        cli.invoke(app, ["status"], catch_exceptions=False)
