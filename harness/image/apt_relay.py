"""The site's apt mirrors for a build: a proxy on loopback that apt asks for Debian's and Ubuntu's own archives.

An image's ``sources.list`` names the public archives and stays as it is, and so do the names of apt's lists; only the
bytes come from a mirror. Where one fails, the next is asked, and the archive itself last. Which bytes are right is
apt's to say: everything is signed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from harness.image.mirror_relay import MirrorRelay, RelayHandler, served
from harness.image.process import LineCallback

# Host of an archive -> the folders at its root that mirrors have too.
ARCHIVES = {
    "deb.debian.org": ("debian", "debian-security"),
    "security.debian.org": ("debian-security",),
    "archive.ubuntu.com": ("ubuntu",),
    "security.ubuntu.com": ("ubuntu",),
}


@contextlib.contextmanager
def apt_relay(mirrors: Sequence[str], own_proxy: str | None, say: LineCallback) -> Iterator[list[str]]:
    """Lines of apt's configuration that lead to ``mirrors``, in their order, while the block runs.

    Args:
        own_proxy: what the machine's apt goes through to the archives themselves; None: nothing.
        say: called with a line where a mirror fails.
    """
    relay = MirrorRelay("apt", mirrors, _place, {"http": own_proxy} if own_proxy else None, say)

    class Handler(RelayHandler):
        relayed = relay

    with served(Handler, "apt-relay") as address:
        yield [*(f'Acquire::http::Proxy::{host} "{address}/";' for host in ARCHIVES), 'Acquire::Retries "3";']


def _place(host: str, path: str) -> str | None:
    return path if path.lstrip("/").partition("/")[0] in ARCHIVES.get(host, ()) else None
