"""Data sets that lie as files or archives on plain servers, brought to the same store as those of hubs."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from harness.holding import DataSet, alternatives
from harness.runtime.errors import DataError
from harness.runtime.hub.fetch import Watcher, download_all, is_stored, make_room
from harness.runtime.hub.files import Digest, HubFile, digest_of
from harness.runtime.hub.store import Store
from harness.runtime.hub.transfer import Source
from harness.runtime.retry import DEFAULT_POLICY, RetryPolicy


def fetch_plain(
    wanted: DataSet,
    root: Path,
    watcher: Watcher,
    policy: RetryPolicy = DEFAULT_POLICY,
    *,
    may_publish: Callable[[], None] = lambda: None,
) -> Path:
    """Download, unpack and publish a data set that is on no hub; its folder.

    Raises:
        HubError: a server did not give a file. DataError: no room, other bytes than the tutorial names, no archive.
    """
    store = Store(root, "files", wanted.key)
    with store.exclusive():
        jobs = []
        for download in wanted.downloads:
            file = HubFile(download.file, None, download.digest)
            if not is_stored(store, file):
                jobs.append((file, [Source(url) for url in download.urls]))
        make_room(store, [file for file, _ in jobs])
        watcher.say(f"{wanted.key}: {len(wanted.downloads)} files, to fetch: {len(jobs)}")
        came = download_all(jobs, store, watcher, policy)
        digests: dict[str, Digest] = {}
        for download in wanted.downloads:
            digest = download.digest or came[download.file]
            if download.unpack:
                digests |= _unpack(download.urls[0], store.blob(digest), wanted.files, store)
            else:
                digests[download.file] = digest
        may_publish()
        named = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
        commit = hashlib.sha1(named.encode(), usedforsecurity=False).hexdigest()
        return store.publish(commit, "", digests, wanted.folders[0])


def _unpack(url: str, archive: Path, files: list[str], store: Store) -> dict[str, Digest]:
    """The members of an archive that are wanted, each a file of the store; the archive itself goes."""
    names = {name for entry in files for name in alternatives(entry)}
    kept: dict[str, Digest] = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                name = PurePosixPath(member.name).name
                stream = members.extractfile(member) if member.isfile() and name in names else None
                if stream is None:
                    continue
                part = store.part(f"{archive.name}-{name}")
                with stream, part.open("wb") as target:
                    shutil.copyfileobj(stream, target, 1 << 20)
                kept[name] = digest_of(part, "sha256")
                store.keep(part, kept[name])
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked: {error}") from error
    missing = [alternatives(entry)[0] for entry in files if not kept.keys() & set(alternatives(entry))]
    if missing:
        raise DataError(f"{url}: the archive holds no {missing[0]}")
    with contextlib.suppress(FileNotFoundError):
        archive.unlink()
    return kept
