"""The protocol of ModelScope, as its own client speaks it (``/api/v1``)."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import urlencode

from harness.runtime.hub.files import Digest, HubFile, Listing, Repository
from harness.runtime.hub.web import NotThereError, TroubleError, read_json

TOKEN_VARIABLE = "MODELSCOPE_API_TOKEN"
ENDPOINT_VARIABLE = "MODELSCOPE_ENDPOINT"
PUBLIC = "https://www.modelscope.cn"
_BRANCH = "master"
_PAGE = 200
_TRUNCATED_AT = 3000
"""Entries after which the list of a model's files ends without a word (modelscope_hub 0.5.1, constants.py)."""


def list_files(endpoint: str, wanted: Repository, *, timeout_s: float, token: str) -> Listing:
    """What the repository holds now: size and SHA-256 of every file.

    ModelScope names no commit of the whole, so ours is the SHA-1 of what it lists.

    Raises:
        HubError: the hub does not say.
    """
    branch, host = wanted.revision or _BRANCH, endpoint.partition("://")[2]
    entries: list[dict[str, Any]] = []
    number, is_paged = 1, wanted.kind == "dataset"
    while True:
        question = {"Revision": branch, "Recursive": "True"}
        question |= {"Root": "/", "PageNumber": str(number), "PageSize": str(_PAGE)} if is_paged else {}
        url = f"{_repository(endpoint, wanted)}/{'tree' if is_paged else 'files'}?{urlencode(question)}"
        answer, _ = read_json(url, timeout_s=timeout_s, token=token)
        if not answer.get("Success", answer.get("Code") == 200):  # a refusal may come as HTTP 200
            raise NotThereError(host, str(answer.get("Message") or "there is no such repository"))
        data = answer.get("Data") or {}
        page = data.get("Files") or []
        entries += page
        if not is_paged and len(page) >= _TRUNCATED_AT:
            raise TroubleError(host, f"lists {len(page)} files of {wanted.name}, its limit: there may be more")
        if not is_paged or len(page) < _PAGE:
            break
        number += 1
    try:
        files = tuple(sorted(_file(entry) for entry in entries if entry["Type"] == "blob"))
    except (KeyError, TypeError, ValueError) as error:
        raise TroubleError(host, f"its list of {wanted.name} lacks {error}") from None
    commit = hashlib.sha1("\n".join(f"{f.path} {f.digest}" for f in files).encode(), usedforsecurity=False)
    return Listing(commit.hexdigest(), branch, files)


def file_url(endpoint: str, wanted: Repository, branch: str, path: str) -> str:
    """Where a file is."""
    return f"{_repository(endpoint, wanted)}?{urlencode({'Revision': branch, 'FilePath': path})}"


def _repository(endpoint: str, wanted: Repository) -> str:
    return f"{endpoint}/api/v1/{wanted.kind}s/{wanted.modelscope_name or wanted.name}/repo"


def _file(entry: dict[str, Any]) -> HubFile:
    checksum = entry.get("Sha256")
    digest = Digest.parse(f"sha256:{checksum}") if checksum else None
    return HubFile(str(entry["Path"]), int(entry["Size"]), digest)
