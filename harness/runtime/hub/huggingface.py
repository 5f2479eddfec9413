"""The protocol of Hugging Face's hub and of its mirrors: https://huggingface.co/docs/hub/api."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from harness.runtime.hub.files import Digest, HubFile, Listing, Repository
from harness.runtime.hub.web import TroubleError, read_json

TOKEN_VARIABLE = "HF_TOKEN"
ENDPOINT_VARIABLE = "HF_ENDPOINT"
PUBLIC = "https://huggingface.co"
_BRANCH = "main"
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


def list_files(endpoint: str, wanted: Repository, *, timeout_s: float, token: str) -> Listing:
    """What the repository holds now: size and checksum of every file.

    Large files are named by their SHA-256 (git-lfs, Xet), small ones by git's SHA-1.

    Raises:
        HubError: the hub does not say.
    """
    api = f"{endpoint}/api/{wanted.kind}s/{wanted.name}"
    branch = wanted.revision or _BRANCH
    about, _ = read_json(f"{api}/revision/{quote(branch, safe='')}", timeout_s=timeout_s, token=token)
    files: list[HubFile] = []
    try:
        commit = str(about["sha"])
        page: str | None = f"{api}/tree/{commit}?recursive=true&expand=false"
        while page:  # a thousand files a page
            entries, headers = read_json(page, timeout_s=timeout_s, token=token)
            files += [_file(entry) for entry in entries if entry["type"] == "file"]
            following = _NEXT.search(headers.get("Link", ""))
            page = following[1] if following else None
    except (KeyError, TypeError, ValueError) as error:
        raise TroubleError(endpoint.partition("://")[2], f"its list of {wanted.name} lacks {error}") from None
    return Listing(commit, branch, tuple(files))


def file_url(endpoint: str, wanted: Repository, commit: str, path: str) -> str:
    """Where a file is; the answer may lead on to another server."""
    folder = "" if wanted.kind == "model" else "datasets/"
    return f"{endpoint}/{folder}{wanted.name}/resolve/{commit}/{quote(path)}"


def _file(entry: dict[str, Any]) -> HubFile:
    large = entry.get("lfs")
    digest = f"sha256:{large['oid']}" if large else f"git-sha1:{entry['oid']}"
    return HubFile(str(entry["path"]), int(large["size"] if large else entry["size"]), Digest.parse(digest))
