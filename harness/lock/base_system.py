"""What of a base image apt needs to know: its package database, its sources and its keys.

The layers are fetched once for each digest with skopeo, and only a few files of them are kept::

    <cache>/apt/<digest>/root/var/lib/dpkg/status, root/etc/apt/…, root/usr/share/keyrings/…
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from harness.errors import HarnessError, MissingToolError
from harness.image.base import BaseImage
from harness.image.process import run_command

STATUS = "var/lib/dpkg/status"
_KEPT = ("etc/apt/sources.list", "etc/apt/preferences", "etc/apt/trusted.gpg", "etc/apt/keyrings/")
_KEPT_FOLDERS = ("usr/share/keyrings/",)
_COPY_SECONDS = 3600.0  # a CUDA base is eight gigabytes
_WHITEOUT = ".wh."


def base_system(base: BaseImage, cache: Path) -> Path:
    """A folder with those files of ``base`` that apt reads, as below ``/``.

    Raises:
        MissingToolError: there is no skopeo. CommandError: the registry does not give the layers.
        HarnessError: a layer cannot be read.
    """
    root = cache / "apt" / base.digest.replace(":", "-") / "root"
    if root.is_dir():
        return root
    if shutil.which("skopeo") is None:
        raise MissingToolError("skopeo is not on this machine", fix="run: scripts/install-packages registry")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".base-", dir=root.parent) as work:
        layers = Path(work) / "layers"
        tls = ["--src-tls-verify=false"] if base.insecure_http else []
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", *tls, f"docker://{base.resolved}", f"dir:{layers}"]
        run_command(command, timeout_s=_COPY_SECONDS, what="fetching the base image", where=base.reference)
        fresh = Path(work) / "root"
        manifest = json.loads((layers / "manifest.json").read_text("utf-8"))
        for layer in manifest["layers"]:
            _take(layers / layer["digest"].partition(":")[2], fresh)
        (fresh / STATUS).parent.mkdir(parents=True, exist_ok=True)
        (fresh / STATUS).touch()
        try:
            fresh.rename(root)
        except OSError:
            if not root.is_dir():  # else somebody was faster
                raise
    return root


def _take(layer: Path, root: Path) -> None:
    """Lay the files we keep of one layer over those of the layers below it.

    Raises:
        HarnessError: the layer is packed as this Python cannot read it (zstd, before Python 3.14).
    """
    if not tarfile.is_tarfile(layer):
        raise HarnessError("a layer of the base image is packed in a way that cannot be read here")
    with tarfile.open(layer) as archive:
        for member in archive:
            path = Path(member.name.lstrip("./"))
            if path.name.startswith(_WHITEOUT) and _kept(str(path.with_name(path.name.removeprefix(_WHITEOUT)))):
                (root / path.with_name(path.name.removeprefix(_WHITEOUT))).unlink(missing_ok=True)
            elif member.isfile() and _kept(str(path)) and ".." not in path.parts:
                source = archive.extractfile(member)
                assert source is not None  # it is a file
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(source.read())


def _kept(path: str) -> bool:
    return path == STATUS or path.startswith((*_KEPT, *_KEPT_FOLDERS))
