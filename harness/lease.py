"""One process at a time, on any number of machines that share a file system.

``flock`` does not reach over every network file system, and a lock that outlives its dead holder stops everybody. A
lease is a file with a number. The newest number holds it; who wants it next makes the file with the next number, and
``link()`` lets only one succeed, on NFS too. Nothing is ever taken away from a holder, so nobody can race about taking
it: a holder that was thought dead (suspended, cut off) and comes back sees a higher number than its own and stops. The
number is what the literature calls a fencing token.

    <folder>/<name>/000000000007    who holds it; touched every few seconds; says so when it has been given back
    <folder>/<name>/.candidate-*    somebody waits

A lease may be taken over when its holder gave it back, when the holder is a process of this machine that has ended, or
when its file was not touched for :data:`EXPIRES_AFTER` intervals. Both times of that comparison are given by the file
system itself, the holder's file against one that the waiter touches, so the machines' clocks need not agree.

What is left: a holder that is suspended between its last :meth:`Lease.check` and the rename that publishes its work, a
few microseconds, and for longer than the expiry, publishes late. So publish whole things only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError, UserError
from harness.files import write_whole
from harness.owner import Owner

INTERVAL_VARIABLE = "HARNESS_LEASE_SECONDS"
INTERVAL_S = 10.0
"""Seconds between two touches of a lease by its holder."""
EXPIRES_AFTER = 5
"""Intervals without a touch after which a lease may be taken over."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
"""Seconds between two looks of a waiter, at first and later; each look is a listing, a read and a touch."""
_CANDIDATE = ".candidate-"

Progress = Callable[[str], None]


class LeaseLostError(HarnessError):
    """Somebody took this process for dead and went on without it: what it made must not be published."""


class LeaseRecord(BaseModel):
    """What a lease's file says.

    Attributes:
        interval_s: seconds between touches, as its holder does it.
        released: its holder is done.
    """

    model_config = ConfigDict(frozen=True)
    owner: Owner
    interval_s: float
    released: bool = False


@dataclass
class Lease:
    """A lease that this process holds, or held."""

    name: str
    folder: Path
    number: int
    record: LeaseRecord
    _ended: threading.Event = field(default_factory=threading.Event)
    _lost: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> Path:
        return self.folder / _file_name(self.number)

    def check(self) -> None:
        """To be called before what was made is shown to others.

        Raises:
            LeaseLostError: somebody else holds the lease now.
        """
        newest = _numbers(self.folder)[-1:] if self.folder.is_dir() else []
        if newest == [self.number]:
            return
        self._lost.set()
        record = _read(self.folder / _file_name(newest[0]))[0] if newest else None
        raise LeaseLostError(
            f"{self.name} was taken over by {record.owner if record else 'somebody else'}",
            where=str(self.path),
            fix="this process was suspended or cut off for too long; its work was dropped, run it again if need be",
        )

    @property
    def lost(self) -> bool:
        """Whether this process knows that it lost the lease; costs nothing, may be late by an interval."""
        return self._lost.is_set()

    def _keep(self) -> None:
        """Touch the lease until it is given back or lost; runs in a thread."""
        while not self._ended.wait(self.record.interval_s):
            try:
                os.utime(self.path)  # without a time: the file system's own clock
                self.check()
            except (FileNotFoundError, LeaseLostError):
                self._lost.set()
                return
            except OSError:
                continue  # a file system that stutters; if for too long, somebody takes over and `check` says so


@contextlib.contextmanager
def lease(folder: Path, name: str, progress: Progress, *, interval_s: float | None = None) -> Iterator[Lease]:
    """Hold ``name`` among all who use ``folder``; wait for it, saying for whom, where somebody else does.

    Args:
        folder: on a file system that all of them share.
        interval_s: seconds between touches; default: ``HARNESS_LEASE_SECONDS`` in the environment, else 10.

    Raises:
        LeaseLostError: it was lost while it was held, whatever else went wrong then.
        UserError: the folder cannot be written, or the environment's interval is no number of seconds.
    """
    held = _acquire(folder / name, name, progress, _interval() if interval_s is None else interval_s)
    keeper = threading.Thread(target=held._keep, name=f"lease of {name}", daemon=True)
    keeper.start()
    try:
        yield held
    except LeaseLostError:
        raise
    except Exception:
        held.check()  # losing the lease explains files that vanished
        raise
    finally:
        held._ended.set()
        keeper.join()
        with contextlib.suppress(LeaseLostError, OSError):
            held.check()
            write_whole(held.path, held.record.model_copy(update={"released": True}).model_dump_json() + "\n")


def _acquire(folder: Path, name: str, progress: Progress, interval_s: float) -> Lease:
    record = LeaseRecord(owner=Owner.myself(), interval_s=interval_s)
    candidate = folder / f"{_CANDIDATE}{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        candidate.write_text(record.model_dump_json() + "\n", encoding="utf-8")
    except PermissionError as error:
        raise UserError(
            f"no lease for {name}: {error.strerror}", where=str(folder), fix="ask who keeps this folder"
        ) from error
    told: Owner | None = None
    pause_s = _FIRST_PAUSE_S
    try:
        while True:
            newest = max(_numbers(folder), default=0)
            holder = _holder(folder / _file_name(newest), candidate) if newest else None
            if holder is None:
                if _take(candidate, folder, newest + 1):
                    break
            else:
                if holder != told:
                    progress(f"{name}: waiting for {holder}")
                    told = holder
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S, interval_s / 2)
    finally:
        candidate.unlink(missing_ok=True)
    _tidy(folder, newest + 1, interval_s)
    return Lease(name, folder, newest + 1, record)


def _holder(path: Path, candidate: Path) -> Owner | None:
    """Who holds the lease, or None where it is free to take."""
    try:
        record, touched = _read(path)
    except FileNotFoundError:
        return None  # tidied away since it was listed: there is a newer one, and taking this one's next will fail
    os.utime(candidate)
    silent_s = candidate.stat().st_mtime - touched
    interval_s = record.interval_s if record else INTERVAL_S
    if record is None:
        return None if silent_s > EXPIRES_AFTER * interval_s else _NOBODY_KNOWN
    if record.released or record.owner.is_known_dead() or silent_s > EXPIRES_AFTER * interval_s:
        return None
    return record.owner


def _take(candidate: Path, folder: Path, number: int) -> bool:
    """Make the file of that number; False where somebody else was faster."""
    path = folder / _file_name(number)
    os.utime(candidate)  # it becomes the lease: its time must not be the one it started waiting at
    try:
        os.link(candidate, path)
    except FileExistsError:
        # Over NFS a link may be made and its answer lost; the second try then finds the file there: our own.
        if not path.exists() or not path.samefile(candidate):
            return False
    if max(_numbers(folder)) == number:
        return True
    path.unlink(missing_ok=True)  # we listed an old state of the folder, and others are far ahead
    return False


def _tidy(folder: Path, number: int, interval_s: float) -> None:
    """Remove what the newest number makes void: older numbers, and candidates nobody can be waiting with any more."""
    for older in _numbers(folder):
        if older < number:
            (folder / _file_name(older)).unlink(missing_ok=True)
    now = (folder / _file_name(number)).stat().st_mtime
    for candidate in folder.glob(f"{_CANDIDATE}*"):
        with contextlib.suppress(FileNotFoundError):
            record, touched = _read(candidate)
            patience_s = EXPIRES_AFTER * (record.interval_s if record else interval_s)
            if now - touched > patience_s or (record and record.owner.is_known_dead()):
                candidate.unlink()


def _read(path: Path) -> tuple[LeaseRecord | None, float]:
    """The record, None where it is broken, and when the file was touched; opening it makes NFS ask the server."""
    with path.open("rb") as stream:
        text, touched = stream.read(), os.fstat(stream.fileno()).st_mtime
    try:
        return LeaseRecord.model_validate_json(text), touched
    except ValidationError:
        return None, touched


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _file_name(number: int) -> str:
    return f"{number:012d}"


def _interval() -> float:
    text = os.environ.get(INTERVAL_VARIABLE)
    try:
        seconds = float(text) if text else INTERVAL_S
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UserError(f"{INTERVAL_VARIABLE}={text} is no number of seconds", fix=f"unset {INTERVAL_VARIABLE}")
    return seconds


_NOBODY_KNOWN = Owner(
    user="somebody", host="another machine", pid=0, start_ticks=0, boot_id="", pid_namespace="", since="a while"
)
