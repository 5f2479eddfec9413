"""One file from the first hub that gives it, going on where an earlier try, also of another process, was cut off."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from harness.runtime.errors import DataError, ProgramError
from harness.runtime.hub.files import Digest, Hasher, HubFile
from harness.runtime.hub.web import (
    HubError,
    NotThereError,
    RefusedError,
    TroubleError,
    UnreachableError,
    WrongContentError,
    open_url,
    words,
)
from harness.runtime.retry import DEFAULT_POLICY, RetryPolicy

_CHUNK_BYTES = 1 << 18

Say = Callable[[str], None]
Moved = Callable[[int], None]


class StoppedError(ProgramError):
    """Somebody called it off: another file of the same repository cannot be had."""


class Source(NamedTuple):
    """One place that a file may come from."""

    url: str
    token: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class Transfer:
    """Fills files with what hubs give.

    Args:
        say: called with each line of what is tried.
        moved: called with the number of bytes whenever some have arrived; below 0 where they turned out wrong.
        is_over: asked between two pieces; True ends the transfer with :class:`StoppedError`, its bytes kept.
    """

    def __init__(
        self,
        say: Say,
        moved: Moved = lambda _: None,
        *,
        policy: RetryPolicy = DEFAULT_POLICY,
        sleep: Callable[[float], object] = time.sleep,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._say, self._moved, self._policy, self._sleep, self._is_over = say, moved, policy, sleep, is_over

    def fill(self, file: HubFile, sources: Sequence[Source], part: Path) -> Digest:
        """Bring ``part`` to the file's whole content, from the sources in their order; its checksum.

        Bytes that are there already count, whoever left them: a checksum of the whole tells. A file without one starts
        from nothing, for nobody could tell a mixture. Two processes that fill one part at once write the same bytes to
        the same places.

        Raises:
            HubError: no source gave it; says what each of them did. Its class is that of the last refusal.
            DataError: it cannot be written.
        """
        refusals: list[HubError] = []
        deadline = time.monotonic() + self._policy.total_s
        try:
            with _Part(part, file) as content:
                if content.size and not content.is_whole:
                    self._say(f"{file.path}: going on after {content.size / 1e6:.1f} MB that are here already")
                self._moved(content.size)
                for source in sources:
                    try:
                        self._fill_from(source, content, deadline)
                        return content.digest
                    except HubError as error:
                        refusals.append(error)
                        if source is not sources[-1]:
                            self._say(f"{file.path}: {error}; trying the next hub")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DataError(f"{part.parent}: {reason} while storing {file.path}; what was stored is kept") from error
        raise refusals[0] if len(refusals) == 1 else _all_refused(file, refusals)

    def _fill_from(self, source: Source, content: _Part, deadline: float) -> None:
        failures, begun_elsewhere = 0, content.size > 0
        while True:
            before = content.size
            try:
                if not content.is_whole:
                    self._download(source, content)
                if content.matches:
                    return
            except (NotThereError, RefusedError, UnreachableError, WrongContentError):
                raise
            except TroubleError as error:
                failures = 1 if content.size > before else failures + 1
                pause_s = self._policy.pause(failures, error.retry_after_s)
                is_late = time.monotonic() + pause_s > deadline
                if self._policy.gives_up(failures, error.retry_after_s) or is_late:
                    raise
                self._say(f"{content.file.path}: asking again in {pause_s:.1f} s: {error}")
                self._sleep(pause_s)
                continue
            got = content.digest
            self._moved(-content.size)
            content.restart()
            if not begun_elsewhere:
                raise WrongContentError(
                    source.host, f"{content.file.path} has {got} where the hub lists {content.file.digest}"
                )
            begun_elsewhere = False  # whose bytes were wrong? All of them from here, then.
            self._say(f"{content.file.path}: what was here is not what the hub lists; once more from the start")

    def _download(self, source: Source, content: _Part) -> None:
        """One request, for the bytes that are lacking."""
        wanted = {"Range": f"bytes={content.size}-"} if content.size else {}
        with open_url(
            source.url, timeout_s=self._policy.stall_s, token=source.token, headers={**wanted, **_UNPACKED}
        ) as response:
            total = _total(response)
            if content.size and (response.status != 206 or _start(response) != content.size):
                self._moved(-content.size)
                content.restart()
            if total is not None and content.file.size not in (None, total):
                lists = f"{content.file.path} has {total} bytes, the hub lists {content.file.size}"
                raise WrongContentError(source.host, lists)
            while chunk := _read(response, source.host):
                if self._is_over():
                    raise StoppedError(f"{content.file.path}: called off after {content.size} bytes, which are kept")
                content.write(chunk)
                self._moved(len(chunk))
        # http.client takes the end of the connection for the end of the file.
        expected = total if content.file.size is None else content.file.size
        if expected is not None and content.size < expected:
            raise TroubleError(
                source.host, f"broke off after {content.size} of {expected} bytes of {content.file.path}"
            )


_UNPACKED = {"Accept-Encoding": "identity"}


def _read(response: http.client.HTTPResponse, host: str) -> bytes:
    """The next piece; errors of the network told apart from errors of the disk.

    What came before a connection broke off is not lost.
    """
    try:
        return response.read1(_CHUNK_BYTES)
    except http.client.IncompleteRead as error:
        return error.partial
    except (OSError, http.client.HTTPException) as error:
        raise TroubleError(host, f"broke off: {words(error)}") from None


def _total(response: http.client.HTTPResponse) -> int | None:
    """Bytes of the whole file as the answer has them."""
    if response.status == 206:
        match = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return int(match[1]) if match else None
    length = response.headers.get("Content-Length")
    return int(length) if length else None


def _start(response: http.client.HTTPResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _all_refused(file: HubFile, refusals: Sequence[HubError]) -> HubError:
    said = ", ".join(str(error) for error in refusals)
    if isinstance(refusals[-1], TroubleError):
        return TroubleError(file.path, f"no hub gave it ({said})")
    return type(refusals[-1])(file.path, f"no hub gave it ({said})")


class _Part:
    """A file while it is filled: its bytes so far, and their checksum."""

    def __init__(self, path: Path, file: HubFile) -> None:
        self.file = file
        self._stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        with contextlib.suppress(PermissionError):  # somebody else's: it is as open as its owner left it
            os.fchmod(self._stream.fileno(), 0o644 | (path.parent.stat().st_mode & stat.S_IWGRP))
        self.restart(keep=file.digest is not None)
        if file.digest is not None:
            while chunk := self._stream.read(_CHUNK_BYTES):
                self._count(chunk)
            if file.size is not None and self.size > file.size:
                self.restart()

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._stream.fileno())
        self._stream.close()

    def restart(self, *, keep: bool = False) -> None:
        """Forget all bytes, or only what is known of them."""
        self._stream.seek(0)
        if not keep:
            self._stream.truncate()
        self.size = 0
        self._hash = Hasher(self.file.digest.algorithm if self.file.digest else "sha256", self.file.size or 0)

    def write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            left = left[self._stream.write(left) :]
        self._count(chunk)

    def _count(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.size += len(chunk)

    @property
    def digest(self) -> Digest:
        return self._hash.digest

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing left to ask for, as far as anybody says."""
        if self.file.size is not None:
            return self.size == self.file.size
        return self.file.digest is not None and self.matches

    @property
    def matches(self) -> bool:
        """Whether this is what the hub lists, as far as it says."""
        if self.file.digest is not None:
            return self.digest == self.file.digest
        return self.file.size in (None, self.size)
