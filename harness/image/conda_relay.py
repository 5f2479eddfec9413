"""The site's conda mirrors for a build: a proxy on loopback that conda and mamba ask for the public channels.

conda writes the address of every package that it installs into the environment (``conda-meta/``), so another channel
address would stay in the image. Here conda asks ``conda.anaconda.org`` and ``repo.anaconda.com`` as always, through a
proxy for these two hosts alone, named in a configuration file that is lent to the build. They speak TLS, so the proxy
has a certificate for the two names, signed by an authority that is made for one build and trusted by conda in that
build alone; its key never leaves this machine. Which bytes are right is conda's to say: channels list digests.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path

from harness.image.mirror_relay import MirrorRelay, RelayHandler, served
from harness.image.process import LineCallback, run_command

CHANNELS, DEFAULTS = "conda.anaconda.org", "repo.anaconda.com"
CONDARC, AUTHORITIES = "condarc", "conda-ca.pem"
OPENSSL_SECONDS = 30.0

_OPENSSL_CONFIG = f"""\
[req]
distinguished_name = name
prompt = no
[name]
CN = a build's mirrors of conda
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:{CHANNELS}, DNS:{DEFAULTS}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@contextlib.contextmanager
def conda_relay(
    mirrors: Sequence[str], folder: Path, inside: str, authorities: Path | None, say: LineCallback
) -> Iterator[None]:
    """Write conda's configuration that leads to ``mirrors``, in their order, while the block runs; none for no mirrors.

    Args:
        mirrors: roots that have ``pkgs/`` (the default channels) and ``cloud/`` (all others).
        folder: gets :data:`CONDARC` and :data:`AUTHORITIES`.
        inside: where the build sees that folder.
        authorities: a file of those that this machine trusts.
        say: called with a line where a mirror fails.

    Raises:
        CommandError, MissingToolError: openssl failed, or is not there.
    """
    if not mirrors:
        yield
        return
    relay = MirrorRelay("conda", mirrors, _place, None, say)
    with tempfile.TemporaryDirectory(prefix="conda-", dir=folder.parent) as private:
        context, authority = _certificates(Path(private))
        trusted = authorities.read_text(encoding="utf-8") if authorities else ""
        (folder / AUTHORITIES).write_text(f"{trusted.rstrip()}\n{authority}".lstrip(), encoding="utf-8")

        class Handler(_TlsHandler):
            relayed = relay
            tls = context

        with served(Handler, "conda-relay") as address:
            lines = ["proxy_servers:", *(f"  https://{host}: {address}" for host in (CHANNELS, DEFAULTS))]
            lines.append(f"ssl_verify: {inside}/{AUTHORITIES}")
            (folder / CONDARC).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            yield


class _TlsHandler(RelayHandler):
    """Takes CONNECT for the two hosts, speaks TLS as them, and relays what is asked for inside."""

    tls: ssl.SSLContext
    host = ""

    def do_CONNECT(self) -> None:  # noqa: N802
        host = self.path.rpartition(":")[0]
        if host not in (CHANNELS, DEFAULTS):
            self.send_error(HTTPStatus.FORBIDDEN, "this proxy is for conda's channels")
            return
        self.send_response(HTTPStatus.OK, "Connection established")
        self.end_headers()
        try:
            self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        except (ssl.SSLError, OSError):  # the client does not trust us, and says so itself
            self.close_connection = True
            return
        self.host = host
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb")
        self.close_connection = False

    def url(self) -> str:
        return f"https://{self.host}{self.path}" if self.host else self.path

    def handle(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # TLS ends connections in ways of its own
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        if self.host:  # the server closes the socket it gave us, which is not this one any more
            self.connection.close()


def _place(host: str, path: str) -> str | None:
    if host == CHANNELS:
        return f"/cloud{path}"
    return path if host == DEFAULTS and path.startswith("/pkgs/") else None


def _certificates(folder: Path) -> tuple[ssl.SSLContext, str]:
    """What the proxy shows, and the certificate of the authority that signed it."""
    (folder / "openssl.cnf").write_text(_OPENSSL_CONFIG, encoding="utf-8")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", "openssl.cnf"]
    authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "openssl.cnf"]
    for command in (
        ["req", "-x509", *key, "-days", "2", "-extensions", "authority", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", "-new", *key, "-subj", f"/CN={CHANNELS}", "-keyout", "server.key", "-out", "server.csr"],
        ["x509", "-req", "-in", "server.csr", *authority, "-extensions", "server", "-days", "2", "-out", "server.pem"],
    ):
        run_command(
            ["openssl", *command],
            cwd=folder,
            umask=0o077,
            timeout_s=OPENSSL_SECONDS,
            what="making a certificate for the conda mirrors",
            fix="ask the administrator for openssl",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context, (folder / "ca.pem").read_text(encoding="utf-8")
