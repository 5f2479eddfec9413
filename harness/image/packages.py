"""What is installed in an image: Debian and Python packages, read from their own records inside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Literal

from harness.image.engine import Engine
from harness.image.process import run_command

LIST_SECONDS = 300.0

# Run in the image by its own shell. A record is followed by a line that no record holds.
_END = "--end-of-record--"
_SCRIPT = f"""
if [ -f /etc/os-release ]; then . /etc/os-release; fi
echo "distribution: ${{ID:-unknown}}"
echo {_END}
if [ -f /var/lib/dpkg/status ]; then cat /var/lib/dpkg/status; fi
echo {_END}
find / \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp \\) -prune -o \\
    \\( -path '*.dist-info/METADATA' -o -path '*.egg-info/PKG-INFO' \\) -type f -print 2>/dev/null |
while read -r file; do
    sed '/^[[:space:]]*$/,$d' "$file"
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
    """

    kind: Literal["deb", "pypi"]
    name: str
    version: str
    architecture: str = ""
    distribution: str = ""
    licence: str = ""


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
    distribution, dpkg, *python = f"{text}\n".split(f"{_END}\n")
    found = {*parse_dpkg(dpkg, distribution.partition(":")[2].strip()), *parse_python(python)}
    return sorted(found)


def parse_dpkg(status: str, distribution: str) -> Iterator[Package]:
    """Installed packages of a ``/var/lib/dpkg/status``."""
    for stanza in status.split("\n\n"):
        record = HeaderParser().parsestr(stanza.strip())
        if record.get("Package") and str(record.get("Status", "")).endswith(" installed"):
            yield Package(
                "deb", record["Package"], record.get("Version", ""), record.get("Architecture", ""), distribution
            )


def parse_python(records: Iterable[str]) -> Iterator[Package]:
    """Packages of the headers of ``METADATA`` or ``PKG-INFO`` files."""
    for text in records:
        record = HeaderParser().parsestr(text.strip())
        if record.get("Name"):
            licence = record.get("License-Expression", "")
            yield Package("pypi", record["Name"], record.get("Version", ""), licence=licence)
