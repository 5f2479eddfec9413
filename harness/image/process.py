"""Run an external program: stream its output, keep it, and never leave it behind."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import CommandError, MissingToolError

LineCallback = Callable[[str], None]

ERROR_LINES = 20
"""Lines of output that a :class:`CommandError` carries."""

KEPT_LINES = 50_000
"""Lines of output that are kept in memory; of more, the last ones."""

GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL: mmdebstrap and apptainer remove their temporary trees on SIGTERM."""

_POLL_S = 0.2
_LINE_END = re.compile(r"\r\n|\n|\r")  # \r alone: each state of a progress bar is a line


@dataclass(frozen=True)
class CommandResult:
    """What a program did.

    Attributes:
        command: the argument vector.
        returncode: its exit status; negative for a signal, as in :mod:`subprocess`.
        stdout: standard output alone if it was asked for apart, else the same as ``output``.
        output: standard output and standard error, lines in the order of arrival.
        seconds: wall time.
    """

    command: list[str]
    returncode: int
    stdout: str
    output: str
    seconds: float


class _Lines:
    """Turns chunks of bytes into lines; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the lines that ``chunk`` completes; an empty chunk (end of file) completes the last one."""
        text = self._rest + self._decoder.decode(chunk, final=not chunk)
        *lines, self._rest = _LINE_END.split(text)
        if chunk and text.endswith("\r"):  # half of \r\n, perhaps: decide when the next chunk is here
            self._rest = lines.pop() + "\r"
        yield from lines
        if not chunk and self._rest:
            last, self._rest = self._rest, ""
            yield last


def run_command(
    command: Sequence[str | os.PathLike[str]],
    *,
    on_line: LineCallback | None = None,
    timeout_s: float | None = None,
    check: bool = True,
    separate_stdout: bool = False,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    umask: int = -1,
    what: str | None = None,
    where: str | None = None,
    fix: str | None = None,
) -> CommandResult:
    """Run ``command`` to its end and return what it printed.

    The program gets no standard input and its own process group. When it runs too long, or when
    anything interrupts the caller (Ctrl-C, an error in ``on_line``), the whole group is ended:
    SIGTERM, then SIGKILL after ``GRACE_S`` seconds.

    Args:
        on_line: called with each line as it arrives, without its line end.
        timeout_s: seconds of wall time allowed; None for no limit.
        check: raise :class:`CommandError` for an exit status other than 0.
        separate_stdout: keep standard output apart in ``stdout`` (machine-readable output);
            ``on_line`` then gets standard error only.
        env: the whole environment of the program; None for this process's.
        umask: the program's umask; -1 for this process's.
        what, where, fix: words for the error, as in :class:`harness.errors.HarnessError`.

    Raises:
        MissingToolError: there is no such program.
        CommandError: it failed, was killed, or ran out of time.
    """
    argv = [os.fspath(word) for word in command]
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if separate_stdout else subprocess.STDOUT,
            cwd=cwd,
            env=env,
            umask=umask,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        # A folder of PATH that may not be read turns "not found" into "permission denied".
        if (cwd is not None and not cwd.is_dir()) or shutil.which(argv[0]) is not None:
            raise
        raise MissingToolError(f"{argv[0]} is not on this machine", where=where, fix=fix) from error
    stdout: deque[str] = deque(maxlen=KEPT_LINES)
    output: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        in_time = _collect(process, stdout, output, on_line, None if timeout_s is None else started + timeout_s)
        if not in_time:
            kill_group(process)
    except BaseException:
        kill_group(process)
        raise
    finally:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    text = "\n".join(output)
    result = CommandResult(argv, process.returncode, "\n".join(stdout), text, time.monotonic() - started)
    if not in_time:
        raise _failure(result, what, f"did not finish within {timeout_s:g} s", where, fix)
    if check and result.returncode != 0:
        raise _failure(result, what, _describe_exit(result.returncode), where, fix)
    return result


def kill_group(process: subprocess.Popen[bytes], grace_s: float = GRACE_S) -> None:
    """End ``process``, started as the leader of its own group, and everything in that group."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)


def _collect(
    process: subprocess.Popen[bytes],
    stdout: deque[str],
    output: deque[str],
    on_line: LineCallback | None,
    deadline: float | None,
) -> bool:
    """Read until the program has ended. False if ``deadline`` (monotonic seconds) came first.

    A daemon that the program left behind may hold the pipes open for ever: once the program
    itself is gone, what is in the pipes is read, and no more is waited for.
    """
    assert process.stdout is not None
    stderr_apart = process.stderr is not None
    with selectors.DefaultSelector() as selector:
        for stream in filter(None, (process.stdout, process.stderr)):
            selector.register(stream, selectors.EVENT_READ, _Lines())
        while selector.get_map():
            gone = process.poll() is not None  # before select: nothing is printed after this
            ready = selector.select(0 if gone else _POLL_S)
            if gone and not ready:
                break
            for key, _ in ready:
                stream, lines = _stream_of(key)
                chunk = os.read(stream.fileno(), 65536)
                for line in lines.feed(chunk):
                    output.append(line)
                    if stream is process.stdout:
                        stdout.append(line)
                    if on_line is not None and not (stderr_apart and stream is process.stdout):
                        on_line(line)
                if not chunk:
                    selector.unregister(stream)
            if deadline is not None and time.monotonic() > deadline:
                return False
        try:
            process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True


def _stream_of(key: selectors.SelectorKey) -> tuple[IO[bytes], _Lines]:
    """The registered pipe and its line splitter, with their types."""
    stream, lines = key.fileobj, key.data
    assert not isinstance(stream, int)
    assert isinstance(lines, _Lines)
    return stream, lines  # type: ignore[return-value]  # HasFileno is what selectors promises


def _describe_exit(returncode: int) -> str:
    if returncode < 0:
        try:
            return f"was ended by {signal.Signals(-returncode).name}"
        except ValueError:
            return f"was ended by signal {-returncode}"
    return f"ended with status {returncode}"


def _failure(
    result: CommandResult, what: str | None, happened: str, where: str | None, fix: str | None
) -> CommandError:
    """The error for ``result``; its one line quotes the last line that the program printed."""
    lines = [line for line in result.output.splitlines() if line.strip()]
    text = f"{what or shlex.join(result.command[:2])}: {Path(result.command[0]).name} {happened}"
    if lines:
        text = f"{text}: {lines[-1].strip()[:300]}"
    return CommandError(
        text,
        command=result.command,
        returncode=result.returncode,
        output="\n".join(lines[-ERROR_LINES:]),
        where=where,
        fix=fix,
    )
