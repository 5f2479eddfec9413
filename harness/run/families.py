"""Runs that belong together: one, and those made again because its throughput could not decide. Nothing but reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from harness.run.paths import RunPaths
from harness.run.records import RunRecord, read_record

RERUN_OF, RERUNS = "rerun_of", "reruns"


def family(run: RunPaths) -> list[RunPaths]:
    """The first run, then its re-runs in the order they were submitted; those whose folders are gone are left out."""
    first = RunPaths(run.folder.parent / _name(read_record(run).facts.get(RERUN_OF) or run.run_id))
    if not first.folder.is_dir():
        return [run]
    members = dict.fromkeys([first.run_id, *rerun_ids(read_record(first).facts), run.run_id])
    found = [RunPaths(run.folder.parent / name) for name in members]
    return [member for member in found if member.folder.is_dir()]


def with_families(records: Sequence[RunRecord]) -> list[RunPaths]:
    """Each run with its family, each once; runs without any are not read again."""
    members: dict[str, RunPaths] = {}
    for record in records:
        linked = RERUN_OF in record.facts or RERUNS in record.facts
        for member in family(record.paths) if linked else [record.paths]:
            members.setdefault(member.run_id, member)
    return list(members.values())


def rerun_ids(facts: Mapping[str, Any]) -> list[str]:
    """The re-runs that a run's ledger names."""
    named = facts.get(RERUNS)
    return [_name(name) for name in named] if isinstance(named, list) else []


def _name(value: object) -> str:
    """A run's id as the name of a folder beside: a ledger is not trusted to lead anywhere else."""
    name = PurePath(str(value)).name
    return name if name not in ("", "..") else "?"
