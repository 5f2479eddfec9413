"""What is installed in an image: Debian and Python packages, read from their own records inside it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Literal

from harness.image.engine import Engine
from harness.image.process import run_command

LIST_SECONDS = 300.0

# Run in the image by its own shell. A record is followed by a line that no record holds. With a Python package come
# the records that it brought beside its own: what it was shipped with is a part of it.
_END = "--end-of-record--"
_BROUGHT = "--brought--"
_PYTHON_RECORDS = ("dist-info/METADATA", "egg-info/PKG-INFO")
_OF_DEBIAN = "(debian)"  # no Python package can have this name
_SCRIPT = f"""
if [ -f /etc/os-release ]; then . /etc/os-release; fi
echo "distribution: ${{ID:-unknown}}"
echo {_END}
if [ -f /var/lib/dpkg/status ]; then cat /var/lib/dpkg/status; fi
echo {_END}
cat /var/lib/dpkg/info/*.list 2>/dev/null | grep -E '({"|".join(_PYTHON_RECORDS)})$'
echo {_END}
find / \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp \\) -prune -o \\
    \\( -path '*.dist-info/METADATA' -o -path '*.egg-info/PKG-INFO' \\) -type f -print 2>/dev/null |
while read -r file; do
    echo "$file"
    sed '/^[[:space:]]*$/,$d' "$file"
    echo {_BROUGHT}
    grep -E '({"|".join(_PYTHON_RECORDS)}),' "${{file%/*}}/RECORD" 2>/dev/null
    echo {_END}
done
"""


@dataclass(frozen=True, order=True)
class Package:
    """An installed package.

    Attributes:
        kind: who installed it.
        distribution: for Debian packages ``debian`` or ``ubuntu``.
        licence: an SPDX expression, where the package says so in one.
        part_of: of a Python package that came with another one: who brought it; see :func:`brought_by`.
    """

    kind: Literal["deb", "pypi"]
    name: str
    version: str
    architecture: str = ""
    distribution: str = ""
    licence: str = ""
    part_of: str = ""


def installed_packages(engine: Engine, image: Path) -> list[Package]:
    """Packages of an image, sorted; the same list for the same image.

    Raises:
        CommandError: the image cannot be started or has no shell and find.
    """
    command = [str(engine.path), "--quiet", "exec", *engine.run_flags(), "--containall", "--cleanenv", "--no-home"]
    command += ["--pwd", "/", str(image), "/bin/sh", "-c", _SCRIPT]
    environment = {name: value for name, value in os.environ.items() if "BIND" not in name}  # nobody's packages but its
    done = run_command(
        command,
        env=environment,
        separate_stdout=True,
        timeout_s=LIST_SECONDS,
        what="listing the packages of an image",
        where=str(image),
    )
    return parse_packages(done.stdout)


def parse_packages(text: str) -> list[Package]:
    """Packages from what the script prints."""
    distribution, dpkg, debian, *python = f"{text}\n".split(f"{_END}\n")
    found = {*parse_dpkg(dpkg, distribution.partition(":")[2].strip()), *parse_python(python, debian.split("\n"))}
    return sorted(found)


def packages_below(root: Path) -> list[Package]:
    """Python packages of a folder that holds a file system's records of packages, as below ``/``, sorted."""
    debian = [line for file in sorted(root.glob("var/lib/dpkg/info/*.list")) for line in _text(file).split("\n")]
    records = []
    for file in sorted(path for path in root.rglob("*") if str(path).endswith(_PYTHON_RECORDS) and path.is_file()):
        header = _text(file).split("\n\n")[0]
        brought = _text(file.parent / "RECORD")
        records.append(f"/{file.relative_to(root)}\n{header}\n{_BROUGHT}\n{brought}")
    return sorted(set(parse_python(records, debian)))


def brought_by(package: Package) -> str:
    """Who brought a Python package, in words for a bill of materials."""
    if package.part_of == _OF_DEBIAN:
        return "part of a Debian package"
    return f"part of the Python package {package.part_of}" if package.part_of else INSTALLED_ITSELF


INSTALLED_ITSELF = "installed itself"
"""What :func:`brought_by` says of a package that is no part of another."""


def parse_dpkg(status: str, distribution: str) -> Iterator[Package]:
    """Installed packages of a ``/var/lib/dpkg/status``."""
    for stanza in status.split("\n\n"):
        record = HeaderParser().parsestr(stanza.strip())
        if record.get("Package") and str(record.get("Status", "")).endswith(" installed"):
            yield Package(
                "deb", record["Package"], record.get("Version", ""), record.get("Architecture", ""), distribution
            )


def parse_python(records: Iterable[str], debian: Iterable[str] = ()) -> Iterator[Package]:
    """Packages of the headers of ``METADATA`` or ``PKG-INFO`` files.

    Args:
        records: of each the path, the header and, behind a line of its own, lines of its list of files.
        debian: paths that Debian's packages own.
    """
    headers: dict[str, Message] = {}
    owners: dict[str, str] = {}
    for text in records:
        path, _, rest = text.strip().partition("\n")
        header, _, listed = rest.partition(_BROUGHT)
        record = HeaderParser().parsestr(header.strip())
        if not record.get("Name"):
            continue
        headers[path] = record
        # A list of files is CSV, of paths below the folder that the package's own record is in.
        place = posixpath.dirname(posixpath.dirname(path))
        for line in listed.split("\n"):
            brought = posixpath.normpath(posixpath.join(place, line.partition(",")[0].strip('"')))
            if brought != path and brought.endswith(_PYTHON_RECORDS):
                owners[brought] = record["Name"]
    owners |= dict.fromkeys(debian, _OF_DEBIAN)
    for path, record in headers.items():
        yield Package(
            "pypi",
            record["Name"],
            record.get("Version", ""),
            licence=record.get("License-Expression", ""),
            part_of=owners.get(path, ""),
        )


def _text(file: Path) -> str:
    return file.read_text("utf-8", errors="replace") if file.is_file() else ""
