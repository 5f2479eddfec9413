"""Who made a temporary file or holds a lease, written so that anybody can ask later whether that process still runs."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.files import utc_now
from harness.processes import ProcessName, boot_id, name_process

OWNER_FILE = ".owner.json"
_OWNER_IN_NAME = re.compile(r"-(?P<boot>[0-9a-f]{8})\.(?P<namespace>[0-9a-f]{8})\.(?P<pid>\d+)\.(?P<ticks>\d+)\.")
FOREIGN_AGE_S = 24 * 3600.0
"""Seconds without a change after which what another machine's process is making counts as left behind."""


class Owner(BaseModel):
    """One process on one machine.

    Attributes:
        start_ticks: when it started, in clock ticks since boot; with ``pid`` and ``boot_id`` the process's full name.
        pid_namespace: process ids mean something to those who share it only; a container has its own.
        since: UTC, ISO 8601; for people to read, never compared.
    """

    model_config = ConfigDict(frozen=True)
    user: str
    host: str
    pid: int
    start_ticks: int
    boot_id: str
    pid_namespace: str
    since: str

    @classmethod
    def myself(cls) -> Owner:
        """This process."""
        me = name_process(os.getpid())
        assert me is not None, "this process runs"
        return cls(
            user=getpass.getuser(),
            host=socket.gethostname(),
            pid=me.pid,
            start_ticks=me.start_ticks,
            boot_id=me.boot_id,
            pid_namespace=_pid_namespace(),
            since=utc_now(),
        )

    def is_known_dead(self) -> bool:
        """True where that process has ended for certain; False where it runs, or where nobody here can know."""
        if self.boot_id != boot_id() or self.pid_namespace != _pid_namespace():
            return False
        return not ProcessName(self.pid, self.start_ticks, self.boot_id).is_alive()

    def ended_with_a_reboot(self) -> bool:
        """True where it ran on a host of this name before its present boot: on a local disk that settles it."""
        return self.host == socket.gethostname() and self.boot_id != boot_id()

    def __str__(self) -> str:
        return f"{self.user} on {self.host}, process {self.pid}, since {self.since}"


def signed_prefix(prefix: str) -> str:
    """The beginning of a temporary folder's name that says whose it is before :func:`sign_folder` did."""
    me = Owner.myself()
    return f"{prefix}{_short(me.boot_id)}.{_short(me.pid_namespace)}.{me.pid}.{me.start_ticks}."


def sign_folder(folder: Path) -> None:
    """Write into a temporary folder whose it is."""
    (folder / OWNER_FILE).write_text(Owner.myself().model_dump_json() + "\n", encoding="utf-8")


def is_abandoned(path: Path) -> bool:
    """Whether a temporary file or folder was left behind by a process that has ended.

    A folder says whose it is (:func:`sign_folder`), and so does its name (:func:`signed_prefix`). Of a process that
    nobody here can know (on another machine, in another container), and of what says nothing, it counts as left behind
    when nothing in it changed for :data:`FOREIGN_AGE_S`.
    """
    try:
        owner = Owner.model_validate_json((path / OWNER_FILE).read_bytes())
    except (OSError, ValidationError):
        return _died_as_named(path.name) or _is_old(path)
    if owner.boot_id == boot_id() and owner.pid_namespace == _pid_namespace():
        return owner.is_known_dead()
    return owner.ended_with_a_reboot() or _is_old(path)


def _died_as_named(name: str) -> bool:
    """Whether a folder's name says whose it is, and that process has ended for certain."""
    said = _OWNER_IN_NAME.search(name)
    if said is None or (said["boot"], said["namespace"]) != (_short(boot_id()), _short(_pid_namespace())):
        return False
    return not ProcessName(int(said["pid"]), int(said["ticks"]), boot_id()).is_alive()


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _is_old(path: Path) -> bool:
    """Whether nothing in a file or folder was written for long; what cannot be looked at is not old."""
    limit = time.time() - FOREIGN_AGE_S

    def refuse(error: OSError) -> None:
        raise error

    try:
        if path.lstat().st_mtime > limit:
            return False
        for folder, names, files in os.walk(path, onerror=refuse) if path.is_dir() and not path.is_symlink() else ():
            if any(Path(folder, name).lstat().st_mtime > limit for name in (*names, *files)):
                return False
    except OSError:
        return False
    return True


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
