"""Lending a build the machine's package configuration, so that nothing of it stays in the image.

A container build sees neither pip's configuration nor the machine's certificate authorities. A folder with copies is
bound while building; the definition's %post points pip, TLS, apt and conda at it when it is there. Mirrors of the site
that answer go before what the machine has.
"""

from __future__ import annotations

import configparser
import contextlib
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.definition.writer import LENT_FOLDER
from harness.image.apt_relay import apt_relay
from harness.image.conda_relay import conda_relay
from harness.image.process import LineCallback
from harness.mirrors import MirrorKind, probe_mirrors
from harness.site import Mirrors

# pip options that say where packages are; everything else of a person's configuration is theirs.
PIP_OPTIONS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
)
APT_OPTIONS = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::https::CAInfo")
TOOL_SECONDS = 30
_PROXY = re.compile(r'Acquire::http::Proxy "(.+)";')


@dataclass(frozen=True)
class Lent:
    """A prepared folder. ``binds`` are host:container pairs for ``apptainer build -B``."""

    folder: Path
    binds: tuple[str, ...]


@contextlib.contextmanager
def lending(folder: Path, extra_indexes: list[str], mirrors: Mirrors, say: LineCallback) -> Iterator[Lent]:
    """A folder with this machine's package configuration and the site's mirrors, good while the block runs.

    Args:
        folder: made here.
        extra_indexes: package indexes that the stack itself names; the caller has checked that they answer.
        say: called with a line for each mirror that is passed over.
    """
    folder.mkdir()
    settings = pip_settings()
    alive = answering(mirrors, say)
    if alive["pip"]:
        settings = with_index(settings, alive["pip"][0])
    binds = [f"{folder}:{LENT_FOLDER}"]
    addresses: dict[str, str] = {}
    for option in ("index-url", "extra-index-url", "find-links"):
        for address in settings.get(option, "").split():
            local = _local_folder(address)
            if local is None:
                continue
            if not local.is_dir():
                addresses[address] = ""
                continue
            # An index's pages link to files beside its folder; a find-links folder holds its files itself.
            root = local if option == "find-links" else local.parent
            inside = f"index{len(binds)}"
            (folder / inside).mkdir()  # a mount point, on the host's side of the bind
            binds.append(f"{root}:{LENT_FOLDER}/{inside}:ro")
            addresses[address] = f"file://{LENT_FOLDER}/{inside}/{local.relative_to(root)}"
    (folder / "pip.conf").write_text(pip_conf(settings, addresses, extra_indexes))
    authorities = certificate_authorities(settings)
    if authorities is not None:
        shutil.copyfile(authorities, folder / "ca.pem")
    conda = conda_relay(alive["conda"], folder, LENT_FOLDER, authorities, say)
    with conda, apt_conf(alive["apt"], say) as lines:
        (folder / "apt.conf").write_text("".join(f"{line}\n" for line in lines))
        yield Lent(folder, tuple(binds))


def answering(mirrors: Mirrors, say: LineCallback) -> dict[MirrorKind, list[str]]:
    """The mirrors for packages that answer, by kind, in the site's order; the dead ones are said."""
    alive: dict[MirrorKind, list[str]] = {"pip": [], "apt": [], "conda": []}
    for answer in probe_mirrors({kind: mirrors.by_kind()[kind] for kind in alive}):
        if answer.latency_s is None:
            say(f"{urlsplit(answer.address).netloc}: no: {answer.kind} mirror: {answer.problem}")
        else:
            alive[answer.kind].append(answer.address)
    return alive


def with_index(settings: dict[str, str], mirror: str) -> dict[str, str]:
    """pip's options with ``mirror`` in the place of the machine's index; its further indexes and folders stay."""
    changed = {**settings, "index-url": mirror}
    parts = urlsplit(mirror)
    if parts.scheme == "http":
        changed["trusted-host"] = f"{settings.get('trusted-host', '')} {parts.netloc}".strip()
    return changed


def certificate_authorities(settings: dict[str, str]) -> Path | None:
    """The machine's bundle of certificate authorities, if it has one."""
    bundle = os.environ.get("SSL_CERT_FILE") or settings.get("cert") or ssl.get_default_verify_paths().cafile or ""
    return Path(bundle) if Path(bundle).is_file() else None


@contextlib.contextmanager
def apt_conf(mirrors: Sequence[str], say: LineCallback) -> Iterator[list[str]]:
    """Lines of apt's configuration for a build: the machine's, and the way to ``mirrors`` while the block runs."""
    own = _own_apt_lines()
    if not mirrors:
        yield own
        return
    proxy = next((found[1] for line in own if (found := _PROXY.match(line))), None)
    with apt_relay(mirrors, proxy, say) as lines:
        yield [*own, *lines]


def pip_settings() -> dict[str, str]:
    """The machine's effective pip options, environment over files; empty where pip is not there."""
    try:
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            timeout=TOOL_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}  # no pip here: the build uses pip's own defaults
    return parse_pip_config(listed)


def parse_pip_config(listed: str) -> dict[str, str]:
    """Options of ``pip config list``; ``:env:`` wins over ``install``, which wins over ``global``."""
    ranked: dict[str, tuple[int, str]] = {}
    for line in listed.splitlines():
        key, separator, quoted = line.partition("=")
        section, _, option = key.rpartition(".")
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section)
        if not separator or rank is None or rank < ranked.get(option, (0, ""))[0]:
            continue
        ranked[option] = (rank, quoted.strip().strip("'\"").replace("\\n", "\n"))
    return {option: value for option, (_, value) in ranked.items()}


def pip_conf(settings: dict[str, str], addresses: dict[str, str], extra_indexes: list[str]) -> str:
    """A pip.conf for inside the build: local folders renamed by ``addresses``, the stack's own indexes added."""
    config = configparser.RawConfigParser()
    config.add_section("global")
    for option in PIP_OPTIONS:
        words = [addresses.get(word, word) for word in settings.get(option, "").split()]
        if option == "extra-index-url":
            words += extra_indexes
        words = [word for word in words if word]
        if words:
            config.set("global", option, "\n".join(words))
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def _local_folder(address: str) -> Path | None:
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(address).absolute() if not parts.scheme else None


def _own_apt_lines() -> list[str]:
    """The host's proxy and certificate settings of apt; none elsewhere than on Debian and its children."""
    program = shutil.which("apt-config")
    if program is None:
        return []
    dumped = subprocess.run([program, "dump"], capture_output=True, text=True, timeout=TOOL_SECONDS, check=False).stdout
    return [line for line in dumped.splitlines() if line.startswith(APT_OPTIONS)]
