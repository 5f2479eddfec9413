"""A client of OpenAI-compatible servers that measures them: time to the first token, time per token, tokens per second.

Standard library only, one connection per request. The server streams its answer; the clock is read as each piece
arrives.

- TTFT, time to first token: from sending the request to the first piece of the answer.
- TPOT, time per output token: (latency - TTFT) / (tokens - 1), of one request. Not to be had where a server sends
  many tokens in one piece, or all pieces at the end, as it does when it generates them faster than it sends.
- token rate of one request: tokens / latency.
- output tokens per second: all tokens of all requests over the time from the first request to the last answer.
"""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from harness.runtime.errors import ProgramError

MIN_PIECES_PER_TOKEN = 0.5  # some tokens are parts of a character, which is sent when it is whole
MIN_STREAMED = 0.1  # of the latency, after the first piece: less and the pieces came together, at the end


class Reply(NamedTuple):
    """One streamed answer. Times in seconds of one clock that never goes backwards.

    Attributes:
        text: all pieces together.
        prompt_tokens, output_tokens: as the server counted them.
        pieces: how many it came in.
        sent, first, last: when the request was sent, and its first and last piece arrived.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    pieces: int
    sent: float
    first: float
    last: float

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.first - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds per token after the first; None where the pieces do not show it."""
        if self.output_tokens < 2 or self.pieces < MIN_PIECES_PER_TOKEN * self.output_tokens:
            return None
        if self.last - self.first < MIN_STREAMED * (self.last - self.sent):
            return None
        return (self.last - self.first) / (self.output_tokens - 1)

    @property
    def rate(self) -> float:
        """Tokens per second from sending the request to the last token."""
        return self.output_tokens / (self.last - self.sent)


class ChatClient:
    """Asks one server, by one model's name.

    Args:
        url: of the server, without a path: ``http://127.0.0.1:41234``.
        model: the name the server gives the model.
        timeout: seconds without a byte after which the server counts as dead.
    """

    def __init__(self, url: str, model: str, timeout: float = 600.0) -> None:
        address = urlsplit(url)
        if address.scheme != "http" or not address.hostname or not address.port:
            raise ProgramError(f"'{url}' is not a server's address; it looks like http://127.0.0.1:41234")
        self._host, self._port = address.hostname, address.port
        self._model, self._timeout = model, timeout

    def chat(self, messages: Sequence[dict[str, str]], max_tokens: int, **options: Any) -> Reply:
        """The answer to a conversation. ``options`` go into the request as they are (``temperature=0``)."""
        return self._ask("/v1/chat/completions", {"messages": list(messages), "max_tokens": max_tokens, **options})

    def complete(self, prompt: str | Sequence[int], max_tokens: int, **options: Any) -> Reply:
        """What follows ``prompt``, a text or token ids."""
        body = prompt if isinstance(prompt, str) else list(prompt)
        return self._ask("/v1/completions", {"prompt": body, "max_tokens": max_tokens, **options})

    def get(self, path: str) -> Any:
        """The JSON a path answers with."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("GET", path)
            return json.loads(_checked(connection.getresponse(), path).read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ProgramError(f"{path}: the server does not answer: {error}") from error
        finally:
            connection.close()

    def _ask(self, path: str, body: dict[str, Any]) -> Reply:
        body = {"model": self._model, "stream": True, "stream_options": {"include_usage": True}, **body}
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        text: list[str] = []
        usage: dict[str, Any] | None = None
        first = last = 0.0
        try:
            sent = time.perf_counter()
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            for event in _events(_checked(connection.getresponse(), path)):
                now = time.perf_counter()
                if "error" in event:
                    raise ProgramError(f"{path}: the server broke off: {event['error']}")
                usage = event.get("usage") or usage
                for choice in event.get("choices", []):
                    delta = choice.get("delta") or {}
                    piece = choice.get("text", delta.get("content"))
                    if piece is None or (not piece and "role" in delta):  # says who speaks, not yet what
                        continue
                    first, last = first or now, now
                    text.append(piece)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ProgramError(f"{path}: the connection broke: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if not text or usage is None:
            raise ProgramError(f"{path}: the server sent {'no usage' if text else 'no answer'}")
        return Reply(
            "".join(text), int(usage["prompt_tokens"]), int(usage["completion_tokens"]), len(text), sent, first, last
        )


class Load(NamedTuple):
    """Requests under one concurrency, in the order they were sent."""

    replies: list[Reply]

    @property
    def seconds(self) -> float:
        return max(reply.last for reply in self.replies) - min(reply.sent for reply in self.replies)

    @property
    def output_rate(self) -> float:
        """Output tokens per second."""
        return sum(reply.output_tokens for reply in self.replies) / self.seconds

    def summary(self) -> dict[str, float]:
        """Milliseconds of TTFT and TPOT at the median and the 99th percentile; output tokens per second.

        Without TPOT where one of the replies does not show it.
        """
        pieces = sum(reply.pieces for reply in self.replies) / sum(reply.output_tokens for reply in self.replies)
        found: dict[str, float] = {
            "requests": len(self.replies),
            "output_tokens_per_s": self.output_rate,
            "pieces_per_token": pieces,
        }
        tpots = [reply.tpot for reply in self.replies]
        shown = {
            "ttft": [reply.ttft for reply in self.replies],
            "tpot": [value for value in tpots if value is not None],
        }
        for name, values in shown.items():
            if len(values) == len(self.replies):
                found |= {f"{name}_p{share}_ms": 1000 * percentile(values, share) for share in (50, 99)}
        return found


def measure(ask: Callable[[int], Reply], requests: int, concurrency: int) -> Load:
    """Send ``requests`` requests, ``ask(number)`` each, never more than ``concurrency`` at once.

    The first failure ends it: an answer that is missing must not make the others look fast.
    """
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            replies = list(pool.map(ask, range(requests)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Load(replies)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` percent of ``values`` do not exceed (nearest rank)."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def _checked(response: http.client.HTTPResponse, path: str) -> http.client.HTTPResponse:
    if response.status != http.client.OK:
        said = response.read(2000).decode(errors="replace")
        raise ProgramError(f"{path}: the server refused with status {response.status}: {said}")
    return response


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event up to ``[DONE]``. A stream that ends without it broke: ValueError."""
    for raw in response:
        line = raw.decode().strip()
        if line == "data: [DONE]":
            return
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))
    raise ValueError("the stream ended before the answer was complete")
