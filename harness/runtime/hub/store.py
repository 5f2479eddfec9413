"""Where files lie below a site's root: once, by their checksum, under the names that several readers look for.

    <root>/hub/models--OWNER--NAME/blobs/<checksum>            the bytes, read-only; <checksum>.incomplete: not all yet
    <root>/hub/models--OWNER--NAME/snapshots/<commit>/<path>   links to them: what the hub listed at that commit
    <root>/hub/models--OWNER--NAME/refs/main                   the commit that a branch led to
    <root>/modelscope/models/OWNER--NAME/snapshots/master      a link to that snapshot
    <root>/OWNER/NAME                                          a link to that snapshot: what tutorials look for

The first three are the cache of Hugging Face's own client (``HF_HUB_CACHE=<root>/hub``), the fourth that of
ModelScope's (``MODELSCOPE_CACHE=<root>/modelscope``): both find the model there without a network. All links are
relative, so the root may be bound into an image under another name. The last link is what publishes: it is flipped in
one move, when everything is there and checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.runtime.errors import DataError
from harness.runtime.files import replaced_whole
from harness.runtime.hub.files import Digest, digest_of

HUB, MODELSCOPE = "hub", "modelscope"
_READ_ONLY = 0o444


class Wrong(NamedTuple):
    """A file that is not what it was when it was published."""

    path: Path
    problem: str


class Store:
    """What one repository has below a root. ``kind``: model, dataset, or files (of no hub)."""

    def __init__(self, root: Path, kind: str, name: str) -> None:
        self.root, self.kind, self.name = root, kind, name
        self.folder = root / HUB / "--".join([f"{kind}s", *name.split("/")])

    def blob(self, digest: Digest) -> Path:
        return self.folder / "blobs" / digest.blob_name

    def part(self, name: str) -> Path:
        """Where a file's bytes gather until they are all there; of the same name for every process."""
        return self.folder / "blobs" / f"{name}.incomplete"

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes of this file system out, where it knows locks; without them, checksums must do."""
        shared_folder(self.folder / "blobs", self.root)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o664)
        try:
            with contextlib.suppress(PermissionError):
                os.fchmod(descriptor, 0o644 | (self.folder.stat().st_mode & stat.S_IWGRP))
            with contextlib.suppress(OSError):  # Lustre and NFS may be mounted without locks
                fcntl.lockf(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def keep(self, part: Path, digest: Digest) -> Path:
        """Publish a whole file under its checksum."""
        blob = self.blob(digest)
        with contextlib.suppress(PermissionError):  # begun by somebody else of the group, who owns it
            part.chmod(_READ_ONLY)
        part.replace(blob)
        return blob

    def publish(self, commit: str, branch: str, files: Mapping[str, Digest], folder: str, modelscope: str = "") -> Path:
        """Let ``folder`` below the root be these files; the folder.

        Args:
            branch: that led to the commit; empty where there is none.
            modelscope: owner/name there, where its client should find the files too.

        Raises:
            DataError: something that is not ours is in the way.
        """
        snapshot = self.folder / "snapshots" / commit
        for path, digest in files.items():
            link = snapshot / path
            shared_folder(link.parent, self.root)
            _flip(link, self.blob(digest))
        if branch and self.kind != "files":
            reference = self.folder / "refs" / branch
            shared_folder(reference.parent, self.root)
            with replaced_whole(reference) as stream:
                stream.write(commit.encode())
        if modelscope:
            there = self.root / MODELSCOPE / f"{self.kind}s" / modelscope.replace("/", "--") / "snapshots" / branch
            shared_folder(there.parent, self.root)
            _flip(there, snapshot)
        published = self.root / folder
        shared_folder(published.parent, self.root)
        _flip(published, snapshot)
        return published

    def verify(self, folder: Path) -> list[Wrong]:
        """Read every file of a published folder again; those that are not what they were."""
        wrong = []
        for link in sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file()):
            digest = Digest.of_blob_name(link.readlink().name) if link.is_symlink() else None
            if digest is None:
                wrong.append(Wrong(link, "is not from the hub: somebody put it there"))
            elif not link.is_file():
                wrong.append(Wrong(link, "is missing: its link leads nowhere"))
            elif (found := digest_of(link, digest.algorithm)) != digest:
                wrong.append(Wrong(link, f"is damaged: its content is {found}, the hub's was {digest}"))
        return wrong

    def drop(self, wrong: Wrong) -> None:
        """Remove a damaged file, so that it is fetched again."""
        blob = self.folder / "blobs" / wrong.path.readlink().name
        blob.unlink(missing_ok=True)

    @staticmethod
    def is_ours(folder: Path) -> bool:
        """Whether a folder was published by a store."""
        return folder.is_symlink() and folder.readlink().parent.name == "snapshots"


def of_folder(root: Path, folder: Path) -> Store | None:
    """The store that published a folder below ``root``; None: somebody put it there."""
    if not Store.is_ours(folder):
        return None
    kind, *name = folder.resolve().parent.parent.name.split("--")
    return Store(root, kind.removesuffix("s"), "/".join(name))


def shared_folder(folder: Path, root: Path) -> None:
    """Make a folder below ``root``, open to those to whom the root is: its group and sticky group, never to everybody.

    Raises:
        DataError: the root cannot be written.
    """
    if folder.is_dir():
        return
    if folder != root and root in folder.parents:
        shared_folder(folder.parent, root)
    try:
        folder.mkdir()
    except FileExistsError:
        return
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{folder}: {reason}; name a folder that you may write to") from None
    above = stat.S_IMODE(folder.parent.stat().st_mode)
    folder.chmod(0o755 | (above & (stat.S_IWGRP | stat.S_ISGID)))


def _flip(link: Path, target: Path) -> None:
    """Let ``link`` lead to ``target``, in one move, by a relative path."""
    if link.exists() and not link.is_symlink():
        raise DataError(f"{link}: is there, and was not made by this command; move it away first")
    way = os.path.relpath(target, link.parent)
    if link.is_symlink() and str(link.readlink()) == way:
        return
    aside = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    aside.symlink_to(way)
    aside.replace(link)
