"""The client of OpenAI-compatible servers and the starting of servers, against real servers of the standard library."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.runtime.chat_client import ChatClient, Load, Reply, measure, percentile
from harness.runtime.errors import ProgramError
from harness.runtime.server import serving

PAUSE_S = 0.2  # the server waits so long between two pieces: a client sees at least that


class Streaming(BaseHTTPRequestHandler):
    """Speaks two tokens with a pause; what it was asked is kept in ``asked``."""

    protocol_version = "HTTP/1.1"
    asked: list[dict[str, Any]]
    broken = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(body)
        if body["max_tokens"] > 100:
            self.send_error(400, "too long")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chat = self.path == "/v1/chat/completions"
        if chat:
            self._send({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for number, piece in enumerate(("good ", "day")):
            time.sleep(PAUSE_S * number)
            self._send({"choices": [{"delta": {"content": piece}} if chat else {"text": piece}]})
        if self.broken:
            self.close_connection = True
            return
        self._send({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _send(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def handler() -> type[Streaming]:
    return type("Handler", (Streaming,), {"asked": []})


@pytest.fixture
def client(handler: type[Streaming]) -> Iterator[ChatClient]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield ChatClient(f"http://127.0.0.1:{server.server_port}", "m")
        server.shutdown()
        thread.join()


def test_pieces_are_seen_as_they_come(client: ChatClient, handler: type[Streaming]) -> None:
    reply = client.chat([{"role": "user", "content": "hello"}], 5, temperature=0)
    assert (reply.text, reply.prompt_tokens, reply.output_tokens, reply.pieces) == ("good day", 3, 2, 2)
    assert reply.tpot is not None
    assert reply.tpot >= PAUSE_S, "a client that waits for the whole answer would see no pause"
    assert reply.sent < reply.first < reply.last
    [asked] = handler.asked
    assert asked["model"] == "m"
    assert asked["temperature"] == 0
    assert asked["stream"] is True


def test_token_ids_are_a_prompt(client: ChatClient, handler: type[Streaming]) -> None:
    assert client.complete([1, 2, 3], 5, ignore_eos=True).text == "good day"
    assert handler.asked[0]["prompt"] == [1, 2, 3]


def test_a_refusal_and_a_broken_stream_are_errors(client: ChatClient, handler: type[Streaming]) -> None:
    with pytest.raises(ProgramError, match="refused with status 400"):
        client.complete("a", 1000)
    handler.broken = True
    with pytest.raises(ProgramError, match="broke"):
        client.complete("a", 5)


def test_never_more_requests_at_once_than_asked_for() -> None:
    lock, running, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=20)

    def ask(number: int) -> Reply:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait()
        with lock:
            running -= 1
        return Reply("", 1, 10, 10, number, number + 1, number + 10)

    load = measure(ask, 4, 2)
    assert most == 2
    assert load.seconds == 13
    assert load.output_rate == 40 / 13
    assert load.summary()["ttft_p99_ms"] == 1000
    assert load.summary()["tpot_p50_ms"] == 1000


def test_tokens_that_come_together_have_no_time_each() -> None:
    bunched = Reply("", 1, 10, 2, 0.0, 1.0, 2.0)
    late = Reply("", 1, 10, 10, 0.0, 1.0, 1.001)
    assert bunched.tpot is None
    assert late.tpot is None
    assert "tpot_p50_ms" not in Load([late]).summary()
    assert bunched.rate == 5


def test_percentiles() -> None:
    assert [percentile([3, 1, 2, 4], share) for share in (0, 50, 75, 99)] == [1, 2, 3, 4]


def web_server(port: int) -> list[str]:
    return [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", str(port)]


def test_a_server_is_started_on_a_free_port_and_stopped(tmp_path: Path) -> None:
    started: list[int] = []

    def command(port: int) -> list[str]:
        started.append(port)
        return web_server(port)

    with serving(command, tmp_path / "log", ready="/") as url:
        assert url == f"http://127.0.0.1:{started[0]}"
    assert "GET / HTTP" in (tmp_path / "log").read_text()
    with pytest.raises(ProgramError, match="does not answer"):
        ChatClient(url, "m").get("/")


def test_a_port_taken_in_between_is_tried_again(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Streaming) as other:
        tried: list[int] = []

        def command(port: int) -> list[str]:
            tried.append(port)
            return web_server(other.server_port if len(tried) == 1 else port)

        with serving(command, tmp_path / "log", ready="/"):
            assert len(tried) == 2


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ProgramError, match=r"status 3.*no such model"),
        serving(lambda _: [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"], tmp_path / "log"),
    ):
        raise AssertionError("it was never ready")


def test_a_servers_children_are_stopped_with_it(tmp_path: Path) -> None:
    """The child holds a pipe open, which ends when nobody does."""
    held = tmp_path / "held"
    os.mkfifo(held)
    read = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    start = f'exec 3>"{held}"; sleep 600 & exec "$@" 3>&-'
    with (
        serving(lambda port: ["sh", "-c", start, "sh", *web_server(port)], tmp_path / "log", ready="/"),
        pytest.raises(BlockingIOError),  # the child is there, and says nothing
    ):
        os.read(read, 1)
    os.set_blocking(read, True)
    assert os.read(read, 1) == b""
    os.close(read)
