"""One request, and what servers say when they refuse. A token goes to its hub, never to where that redirects."""

from __future__ import annotations

import email.utils
import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from ipaddress import ip_address
from typing import IO, Any, cast
from urllib.parse import urlsplit

from harness.runtime.errors import ProgramError

_AGENT = {"User-Agent": "tutorial-harness"}


class HubError(ProgramError):
    """A hub did not give what it was asked for. ``host`` and ``what`` make up the message."""

    def __init__(self, host: str, what: str) -> None:
        super().__init__(f"{host}: {what}")
        self.host = host
        self.what = what


class NotThereError(HubError):
    """The hub answers, and has no such thing."""


class RefusedError(HubError):
    """The hub has it, and does not give it to us: a token is missing, or the terms were not accepted."""


class TroubleError(HubError):
    """The hub cannot at the moment; asking again may help. ``retry_after_s``: seconds that it wants us to wait."""

    def __init__(self, host: str, what: str, retry_after_s: float | None = None) -> None:
        super().__init__(host, what)
        self.retry_after_s = retry_after_s


class UnreachableError(HubError):
    """Nobody is there."""


class WrongContentError(HubError):
    """The hub gave other bytes than it lists."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; a token stays with the host it was meant for. Range goes along."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if following is not None and token and _origin(newurl) == _origin(req.full_url):
            following.add_unredirected_header("Authorization", token)
        return following


def open_url(
    url: str, *, timeout_s: float, token: str = "", headers: Mapping[str, str] | None = None
) -> http.client.HTTPResponse:
    """The answer to GET, redirects followed; 2xx only.

    Args:
        timeout_s: seconds of silence after which the server counts as gone.
        token: sent where nobody else can read it: over TLS, or on this machine.

    Raises:
        HubError: refused, or nobody answers; its class says whether asking again may help.
    """
    parts = urlsplit(url)
    host = parts.netloc
    request = urllib.request.Request(url, headers={**_AGENT, **(headers or {})})
    if token and (parts.scheme == "https" or is_loopback(parts.hostname or "")):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    handlers: list[urllib.request.BaseHandler] = [_Redirects()]
    if is_loopback(parts.hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        answer = urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)
        return cast(http.client.HTTPResponse, answer)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(host, error) from None
    except urllib.error.URLError as error:
        raise _silence(host, error.reason) from None
    except (http.client.HTTPException, OSError) as error:
        raise _silence(host, error) from None


def read_json(url: str, *, timeout_s: float, token: str = "") -> tuple[Any, http.client.HTTPMessage]:
    """A JSON answer and its headers.

    Raises:
        HubError: as :func:`open_url`; TroubleError: it broke off, or is no JSON.
    """
    host = urlsplit(url).netloc
    try:
        with open_url(url, timeout_s=timeout_s, token=token) as response:
            return json.loads(response.read()), response.headers
    except ValueError:
        raise TroubleError(host, f"its answer to {urlsplit(url).path} is no JSON; is this a hub?") from None
    except (http.client.HTTPException, OSError) as error:
        raise TroubleError(host, f"broke off: {words(error)}") from None


def is_loopback(name: str) -> bool:
    """Is this host our own machine? No proxy leads there, and nobody listens in."""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def words(reason: object) -> str:
    """Why a connection failed, for people."""
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, socket.gaierror):
        return "the host name is unknown here"
    return (reason.strerror or str(reason)).lower() if isinstance(reason, OSError) else str(reason)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _refusal(host: str, error: urllib.error.HTTPError) -> HubError:
    code = error.headers.get("X-Error-Code", "")
    # Hugging Face answers 401 for a name that does not exist, lest it tell of private ones.
    if error.code == 404 or code in ("RepoNotFound", "RevisionNotFound", "EntryNotFound"):
        nouns = {"RevisionNotFound": "revision", "EntryNotFound": "file"}
        return NotThereError(host, f"there is no such {nouns.get(code, 'repository or file')} (HTTP {error.code})")
    if error.code in (401, 403):
        gated = "gated: its terms must be accepted first" if code == "GatedRepo" else "not open to everybody"
        return RefusedError(host, f"{gated} (HTTP {error.code})")
    if error.code == 416:
        return TroubleError(host, "has fewer bytes than we have (HTTP 416)")
    if error.code == 429 or error.code >= 500:
        return TroubleError(host, f"HTTP {error.code}", _retry_after(error.headers.get("Retry-After")))
    return HubError(host, f"HTTP {error.code}")


def _silence(host: str, reason: object) -> HubError:
    if isinstance(reason, (ConnectionRefusedError, socket.gaierror)) or "unreachable" in str(reason).lower():
        return UnreachableError(host, words(reason))
    return TroubleError(host, words(reason))


def _retry_after(text: str | None) -> float | None:
    """Seconds; the header holds those or a date."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
