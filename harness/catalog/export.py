"""One self-contained file of a published image, to take away."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import shutil
from pathlib import Path

from harness.catalog.catalog import Catalog, build_again, expect_digest
from harness.catalog.manifest import Manifest
from harness.errors import HarnessError, UserError
from harness.files import fsync_folder
from harness.image.engine import Engine
from harness.image.keys import trusted_keys
from harness.image.parts import join
from harness.image.sign import verify


def export_image(catalog: Catalog, manifest: Manifest, target: Path, engine: Engine, *, force: bool = False) -> str:
    """Write the very file that was built, tested and signed, verified once more: the same bytes for everybody.

    Args:
        force: replace a file that is there; without, it is left alone.

    Returns:
        Fingerprint of the key that signed it.

    Raises:
        UserError: the target is there, or its folder cannot be written. SignatureError: no key of the catalog signed
            it. HarnessError: a part of it is damaged, or there is no space. In all cases the target is as it was.
    """
    there = UserError("the file is there already", where=str(target), fix="add --force to replace it")
    if target.exists() and not force:
        raise there
    if not target.parent.is_dir():
        raise UserError(
            "its folder does not exist", where=str(target), fix=f"run: mkdir -p {shlex.quote(str(target.parent))}"
        )
    aside = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    files = catalog.files(manifest)
    try:
        if files.stack is None:
            shutil.copyfile(files.main, aside)
        else:
            join(files.main, files.stack, aside)
        expect_digest(aside, manifest.whole_sha256, build_again(manifest.name))
        signer = verify(engine, aside, trusted_keys(catalog.keys))
        aside.chmod(0o755)
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        if force or not _link(aside, target):
            aside.replace(target)
    except FileExistsError:
        raise there from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HarnessError(
                "no space left", where=str(target.parent), fix=f"free {manifest.bytes / 1e6:.0f} MB"
            ) from error
        # What is written aside has a name that nobody knows.
        at_fault = error.filename if error.filename and str(error.filename) != str(aside) else target
        raise UserError(f"cannot be written: {error.strerror}", where=str(at_fault)) from error
    finally:
        aside.unlink(missing_ok=True)
    fsync_folder(target.parent)
    return signer.fingerprint


def _link(aside: Path, target: Path) -> bool:
    """Give the file its name without ever replacing another; False where the file system knows no hard links."""
    try:
        os.link(aside, target)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            return False
        raise
    return True
