"""Fixtures of all tests."""

from cluster_fixtures import short_dir, slurm, slurm_cluster, wait_for  # noqa: F401
