"""Supervises one job of the local scheduler. Standard library only: it is started as a plain file, in its own session.

``python local_runner.py RECORD`` reads ``RECORD/request.json``, waits for a free slot, runs ``bash script args`` and
leaves ``RECORD/started.json`` and ``RECORD/ended.json``, each written aside and renamed. It depends on nobody: whoever
submitted the job may be gone. SIGTERM cancels the job. What the script leaves running is killed when the script ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

KILL_AFTER_S = 5  # between SIGTERM and SIGKILL when a job is cancelled
_PR_SET_CHILD_SUBREAPER = 36
# The script starts only after its process is on record: whatever happens to us, others can find and end it.
_GATE = 'read -r && exec bash "$@" </dev/null'


class Runner:
    """One job from its slot to its exit status."""

    def __init__(self, record: Path) -> None:
        self.record = record
        self.request: dict[str, Any] = json.loads((record / "request.json").read_text(encoding="utf-8"))
        self.cancelled = False
        self.child: int | None = None
        self.state: dict[str, Any] = {
            "host": socket.gethostname(),
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
            "runner": process_name(os.getpid()),
        }

    def run(self) -> None:
        """Do it all. The exit status is on disk afterwards; this method raises only when the disk refuses it."""
        self._install_handlers()
        write_json(self.record / "started.json", self.state)
        slot = self._take_slot()
        if self.cancelled:
            self._finish(exit_code=None, number=int(signal.SIGTERM))
            return
        try:
            with slot:
                self._run_script()
        except OSError as error:
            self._finish(exit_code=None, number=None, reason=f"could not start the script: {error}")

    def _run_script(self) -> None:
        with Path(self.request["output"]).open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", _GATE, "gate", self.request["script"], *self.request["args"]],
                cwd=self.request["workdir"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.child = process.pid
        write_json(
            self.record / "started.json", self.state | {"child": process_name(process.pid), "started": time.time()}
        )
        self._open_gate(process)
        if self.cancelled:  # the request came while bash was being started
            self._signal_child(signal.SIGTERM)
        result = os.waitstatus_to_exitcode(self._wait_for(process.pid))
        self.child = None
        kill_descendants()
        self._finish(exit_code=result if result >= 0 else None, number=-result if result < 0 else None)

    def _open_gate(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as gate:  # broken: it was cancelled already
                gate.write(b"\n")

    def _take_slot(self) -> Any:
        """Hold one of the lock files that limit how many jobs run at once; the kernel frees it however we end."""
        pause = 0.05
        while True:
            for path in self.request["slots"]:
                lock = Path(path).open("ab")  # noqa: SIM115 - the lock outlives this method
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    lock.close()
                else:
                    return lock
            if self.cancelled:
                return contextlib.nullcontext()
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _wait_for(self, child: int) -> int:
        while True:
            pid, status = os.wait()  # orphans of the job come by as well: see become_subreaper
            if pid == child:
                return status

    def _install_handlers(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_cancel)
        signal.signal(signal.SIGALRM, lambda *_: self._signal_child(signal.SIGKILL))

    def _on_cancel(self, _number: int, _frame: FrameType | None) -> None:
        self.cancelled = True
        self._signal_child(signal.SIGTERM)
        signal.alarm(KILL_AFTER_S)

    def _signal_child(self, number: signal.Signals) -> None:
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child, number)

    def _finish(self, *, exit_code: int | None, number: int | None, reason: str = "") -> None:
        write_json(
            self.record / "ended.json",
            {
                "exit_code": exit_code,
                "signal": number,
                "cancelled": self.cancelled,
                "reason": reason,
                "ended": time.time(),
            },
        )


def become_subreaper() -> None:
    """Inherit the orphans of the job, so that a process which left its session cannot outlive the job unseen."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    """Kill what is left below this process, until nothing is."""
    while True:
        for pid in children_of_this():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def children_of_this() -> list[int]:
    """Pids of the direct children; grandchildren become children once their parent is killed."""
    me = str(os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := stat_fields(entry.name)) and stat[1] == me:
            found.append(int(entry.name))
    return found


def process_name(pid: int) -> dict[str, int]:
    """A pid with its start time in clock ticks since boot."""
    stat = stat_fields(str(pid))
    return {"pid": pid, "start_ticks": int(stat[19]) if stat else -1}


def stat_fields(pid: str) -> list[str]:
    """Fields 3 onwards of ``/proc/<pid>/stat``; empty when there is no such process."""
    try:
        return Path("/proc", pid, "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write aside, flush to disk, rename: a reader never sees half a file."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


if __name__ == "__main__":
    become_subreaper()
    Runner(Path(sys.argv[1])).run()
