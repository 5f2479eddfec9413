"""What this machine's own apt is configured to: its Debian mirror and the way there."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from harness.errors import HarnessError
from harness.image.debian import SUITES, DebianTarget
from harness.image.process import run_command

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Settings of the machine's apt that lead to its mirror. Those of the second group stay in the image:
# a frozen mirror's indexes have expired for everybody who reads them.
_APT_ROUTE = re.compile(r"Acquire::(?:https?::(?:.*::)?(?:Proxy.*|CA(?:Info|Path)|Verify-.*)|Retries)\b", re.IGNORECASE)
_APT_VALIDITY = re.compile(r"Acquire::Check-(?:Valid-Until|Date)\b", re.IGNORECASE)

_INDEX_URI = re.compile(r"'(?P<uri>\S+)/dists/(?P<suite>[^/'\s]+)/main/binary-[^/]+/Packages")


def source_lines(target: DebianTarget) -> list[str]:
    """``sources.list`` of the image: this machine's mirror, checked with Debian's keyring.

    Raises:
        HarnessError: apt here has no Debian source, or Debian's keyring is missing.
    """
    fix = "add a Debian mirror to apt's sources, or name a registry mirror in the site's file"
    if not KEYRING.is_file():
        raise HarnessError("Debian's keyring is missing", where=str(KEYRING), fix="install debian-archive-keyring")
    archives = machine_archives()
    lines = [
        f"deb [signed-by={KEYRING}] {uri} {target.suite.codename}{pocket} main"
        for pocket in ("", "-updates", "-security")
        for uri in archives.get(pocket, [])[:1]
    ]
    if "" not in archives:
        raise HarnessError(f"no Debian mirror to bootstrap debian:{target.tag} from", where="apt's sources", fix=fix)
    return lines


def machine_archives() -> dict[str, list[str]]:
    """The URIs of Debian's archives by pocket: ``""``, ``-updates``, ``-security``.

    apt itself reads its configuration (deb822, one-line, options, mirror lists), and is asked for what it
    would fetch with empty lists; nothing is fetched.
    """
    if shutil.which("apt-get") is None:
        return {}
    suites = "|".join([*(suite.codename for suite in SUITES), "stable", "oldstable", "oldoldstable"])
    with tempfile.TemporaryDirectory(prefix="harness-apt-") as state:
        (Path(state) / "lists" / "partial").mkdir(parents=True)
        asked = run_command(
            ["apt-get", "update", "--print-uris", "-o", f"Dir::State={state}", "-o", f"Dir::Cache={state}"],
            separate_stdout=True,
            timeout_s=30,
            what="reading apt's sources",
        )
    archives: dict[str, list[str]] = {}
    for found in _INDEX_URI.finditer(asked.stdout):
        suite = re.fullmatch(rf"(?:{suites})(|-updates|-security)", found["suite"])
        uri = _first_mirror(found["uri"])
        if suite and uri not in archives.setdefault(suite[1], []):
            archives[suite[1]].append(uri)
    for pocket, uris in archives.items():
        # Vendors, too, name their suites "bookworm main"; Debian's archives are called debian*.
        archives[pocket] = sorted(uris, key=lambda uri: "debian" not in uri.rsplit("//", 1)[-1].partition("/")[2])
    return archives


def _first_mirror(uri: str) -> str:
    """``uri``, or the first entry of the list that a ``mirror+file:`` URI names: the image has no such file."""
    if not uri.startswith("mirror+file:"):
        return uri
    entries = Path("/" + uri.removeprefix("mirror+file:").lstrip("/")).read_text("utf-8").splitlines()
    return next(line.split()[0].rstrip("/") for line in entries if line.strip() and not line.startswith("#"))


def apt_settings() -> tuple[list[str], list[str]]:
    """Lines of the machine's apt configuration: those that lead to the mirror, those that say how old it may be."""
    dump = run_command(["apt-config", "dump"], separate_stdout=True, timeout_s=30).stdout.splitlines()
    route = [line for line in dump if _APT_ROUTE.match(line)]
    bundle = os.environ.get("SSL_CERT_FILE", "")
    if Path(bundle).is_file() and not any("CAInfo" in line for line in route):
        route.append(f'Acquire::https::CAInfo "{bundle}";')
    return route, [line for line in dump if _APT_VALIDITY.match(line)]
