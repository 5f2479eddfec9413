"""What a private cluster is made of, where its files are, and the text of Slurm's configuration. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, UserError

# A unix socket's path holds 107 bytes. The longest below the box is spool/<node>/<node>_<job>.<step> with 10-digit ids.
_SOCKET_PATH_LIMIT = 107
_LONGEST_SOCKET_NAME = len("/spool/n999/n999_4294967295.4294967295")
_MAX_NODES = 999


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes:
        name: its name.
        nodes: node names; empty for all.
        max_time_min: time limit in minutes.
        default: whether jobs go here that name no partition.
        options: further ``Key=value`` words of slurm.conf.
    """

    name: str
    nodes: tuple[str, ...] = ()
    max_time_min: int = 7 * 24 * 60
    default: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster to start. Nodes are called n1, n2 ...; their CPUs, memory and GPUs are only claimed, not there.

    Attributes:
        nodes: number of virtual nodes.
        cpus: CPUs per node.
        memory_mib: memory per node, MiB.
        gpus: GPUs per node.
        gpu_type: their type, as in ``--gres=gpu:<type>:1``.
        shards: shards per node, a multiple of ``gpus``; 0 for none.
        partitions: at least one; a first one is the default when none says so.
        enforce_memory: kill a job that uses more memory than it asked for
            (:func:`harness.cluster.cgroups.why_no_memory_limits` says where this cannot be done).
        extra: further lines of slurm.conf.
    """

    nodes: int = 2
    cpus: int = 16
    memory_mib: int = 256_000
    gpus: int = 2
    gpu_type: str = "h200"
    shards: int = 128
    partitions: tuple[Partition, ...] = (Partition("gpu", default=True), Partition("cpu"))
    extra: tuple[str, ...] = ()
    enforce_memory: bool = False

    def __post_init__(self) -> None:
        """Refuse what Slurm would refuse later and less clearly.

        Raises:
            UserError: naming the value and what is allowed.
        """
        _require(1 <= self.nodes <= _MAX_NODES, f"nodes must be 1 to {_MAX_NODES}, not {self.nodes}")
        _require(self.cpus >= 1, f"cpus must be at least 1, not {self.cpus}")
        _require(self.memory_mib >= 1, f"memory must be at least 1 MiB, not {self.memory_mib}")
        _require(self.gpus >= 0, f"gpus must be at least 0, not {self.gpus}")
        _require(
            bool(re.fullmatch(r"[a-z][a-z0-9_.-]*", self.gpu_type)), f"gpu type {self.gpu_type!r} is no lower-case word"
        )
        _require(self.shards >= 0, f"shards must be at least 0, not {self.shards}")
        _require(not self.shards or self.gpus > 0, "shards need GPUs: give at least one GPU per node, or 0 shards")
        _require(
            not self.gpus or self.shards % self.gpus == 0,
            f"shards must be a multiple of the {self.gpus} GPUs per node, not {self.shards}",
        )
        _require(bool(self.partitions), "there must be at least one partition")

    @property
    def node_names(self) -> list[str]:
        """n1, n2 ..."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]


@dataclass(frozen=True)
class BoxLayout:
    """Every file name of one box.

    Attributes:
        root: the box.
        sockets: folder of the unix sockets; the box itself where its path is short enough.
    """

    root: Path
    sockets: Path

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def dev(self) -> Path:
        return self.root / "dev"

    @property
    def state(self) -> Path:
        """Where slurmctld keeps its jobs."""
        return self.root / "ctld"

    @property
    def spool(self) -> Path:
        """Of the slurmd: holds the sockets of job steps, so it lies with the sockets."""
        return self.sockets / "spool"

    @property
    def munge(self) -> Path:
        return self.sockets / "munge"

    @property
    def munge_key(self) -> Path:
        return self.etc / "munge.key"

    @property
    def munge_socket(self) -> Path:
        return self.munge / "munge.sock"

    @property
    def folders(self) -> list[Path]:
        """All folders a cluster needs."""
        return [self.etc, self.log, self.run, self.dev, self.state, self.spool, self.munge]


@dataclass(frozen=True)
class Ports:
    """TCP ports on loopback."""

    slurmctld: int
    slurmd: tuple[int, ...]


def fits_sockets(folder: Path) -> bool:
    """Whether unix sockets below this folder have paths the kernel takes."""
    return len(bytes(folder)) + _LONGEST_SOCKET_NAME <= _SOCKET_PATH_LIMIT


def slurm_conf(spec: ClusterSpec, box: BoxLayout, ports: Ports, *, user: str, hostname: str, first_job_id: int) -> str:
    """Text of slurm.conf for daemons that all run as ``user`` on the host ``hostname`` (its short name)."""
    lines = [
        "ClusterName=private",
        f"SlurmctldHost={hostname}(127.0.0.1)",
        f"SlurmctldPort={ports.slurmctld}",
        "# Nobody outside this machine can reach the daemons.",
        "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "# cred_expire is also how long a requeued job is held back, in seconds.",
        f"AuthInfo=socket={box.munge_socket},cred_expire=5",
        f"StateSaveLocation={box.state}",
        f"SlurmdSpoolDir={box.spool}/%n",
        f"SlurmctldPidFile={box.run}/slurmctld.pid",
        f"SlurmdPidFile={box.run}/slurmd.%n.pid",
        f"SlurmctldLogFile={box.log}/slurmctld.log",
        f"SlurmdLogFile={box.log}/slurmd.%n.log",
        f"PlugStackConfig={box.etc}/plugstack.conf",
        "ProctrackType=proctrack/linuxproc",
        "MpiDefault=none",
        "JobCompType=jobcomp/filetxt",
        f"JobCompLoc={box.log}/jobcomp.log",
        "# The nodes claim more than this machine has, and all have its name.",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        "# Refuse at once what could never start, instead of letting it wait for ever.",
        "EnforcePartLimits=ALL",
        "PropagateResourceLimits=NONE",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        f"DefMemPerCPU={max(1, spec.memory_mib // spec.cpus)}",
        "SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1,"
        "bf_max_job_test=1000,default_queue_depth=1000",
        "KillWait=5",
        f"FirstJobId={first_job_id}",
        f"TaskPlugin=task/{'cgroup' if spec.enforce_memory else 'none'}",
        *_gres_types(spec),
        *spec.extra,
        *(_node_line(spec, name, port, hostname) for name, port in zip(spec.node_names, ports.slurmd, strict=True)),
        *_partition_lines(spec.partitions),
    ]
    return "\n".join(lines) + "\n"


def gres_conf(spec: ClusterSpec, devices: Sequence[Path]) -> str:
    """Text of gres.conf: one line per GPU with its device file, then the shards.

    The files must be character devices: with plain files Slurm never sets CUDA_VISIBLE_DEVICES.
    """
    lines = [f"Name=gpu Type={spec.gpu_type} File={device}" for device in devices[: spec.gpus]]
    if spec.shards:
        lines.append(f"Name=shard Count={spec.shards}")
    return "\n".join(lines) + "\n"


def parse_version(text: str) -> tuple[int, int]:
    """Version from ``slurmctld -V``: ``slurm-wlm 22.05.8`` -> (22, 5).

    Raises:
        HarnessError: there is none in it.
    """
    if match := re.search(r"\b(\d+)\.(\d+)", text):
        return int(match[1]), int(match[2])
    raise HarnessError(f"slurmctld -V printed no version: {text.strip()[:200]!r}", where="cluster")


def plugstack_conf() -> str:
    """Text of plugstack.conf: none of the SPANK plug-ins this machine may have."""
    return "# no plug-ins\n"


def _gres_types(spec: ClusterSpec) -> list[str]:
    names = (["gpu"] if spec.gpus else []) + (["shard"] if spec.shards else [])
    return [f"GresTypes={','.join(names)}"] if names else []


def _node_line(spec: ClusterSpec, name: str, port: int, hostname: str) -> str:
    gres = ([f"gpu:{spec.gpu_type}:{spec.gpus}"] if spec.gpus else []) + (
        [f"shard:{spec.shards}"] if spec.shards else []
    )
    words = [
        f"NodeName={name} NodeHostName={hostname} NodeAddr=127.0.0.1 Port={port}",
        f"CPUs={spec.cpus} RealMemory={spec.memory_mib}",
    ]
    if gres:
        words.append(f"Gres={','.join(gres)}")
    return " ".join(words)


def _partition_lines(partitions: Sequence[Partition]) -> list[str]:
    names_default = any(partition.default for partition in partitions)
    lines = []
    for index, partition in enumerate(partitions):
        default = partition.default or (index == 0 and not names_default)
        words = [
            f"PartitionName={partition.name}",
            f"Nodes={','.join(partition.nodes) or 'ALL'}",
            f"Default={'YES' if default else 'NO'}",
            f"MaxTime={partition.max_time_min}",
            "State=UP",
            *partition.options,
        ]
        lines.append(" ".join(words))
    return lines


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise UserError(complaint, where="cluster", fix="see `harness cluster start --help`")
