"""A registry on loopback, in this process, that has one image and gets its parts when they are asked for.

Container engines ask a registry once and pass its failures on. Behind the relay stands a :class:`Fetcher`: engines see
a registry that always answers, and that holds what it says.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from harness.errors import HarnessError
from harness.image.blobs import is_sha256
from harness.image.fetch import Fetcher
from harness.image.reference import ImageReference

_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<which>[^/]+)")
_OCI = "application/vnd.oci.image"


class Relay:
    """The image ``image``, whose manifest or index has ``digest``.

    Attributes:
        host: ``127.0.0.1:PORT``, within :meth:`running`.
        failure: why the last part could not be had; an engine's own words for it are worse.
    """

    def __init__(self, image: ImageReference, digest: str, fetcher: Fetcher) -> None:
        self.image = image
        self.digest = digest
        self.fetcher = fetcher
        self.host = ""
        self.failure: HarnessError | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        """Serve while the block runs. An error that leaves the block gives way to the failure that caused it.

        Raises:
            HarnessError: a part of the image could not be had, and the block failed.
        """
        relay = self

        class Handler(_Handler):
            served = relay

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.host = f"127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="relay")
            thread.start()
            try:
                yield self
            except HarnessError as error:
                if self.failure is not None:
                    raise self.failure from error
                raise
            finally:
                server.shutdown()
                thread.join()

    def reference(self) -> ImageReference:
        """The image, at this registry."""
        return ImageReference(self.host, self.image.repository, None, self.digest, insecure_http=True)

    def find(self, kind: str, which: str) -> Path | None:
        """The file of what is asked for; None: it cannot be had, and ``failure`` says why."""
        if kind == "manifests" and which == self.image.tag:
            which = self.digest
        if not is_sha256(which):
            return None  # another tag, which engines may look for beside an image
        try:
            return self.fetcher.blob(which) if kind == "blobs" else self.fetcher.manifest(which)
        except HarnessError as error:
            self.failure = error
        except OSError as error:
            self.failure = HarnessError(f"cannot read the cache: {error.strerror}", where=str(error.filename))
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    """The reading half of the registry API."""

    served: Relay
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.rstrip("/") == "/v2":
            self._json(HTTPStatus.OK, {})
            return
        asked = _PATH.fullmatch(path)
        if asked is None or asked["name"] != self.served.image.repository:
            self._json(HTTPStatus.NOT_FOUND, _errors("NAME_UNKNOWN", "this registry has one image"))
            return
        file = self.served.find(asked["kind"], asked["which"])
        if file is None:
            # 404 and not 502: engines ask again after those, and everything was tried.
            self._json(HTTPStatus.NOT_FOUND, _errors("MANIFEST_UNKNOWN", str(self.served.failure or "there is none")))
            return
        self.send_response(HTTPStatus.OK)
        is_manifest = asked["kind"] == "manifests"
        self.send_header("Content-Type", media_type(file.read_bytes()) if is_manifest else "application/octet-stream")
        self.send_header("Content-Length", str(file.stat().st_size))
        self.send_header("Docker-Content-Digest", f"sha256:{file.name}")
        self.end_headers()
        if self.command != "HEAD":
            with file.open("rb") as stream, contextlib.suppress(ConnectionError):  # an engine that was ended
                shutil.copyfileobj(stream, self.wfile, 1 << 18)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _json(self, status: HTTPStatus, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the fetcher's lines tell what goes on."""


def _errors(code: str, message: str) -> dict[str, object]:
    return {"errors": [{"code": code, "message": message}]}


def media_type(manifest: bytes) -> str:
    """A manifest's media type; OCI manifests need not name theirs."""
    content = json.loads(manifest)
    named = content.get("mediaType")
    return str(named) if named else f"{_OCI}.{'index' if 'manifests' in content else 'manifest'}.v1+json"
