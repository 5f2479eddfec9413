"""A private Slurm cluster on one machine: real daemons, virtual nodes, pretended GPUs; up in seconds, for anybody."""

from harness.cluster.config import ClusterSpec, Partition
from harness.cluster.private import DaemonState, PrivateCluster

__all__ = ["ClusterSpec", "DaemonState", "Partition", "PrivateCluster"]
