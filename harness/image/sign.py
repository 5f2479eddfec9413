"""Signing images and verifying them. Files are signed and verified by the engine's own commands.

A signature is the last thing that is added: one more object afterwards breaks it. ``verify --all`` reads the whole
image. An image that is not written is signed by its digests, with the same key, and gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.definition.reproducible import EPOCH
from harness.errors import CommandError, HarnessError
from harness.image.assembly import Assembly
from harness.image.engine import Engine
from harness.image.keys import PublicKey, SigningKey, signed_with
from harness.image.process import run_command
from harness.image.sif import normalise, signer_ids
from harness.image.signature import message, signature_object, statement

ALLOW_VARIABLE = "ALLOW_UNSIGNED"
ALLOW = f"if you built it yourself, {ALLOW_VARIABLE}=1 lets your own jobs run it"
_NO_FULL_TRUST = "accepted signatures do not match threshold"  # said of a key that the signature was not made with


class SignatureError(HarnessError):
    """An image that is unsigned, changed after it was signed, or signed by a key that is not trusted."""


def sign(engine: Engine, image: Path, key: SigningKey) -> None:
    """Add a signature over everything that is in an image.

    Raises:
        CommandError: the engine failed.
    """
    run_command([engine.path, "sign", "--key", key.path, image], what="signing", where=str(image))


def seal(engine: Engine, image: Path, key: SigningKey, trusted: Sequence[PublicKey]) -> None:
    """Sign a normalised image and verify it: equal images signed with one key are equal files.

    Raises:
        CommandError: the engine failed. SignatureError: the key is not trusted.
    """
    sign(engine, image, key)
    normalise(image, EPOCH)  # the signature's own time
    verify(engine, image, trusted)


def signed(whole: Assembly, key: SigningKey) -> Assembly:
    """An image with the signature that :func:`seal` would add to its file.

    Raises:
        CommandError: the key cannot be used.
    """
    payload = statement(whole.sif, whole.digests())
    return whole.with_last(signature_object(payload, key.fingerprint, signed_with(key, message(payload))))


def verify(engine: Engine, image: Path, keys: Sequence[PublicKey]) -> PublicKey:
    """The trusted key that an image was signed with; every object in it is covered and as it was signed.

    Raises:
        SignatureError: it is not so; the reason is in the message.
    """
    complaints = []
    for key in keys:
        command = [str(engine.path), "verify", "--all", "--key", str(key.path), str(image)]
        try:
            run_command(command, what="verifying", where=str(image))
        except CommandError as error:
            complaints.append(error.output.strip().splitlines()[-1] if error.output.strip() else error.what)
        else:
            return key
    raise SignatureError(_reason(image, keys, complaints), where=str(image), fix=ALLOW)


def _reason(image: Path, keys: Sequence[PublicKey], complaints: Sequence[str]) -> str:
    try:
        signers = signer_ids(image)
    except HarnessError as error:
        return error.what
    if not signers:
        return "it is not signed"
    trusted = {key.fingerprint for key in keys}
    if not trusted.intersection(signers):
        return f"it is signed by a key that is not trusted ({', '.join(sorted(set(signers)))})"
    said = next((text for text in complaints if _NO_FULL_TRUST not in text), complaints[-1])
    return f"it was changed after it was signed ({said.removeprefix('FATAL:').strip()})"
