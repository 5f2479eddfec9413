"""Does an image registry answer, and which digest has its image?"""

from __future__ import annotations

import base64
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
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import TypeVar

from harness.errors import HarnessError
from harness.image.reference import DIGEST, DOCKER_HUB, ImageReference, is_loopback

_DOCKER_HUB_API = "registry-1.docker.io"
_DOCKER_HUB_LOGIN = "https://index.docker.io/v1/"  # the key of its credentials in docker's config.json

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
    """No registry answers at that address: no route, no name, no TLS, too slow, or not a registry."""


class ImageNotFoundError(RegistryError):
    """The registry answers, and has no such image."""


class RegistryUnauthorizedError(RegistryError):
    """The registry answers, and wants credentials that we lack (Docker Hub says so for unknown repositories too)."""


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
        if not DIGEST.fullmatch(digest):
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
