"""What differs between two locks, or between two images: by group, by package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.image.contents import ImageLock
from harness.lock.drift import Installed
from harness.stack_lock import StackLock

GROUPS = ("base", "apt", "python", "tools")
_SHORT = 12  # digits of a digest: enough to see that it is another one


@dataclass(frozen=True)
class Contents:
    """What is compared: in each of ``GROUPS``, name to version, or to what else tells two states apart."""

    groups: Mapping[str, Mapping[str, str]]

    @classmethod
    def of_lock(cls, lock: StackLock) -> Contents:
        """What a lock says."""
        base = {"(image)": lock.inputs.base}
        if lock.base is not None:
            digest = lock.base.digest or (f"bootstrapped, {lock.base.suite}" if lock.base.suite else lock.base.origin)
            python_of_base = {f"{name} (python)": version for name, version in (lock.base.python or {}).items()}
            base |= {"(digest)": digest, **lock.base.packages, **python_of_base}
        apt = {name: package.version for name, package in (lock.apt or {}).items()}
        files = {f"{name} (file)": package.sha256[:_SHORT] for name, package in (lock.apt or {}).items()}
        python = dict(lock.python.packages) if lock.python else {}
        hashes = {"(hashes)": lock.python.sha256[:_SHORT]} if lock.python else {}
        for part, why in lock.unresolved.items():
            {"base": base, "apt": apt, "python": python}[part]["(unresolved)"] = why
        return cls({"base": base, "apt": apt | files, "python": python | hashes, "tools": lock.tools})

    @classmethod
    def of_image(cls, lock: ImageLock, packages: Installed) -> Contents:
        """What is in an image."""
        python = {name: ", ".join(sorted(versions)) for name, versions in packages.python.items()}
        base = {"(image)": str(lock.base["reference"]), "(digest)": str(lock.base["digest"])}
        return cls({"base": base, "apt": packages.apt, "python": python, "tools": lock.tools})


@dataclass(frozen=True)
class GroupDifference:
    """Names that only one side has, with their versions, and names with two versions."""

    added: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """(sign, name, versions) in the order of names."""
        everything = {
            **{name: ("+", version) for name, version in self.added.items()},
            **{name: ("-", version) for name, version in self.removed.items()},
            **{name: ("~", f"{old} → {new}") for name, (old, new) in self.changed.items()},
        }
        for name, (sign, text) in sorted(everything.items()):
            yield sign, name, text

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        changed = {name: {"from": old, "to": new} for name, (old, new) in self.changed.items()}
        return {"added": self.added, "removed": self.removed, "changed": changed}


def compare(one: Contents, other: Contents) -> dict[str, GroupDifference]:
    """Groups that differ."""
    found = {}
    for group in GROUPS:
        difference = _compare(one.groups.get(group, {}), other.groups.get(group, {}))
        if difference:
            found[group] = difference
    return found


def _compare(one: Mapping[str, str], other: Mapping[str, str]) -> GroupDifference:
    """A version that changed says all about the file behind it; an equal version with another file is news."""
    changed = {name: (one[name], other[name]) for name in one.keys() & other.keys() if one[name] != other[name]}
    versions_differ = any(not _is_note(name) for name in changed) or {n for n in one if not _is_note(n)} != {
        n for n in other if not _is_note(n)
    }

    def is_news(name: str) -> bool:
        if name.endswith(" (file)"):
            return name in changed and name.removesuffix(" (file)") not in changed
        return name != "(hashes)" or (name in changed and not versions_differ)

    return GroupDifference(
        added={name: other[name] for name in sorted(other.keys() - one.keys()) if is_news(name)},
        removed={name: one[name] for name in sorted(one.keys() - other.keys()) if is_news(name)},
        changed={name: changed[name] for name in sorted(changed) if is_news(name)},
    )


def _is_note(name: str) -> bool:
    return name.endswith(")")
