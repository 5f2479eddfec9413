"""Talking to one image registry: which digest has an image, and the bytes of its manifests and layers."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from harness import __version__
from harness.errors import HarnessError
from harness.image.reference import DIGEST, DOCKER_HUB, ImageReference
from harness.mirrors import is_loopback

_DOCKER_HUB_API = "registry-1.docker.io"
_DOCKER_HUB_LOGIN = "https://index.docker.io/v1/"  # the key of its credentials in docker's config.json

USER_AGENT = f"tutorial-harness/{__version__}"

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

T = TypeVar("T")


class RegistryError(HarnessError):
    """A registry did not give what was asked; the subclasses say why."""


class RegistryUnreachableError(RegistryError):
    """No registry answers at that address: no route, no name, no TLS, too slow, or not a registry.

    Attributes:
        is_silent: its name is known and it did not answer in time. Asking again may help.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None, is_silent: bool = False) -> None:
        super().__init__(what, where=where, fix=fix)
        self.is_silent = is_silent


class ImageNotFoundError(RegistryError):
    """The registry answers, and has no such image."""


class RegistryUnauthorizedError(RegistryError):
    """The registry answers, and wants credentials that we lack (Docker Hub says so for unknown repositories too)."""


class RegistryTroubleError(RegistryError):
    """The registry is there, and fails now: it is overloaded, or breaks off. Asking again may help.

    Attributes:
        retry_after_s: seconds that it wants us to wait; None where it did not say.
    """

    def __init__(self, what: str, *, where: str, fix: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.retry_after_s = retry_after_s


class DigestMismatchError(RegistryError):
    """What a registry serves under a digest has another one."""

    def __init__(self, host: str, name: str, wanted: str, got: str) -> None:
        super().__init__(
            f"serves other content for {name}: wanted {wanted}, got {got}",
            where=host,
            fix="remove this mirror from the site's file, and tell who runs it",
        )


def probe(reference: str | ImageReference, timeout_s: float = 3.0) -> str:
    """Ask the reference's registry for the image and return the digest of its manifest (or index).

    One HEAD request, with the anonymous token dance that Docker Hub wants, or with the credentials
    of ``apptainer registry login`` or ``docker login``. Proxies and CA bundles of the environment apply.
    All of it, name resolution too, takes at most ``timeout_s`` seconds.

    Raises:
        RegistryUnreachableError: nothing there answers, or what answers is no registry.
        ImageNotFoundError: it has no such image.
        RegistryUnauthorizedError: it wants other credentials.
        RegistryTroubleError: it fails for now, such as for too many requests.
        DigestMismatchError: the reference pins a digest, and the registry names another.
    """
    image = ImageReference.parse(reference) if isinstance(reference, str) else reference
    is_known = threading.Event()

    def ask() -> str:
        client = RegistryClient(image)
        client.look_up()
        is_known.set()
        return client.manifest_digest(timeout_s)

    try:
        return _within(timeout_s, ask)
    except TimeoutError as error:
        reason = f"no answer within {timeout_s:g} s"
        raise _unreachable(image, reason, is_silent=is_known.is_set()) from error


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


def _unreachable(image: ImageReference, reason: object, *, is_silent: bool = False) -> RegistryUnreachableError:
    return RegistryUnreachableError(
        f"no registry answers for {image.name} ({reason})",
        where=image.registry,
        fix="check the network and the proxy, or name a mirror of the site",
        is_silent=is_silent,
    )


class RegistryClient:
    """Reads one repository of one registry; any number of threads may share it."""

    def __init__(self, image: ImageReference) -> None:
        self.image = image
        # No proxy ever leads to loopback, whatever the environment says.
        proxies = [urllib.request.ProxyHandler({})] if is_loopback(image.registry) else []
        self._opener = urllib.request.build_opener(*proxies)
        scheme = "http" if image.insecure_http else "https"
        self._scheme = scheme
        self._host = _DOCKER_HUB_API if image.registry == DOCKER_HUB else image.registry
        self._url = f"{scheme}://{self._host}/v2/{image.repository}"
        self._authorization: str | None = None

    def look_up(self) -> None:
        """See that the registry's name is known here; where a proxy is asked, that is the proxy's business.

        Raises:
            RegistryUnreachableError: it is not.
        """
        is_proxied = self._scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(self._host)
        if is_loopback(self._host) or is_proxied:
            return
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(f"//{self._host}").hostname, None)
        except OSError as error:
            raise self._lost(error) from error

    def manifest_digest(self, timeout_s: float) -> str:
        """The digest of the reference's manifest or index. Errors are those of :func:`probe`."""
        path = f"manifests/{self.image.digest or self.image.tag}"
        with self.open(path, timeout_s=timeout_s, method="HEAD", accept=MANIFEST_TYPES) as response:
            digest = response.headers.get("Docker-Content-Digest", "")
        if not DIGEST.fullmatch(digest):
            raise _unreachable(self.image, "what answers is no image registry")
        if self.image.digest and digest != self.image.digest:
            raise DigestMismatchError(self.image.registry, self.image.name, self.image.digest, digest)
        return digest

    @contextlib.contextmanager
    def open(
        self, path: str, *, timeout_s: float, method: str = "GET", accept: Sequence[str] = (), offset: int = 0
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request for ``manifests/…`` or ``blobs/…``, for a ``with`` statement.

        Args:
            timeout_s: seconds without a byte after which the connection counts as lost.
            offset: ask for the bytes from here on; the answer's status is then 206, or 200 for all of them.

        Raises:
            As :func:`probe`, also for a connection that breaks while the block reads.
        """
        headers = {"Accept": ", ".join(accept) or "*/*", "User-Agent": USER_AGENT}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        request = urllib.request.Request(f"{self._url}/{path}", method=method, headers=headers)
        try:
            with self._authorized(request, timeout_s) as response:
                yield response
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except urllib.error.URLError as error:
            raise self._lost(error.reason) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._lost(error) from error

    def _authorized(self, request: urllib.request.Request, timeout_s: float) -> http.client.HTTPResponse:
        """Open a request; where the registry asks who we are (401), say so and ask again."""
        for _ in range(2):
            if self._authorization:
                request.add_unredirected_header("Authorization", self._authorization)
            try:
                response: http.client.HTTPResponse = self._opener.open(request, timeout=timeout_s)
                return response
            except urllib.error.HTTPError as error:
                challenge = error.headers.get("WWW-Authenticate", "") if error.code == 401 else ""
                refused = error
            if not challenge:
                raise refused
            self._authorization = self._answer(challenge, timeout_s)
        raise refused

    def _answer(self, challenge: str, timeout_s: float) -> str | None:
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
        with self._opener.open(request, timeout=timeout_s) as response:
            answer = json.loads(response.read())
        return f"Bearer {answer.get('token') or answer.get('access_token')}"

    def _refusal(self, error: urllib.error.HTTPError) -> RegistryError:
        where, name, status = self.image.registry, self.image.name, error.code
        if status == 404:
            return ImageNotFoundError(f"there is no image {name}", where=where, fix="check the name and the tag")
        if status in (401, 403):
            return RegistryUnauthorizedError(
                f"not allowed to read {name}, or there is no such image (HTTP {status})",
                where=where,
                fix=f"check the name, or log in: apptainer registry login docker://{where}",
            )
        if status == 429:
            return RegistryTroubleError(
                f"too many requests from this network for {name} (HTTP 429)",
                where=where,
                fix=f"wait, name a mirror of the site, or log in: apptainer registry login docker://{where}",
                retry_after_s=_seconds(error.headers.get("Retry-After", "")),
            )
        if status >= 500:
            return RegistryTroubleError(
                f"fails for {name} (HTTP {status})",
                where=where,
                fix="try again later, or name another mirror of the site",
                retry_after_s=_seconds(error.headers.get("Retry-After", "")),
            )
        return _unreachable(self.image, f"HTTP {status}")

    def _lost(self, reason: object) -> RegistryError:
        """Nobody there, or somebody who broke off?"""
        if isinstance(reason, (ConnectionResetError, BrokenPipeError, http.client.HTTPException)):
            return RegistryTroubleError(
                f"broke off the connection for {self.image.name} ({_words(reason)})",
                where=self.image.registry,
                fix="try again later, or name another mirror of the site",
            )
        return _unreachable(self.image, _words(reason), is_silent=isinstance(reason, TimeoutError))


def _seconds(retry_after: str) -> float | None:
    """``Retry-After`` as seconds: a number, or a date."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        wanted = email.utils.parsedate_to_datetime(retry_after).timestamp()
    except (TypeError, ValueError):
        return None
    return max(0.0, wanted - time.time())


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
