"""A software bill of materials as SPDX 2.3 JSON.

Written by hand: the document is a list of packages and two kinds of relationships, while the maintained library
(spdx-tools) brings eleven packages, an RDF store among them, into every installation. What is written here was held
against that library's validator (tests/test_image_contents.py does so where it is installed).
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from harness import __version__
from harness.image.packages import Package

_UNKNOWN = "NOASSERTION"
_ROOT = "SPDXRef-image"
_NAMESPACE = uuid.UUID("6f0f6bd5-5b0e-4c3a-9e0c-2c7c4a1f7a53")  # ours: names below it are documents of this project


def spdx_document(name: str, digest: str, packages: Sequence[Package], created: int) -> dict[str, Any]:
    """The document for an image.

    Args:
        name: of the image.
        digest: of what the image was made from; the document's own name is derived from it.
        created: seconds since 1970.
    """
    identifiers = [f"SPDXRef-{index}-{_identifier(package)}" for index, package in enumerate(packages)]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{name} {digest}')}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
            "creators": [f"Tool: tutorial-harness-{__version__}"],
        },
        "packages": [
            {**_package(_ROOT, name, digest), "primaryPackagePurpose": "CONTAINER"},
            *(
                {
                    **_package(identifier, package.name, package.version, package.licence),
                    "externalRefs": [
                        {
                            "referenceCategory": "PACKAGE-MANAGER",
                            "referenceType": "purl",
                            "referenceLocator": package_url(package),
                        }
                    ],
                }
                for identifier, package in zip(identifiers, packages, strict=True)
            ),
        ],
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", _ROOT),
            *(_relationship(_ROOT, "CONTAINS", identifier) for identifier in identifiers),
        ],
    }


def package_url(package: Package) -> str:
    """The package's purl, such as ``pkg:deb/debian/tar@1.34?arch=amd64`` (github.com/package-url/purl-spec)."""
    version = quote(package.version, safe="")
    if package.kind == "pypi":
        return f"pkg:pypi/{re.sub('[-_.]+', '-', package.name).lower()}@{version}"
    return f"pkg:deb/{package.distribution}/{quote(package.name, safe='')}@{version}?arch={package.architecture}"


def _package(identifier: str, name: str, version: str, licence: str = "") -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "name": name,
        "versionInfo": version,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": licence or _UNKNOWN,
        "copyrightText": _UNKNOWN,
    }


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _identifier(package: Package) -> str:
    return re.sub("[^A-Za-z0-9.-]", "-", f"{package.kind}-{package.name}")
