"""Which of a site's mirrors answer, and which one is used: the first in the site's order that does."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, get_args
from urllib.parse import urlsplit

MirrorKind = Literal["registry", "pip", "apt", "conda", "huggingface", "modelscope"]
MIRROR_KINDS: tuple[MirrorKind, ...] = get_args(MirrorKind)

PROBE_TIMEOUT_S = 3.0
"""Seconds that all mirrors get to answer; they are asked at once."""


@dataclass(frozen=True)
class MirrorAnswer:
    """What came of asking one mirror.

    Attributes:
        kind, address: as the site's file has them.
        latency_s: seconds until its answer began; None: it is dead.
        problem: why it is dead, for people; empty where it answers.
    """

    kind: MirrorKind
    address: str
    latency_s: float | None
    problem: str = ""


def probe_mirrors(
    mirrors: Mapping[MirrorKind, Sequence[str]], timeout_s: float = PROBE_TIMEOUT_S
) -> list[MirrorAnswer]:
    """Ask every mirror at once. The answers are in the order of ``mirrors``, and there after ``timeout_s`` seconds."""
    asked = [(kind, address) for kind, addresses in mirrors.items() for address in addresses]
    answers = [MirrorAnswer(kind, address, None, f"no answer within {timeout_s:g} s") for kind, address in asked]

    def ask(position: int) -> None:
        answers[position] = _ask(*asked[position], timeout_s)

    # Daemons, for name resolution has no time limit of its own.
    threads = [threading.Thread(target=ask, args=(position,), daemon=True) for position in range(len(asked))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(answers)


def probe_address(kind: MirrorKind, address: str) -> str:
    """The URL to ask a mirror with: one that every server of its kind has."""
    if kind == "registry":
        scheme = "" if "://" in address else ("http://" if is_loopback(address) else "https://")
        parts = urlsplit(scheme + address)
        return f"{parts.scheme}://{parts.netloc}/v2/"
    return address.rstrip("/") + ("/debian/" if kind == "apt" else "/")


def is_loopback(host: str) -> bool:
    """Is ``host[:port][/path]`` loopback? Registries there speak plain HTTP, and no proxy leads there."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _ask(kind: MirrorKind, address: str, timeout_s: float) -> MirrorAnswer:
    url = probe_address(kind, address)
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(url).netloc) else []
    started = time.monotonic()
    try:
        with urllib.request.build_opener(*proxies).open(url, timeout=timeout_s):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        # Who asks for a password, or shows no listing, is there.
        if error.code == 404 or error.code >= 500:
            return MirrorAnswer(kind, address, None, f"HTTP {error.code}")
    except urllib.error.URLError as error:
        return MirrorAnswer(kind, address, None, _words(error.reason))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return MirrorAnswer(kind, address, None, _words(error))
    return MirrorAnswer(kind, address, time.monotonic() - started)


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, socket.gaierror):
        return "the host name is unknown here"
    return (reason.strerror or str(reason)).lower() if isinstance(reason, OSError) else str(reason)
