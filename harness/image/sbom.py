"""A software bill of materials as SPDX 2.3 JSON, made and checked by the SPDX project's own library."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from typing import Any

from harness import __version__
from harness.errors import HarnessError
from harness.image.packages import Package, brought_by

_ROOT = "SPDXRef-image"
_DOCUMENT = "SPDXRef-DOCUMENT"
_NAMESPACE = uuid.UUID("6f0f6bd5-5b0e-4c3a-9e0c-2c7c4a1f7a53")  # ours: names below it are documents of this project


def spdx_document(name: str, digest: str, packages: Sequence[Package], created: int) -> dict[str, Any]:
    """The document for an image, valid by the library's validator.

    Args:
        name: of the image.
        digest: of what the image was made from; the document's own name is derived from it.
        created: seconds since 1970.

    Raises:
        HarnessError: a package's record makes a document that SPDX does not allow.
    """
    # Here: only what builds or tests an image waits for the library to load.
    from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
    from spdx_tools.spdx.model import (
        Actor,
        ActorType,
        CreationInfo,
        Document,
        PackagePurpose,
        Relationship,
        RelationshipType,
    )
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    whole = _package(_ROOT, name, digest)
    whole.primary_package_purpose = PackagePurpose.CONTAINER
    parts = [
        _package(f"SPDXRef-{index}-{_identifier(package)}", package.name, package.version, package)
        for index, package in enumerate(packages)
    ]
    document = Document(
        CreationInfo(
            spdx_version="SPDX-2.3",
            spdx_id=_DOCUMENT,
            name=name,
            document_namespace=f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{name} {digest}')}",
            creators=[Actor(ActorType.TOOL, f"tutorial-harness-{__version__}")],
            created=datetime.fromtimestamp(created, timezone.utc).replace(tzinfo=None),
        ),
        packages=[whole, *parts],
        relationships=[
            Relationship(_DOCUMENT, RelationshipType.DESCRIBES, _ROOT),
            *(Relationship(_ROOT, RelationshipType.CONTAINS, part.spdx_id) for part in parts),
        ],
    )
    for message in validate_full_spdx_document(document):
        raise HarnessError(f"no valid bill of materials: {message.validation_message}", where=name)
    converted: dict[str, Any] = DocumentConverter().convert(document)  # type: ignore[no-untyped-call]
    return converted


def package_url(package: Package) -> str:
    """The package's purl, such as ``pkg:deb/debian/tar@1.34?arch=amd64`` (github.com/package-url/purl-spec)."""
    from packageurl import PackageURL

    if package.kind == "pypi":
        return PackageURL("pypi", name=re.sub("[-_.]+", "-", package.name), version=package.version).to_string()
    qualifiers = {"arch": package.architecture}
    return PackageURL("deb", package.distribution, package.name, package.version, qualifiers).to_string()


def _package(identifier: str, name: str, version: str, installed: Package | None = None) -> Any:
    from spdx_tools.spdx.model import ExternalPackageRef, ExternalPackageRefCategory, SpdxNoAssertion
    from spdx_tools.spdx.model import Package as SpdxPackage

    unknown = SpdxNoAssertion()
    declared = _licence(installed.licence) if installed else None
    locators = [package_url(installed)] if installed else []
    return SpdxPackage(
        spdx_id=identifier,
        name=name,
        version=version,
        download_location=unknown,
        files_analyzed=False,
        license_concluded=unknown,
        license_declared=unknown if declared is None else declared,
        copyright_text=unknown,
        source_info=brought_by(installed) if installed and installed.kind == "pypi" else None,
        external_references=[
            ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", locator) for locator in locators
        ],
    )


def _licence(expression: str) -> Any:
    """A package's licence; None where it names none, or one that is not on SPDX's list."""
    from license_expression import ExpressionError

    try:
        return _spdx_licences().parse(expression, validate=True) if expression else None
    except ExpressionError:
        return None


@cache
def _spdx_licences() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _identifier(package: Package) -> str:
    return re.sub("[^A-Za-z0-9.-]", "-", f"{package.kind}-{package.name}")
