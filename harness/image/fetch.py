"""Getting the parts of an image from registries that fail: ask again, go on where it broke off, then the next mirror.

Everything is asked for by its digest, so whatever a mirror gives is either right or refused, and a download that began
at one mirror may end at another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.image.blobs import BlobStore, PartialBlob
from harness.image.process import LineCallback
from harness.image.reference import ImageReference
from harness.image.registry import (
    MANIFEST_TYPES,
    DigestMismatchError,
    ImageNotFoundError,
    RegistryClient,
    RegistryError,
    RegistryTroubleError,
    RegistryUnauthorizedError,
    RegistryUnreachableError,
)
from harness.runtime.retry import DEFAULT_POLICY, RetryPolicy

REPORT_S = 5.0
"""Seconds between two lines about one download."""

_CHUNK_BYTES = 1 << 18

Sleep = Callable[[float], None]


class Fetcher:
    """Fetches what belongs to one image into a store; any number of threads may share it.

    Args:
        sources: where the image is, in the order to be asked.
        say: called with each line of what is tried.
    """

    def __init__(
        self,
        sources: Sequence[ImageReference],
        store: BlobStore,
        say: LineCallback,
        policy: RetryPolicy = DEFAULT_POLICY,
        sleep: Sleep = time.sleep,
    ) -> None:
        self.store = store
        self._clients = [RegistryClient(source) for source in sources]
        self._say = say
        self._policy = policy
        self._sleep = sleep
        self._given_up: dict[RegistryClient, RegistryError] = {}
        self._lock = threading.Lock()

    def manifest(self, digest: str) -> Path:
        """The file of a manifest or an index. Errors are those of :meth:`blob`."""
        return self._fetch("manifests", digest)

    def blob(self, digest: str) -> Path:
        """The file of a layer or a configuration: from the store, else from the first source that gives it.

        Raises:
            RegistryError: no source gave it; says what each of them did. Its class is that of the last refusal.
            HarnessError: it cannot be stored.
        """
        return self._fetch("blobs", digest)

    def _fetch(self, kind: str, digest: str) -> Path:
        if (found := self.store.find(digest)) is not None:
            return found
        waiting = f"{digest[:19]}: waiting for another builder that fetches it"
        with self.store.filling(digest, lambda: self._say(waiting)) as part:
            if (found := self.store.find(digest)) is not None:  # somebody else's, while we waited
                return found
            deadline = time.monotonic() + self._policy.total_s
            refusals: list[RegistryError] = []
            for client in self._clients:
                if client in self._given_up:
                    refusals.append(self._given_up[client])
                    continue
                try:
                    self._fetch_from(client, f"{kind}/{digest}", digest, part, deadline)
                except RegistryError as error:
                    refusals.append(error)
                    self._give_up(client, error)
                    continue
                return part.keep()
        raise _refused(digest, refusals)

    def _give_up(self, client: RegistryClient, error: RegistryError) -> None:
        """Go without this source from now on: the other parts of the image need not try its patience again."""
        with self._lock:
            self._given_up[client] = error
            others = any(c not in self._given_up for c in self._clients)
        self._say(f"{error.where}: giving up: {error.what}" + ("; trying the next mirror" if others else ""))

    def _fetch_from(self, client: RegistryClient, path: str, digest: str, part: PartialBlob, deadline: float) -> None:
        """Fill ``part`` from one source, which is asked again as long as that helps."""
        failures, begun_elsewhere = 0, part.size > 0
        host = client.image.registry
        while True:
            before = part.size
            try:
                self._download(client, path, digest, part)
            except (ImageNotFoundError, RegistryUnauthorizedError):
                raise
            except RegistryError as error:
                failures = 1 if part.size > before else failures + 1
                retry_after_s = error.retry_after_s if isinstance(error, RegistryTroubleError) else None
                pause_s = self._policy.pause(failures, retry_after_s)
                is_late = time.monotonic() + pause_s > deadline
                if self._policy.gives_up(failures, retry_after_s) or is_late:
                    raise
                self._say(f"{host}: asking again in {pause_s:.1f} s: {error.what}")
                self._sleep(pause_s)
                continue
            if part.digest == digest:
                return
            got = part.digest
            part.restart()
            if not begun_elsewhere:
                raise DigestMismatchError(host, client.image.name, digest, got)
            begun_elsewhere = False  # whose bytes were wrong? All of them from here, then.

    def _download(self, client: RegistryClient, path: str, digest: str, part: PartialBlob) -> None:
        """One request, for the bytes that ``part`` lacks.

        Raises:
            RegistryError: refused, or broken off.
        """
        host, name = client.image.registry, client.image.name
        accept = MANIFEST_TYPES if path.startswith("manifests/") else ()
        with client.open(path, timeout_s=self._policy.stall_s, accept=accept, offset=part.size) as response:
            if part.size and response.status != 206:
                part.restart()
            expected = part.size + int(response.headers.get("Content-Length") or 0)
            if expected > _CHUNK_BYTES:
                self._say(f"{host}: fetching {expected / 1e6:.0f} MB of {name}, {digest[:19]}")
            reported = time.monotonic()
            while chunk := response.read(_CHUNK_BYTES):
                part.write(chunk)
                if time.monotonic() - reported > REPORT_S:
                    reported = time.monotonic()
                    self._say(f"{host}: {part.size / 1e6:.0f} of {expected / 1e6:.0f} MB of {digest[:19]}")
        # http.client takes the end of the connection for the end of the file.
        if part.size < expected:
            raise RegistryTroubleError(
                f"broke off after {part.size} of {expected} bytes of {name}", where=host, fix="try again later"
            )


def _refused(digest: str, refusals: Sequence[RegistryError]) -> RegistryError:
    said = ", ".join(f"{error.where}: {error.what}" for error in refusals)
    fix = refusals[-1].fix if len(refusals) == 1 else "mend the network, or name another mirror in the site's file"
    if all(isinstance(error, ImageNotFoundError) for error in refusals):
        return ImageNotFoundError(said, where=digest[:19], fix=fix)
    return RegistryUnreachableError(f"no registry gave it ({said})", where=digest[:19], fix=fix)
