"""From a name to a folder that jobs find: listed, made room for, downloaded from a hub that gives it, published."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple, get_args

from harness.runtime.errors import DataError
from harness.runtime.hub import huggingface, modelscope
from harness.runtime.hub.files import Digest, HubFile, Listing, Repository, chosen
from harness.runtime.hub.store import Store
from harness.runtime.hub.transfer import Moved, Say, Source, StoppedError, Transfer
from harness.runtime.hub.web import HubError, NotThereError, RefusedError, TroubleError
from harness.runtime.retry import DEFAULT_POLICY, RetryPolicy

Protocol = Literal["huggingface", "modelscope"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
_MODULES: dict[Protocol, ModuleType] = {"huggingface": huggingface, "modelscope": modelscope}

FILES_AT_ONCE = 4
"""Connections: content servers limit each of them, and a few together fill most lines."""
_SPARE_BYTES = 64_000_000
"""Room that a fetch leaves on the disk."""


class Hub(NamedTuple):
    """A server and what it speaks."""

    protocol: Protocol
    endpoint: str
    token: str = ""


class Fetched(NamedTuple):
    """What came of it. ``bytes``: those that came over the network or were left by an earlier try."""

    folder: Path
    commit: str
    hub: Hub
    files: int
    bytes: int


class Watcher(NamedTuple):
    """Who is told: ``say`` of lines; ``total`` of the bytes to come; ``moved`` of bytes that came."""

    say: Say
    total: Callable[[int], None] = lambda _: None
    moved: Moved = lambda _: None


def hubs_in_order(
    mirrors: Mapping[Protocol, Sequence[str]], environment: Mapping[str, str], only: Protocol | None = None
) -> list[Hub]:
    """The hubs to be asked: the site's mirrors of each protocol, then the person's own hub or the public one.

    A protocol that the site has mirrors of comes first.
    """
    wanted: list[Protocol] = [only] if only else sorted(PROTOCOLS, key=lambda protocol: not mirrors.get(protocol))
    hubs = []
    for protocol in wanted:
        module = _MODULES[protocol]
        own = environment.get(module.ENDPOINT_VARIABLE) or module.PUBLIC
        addresses = [address.rstrip("/") for address in (*mirrors.get(protocol, ()), own)]
        token = environment.get(module.TOKEN_VARIABLE, "")
        hubs += [Hub(protocol, address, token) for address in dict.fromkeys(addresses)]
    return hubs


def fetch(
    hubs: Sequence[Hub],
    wanted: Repository,
    root: Path,
    folder: str,
    watcher: Watcher,
    policy: RetryPolicy = DEFAULT_POLICY,
    *,
    may_publish: Callable[[], None] = lambda: None,
) -> Fetched:
    """Bring a repository to ``folder`` below ``root``. What is there already is not fetched again.

    Mirrors of one protocol share a list of files, pinned to a commit; where none of them gives everything, the next
    protocol's hubs are asked, and files that came already are kept where their checksum is the same.

    Args:
        may_publish: called before others are shown what came; raises where they must not be.

    Raises:
        HubError: no hub gave it. DataError: no room, no permission, or other bytes than listed.
    """
    refusals: list[HubError] = []
    for protocol in dict.fromkeys(hub.protocol for hub in hubs):
        alike = [hub for hub in hubs if hub.protocol == protocol]
        listed = alike[0]
        try:
            listed, listing = _list(alike, wanted, watcher.say, policy)
            sources = alike[alike.index(listed) :]
            store = Store(root, wanted.kind, wanted.name)
            with store.exclusive():
                digests, came = _bring(sources, wanted, listing, store, watcher, policy)
                there = (wanted.modelscope_name or wanted.name) if protocol == "modelscope" else ""
                may_publish()
                published = store.publish(listing.commit, listing.branch, digests, folder, there)
            return Fetched(published, listing.commit, listed, len(listing.files), came)
        except HubError as error:
            refusals.append(_with_advice(listed, wanted, error))
            watcher.say(f"{wanted.name}: {error}")
    raise _none_gave(wanted, refusals)


def _list(hubs: Sequence[Hub], wanted: Repository, say: Say, policy: RetryPolicy) -> tuple[Hub, Listing]:
    refusals: list[HubError] = []
    for hub in hubs:
        try:
            found = _ask(hub, wanted, say, policy)
        except HubError as error:
            say(f"{wanted.name}: {error}" + ("; trying the next" if hub != hubs[-1] else ""))
            refusals.append(error)
            continue
        files = chosen(found.files, wanted.ignore, hub.endpoint)
        if not files:
            raise NotThereError(hub.endpoint.partition("://")[2], f"{wanted.name} holds no file")
        return hub, found._replace(files=files)
    # The most telling one: a model that is gated somewhere is not merely unknown.
    raise next((e for e in refusals if isinstance(e, RefusedError)), refusals[-1])


def _ask(hub: Hub, wanted: Repository, say: Say, policy: RetryPolicy) -> Listing:
    """A hub's list of files; a hub in trouble is asked again."""
    failures = 0
    while True:
        try:
            module = _MODULES[hub.protocol]
            listing: Listing = module.list_files(hub.endpoint, wanted, timeout_s=policy.stall_s, token=hub.token)
        except TroubleError as error:
            failures += 1
            if policy.gives_up(failures, error.retry_after_s):
                raise
            pause_s = policy.pause(failures, error.retry_after_s)
            say(f"{wanted.name}: asking again in {pause_s:.1f} s: {error}")
            time.sleep(pause_s)
        else:
            return listing


def _bring(
    hubs: Sequence[Hub], wanted: Repository, listing: Listing, store: Store, watcher: Watcher, policy: RetryPolicy
) -> tuple[dict[str, Digest], int]:
    """Fill the store; every file's checksum by its path, and the bytes that had to come."""
    # Files of the same content are one.
    lacking = list({file.digest or file.path: file for file in listing.files if not is_stored(store, file)}.values())
    make_room(store, lacking)
    watcher.say(
        f"{wanted.name}: {len(listing.files)} files, {listing.bytes / 1e6:.1f} MB, from {hubs[0].endpoint}; "
        f"to fetch: {len(lacking)}"
    )
    came = sum(file.size or 0 for file in lacking)
    watcher.total(came)
    jobs = [(file, [Source(_url(hub, wanted, listing, file.path), hub.token) for hub in hubs]) for file in lacking]
    downloaded = download_all(jobs, store, watcher, policy)
    return {file.path: file.digest or downloaded[file.path] for file in listing.files}, came


def download_all(
    wanted: Sequence[tuple[HubFile, Sequence[Source]]], store: Store, watcher: Watcher, policy: RetryPolicy
) -> dict[str, Digest]:
    """Files, each from the first source that gives it, into the store; their checksums by path.

    The first failure stops the others; their bytes stay.

    Raises:
        HubError, DataError: as :meth:`Transfer.fill`.
    """
    over = threading.Event()
    transfer = Transfer(watcher.say, watcher.moved, policy=policy, is_over=over.is_set, sleep=over.wait)

    def bring(file: HubFile, sources: Sequence[Source]) -> tuple[str, Digest]:
        part = store.part(file.digest.blob_name if file.digest else file.path.replace("/", "--"))
        try:
            digest = transfer.fill(file, sources, part)
            store.keep(part, digest)
        except FileNotFoundError:
            if file.digest is None or not is_stored(store, file):
                raise
            digest = file.digest  # another process, which no lock kept out, was faster
        return file.path, digest

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        pending = [pool.submit(bring, *one) for one in wanted]
        try:
            ended, _ = wait(pending, return_when=FIRST_EXCEPTION)
        finally:
            over.set()
            for future in pending:
                future.cancel()
    errors = [error for future in ended if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error
    return dict(future.result() for future in pending)


def _url(hub: Hub, wanted: Repository, listing: Listing, path: str) -> str:
    revision = listing.branch if hub.protocol == "modelscope" else listing.commit
    return str(_MODULES[hub.protocol].file_url(hub.endpoint, wanted, revision, path))


def is_stored(store: Store, file: HubFile) -> bool:
    """Whether its bytes are here. Only whole files have a blob's name; another size is damage that came later."""
    blob = store.blob(file.digest) if file.digest else None
    return blob is not None and blob.is_file() and file.size in (None, blob.stat().st_size)


def make_room(store: Store, lacking: Sequence[HubFile]) -> None:
    """Refuse before the first byte what will not fit.

    Raises:
        DataError: says how much is lacking.
    """
    parts = [store.part(file.digest.blob_name) for file in lacking if file.digest]
    needed = sum(file.size or 0 for file in lacking) - sum(part.stat().st_size for part in parts if part.is_file())
    free = shutil.disk_usage(store.folder).free
    if needed + _SPARE_BYTES > free:
        raise DataError(
            f"{store.root}: {store.name} needs {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free; "
            "free some, or name another root"
        )


def _with_advice(hub: Hub, wanted: Repository, error: HubError) -> HubError:
    if not isinstance(error, RefusedError):
        return error
    variable = _MODULES[hub.protocol].TOKEN_VARIABLE
    advice = f"accept the terms at {hub.endpoint}/{wanted.name} and set {variable} to your token"
    if hub.token:
        advice = f"{variable} does not open it: its account must accept the terms at {hub.endpoint}/{wanted.name}"
    return RefusedError(error.host, f"{error.what}; {advice}")


def _none_gave(wanted: Repository, refusals: Sequence[HubError]) -> HubError:
    if len(refusals) == 1:
        return refusals[0]
    said = "; ".join(dict.fromkeys(str(error) for error in refusals))
    # The most telling one: a model that is gated somewhere is not merely unknown.
    kind = next((RefusedError for error in refusals if isinstance(error, RefusedError)), HubError)
    return kind(wanted.name, said)


def parse_mirrors(text: str) -> dict[Protocol, list[str]]:
    """Mirrors written as ``huggingface=URL,modelscope=URL``, as the job script hands on those of the site.

    Raises:
        DataError: another word, or no address.
    """
    mirrors: dict[Protocol, list[str]] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, endpoint = entry.partition("=")
        protocol = next((known for known in PROTOCOLS if known == name), None)
        if protocol is None or not endpoint.startswith(("http://", "https://")):
            raise DataError(f"'{entry}' is no hub; valid: huggingface=https://… or modelscope=https://…")
        mirrors.setdefault(protocol, []).append(endpoint)
    return mirrors
