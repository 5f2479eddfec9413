"""Starting, finding again and stopping a private Slurm cluster in a folder, its box."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.cluster import cgroups, config
from harness.cluster.config import BoxLayout, ClusterSpec, Partition, Ports
from harness.cluster.machine import accepts, free_ports, gpu_devices, user_name
from harness.cluster.programs import daemon_command, require_tools, search_path, slurm_version
from harness.errors import HarnessError, UserError
from harness.processes import (
    ProcessName,
    ancestors_and_self,
    descendants,
    name_process,
    processes_with_environment,
    wait_for_end,
)

_STATE_FILE = "cluster.json"
_LOCK_FILE = "cluster.lock"
_COMPLETION_LOG = "jobcomp.log"
# Marks the daemons and, since they inherit it, slurmstepd; jobs get an environment of their own.
_MARK = "HARNESS_CLUSTER_BOX"
_START_LIMIT_S = 30.0


@dataclass(frozen=True)
class DaemonState:
    """One daemon of a cluster: its name (``slurmd.n1``), pid, and whether it runs."""

    name: str
    pid: int
    alive: bool


class PrivateCluster:
    """A real Slurm cluster of virtual nodes in one folder: its own munged, slurmctld, and a slurmd per node.

    The object holds no state of its own: all is in the box, so that any process may make one for the same box and ask,
    use or stop the cluster. Runs as root or as any user; listens on loopback only; boxes do not disturb each other.

    Usage::

        with PrivateCluster(Path("box"), ClusterSpec(nodes=4)) as cluster:
            subprocess.run(["sinfo"], env=os.environ | cluster.environment())

    Args:
        box: folder of the cluster; made when needed. Its log files stay after the stop.
        spec: what to start; without one, that of the cluster in the box, else the default.
    """

    def __init__(self, box: Path, spec: ClusterSpec | None = None) -> None:
        self.box = box.resolve()
        state = self._read_state()
        self.spec = spec or (_spec_from(state["spec"]) if state else ClusterSpec())

    def __enter__(self) -> PrivateCluster:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start the daemons and wait until every node is idle (1 to 2 s). What a killed process left is cleaned first.

        Raises:
            MissingToolError: Slurm or munge is not installed.
            UserError: a cluster runs in this box already, the folder holds something else, or the memory of jobs cannot
                be limited here.
            HarnessError: a daemon did not come up; names it and its last words. Nothing is left running.
        """
        require_tools()
        if self.spec.enforce_memory and (reason := cgroups.why_no_memory_limits()):
            raise UserError(f"jobs cannot be held to their memory here: {reason}", where="cluster")
        self._claim_box()
        with self._lock():
            if self.is_running():
                raise UserError("a cluster runs in this box already", where=str(self.box), fix="stop it first")
            self._clean()
            try:
                self._start_daemons()
            except BaseException:
                self._clean()
                raise

    def stop(self) -> None:
        """Kill everything the cluster started, its jobs' children too, and remove its sockets and devices.

        Works from any process, and on what a killed one left; a box without a cluster is no error. A process of a job
        escapes only if it cleared its environment *and* lost its parent.

        Raises:
            HarnessError: something could not be killed.
        """
        if self._read_state() is None:
            return
        with self._lock():
            self._clean()

    def is_running(self) -> bool:
        """Whether all daemons run."""
        state = self._read_state()
        daemons = self.daemons()
        # The box knows how many there must be; this object may have been made with another spec.
        complete = state is not None and len(daemons) == state["spec"]["nodes"] + 2
        return complete and all(daemon.alive for daemon in daemons)

    def daemons(self) -> list[DaemonState]:
        """The daemons of the box; empty when none was started, or after the stop."""
        return [DaemonState(name, process.pid, process.is_alive()) for name, process in self._processes().items()]

    def environment(self) -> dict[str, str]:
        """Variables for processes that are to use this cluster: add them to ``os.environ``."""
        return {"SLURM_CONF": str(self.box / "etc" / "slurm.conf")}

    def stop_daemon(self, name: str) -> None:
        """Kill one daemon (``slurmctld``, ``slurmd.n1``, ``munged``), for drills.

        Raises:
            UserError: the box has no such daemon.
        """
        process = self._processes().get(name)
        if process is None:
            raise UserError(f"no daemon {name!r}; there are: {', '.join(self._processes())}", where=str(self.box))
        process.signal(signal.SIGKILL)
        wait_for_end([process], 5.0)

    def start_daemon(self, name: str) -> None:
        """Start one daemon again after :meth:`stop_daemon`; returns at once, without waiting for it to serve.

        Raises:
            UserError: there is no such daemon, or it runs.
        """
        process = self._processes().get(name)
        if process is None or process.is_alive():
            raise UserError(f"daemon {name!r} is not a stopped daemon of this cluster", where=str(self.box))
        self._spawn(name, self._layout())

    # --- starting

    def _start_daemons(self) -> None:
        layout = BoxLayout(self.box, self._socket_folder())
        ports = free_ports(self.spec.nodes)
        self._write_state({"spec": asdict(self.spec), "sockets": str(layout.sockets), "processes": {}})
        for folder in layout.folders:
            folder.mkdir(parents=True, exist_ok=True)
        for log in layout.log.iterdir():
            if log.name != _COMPLETION_LOG:  # the record of earlier jobs, which `sacct -c` reads
                log.unlink()
        self._write_configuration(layout, ports)
        deadline = time.monotonic() + _START_LIMIT_S
        self._spawn("munged", layout)
        self._wait_until(layout.munge_socket.exists, "munged", deadline)
        self._spawn("slurmctld", layout)
        # A slurmd that finds no controller tries again only after a second.
        self._wait_until(lambda: accepts(ports.slurmctld), "slurmctld", deadline)
        for node in self.spec.node_names:
            (layout.spool / node).mkdir(exist_ok=True)
            self._spawn(f"slurmd.{node}", layout)
        self._wait_until(self._nodes_are_idle, f"slurmd.{self.spec.node_names[-1]}", deadline)

    def _socket_folder(self) -> Path:
        if config.fits_sockets(self.box):
            return self.box
        # Always /tmp, not $TMPDIR: that one is often as long as the box.
        folder = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
        folder.chmod(0o755)  # munged wants its socket to be reachable by all
        return folder

    def _write_configuration(self, layout: BoxLayout, ports: Ports) -> None:
        layout.munge_key.touch(mode=0o600)
        layout.munge_key.write_bytes(secrets.token_bytes(128))
        layout.slurm_conf.write_text(
            config.slurm_conf(
                self.spec,
                layout,
                ports,
                user=user_name(),
                hostname=socket.gethostname().partition(".")[0],
                # A new cluster in an old box must not give out the ids of jobs that somebody may still ask about.
                first_job_id=int(time.time()) % 60_000_000,
            ),
            encoding="utf-8",
        )
        devices = gpu_devices(layout.dev, self.spec.gpus)
        (layout.etc / "gres.conf").write_text(config.gres_conf(self.spec, devices), encoding="utf-8")
        (layout.etc / "cgroup.conf").write_text(
            cgroups.cgroup_conf(slurm_version(), enforce_memory=self.spec.enforce_memory), encoding="utf-8"
        )
        (layout.etc / "plugstack.conf").write_text(config.plugstack_conf(), encoding="utf-8")
        (layout.log / _COMPLETION_LOG).touch()  # sacct -c fails without the file

    def _spawn(self, name: str, layout: BoxLayout) -> None:
        """Start a daemon in the foreground of a session of its own, and note it in the state file."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SLURM", "SBATCH_", "PMI", "HARNESS_LOCAL_"))
        }
        environment |= {
            **self.environment(),
            _MARK: str(self.box),
            "PATH": search_path(),
        }
        with (layout.log / f"{name}.out").open("wb") as log:
            process = subprocess.Popen(
                daemon_command(name, layout),
                env=environment,
                cwd=layout.log,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        named = name_process(process.pid)
        if named is None:
            raise self._daemon_failure(name, "ended at once")
        state = self._read_state() or {}
        state["processes"][name] = asdict(named)
        self._write_state(state)
        # The daemon outlives this object; it is ended by name, in `stop`, also from another process.
        process.returncode = 0

    def _wait_until(self, ready: Callable[[], bool], name: str, deadline: float) -> None:
        pause = 0.01
        while not ready():
            for daemon in self.daemons():
                if not daemon.alive:
                    raise self._daemon_failure(daemon.name, "ended while the cluster was starting")
            if time.monotonic() > deadline:
                raise self._daemon_failure(name, f"was not ready after {_START_LIMIT_S:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.3)

    def _nodes_are_idle(self) -> bool:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%N %T"],
            env={**os.environ, **self.environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=_START_LIMIT_S,
            check=False,
        )
        states = dict(line.split() for line in done.stdout.splitlines())
        return done.returncode == 0 and states == dict.fromkeys(self.spec.node_names, "idle")

    def _daemon_failure(self, name: str, what: str) -> HarnessError:
        words: list[str] = []
        for log in (self.box / "log" / f"{name}.log", self.box / "log" / f"{name}.out"):
            if log.exists():
                words += log.read_text(encoding="utf-8", errors="replace").splitlines()
        # slurmd complains about the MPI plug-ins it cannot load, always and without harm.
        words = [line for line in words if "mpi/pmix" not in line]
        telling = [line for line in words if "error:" in line.lower() or "fatal:" in line] or words
        last = " | ".join(telling[-3:]) or "it said nothing"
        return HarnessError(f"{name} {what}: {last}", where=str(self.box / "log"), fix="read the logs there")

    # --- stopping

    def _clean(self) -> None:
        """Kill what belongs to the box, then remove all but its logs and its configuration."""
        state = self._read_state()
        self._kill_all()
        if state is not None:
            if state["spec"].get("enforce_memory"):
                cgroups.remove_leftovers(_spec_from(state["spec"]).node_names)
            sockets = Path(state["sockets"])
            layout = BoxLayout(self.box, sockets)
            for folder in (layout.state, layout.run, layout.dev, layout.spool, layout.munge):
                shutil.rmtree(folder, ignore_errors=False, onerror=_ignore_missing)
            if sockets != self.box:
                _ignore_missing_rmdir(sockets)
            self._write_state({**state, "processes": {}})

    def _kill_all(self) -> None:
        """Kill in rounds: what a process starts while it is being killed is found by the next round."""
        deadline = time.monotonic() + 15.0
        while living := self._living():
            for process in living:
                try:
                    process.signal(signal.SIGKILL)
                except PermissionError as error:
                    raise HarnessError(
                        f"process {process.pid} belongs to another user",
                        where=str(self.box),
                        fix="let that user stop it",
                    ) from error
            left = wait_for_end(living, 2.0)
            if left and time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in left)
                raise HarnessError(f"processes {pids} cannot be killed", where=str(self.box))

    def _living(self) -> list[ProcessName]:
        daemons = [process for process in self._processes().values() if process.is_alive()]
        marked = processes_with_environment(self._is_ours)  # with slurmstepd, which is no child of slurmd
        below = descendants(process.pid for process in {*daemons, *marked})
        spared = ancestors_and_self()
        return [process for process in {*daemons, *below, *marked} if process.pid not in spared]

    def _is_ours(self, environment: Mapping[bytes, bytes]) -> bool:
        """Daemons and slurmstepd by our mark; processes of jobs by this cluster's SLURM_CONF and a node's name.

        The node's name tells a job from the shell of a person who works with this cluster, which must live.
        """
        if environment.get(_MARK.encode()) == bytes(self.box):
            return True
        uses_us = environment.get(b"SLURM_CONF") == bytes(self.box / "etc" / "slurm.conf")
        return uses_us and b"SLURMD_NODENAME" in environment and b"SLURM_JOB_ID" in environment

    # --- the box

    def _claim_box(self) -> None:
        if odd := re.sub(r"[\w./+@~-]", "", str(self.box)):
            raise UserError(
                f"Slurm's configuration cannot hold {odd[0]!r} in a path",
                where=str(self.box),
                fix="name another folder",
            )
        if self.box.exists() and self._read_state() is None:
            strangers = [entry.name for entry in self.box.iterdir() if entry.name != _LOCK_FILE]
            if strangers:
                raise UserError(
                    f"the folder holds something that is no cluster ({sorted(strangers)[0]})",
                    where=str(self.box),
                    fix="name an empty or a new folder",
                )
        self.box.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.box / _LOCK_FILE).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _layout(self) -> BoxLayout:
        state = self._read_state()
        return BoxLayout(self.box, Path(state["sockets"]) if state else self.box)

    def _processes(self) -> dict[str, ProcessName]:
        state = self._read_state()
        return {name: ProcessName(**entry) for name, entry in state["processes"].items()} if state else {}

    def _read_state(self) -> dict[str, Any] | None:
        path = self.box / _STATE_FILE
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise HarnessError(f"cannot read the cluster's state: {error}", where=str(path)) from error
        return state

    def _write_state(self, state: dict[str, Any]) -> None:
        aside = self.box / f"{_STATE_FILE}.part"
        aside.write_text(json.dumps(state, indent=1), encoding="utf-8")
        aside.replace(self.box / _STATE_FILE)


def _spec_from(entry: dict[str, Any]) -> ClusterSpec:
    partitions = tuple(
        Partition(**{**part, "nodes": tuple(part["nodes"]), "options": tuple(part["options"])})
        for part in entry["partitions"]
    )
    return ClusterSpec(**{**entry, "partitions": partitions, "extra": tuple(entry["extra"])})


def _ignore_missing(_function: object, _path: str, info: Any) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


def _ignore_missing_rmdir(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()
