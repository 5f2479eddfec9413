"""Where an image, or what a build would start from, is not what the lock says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from harness.image.contents import read_lock, read_sbom
from harness.image.packages import INSTALLED_ITSELF
from harness.image.stages import TOOLS_IN_KEYS
from harness.lock.inputs import provided_by
from harness.lock.python import normal_name
from harness.stack_lock import LockedBase, StackLock

_BASE_FIX = "lock again to accept it, or build where the locked base is to be had"
_APT_FIX = "its archive no longer has the locked version: lock again, or name a snapshot of the archive"
_EXTRA_FIX = "name it in the requirements and lock again, or do not install it"
_PYTHON_FIX = "pip must install the requirements lock, and nothing unpinned after it"
_TOOL_FIX = "build with the locked version, or lock again with this one"
_AGAIN = "lock again"
_SHOWN = 5


@dataclass(frozen=True)
class Drift:
    """One thing that is not as it was locked, and what to do."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


@dataclass(frozen=True)
class Installed:
    """Packages in an image.

    Attributes:
        apt: name to version.
        python: normalised name to all versions that are there: a virtual environment may hide another.
        own: those of ``python`` that are no part of another package; None of an image from before that was recorded.
    """

    apt: Mapping[str, str]
    python: Mapping[str, frozenset[str]]
    own: Mapping[str, frozenset[str]] | None = None


def installed_in(image: Path) -> Installed:
    """What the bill of materials inside an image lists.

    Raises:
        HarnessError: it has none. SifError: no image, or half of one.
    """
    apt: dict[str, str] = {}
    python: dict[str, frozenset[str]] = {}
    own: dict[str, frozenset[str]] = {}
    is_recorded = True
    for package in read_sbom(image)["packages"]:
        for reference in package.get("externalRefs", []):
            locator = unquote(reference["referenceLocator"])
            if locator.startswith("pkg:deb/"):
                apt[package["name"]] = package["versionInfo"]
            elif locator.startswith("pkg:pypi/"):
                name = normal_name(package["name"])
                python[name] = python.get(name, frozenset()) | {package["versionInfo"]}
                is_recorded = is_recorded and "sourceInfo" in package
                if package.get("sourceInfo") == INSTALLED_ITSELF:
                    own[name] = own.get(name, frozenset()) | {package["versionInfo"]}
    return Installed(apt, python, own if is_recorded else None)


def image_drift(lock: StackLock, image: Path) -> list[Drift]:
    """Everything in a finished image that is not as locked.

    Raises:
        HarnessError: the image does not say what it was made from. SifError: no image, or half of one.
    """
    packages, made = installed_in(image), read_lock(image)
    return [
        *base_drift(lock, made.base),
        *apt_drift(lock, packages),
        *python_drift(lock, packages),
        *tool_drift(lock, made.tools),
    ]


def base_drift(lock: StackLock, base: Mapping[str, Any]) -> Iterator[Drift]:
    """Of the base that a build used, or would use.

    Args:
        base: as :meth:`harness.image.base.BaseRecord.lock_entry` gives it.
    """
    locked = lock.base
    if locked is None:
        yield Drift(f"base: not locked ({lock.unresolved.get('base', 'unknown')})", "lock where its registry answers")
    elif locked.origin != base["origin"]:
        yield Drift(
            f"base: locked is one that was {_origin(locked.origin)}, this one was {_origin(base['origin'])}", _BASE_FIX
        )
    elif locked.origin == "registry" and locked.digest != base["digest"]:
        yield Drift(f"base: {base['reference']} is {base['digest']}, locked is {locked.digest}", _BASE_FIX)
    elif locked.origin == "bootstrapped":
        yield from _changed("base", locked.packages, base["details"]["packages"], _BASE_FIX)


def apt_drift(lock: StackLock, installed: Installed) -> Iterator[Drift]:
    """Debian packages: other versions than locked, missing ones, and ones that nobody locked."""
    if lock.apt is None:
        yield Drift(f"apt: not locked ({lock.unresolved.get('apt', 'unknown')})", "lock where apt reaches its archive")
        return
    for name, package in lock.apt.items():
        have = installed.apt.get(name)
        if have is None:
            yield Drift(f"apt: {name} {package.version} is locked, and not in the image", _AGAIN)
        elif have != package.version:
            yield Drift(f"apt: {name} is {have}, locked is {package.version}", _APT_FIX)
    known = _base_packages(lock.base)
    for name in sorted(installed.apt.keys() - known - lock.apt.keys()) if known else ():
        yield Drift(f"apt: {name} {installed.apt[name]} is in the image, and not locked", _AGAIN)


def python_drift(lock: StackLock, installed: Installed) -> Iterator[Drift]:
    """Python packages: other versions than locked, missing ones, and ones that nobody locked.

    What another package brings (Debian's, or one with copies of others inside) is locked with it, what the base brings
    with the base.
    """
    if lock.python is None:
        why = lock.unresolved.get("python", "unknown")
        yield Drift(f"python: not locked ({why})", "lock where the package index answers")
        return
    present = installed.python if installed.own is None else installed.own
    for name, version in lock.python.packages.items():
        have = present.get(name, frozenset())
        if not have:
            yield Drift(f"python: {name} {version} is locked, and not in the image", _PYTHON_FIX)
        elif version not in have:
            yield Drift(f"python: {name} is {', '.join(sorted(have))}, locked is {version}", _PYTHON_FIX)
    yield from _python_extras(lock, lock.python.packages, installed)


def _python_extras(lock: StackLock, locked: Mapping[str, str], installed: Installed) -> Iterator[Drift]:
    base, provided = lock.base, provided_by(lock.inputs.python)
    from_base = (base.python if base else None) or {}
    extras = []
    for name, versions in sorted((installed.own or {}).items()):
        if name in locked and locked[name] not in versions:
            continue  # said already
        known = {locked.get(name), provided.get(name), *from_base.get(name, "").split(", ")}
        extras += [f"{name} {v}" for v in sorted(versions - known) if not _is_debians_wheel(name, v, installed.apt)]
    if extras and base is not None and base.origin == "registry" and base.python is None:
        shown = ", ".join(extras[:_SHOWN]) + (" …" if extras[_SHOWN:] else "")
        what = f"python: {len(extras)} in the image are not locked ({shown}), and what the base brings is not known"
        yield Drift(what, "lock again where skopeo reaches the base's registry")
        return
    for extra in extras:
        yield Drift(f"python: {extra} is in the image, and not locked", _EXTRA_FIX)


def _is_debians_wheel(name: str, version: str, apt: Mapping[str, str]) -> bool:
    """Did a new virtual environment get it from a Debian package, which is locked as such?"""
    deb = apt.get(f"python3-{name}-whl", "")
    return re.match(rf"(\d+:)?{re.escape(version)}([-+~]|$)", deb) is not None


def tool_drift(lock: StackLock, tools: Mapping[str, str]) -> Iterator[Drift]:
    """Programs that write bytes of an image, in other versions; what only resolved the lock writes none.

    Args:
        tools: versions of the programs that built, or would build.
    """
    for name in sorted(lock.tools.keys() & set(TOOLS_IN_KEYS)):
        if tools.get(name) != lock.tools[name]:
            yield Drift(f"tools: {name} is {tools.get(name, 'not used')}, locked is {lock.tools[name]}", _TOOL_FIX)


def _changed(part: str, locked: Mapping[str, str], have: Mapping[str, str], fix: str) -> Iterator[Drift]:
    for name in sorted(locked.keys() | have.keys()):
        if locked.get(name) != have.get(name):
            now, then = have.get(name, "missing"), locked.get(name, "nothing")
            yield Drift(f"{part}: {name} is {now}, locked is {then}", fix)


def _base_packages(base: LockedBase | None) -> frozenset[str]:
    return frozenset(base.packages if base else ())


def _origin(origin: str) -> str:
    return "bootstrapped from a package mirror" if origin == "bootstrapped" else "pulled from a registry"
