"""What a private cluster takes of its machine: a user's name, ports, character devices that stand for GPUs."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import socket
import stat
from pathlib import Path

from harness.cluster.config import Ports
from harness.errors import HarnessError, UserError

_PORT_RANGE = (20000, 32000)  # below the range the kernel hands out to outgoing connections


def user_name() -> str:
    """Who really runs this: $USER may name another one. The number, where the account has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def free_ports(nodes: int) -> Ports:
    """Ports nobody listens on now. All are held open until all are found, so that they differ.

    Raises:
        HarnessError: there are not enough.
    """
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.sample(range(*_PORT_RANGE), k=2000):
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == nodes + 1:
                return Ports(found[0], tuple(found[1:]))
    raise HarnessError(f"no {nodes + 1} free TCP ports between {_PORT_RANGE[0]} and {_PORT_RANGE[1]}", where="cluster")


def accepts(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def gpu_devices(folder: Path, count: int) -> list[Path]:
    """Character devices that stand for GPUs: our own clones of /dev/null, or terminals where one may not make any.

    Raises:
        UserError: there are not enough of them.
    """
    try:
        return [_clone_null(folder / f"nvidia{index}") for index in range(count)]
    except PermissionError:
        found = [path for path in sorted(Path("/dev").iterdir()) if stat.S_ISCHR(path.lstat().st_mode)]
        found.sort(key=lambda path: not path.name.startswith("tty"))
        if len(found) < count:
            raise UserError(
                f"{count} GPUs per node need as many character devices in /dev; there are {len(found)}",
                where="cluster",
                fix="ask for fewer GPUs per node, or start the cluster as root",
            ) from None
        return found[:count]


def _clone_null(path: Path) -> Path:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    return path
