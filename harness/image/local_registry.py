"""A real registry of our own on loopback."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from harness.errors import HarnessError, MissingToolError
from harness.image.process import kill_group
from harness.image.reference import ImageReference

PROGRAMS = ("docker-registry", "registry")
"""Names of the registry server: Debian's, then upstream's and EPEL's."""

# Ends the registry and removes its folder ($1) when our end of standard input closes: also after a
# kill -9 of ourselves.
_SUPERVISOR = """\
folder=$1
shift
exec 3<&0
"$@" </dev/null 3<&- & registry=$!
{ read -r _ <&3; rm -rf -- "$folder"; kill "$registry"; } 2>/dev/null & watcher=$!
wait "$registry"; status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"""


class LocalRegistry:
    """A real registry (``docker-registry``) on a free port of loopback, for a ``with`` statement.

    It speaks plain HTTP. The kernel chooses the port when the registry binds it, so any number may
    run side by side. Several read-only ones may share a storage folder; only one may write to it.
    It ends with the ``with`` block, and with this process however that ends.

    Args:
        storage: the folder of its images; made if absent.
        read_only: refuse pushes.
        start_timeout_s: seconds until it must answer.

    Raises (on entry):
        MissingToolError: this machine has no registry program.
        HarnessError: it did not start; its own last words are quoted.
    """

    def __init__(self, storage: Path, *, read_only: bool = True, start_timeout_s: float = 15.0) -> None:
        self.storage = storage.absolute()
        self.read_only = read_only
        self.start_timeout_s = start_timeout_s
        self.host = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def reference(self, image: str | ImageReference) -> ImageReference:
        """The same image, in this registry."""
        parsed = ImageReference.parse(image) if isinstance(image, str) else image
        return replace(parsed, registry=self.host, insecure_http=True)

    def __enter__(self) -> LocalRegistry:
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            raise MissingToolError(
                f"no registry server ({' or '.join(PROGRAMS)}) on this machine",
                fix="run: scripts/install-packages registry",
            )
        self._folder = tempfile.TemporaryDirectory(prefix="harness-registry-", ignore_cleanup_errors=True)
        try:
            self._start(program, Path(self._folder.name))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, program: str, folder: Path) -> None:
        self.storage.mkdir(parents=True, exist_ok=True)
        config, log = folder / "config.yml", folder / "registry.log"
        config.write_text(json.dumps(self._configuration()), "utf-8")  # JSON is YAML, without its quoting traps
        # REGISTRY_* variables would override the file.
        env = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SUPERVISOR, "sh", str(folder), program, "serve", str(config)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        self._wait_until_ready(log)

    def _configuration(self) -> dict[str, object]:
        return {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},  # info: it tells its port
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "maintenance": {"uploadpurging": {"enabled": False}, "readonly": {"enabled": self.read_only}},
            },
            "http": {"addr": "127.0.0.1:0", "secret": secrets.token_hex(16)},
        }

    def _wait_until_ready(self, log: Path) -> None:
        """Poll, first every 10 ms, at last every 0.5 s, until ``/v2/`` answers."""
        assert self._process is not None
        deadline = time.monotonic() + self.start_timeout_s
        pause_s = 0.01
        while time.monotonic() < deadline:
            said = log.read_text("utf-8", errors="replace")
            if not self.host and (found := re.search(r"listening on (127\.0\.0\.1:\d+)", said)):
                self.host = found[1]
            if self.host and self._answers():
                return
            if self._process.poll() is not None:
                break
            time.sleep(pause_s)
            pause_s = min(0.5, pause_s * 1.5)
        raise HarnessError(
            f"the local registry did not start: {_last_words(log.read_text('utf-8', errors='replace'))}",
            where=str(self.storage),
            fix="check that this folder can be written and has space",
        )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, timeout=1.0)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _stop(self) -> None:
        process, self._process, self.host = self._process, None, ""
        try:
            if process is not None:
                if process.stdin is not None:
                    process.stdin.close()  # the supervisor sees the end of file and ends the registry
                try:
                    process.wait(2.0)
                except subprocess.TimeoutExpired:
                    kill_group(process)
        finally:
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None


def _last_words(log: str) -> str:
    """The line of a registry's log that says why it ended: an error, else the first, before Go's stack traces."""
    lines = [line for line in log.splitlines() if line.strip()] or ["it said nothing"]
    causes = [line for line in lines if re.search(r"error|fatal|panic", line, re.IGNORECASE)]
    return (causes or lines)[0][:300]
