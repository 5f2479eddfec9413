"""A proxy in front of a real server that fails as registries and networks do."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

CHUNK = 1 << 16


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        status: answer with this instead of asking the server; 0: ask it.
        retry_after: seconds, as the header.
        cut: reset the connection after so many bytes of the body; None: send all of it.
        hang: after ``cut`` bytes, send nothing more and keep the connection, until the proxy ends.
        flip: change the last byte of the body.
        drop: reset the connection at once.
        silent: answer nothing, until the proxy ends.
    """

    status: int = 0
    retry_after: str = ""
    cut: int | None = None
    hang: bool = False
    flip: bool = False
    drop: bool = False
    silent: bool = False


FINE = Fault()
Plan = Callable[[str, str], Fault]
"""Method and path of a request -> what happens to it."""


@dataclass
class FaultProxy:
    """Attributes: ``host`` (``127.0.0.1:PORT``); what was asked, and how many bytes of bodies were sent."""

    host: str = ""
    requests: list[str] = field(default_factory=list)
    sent: int = 0


def script(kind: str, *faults: Fault, rest: Fault = FINE) -> Plan:
    """These faults for the first requests whose "METHOD path" holds ``kind``, then ``rest``."""
    left = deque(faults)

    def plan(method: str, path: str) -> Fault:
        if kind not in f"{method} {path}":
            return FINE
        return left.popleft() if left else rest

    return plan


@contextlib.contextmanager
def fault_proxy(server: str, *plans: Plan) -> Iterator[FaultProxy]:
    """A proxy for the HTTP server at ``server`` (host:port); the first plan that has a fault for a request decides."""
    proxy = FaultProxy()
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            proxy.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            fault = next((f for f in (plan(self.command, self.path) for plan in plans) if f != FINE), FINE)
            if fault.silent:
                ended.wait()
            if fault.drop or fault.silent:
                self._reset()
                return
            if fault.status:
                self.send_response(fault.status)
                if fault.retry_after:
                    self.send_header("Retry-After", fault.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            upstream = http.client.HTTPConnection(server, timeout=60)
            upstream.request(self.command, self.path, headers={k: v for k, v in self.headers.items() if k != "Host"})
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name not in ("Connection", "Transfer-Encoding", "Date", "Server"):
                    self.send_header(name, value)
            self.end_headers()
            self._body(answer, fault)
            upstream.close()

        def do_HEAD(self) -> None:
            self.do_GET()

        def _body(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
            left = fault.cut
            while chunk := answer.read(CHUNK if left is None else min(CHUNK, left)):
                if fault.flip and answer.length == 0:
                    chunk = chunk[:-1] + bytes([chunk[-1] ^ 1])
                self.wfile.write(chunk)
                proxy.sent += len(chunk)
                if left is not None:
                    left -= len(chunk)
            if fault.cut is None:
                return
            self.wfile.flush()
            if fault.hang:
                ended.wait()
            self._reset()

        def _reset(self) -> None:
            """RST, not FIN: what a firewall or a killed process does."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the client gave up, or we closed
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        proxy.host = f"127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            ended.set()
            listening.shutdown()
