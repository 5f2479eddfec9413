"""A root file system packed as an OCI layout with one layer. The bytes depend on the tree and on zlib alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import IO

from harness.files import sha256_of
from harness.image.debian import DebianTarget

_IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_oci_layout(target: DebianTarget, tree: Path, layout: Path) -> tuple[str, str]:
    """Pack ``tree`` as an OCI layout with one layer; return the digests of manifest and uncompressed layer."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    created = target.suite.released.strftime("%Y-%m-%dT%H:%M:%SZ")
    layer, diff_id = _write_layer(tree, blobs, int(target.suite.released.timestamp()))
    config = _write_json(
        blobs,
        {
            "created": created,
            "architecture": {"ppc64el": "ppc64le"}.get(target.architecture, target.architecture),
            "os": "linux",
            "config": {"Env": [f"PATH={_IMAGE_PATH}"], "Cmd": ["bash"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": f"mmdebstrap --variant=minbase {target.tag}"}],
        },
    )
    manifest = _write_json(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **layer}],
        },
    )
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **manifest,
        "annotations": {"org.opencontainers.image.ref.name": target.tag},
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}), "utf-8")
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', "utf-8")
    return str(manifest["digest"]), diff_id


def _write_layer(tree: Path, blobs: Path, epoch: int) -> tuple[dict[str, object], str]:
    """Compress ``tree`` into ``blobs``; return its descriptor and the digest of its uncompressed bytes.

    A tar file may begin with any entry, so what mmdebstrap leaves out is put in front: the empty /dev, which
    Apptainer mounts on (mmdebstrap's own has device nodes), and the file by which Debian starts no service
    in a container (mmdebstrap removes any such file at its end).
    """
    policy = b"#!/bin/sh\nexit 101\n"
    front = _tar_entry("./dev", tarfile.DIRTYPE, epoch) + _tar_entry(
        "./usr/sbin/policy-rc.d", tarfile.REGTYPE, epoch, policy
    )
    plain = hashlib.sha256()
    unnamed = blobs / "layer"
    # No name and no time in gzip's header; level 3: 10 % larger than level 6 in half of its time.
    with (
        tree.open("rb") as source,
        unnamed.open("wb") as target,
        gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=3, mtime=0) as packed,
    ):
        for stream in (io.BytesIO(front), source):
            _copy(stream, packed, plain)
    digest = sha256_of(unnamed)
    size = unnamed.stat().st_size
    unnamed.rename(blobs / digest)
    return {"digest": f"sha256:{digest}", "size": size}, f"sha256:{plain.hexdigest()}"


def _tar_entry(name: str, kind: bytes, epoch: int, data: bytes = b"") -> bytes:
    """The bytes of one tar entry, mode 0755, owned by root."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime, entry.size = kind, 0o755, epoch, len(data)
    entry.uname = entry.gname = "root"
    return entry.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _copy(source: IO[bytes], target: gzip.GzipFile, digest: hashlib._Hash) -> None:
    while chunk := source.read(1 << 20):
        target.write(chunk)
        digest.update(chunk)


def _write_json(blobs: Path, content: dict[str, object]) -> dict[str, object]:
    """Write ``content`` as a blob and return its digest and size."""
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode("utf-8")
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}
