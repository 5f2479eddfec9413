"""What a signature of an image says, and the object that holds it: pure functions, no key is touched here.

The engine signs a file by reading all of it. This makes the very bytes that ``apptainer sign`` would add to an image,
from the digests of its objects: an image need not be written to be signed (tests compare the two byte for byte). It is
a DSSE envelope around a JSON statement that names the digest of the header, and of each object's descriptor and data.

Source: github.com/sylabs/sif v2, pkg/integrity/metadata.go and sign.go, pkg/sif/descriptor.go (GetIntegrityReader);
github.com/secure-systems-lab/dsse, protocol.md (PAE).
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping

from harness.image.assembly import GROUP, Piece, data_object
from harness.image.sif import GROUP_MASK, SIGNATURE, Descriptor, Header, Sif, SifError

PAYLOAD_TYPE = "application/vnd.sylabs.sif-metadata+json"
_SIGNED_FIELDS = struct.Struct("<i?IIqqqq")
_SHA256 = struct.pack("<i", 1)  # the hash's number in a signature's descriptor


def statement(sif: Sif, digests: Mapping[int, str]) -> bytes:
    """What is signed of an image: one line of JSON.

    Args:
        sif: normalised and without signature; all its objects are in one group.
        digests: of each object's data, by its id: sha256, hex.
    """
    objects = sif.objects()
    first = min(d.object_id for d in objects)
    said = {
        "version": 1,
        "header": {"digest": f"sha256:{_header_digest(sif.header)}"},
        "objects": [
            {
                "relativeId": d.object_id - first,
                "descriptorDigest": f"sha256:{_descriptor_digest(d, d.object_id - first)}",
                "objectDigest": f"sha256:{digests[d.object_id]}",
            }
            for d in objects
        ],
    }
    return json.dumps(said, separators=(",", ":")).encode()


def message(payload: bytes) -> bytes:
    """The bytes that a key signs for a payload: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def signature_object(payload: bytes, key_id: str, signature: bytes) -> Piece:
    """The last object of a signed image.

    Args:
        key_id: fingerprint of the key.
        signature: of :func:`message`, made with it.
    """
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id, "sig": base64.b64encode(signature).decode()}],
    }
    data = json.dumps(envelope, separators=(",", ":")).encode()
    return Piece(data_object(SIGNATURE, extra=_SHA256, group=GROUP_MASK, link=GROUP), data=data)


def signed_digests(envelope: bytes) -> dict[int, str]:
    """sha256 (hex) of each object's data as a signature states it, by the object's place in the group, from 0.

    Whether the signature is good is another question.

    Raises:
        SifError: no envelope, or it holds something else.
    """
    try:
        said = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        found = {int(one["relativeId"]): str(one["objectDigest"]).removeprefix("sha256:") for one in said["objects"]}
    except (ValueError, KeyError, TypeError) as error:
        raise SifError(f"its signature is none of ours: {error}") from error
    if any(len(digest) != 2 * hashlib.sha256().digest_size for digest in found.values()):
        raise SifError("its signature names other digests than sha256")
    return found


def _header_digest(header: Header) -> str:
    return hashlib.sha256(header.launch_script + header.magic + header.version + header.image_id).hexdigest()


def _descriptor_digest(d: Descriptor, relative_id: int) -> str:
    fields = _SIGNED_FIELDS.pack(d.kind, d.used, relative_id, d.link, d.size, d.created, d.user, d.owner_group)
    return hashlib.sha256(fields + d.raw_name + d.extra).hexdigest()
