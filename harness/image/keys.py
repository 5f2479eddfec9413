"""Keys: the one that signs this person's images, and the public ones that a catalog trusts.

ed25519 in PEM files without passphrase, because a signature of that kind depends on nothing but key and content: equal
images signed twice are equal files. Keys are made and read by the ``openssl`` program; who only verifies needs none.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CommandError, UserError
from harness.files import fsync_folder, write_whole
from harness.image.process import run_command

KEY_VARIABLE = "HARNESS_SIGNING_KEY"
KEY_FILE = "signing-key.pem"
OPENSSL_SECONDS = 30.0
OPENSSL_FIX = "ask the administrator for openssl"

# SubjectPublicKeyInfo of an ed25519 key in DER is this and the 32 bytes of the key (RFC 8410, section 4).
_ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")
_PEM_LABEL = "PUBLIC KEY"


@dataclass(frozen=True)
class PublicKey:
    """A public key in a PEM file.

    Attributes:
        fingerprint: ``SHA256:…`` as ``ssh-keygen -l`` prints it and as signatures name their key.
    """

    path: Path
    fingerprint: str


@dataclass(frozen=True)
class SigningKey:
    """A private key.

    Attributes:
        public_pem: its public half, the text of a PEM file.
        fingerprint: as in :class:`PublicKey`.
    """

    path: Path
    public_pem: str
    fingerprint: str


def fingerprint_of(pem: str, where: str) -> str:
    """Fingerprint of a public ed25519 key.

    Raises:
        UserError: it is none.
    """
    lines = [line.strip() for line in pem.strip().splitlines()]
    begin, end = f"-----BEGIN {_PEM_LABEL}-----", f"-----END {_PEM_LABEL}-----"
    try:
        inner = lines[lines.index(begin) + 1 : lines.index(end)]
        der = base64.b64decode("".join(inner), validate=True)
    except ValueError:
        der = b""
    if not der.startswith(_ED25519_PREFIX) or len(der) != len(_ED25519_PREFIX) + 32:
        raise UserError("this is no public ed25519 key in PEM", where=where, fix="see: harness key")
    raw = der[len(_ED25519_PREFIX) :]
    kind = b"ssh-ed25519"  # the wire form of RFC 4253, section 6.6, that fingerprints are made of
    wire = len(kind).to_bytes(4, "big") + kind + len(raw).to_bytes(4, "big") + raw
    return "SHA256:" + base64.b64encode(hashlib.sha256(wire).digest()).decode().rstrip("=")


def read_public_key(path: Path) -> PublicKey:
    """A public key file.

    Raises:
        UserError: missing, unreadable, or no ed25519 key.
    """
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return PublicKey(path, fingerprint_of(text, str(path)))


def trusted_keys(folder: Path) -> list[PublicKey]:
    """The public keys of a catalog, by name; none where the folder is missing.

    Raises:
        UserError: a file there is no key. A broken file could hide that a key was to be trusted.
    """
    return [read_public_key(path) for path in sorted(folder.glob("*.pem"))]


def trust(public_pem: str, folder: Path, where: str) -> PublicKey:
    """Make a catalog trust a key, in a file named by its fingerprint; to distrust it again, remove that file.

    Args:
        public_pem: the key, as text.
        where: the file it is from, for errors.

    Raises:
        UserError: it is no key, or the folder is not ours to write.
    """
    fingerprint = fingerprint_of(public_pem, where)
    target = folder / (fingerprint.translate(str.maketrans(":/+", "-_.")) + ".pem")
    try:
        write_whole(target, public_pem)
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=str(target), fix="ask who keeps this catalog"
        ) from error
    return PublicKey(target, fingerprint)


def signing_key_path(environment: Mapping[str, str]) -> Path:
    """Where this person's private key is, or is to be."""
    given = environment.get(KEY_VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    configuration = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or Path.home()) / ".config"
    return Path(configuration).absolute() / "tutorial-harness" / KEY_FILE


def signing_key(environment: Mapping[str, str]) -> SigningKey:
    """This person's key, made if it is not there; one that ``HARNESS_SIGNING_KEY`` names must be there.

    Raises:
        UserError: missing, readable by others, with a passphrase, or no ed25519 key. MissingToolError: no openssl.
    """
    path = signing_key_path(environment)
    if not path.exists():
        if environment.get(KEY_VARIABLE):
            raise UserError(
                "the signing key is not there", where=str(path), fix=f"unset {KEY_VARIABLE} to use your own"
            )
        _make_key(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError("others may read this private key", where=str(path), fix=f"chmod 600 {path}")
    pem = _public_half(path)
    return SigningKey(path, pem, fingerprint_of(pem, str(path)))


def signed_with(key: SigningKey, message: bytes) -> bytes:
    """The ed25519 signature of ``message``: 64 bytes.

    Raises:
        CommandError: openssl refuses. MissingToolError: there is none.
    """
    with tempfile.TemporaryDirectory(prefix="signing-") as folder:
        said, written = Path(folder) / "message", Path(folder) / "signature"
        said.write_bytes(message)  # ed25519 signs in one go: openssl takes no message from a pipe
        command = [
            "openssl",
            "pkeyutl",
            "-sign",
            "-rawin",
            "-inkey",
            str(key.path),
            "-in",
            str(said),
            "-out",
            str(written),
        ]
        run_command(command, timeout_s=OPENSSL_SECONDS, what="signing", where=str(key.path), fix=OPENSSL_FIX)
        return written.read_bytes()


def _make_key(path: Path) -> None:
    """A new private key, mode 600 from its first byte. Of two processes that make it at once, one wins for both."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(
            f"no place for a signing key: {error.strerror}", where=str(path.parent), fix=f"name one in {KEY_VARIABLE}"
        ) from error
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        run_command(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", aside],
            umask=0o077,
            timeout_s=OPENSSL_SECONDS,
            what="making a signing key",
            fix=OPENSSL_FIX,
        )
        aside.chmod(0o600)
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        os.link(aside, path)  # unlike a rename this never replaces a key that is in use
    except FileExistsError:
        return
    finally:
        aside.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _public_half(path: Path) -> str:
    command = ["openssl", "pkey", "-in", str(path), "-pubout", "-passin", "pass:"]
    try:
        return run_command(command, timeout_s=OPENSSL_SECONDS, separate_stdout=True, fix=OPENSSL_FIX).stdout + "\n"
    except CommandError as error:
        raise UserError(
            "this is no private key in PEM without passphrase", where=str(path), fix="see: harness key --help"
        ) from error
