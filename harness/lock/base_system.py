"""What of a base image a lock needs to know: its packages, Debian's and Python's, apt's sources and keys.

The layers are fetched once for each digest with skopeo, and only a few files of them are kept::

    <cache>/apt/<digest>/system/var/lib/dpkg/…, system/etc/apt/…, system/usr/share/keyrings/…, and records of Python
    packages wherever they are
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
_OWNED = "var/lib/dpkg/info/"
_KEPT_PYTHON = (".dist-info/METADATA", ".dist-info/RECORD", ".egg-info/PKG-INFO")
_COPY_SECONDS = 3600.0  # a CUDA base is eight gigabytes
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


def base_system(base: BaseImage, cache: Path) -> Path:
    """A folder with those files of ``base`` that apt reads, and its records of packages, as below ``/``.

    Raises:
        MissingToolError: there is no skopeo. CommandError: the registry does not give the layers.
        HarnessError: a layer cannot be read.
    """
    root = cache / "apt" / base.digest.replace(":", "-") / "system"
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
        fresh = Path(work) / "system"
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
    files: dict[Path, bytes] = {}
    with tarfile.open(layer) as archive:
        for member in archive:
            path = Path(member.name.lstrip("./"))
            if ".." in path.parts:
                continue
            if path.name == _OPAQUE:
                shutil.rmtree(root / path.parent, ignore_errors=True)
            elif path.name.startswith(_WHITEOUT):
                _remove(root / path.with_name(path.name.removeprefix(_WHITEOUT)))
            elif (member.isfile() or member.islnk()) and _kept(str(path)):
                source = archive.extractfile(member)
                assert source is not None  # it is a file
                files[path] = source.read()
    # Only now: what a layer removes is of the layers below it, wherever in the archive that is said.
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _kept(path: str) -> bool:
    if path.startswith(_OWNED):
        return path.endswith(".list")
    return path == STATUS or path.startswith((*_KEPT, *_KEPT_FOLDERS)) or path.endswith(_KEPT_PYTHON)
