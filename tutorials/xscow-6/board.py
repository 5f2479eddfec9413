"""LLaMA-Factory's web board, behind a token, on a port of this node: what `harness open board` starts.

LLaMA-Factory's own command (llamafactory-cli webui) opens the same pages to everybody who finds the port. Here a
request needs the token: as ``?token=`` in the first address, which leaves a cookie, or as ``Authorization: Bearer``.
"""

from __future__ import annotations

import argparse
import hmac
import os
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from dataset import load_identity, register

# Nothing is sent or fetched; the board's pages come from the image alone.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SHARE": "0", "GRADIO_NUM_PORTS": "1", "HF_HUB_OFFLINE": "1"}

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def guarded(app: App, token: str, port: int) -> App:
    """``app`` for those who know the token; everybody else gets 401."""
    name = f"board_token_{port}"  # browsers give cookies of one host to all its ports, and two tunnels end at localhost

    async def gate(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)  # start and end of the server
            return
        if scope["type"] != "http":  # the board's pages use nothing else
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["path"] == "/health":
            await _answer(send, HTTPStatus.OK, [], b"ok\n")
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        cookie = SimpleCookie(headers.get("cookie", "")).get(name)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if _same(asked, token):
            # The address without the token: it stays out of the browser's history.
            cookie_header = f"{name}={token}; HttpOnly; SameSite=Strict; Path=/"
            await _answer(send, HTTPStatus.SEE_OTHER, [("location", scope["path"]), ("set-cookie", cookie_header)])
        elif _same(bearer, token) or (cookie is not None and _same(cookie.value, token)):
            await app(scope, receive, send)
        else:
            await _answer(send, HTTPStatus.UNAUTHORIZED, [], b"This board needs its token: harness open --list\n")

    return gate


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


async def _answer(send: Any, status: HTTPStatus, headers: list[tuple[str, str]], body: bytes = b"") -> None:
    named = [*headers, ("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
    raw = [(name.encode(), value.encode("latin-1")) for name, value in named]
    await send({"type": "http.response.start", "status": int(status), "headers": raw})
    await send({"type": "http.response.body", "body": body})


def make_board() -> Any:
    """LLaMA-Factory's pages, each input with the name that LLaMA-Factory knows it by as its id in the page."""
    from llamafactory.webui.interface import create_ui

    pages = create_ui()
    engine = next(
        owner
        for function in pages.fns.values()
        if hasattr(owner := getattr(getattr(function, "fn", None), "__self__", None), "manager")
    )
    for element in engine.manager.get_elem_list():
        element.elem_id = element.elem_id or engine.manager.get_id_by_elem(element)
    return pages


def offer_data(folder: Path) -> None:
    """The board looks for data sets in ``data/`` below the folder it was started in: there is one to begin with."""
    if not (folder / "data" / "dataset_info.json").exists():
        register(load_identity(""), folder / "data")


def serve(port: int, token: str) -> None:
    import gradio
    import uvicorn
    from fastapi import FastAPI

    app = gradio.mount_gradio_app(FastAPI(docs_url=None, redoc_url=None, openapi_url=None), make_board().queue(), "/")
    # No access log: it would hold the address with the token.
    uvicorn.run(guarded(app, token, port), host="0.0.0.0", port=port, access_log=False, log_level="warning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="to listen on")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="for data sets and what is trained")
    args = parser.parse_args()
    # Taken out: trainings that the board starts do not need it.
    token = os.environ.pop("BOARD_TOKEN", "")
    if not token:
        parser.error("BOARD_TOKEN is not set; start this with: harness open board TUTORIAL")
    os.environ.update(QUIET)
    os.chdir(args.folder)
    offer_data(args.folder)
    serve(args.port, token)


if __name__ == "__main__":
    main()
