"""An HTTP proxy on loopback that gets public archives' files from mirrors, the next one where one fails.

What is built keeps speaking of the archives' own addresses; only the bytes come from a mirror. Which bytes are right is
for the client to say, which knows signatures or digests.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from harness.image.process import LineCallback
from harness.mirrors import is_loopback

STALL_S = 30.0
"""Seconds without a byte after which a mirror counts as dead."""

Place = Callable[[str, str], str | None]
"""Host and path of an archive's file -> its path below a mirror's root, from a slash on; None: mirrors lack it."""

_PASSED_ON = ("Range", "If-Range", "If-Modified-Since", "If-None-Match", "Cache-Control", "Accept", "User-Agent")
_PASSED_BACK = ("Content-Type", "Content-Length", "Content-Range", "Last-Modified", "ETag", "Accept-Ranges")


class MirrorRelay:
    """Where to ask for a file, in order; mirrors that broke down are asked no more."""

    def __init__(
        self, kind: str, mirrors: Sequence[str], place: Place, proxies: Mapping[str, str] | None, say: LineCallback
    ) -> None:
        """Remember what is known.

        Args:
            kind: of the mirrors, for people.
            proxies: what this machine goes through to the world, by scheme; None: as the environment says.
            say: called with a line where a mirror fails.
        """
        self.kind = kind
        self._mirrors = list(mirrors)
        self._place = place
        self._proxies = proxies
        self._say = say

    def addresses(self, url: str) -> list[tuple[str | None, str]]:
        """(mirror, address) for the URL of an archive's file; the archive itself, without a mirror, is the last."""
        parts = urlsplit(url)
        path = self._place(parts.hostname or "", parts.path)
        mirrors = list(self._mirrors) if path is not None else []
        return [*((m, f"{m.rstrip('/')}{path}") for m in mirrors), (None, url)]

    def open(self, method: str, address: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Ask; the machine's proxies lead to the world, and none to loopback."""
        proxies = {} if is_loopback(urlsplit(address).netloc) else self._proxies
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(None if proxies is None else dict(proxies)))
        request = urllib.request.Request(address, headers=headers, method=method)
        response: http.client.HTTPResponse = opener.open(request, timeout=STALL_S)
        return response

    def drop(self, mirror: str, reason: object) -> None:
        """Ask this mirror no more."""
        with contextlib.suppress(ValueError):  # another thread was first
            self._mirrors.remove(mirror)
            self._say(f"{urlsplit(mirror).netloc}: giving up this {self.kind} mirror: {reason}")


class RelayHandler(http.server.BaseHTTPRequestHandler):
    """A proxy for GET and HEAD."""

    relayed: MirrorRelay
    protocol_version = "HTTP/1.1"

    def url(self) -> str:
        """What is asked for, in full."""
        return self.path

    def do_GET(self) -> None:
        headers = {name: self.headers[name] for name in _PASSED_ON if self.headers[name]}
        status = int(HTTPStatus.BAD_GATEWAY)
        for mirror, address in self.relayed.addresses(self.url()):
            try:
                response = self.relayed.open(self.command, address, headers)
            except urllib.error.HTTPError as error:
                error.close()
                status = error.code
                if status in (HTTPStatus.NOT_MODIFIED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                    break
                # 404: a mirror that lags behind, or lacks this part of the archive; the next may have it.
                if mirror is not None and status >= 500:
                    self.relayed.drop(mirror, f"HTTP {status}")
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                if mirror is not None:
                    self.relayed.drop(mirror, getattr(error, "reason", error))
            else:
                with response:
                    self._pass_back(response, mirror)
                return
        self._status_only(status)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _pass_back(self, response: http.client.HTTPResponse, mirror: str | None) -> None:
        self.send_response(response.status)
        for name in _PASSED_BACK:
            if response.headers[name]:
                self.send_header(name, response.headers[name])
        if not response.headers["Content-Length"]:
            self.send_header("Connection", "close")
        self.end_headers()
        broken: object = None
        while self.command != "HEAD":
            try:
                chunk = response.read(1 << 17)
            except (OSError, http.client.HTTPException) as error:
                broken = error
                break
            if not chunk:
                broken = "broke off the connection" if response.length else None
                break
            self.wfile.write(chunk)
        if broken is not None:
            self.close_connection = True  # the client sees half a file, and asks again
            if mirror is not None:
                self.relayed.drop(mirror, broken)

    def handle(self) -> None:
        """Serve one connection, which the client may end at any time."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _status_only(self, status: int) -> None:
        self.send_response(status)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the client says what it fetches."""


@contextlib.contextmanager
def served(handler: type[RelayHandler], name: str) -> Iterator[str]:
    """The proxy's address, ``http://127.0.0.1:PORT``, good while the block runs."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name=name)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
