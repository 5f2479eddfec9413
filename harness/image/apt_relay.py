"""The site's apt mirrors for a build: a proxy on loopback that apt asks for Debian's and Ubuntu's own archives.

An image's ``sources.list`` names the public archives and stays as it is, and so do the names of apt's lists; only the
bytes come from a mirror. Where one fails, the next is asked, and the archive itself last. Which bytes are right is
apt's to say: everything is signed.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from harness.image.process import LineCallback
from harness.mirrors import is_loopback

# Host of an archive -> the folders at its root that mirrors have too.
ARCHIVES = {
    "deb.debian.org": ("debian", "debian-security"),
    "security.debian.org": ("debian-security",),
    "archive.ubuntu.com": ("ubuntu",),
    "security.ubuntu.com": ("ubuntu",),
}
STALL_S = 30.0
"""Seconds without a byte after which a mirror counts as dead."""

_PASSED_ON = ("Range", "If-Range", "If-Modified-Since", "Cache-Control", "Accept")
_PASSED_BACK = ("Content-Type", "Content-Length", "Content-Range", "Last-Modified", "ETag", "Accept-Ranges")


@contextlib.contextmanager
def apt_relay(mirrors: Sequence[str], own_proxy: str | None, say: LineCallback) -> Iterator[list[str]]:
    """Lines of apt's configuration that lead to ``mirrors``, in their order, while the block runs.

    Args:
        own_proxy: what the machine's apt goes through to the archives themselves; None: nothing.
        say: called with a line where a mirror fails.
    """
    relay = _Relay(mirrors, own_proxy, say)

    class Handler(_Handler):
        relayed = relay

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="apt-relay")
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/"
            yield [*(f'Acquire::http::Proxy::{host} "{address}";' for host in ARCHIVES), 'Acquire::Retries "3";']
        finally:
            server.shutdown()
            thread.join()


class _Relay:
    """Where to ask for a file, in order; mirrors that broke down are asked no more."""

    def __init__(self, mirrors: Sequence[str], own_proxy: str | None, say: LineCallback) -> None:
        self._mirrors = list(mirrors)
        self._own_proxy = own_proxy
        self._say = say

    def addresses(self, url: str) -> list[tuple[str | None, str]]:
        """(mirror, address) for the URL of an archive's file; the archive itself, without a mirror, is the last."""
        parts = urlsplit(url)
        folder = parts.path.lstrip("/").partition("/")[0]
        is_mirrored = folder in ARCHIVES.get(parts.hostname or "", ())
        mirrors = list(self._mirrors) if is_mirrored else []
        return [*((m, m.rstrip("/") + parts.path) for m in mirrors), (None, url)]

    def open(self, address: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Ask; the machine's proxies lead to the world, and none to loopback."""
        proxies: dict[str, str] | None = {"http": self._own_proxy} if self._own_proxy else None
        if is_loopback(urlsplit(address).netloc):
            proxies = {}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
        response: http.client.HTTPResponse = opener.open(
            urllib.request.Request(address, headers=headers), timeout=STALL_S
        )
        return response

    def drop(self, mirror: str, reason: object) -> None:
        with contextlib.suppress(ValueError):  # another thread was first
            self._mirrors.remove(mirror)
            self._say(f"{urlsplit(mirror).netloc}: giving up this apt mirror: {reason}")


class _Handler(http.server.BaseHTTPRequestHandler):
    """An HTTP proxy for GET."""

    relayed: _Relay
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name: self.headers[name] for name in _PASSED_ON if self.headers[name]}
        status = int(HTTPStatus.BAD_GATEWAY)
        for mirror, address in self.relayed.addresses(self.path):
            try:
                response = self.relayed.open(address, headers)
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

    def _pass_back(self, response: http.client.HTTPResponse, mirror: str | None) -> None:
        self.send_response(response.status)
        for name in _PASSED_BACK:
            if response.headers[name]:
                self.send_header(name, response.headers[name])
        if not response.headers["Content-Length"]:
            self.send_header("Connection", "close")
        self.end_headers()
        broken: object = None
        while True:
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
            self.close_connection = True  # apt sees half a file, and asks for the rest
            if mirror is not None:
                self.relayed.drop(mirror, broken)

    def handle(self) -> None:
        """Serve one connection of apt's, which may end it at any time."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _status_only(self, status: int) -> None:
        self.send_response(status)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: apt says what it fetches."""
