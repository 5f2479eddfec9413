"""Which node this is, of how many, and where they meet: read from the two dialects in which a launcher is told.

================ ============================ ==========================================================
what             a job of ours                an AI platform (Volcano, Kubeflow), per container
================ ============================ ==========================================================
nodes            HARNESS_NODES                WORLD_SIZE
this node        HARNESS_NODE_RANK            RANK
processes        HARNESS_PROCESSES            HARNESS_PROCESSES, else NPROC_PER_NODE
meeting          HARNESS_RENDEZVOUS: a file   MASTER_ADDR, MASTER_PORT
================ ============================ ==========================================================

A job of ours that names a file for the meeting is believed before the platform: its variables may be left over from
the shell that submitted the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from harness.runtime import environment
from harness.runtime.errors import ProgramError

PLATFORM = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MAX_PORT = 65535


class Place(NamedTuple):
    """``address``: (host, port) where rank 0 will listen; None: it says so in a file."""

    node: int
    nodes: int
    processes: int
    address: tuple[str, int] | None


def place_of_this_node(variables: Mapping[str, str]) -> Place:
    """The node's place.

    Raises:
        ProgramError: a number is none, or the platform said only a part of it.
    """
    address = None if variables.get(environment.RENDEZVOUS) else _address(variables)
    names = (environment.NODE_RANK, environment.NODES) if address is None else ("RANK", "WORLD_SIZE")
    node, nodes = _number(variables, names[0], 0), max(1, _number(variables, names[1], 1))
    if node >= nodes:
        raise ProgramError(f"{names[0]} is {node}, but there are {nodes} nodes, counted from 0")
    per_node = environment.PROCESSES if variables.get(environment.PROCESSES) else "NPROC_PER_NODE"
    return Place(node, nodes, max(1, _number(variables, per_node, 1)), address)


def _address(variables: Mapping[str, str]) -> tuple[str, int] | None:
    said = [name for name in PLATFORM if variables.get(name, "").strip()]
    if "MASTER_PORT" not in said:
        return None
    missing = next((name for name in PLATFORM if name not in said), None)
    if missing is not None:
        raise ProgramError(f"{' and '.join(said)} are set but {missing} is not; a platform sets {', '.join(PLATFORM)}")
    port = _number(variables, "MASTER_PORT", 0)
    if not 0 < port <= _MAX_PORT:
        raise ProgramError(f"MASTER_PORT is {port}, which is no port")
    return variables["MASTER_ADDR"].strip(), port


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    text = variables.get(name, "").strip()
    if text and not text.isdecimal():
        raise ProgramError(f"{name} is '{text}', which is not a whole number")
    return int(text) if text else default
