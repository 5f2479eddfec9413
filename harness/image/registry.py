"""Image registries: what a reference means, whether one answers for it, and a real one of our own on loopback."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from harness.errors import HarnessError, MissingToolError, UserError
from harness.image.process import kill_group

DOCKER_HUB = "docker.io"
_DOCKER_HUB_API = "registry-1.docker.io"
_DOCKER_HUB_ALIASES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_DOCKER_HUB_LOGIN = "https://index.docker.io/v1/"  # the key of its credentials in docker's config.json

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

T = TypeVar("T")


class RegistryError(HarnessError):
    """A registry did not give what was asked; the subclasses say why."""


class RegistryUnreachableError(RegistryError):
    """No registry answers at that address: no route, no name, no TLS, too slow, or not a registry."""


class ImageNotFoundError(RegistryError):
    """The registry answers, and has no such image."""


class RegistryUnauthorizedError(RegistryError):
    """The registry answers, and wants credentials that we lack (Docker Hub says so for unknown repositories too)."""


# --- references -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageReference:
    """An image reference in full: ``debian`` is ``docker.io/library/debian:latest``.

    Attributes:
        registry: host, with its port if it has one.
        repository: the path in the registry, such as ``library/debian``.
        tag: None only where there is a digest alone.
        digest: ``sha256:…`` if the reference pins one.
        insecure_http: spoken to without TLS (loopback, or a mirror given as ``http://``).
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None = None
    insecure_http: bool = False

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read ``[registry/]repository[:tag][@digest]`` by Docker's rules.

        Raises:
            UserError: it is no image reference.
        """
        rest = text.strip().removeprefix("docker://")
        rest, _, digest = rest.partition("@")
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            registry, rest = first, remainder
        else:
            registry = DOCKER_HUB
        repository, _, tag = rest.partition(":")
        if registry in _DOCKER_HUB_ALIASES:
            registry = DOCKER_HUB
            if "/" not in repository:
                repository = f"library/{repository}"
        valid = _REPOSITORY.fullmatch(repository) and (not tag or _TAG.fullmatch(tag))
        if not valid or (digest and not _DIGEST.fullmatch(digest)) or rest.endswith(":"):
            raise UserError(
                f"{text!r} is no image reference", fix="write name, name:tag or registry.example/path/name:tag@sha256:…"
            )
        return cls(registry, repository, tag or (None if digest else "latest"), digest or None, is_loopback(registry))

    def at(self, mirror: str) -> ImageReference:
        """The same image at another registry: ``host[:port][/prefix]``, with ``http://`` in front for no TLS."""
        insecure = mirror.startswith("http://")
        host, _, prefix = mirror.removeprefix("http://").removeprefix("https://").rstrip("/").partition("/")
        repository = f"{prefix}/{self.repository}" if prefix else self.repository
        return replace(self, registry=host, repository=repository, insecure_http=insecure or is_loopback(host))

    @property
    def name(self) -> str:
        """``repository:tag@digest``, without the registry."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"


def is_loopback(host: str) -> bool:
    """Is ``host`` (with or without a port) this machine? Such a registry speaks plain HTTP."""
    name = host.rsplit(":", 1)[0] if host.count(":") == 1 else host.strip("[]").split("]")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


# --- does a registry answer? ------------------------------------------------------------------


def probe(reference: str | ImageReference, timeout_s: float = 3.0) -> str:
    """Ask the reference's registry for the image and return the digest of its manifest (or index).

    One HEAD request, with the anonymous token dance that Docker Hub wants, or with the credentials
    of ``apptainer registry login`` or ``docker login``. Proxies and CA bundles of the environment apply.
    All of it, name resolution too, takes at most ``timeout_s`` seconds.

    Raises:
        RegistryUnreachableError: nothing there answers, or what answers is no registry.
        ImageNotFoundError: it has no such image.
        RegistryUnauthorizedError: it wants other credentials.
        RegistryError: it refuses for another reason, such as too many requests.
    """
    image = ImageReference.parse(reference) if isinstance(reference, str) else reference
    session = _Session(image, time.monotonic() + timeout_s)
    try:
        return _within(timeout_s, session.manifest_digest)
    except TimeoutError as error:
        raise _unreachable(image, f"no answer within {timeout_s:g} s") from error


def _within(seconds: float, work: Callable[[], T]) -> T:
    """``work()``, or TimeoutError after ``seconds``: name resolution has no time limit of its own."""
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # handed to the caller's thread, whatever it is
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True, name="registry-probe")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def _unreachable(image: ImageReference, reason: object) -> RegistryUnreachableError:
    return RegistryUnreachableError(
        f"no registry answers for {image.name} ({reason})",
        where=image.registry,
        fix="check the network and the proxy, or name a mirror of the site",
    )


class _Session:
    """One conversation with the registry of one image."""

    def __init__(self, image: ImageReference, deadline: float) -> None:
        self.image = image
        self.deadline = deadline  # monotonic seconds
        # No proxy ever leads to loopback, whatever the environment says.
        proxies = [urllib.request.ProxyHandler({})] if is_loopback(image.registry) else []
        self._opener = urllib.request.build_opener(*proxies)
        scheme = "http" if image.insecure_http else "https"
        host = _DOCKER_HUB_API if image.registry == DOCKER_HUB else image.registry
        self._url = f"{scheme}://{host}/v2/{image.repository}/manifests/{image.digest or image.tag}"

    def manifest_digest(self) -> str:
        try:
            headers = self._head(authorization=None)
            if isinstance(headers, urllib.error.HTTPError):
                headers = self._head(self._authorization(headers.headers.get("WWW-Authenticate", "")))
        except urllib.error.HTTPError as error:
            raise self._refusal(error.code) from error
        except urllib.error.URLError as error:
            raise _unreachable(self.image, _words(error.reason)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(self.image, _words(error)) from error
        if isinstance(headers, urllib.error.HTTPError):
            raise self._refusal(headers.code)
        digest = headers.get("Docker-Content-Digest", "")
        if not _DIGEST.fullmatch(digest):
            raise _unreachable(self.image, "what answers is no image registry")
        return digest

    def _open(self, request: urllib.request.Request) -> tuple[Message, bytes]:
        seconds_left = max(0.1, self.deadline - time.monotonic())
        with self._opener.open(request, timeout=seconds_left) as response:
            return response.headers, response.read()

    def _head(self, authorization: str | None) -> Message | urllib.error.HTTPError:
        """The answer's headers; the error itself for 401, which says what to authenticate with."""
        request = urllib.request.Request(self._url, method="HEAD", headers={"Accept": ", ".join(MANIFEST_TYPES)})
        if authorization:
            request.add_unredirected_header("Authorization", authorization)
        try:
            return self._open(request)[0]
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            return error

    def _authorization(self, challenge: str) -> str | None:
        """The Authorization header that answers a WWW-Authenticate ``challenge``; None if we have none."""
        basic = _stored_credentials(self.image.registry)
        kind, _, text = challenge.partition(" ")
        if kind.lower() != "bearer":
            return f"Basic {basic}" if basic else None
        fields = dict(re.findall(r'(\w+)="([^"]*)"', text))
        query = {key: fields[key] for key in ("service", "scope") if key in fields}
        request = urllib.request.Request(f"{fields.get('realm', '')}?{urllib.parse.urlencode(query)}")
        if basic:
            request.add_unredirected_header("Authorization", f"Basic {basic}")
        answer = json.loads(self._open(request)[1])
        return f"Bearer {answer.get('token') or answer.get('access_token')}"

    def _refusal(self, status: int) -> RegistryError:
        where, name = self.image.registry, self.image.name
        if status == 404:
            return ImageNotFoundError(f"there is no image {name}", where=where, fix="check the name and the tag")
        if status in (401, 403):
            return RegistryUnauthorizedError(
                f"not allowed to read {name}, or there is no such image (HTTP {status})",
                where=where,
                fix=f"check the name, or log in: apptainer registry login docker://{where}",
            )
        if status == 429:
            return RegistryError(
                f"too many requests from this network for {name} (HTTP 429)",
                where=where,
                fix=f"wait, name a mirror of the site, or log in: apptainer registry login docker://{where}",
            )
        return _unreachable(self.image, f"HTTP {status}")


def _words(reason: object) -> str:
    """A short cause for people; Python's own texts begin with ``[Errno -2]`` and the like."""
    if isinstance(reason, (TimeoutError, socket.timeout)):
        return "no answer in time"
    if isinstance(reason, socket.gaierror):
        return "the host name is unknown here"
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {reason.reason or reason}"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return str(reason) or type(reason).__name__


def _stored_credentials(registry: str) -> str | None:
    """Base64 ``user:password`` that apptainer's or docker's login left for ``registry``, if any."""
    key = _DOCKER_HUB_LOGIN if registry == DOCKER_HUB else registry
    docker_dir = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    for path in (Path.home() / ".apptainer" / "docker-config.json", docker_dir / "config.json"):
        try:
            auth = json.loads(path.read_text("utf-8"))["auths"][key]["auth"]
            base64.b64decode(auth, validate=True)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no file, no entry, or kept in a credential helper: anonymous then
        return str(auth)
    return None


def _last_words(log: str) -> str:
    """The line of a registry's log that says why it ended: an error, else the first, before Go's stack traces."""
    lines = [line for line in log.splitlines() if line.strip()] or ["it said nothing"]
    causes = [line for line in lines if re.search(r"error|fatal|panic", line, re.IGNORECASE)]
    return (causes or lines)[0][:300]


# --- a registry of our own --------------------------------------------------------------------

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
