"""Asking apt what a Dockerfile's apt commands would install, in folders of our own: nothing on this machine changes.

The machine's apt reads the base image's package database, sources and keys, and simulates one command after the
other; what one installs is there for the next. The base's own apt configuration is not read: it may hold commands.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import CommandError, HarnessError
from harness.image.machine_apt import apt_settings
from harness.image.process import LineCallback, run_command
from harness.lock.apt_commands import AptCommand
from harness.lock.base_system import STATUS
from harness.stack_lock import LockedDeb

_UPDATE_SECONDS = 600.0
_SIMULATE_SECONDS = 120.0
_INSTALL = re.compile(r"^Inst (?P<name>\S+) (?:\[[^]]*\] )?\((?P<version>\S+) [^)]*\[(?P<architecture>[^]]+)\]\)", re.M)
_REMOVE = re.compile(r"^(?:Remv|Purg) (?P<name>\S+)", re.MULTILINE)


@dataclass
class PrivateApt:
    """An apt whose every folder is below ``folder``.

    Attributes:
        lists: package lists, kept from one use to the next: unchanged ones are not fetched again.
        installed: name to dpkg's stanza.
        automatic: what was installed because something else needs it; for autoremove.
    """

    folder: Path
    lists: Path
    installed: dict[str, str]
    automatic: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, folder: Path, base_root: Path, files: Sequence[tuple[Path, str]], lists: Path) -> PrivateApt:
        """Set one up.

        Args:
            folder: empty, or missing.
            base_root: see :func:`harness.lock.base_system.base_system`.
            files: (file, absolute path in the image) that the Dockerfile copies to apt's folders.
            lists: parent of the kept package lists.

        Raises:
            HarnessError: the base has no Debian package database.
        """
        root = folder / "root"
        shutil.copytree(base_root, root)
        for source, target in files:
            path = root / target.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
        sources = _sources(root)
        key = hashlib.sha256("\0".join(path.read_text("utf-8") for path in sources).encode()).hexdigest()[:16]
        for path in sources:
            path.write_text(_with_keys_below(path.read_text("utf-8"), root), "utf-8")
        installed = {_name(s): s for s in (root / STATUS).read_text("utf-8").split("\n\n") if _is_installed(s)}
        if not installed:
            raise HarnessError("the base has no Debian package database", where=str(base_root))
        for name in ("state", "cache/archives/partial", "empty"):
            (folder / name).mkdir(parents=True)
        kept = lists / f"lists-{key}"
        (kept / "partial").mkdir(parents=True, exist_ok=True)
        apt = cls(folder, kept, installed)
        (folder / "apt.conf").write_text(apt._configuration(), "utf-8")
        return apt

    def update(self, on_line: LineCallback) -> None:
        """Fetch the package lists of the base's sources.

        Raises:
            CommandError: a source does not answer, or nobody trusted signed it.
        """
        with (self.lists.with_suffix(".lock")).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # Without this option apt reports a source that does not answer as a warning, and goes on with old lists.
            command = ["apt-get", "update", "-o", "APT::Update::Error-Mode=any"]
            self._run(command, timeout_s=_UPDATE_SECONDS, what="reading the package lists", on_line=on_line)

    def resolve(self, commands: Sequence[AptCommand]) -> dict[str, LockedDeb]:
        """Packages that are installed after ``commands`` and were not, or in another version, before; by name.

        Raises:
            HarnessError: apt refuses a command: it knows no such package, or the packages do not fit together.
        """
        before = dict(self.installed)
        digests: dict[str, str] = {}
        for command in commands:
            printed = self._simulate(command)
            for found in _REMOVE.finditer(printed):
                self.installed.pop(found["name"].partition(":")[0], None)
            inst = {f["name"].partition(":")[0]: f for f in _INSTALL.finditer(printed)}
            wanted = {word.partition("=")[0].partition("/")[0].partition(":")[0] for word in command.packages}
            self.automatic = (self.automatic | inst.keys()) - wanted
            for name, stanza in self._stanzas([f"{n}={f['version']}" for n, f in inst.items()]).items():
                self.installed[name] = stanza
                digests[name] = _value(stanza, "SHA256")
        return {
            name: LockedDeb(
                version=_value(stanza, "Version"),
                architecture=_value(stanza, "Architecture"),
                sha256=digests[name],
            )
            for name, stanza in sorted(self.installed.items())
            if name in digests and _value(before.get(name, ""), "Version") != _value(stanza, "Version")
        }

    def _simulate(self, command: AptCommand) -> str:
        status = "\n\n".join(self.installed.values()) + "\n"
        (self.folder / "root" / STATUS).write_text(status, "utf-8")
        marks = "".join(f"Package: {name}\nAuto-Installed: 1\n\n" for name in sorted(self.automatic))
        (self.folder / "state" / "extended_states").write_text(marks, "utf-8")
        argv = ["apt-get", command.action, "--simulate", "-y", *command.options, *command.packages]
        try:
            return self._run(argv, timeout_s=_SIMULATE_SECONDS, what=f"apt-get {command}")
        except CommandError as error:
            said = [line for line in error.output.splitlines() if line.startswith("E:")]
            raise HarnessError(
                f"apt-get {command}: {said[0][3:] if said else error.what}", where=command.where
            ) from error

    def _stanzas(self, wanted: Sequence[str]) -> dict[str, str]:
        """The archive's stanzas of ``name=version``, made into those of installed packages."""
        if not wanted:
            return {}
        printed = self._run(["apt-cache", "show", "--no-all-versions", *wanted], timeout_s=_SIMULATE_SECONDS)
        stanzas = {}
        for stanza in printed.strip().split("\n\n"):
            # A description is long and holds nothing that we need.
            plain = re.sub(r"^Description[^\n]*(?:\n [^\n]*)*\n?", "", stanza.strip() + "\n", flags=re.MULTILINE)
            stanzas[_name(stanza)] = plain.strip() + "\nStatus: install ok installed"
        return stanzas

    def _run(
        self, command: list[str], *, timeout_s: float, what: str | None = None, on_line: LineCallback | None = None
    ) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C.UTF-8"}
        return run_command(
            command,
            env=environment,
            timeout_s=timeout_s,
            separate_stdout=on_line is None,
            on_line=on_line,
            what=what,
            fix="apt on this machine must reach the sources of the base image",
        ).stdout

    def _configuration(self) -> str:
        route, validity = apt_settings()
        architecture = _value(self.installed.get("dpkg", ""), "Architecture") or "amd64"
        folders = {
            "Dir": self.folder / "root",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": self.folder / "empty",
            "Dir::State": self.folder / "state",
            "Dir::State::lists": self.lists,
            "Dir::State::status": self.folder / "root" / STATUS,
            "Dir::Cache": self.folder / "cache",
            "Dir::Log": self.folder / "empty",
            "Dir::Bin::methods": "/usr/lib/apt/methods",
            "Dir::Bin::solvers::": "/usr/lib/apt/solvers",
            "Dir::Bin::planners::": "/usr/lib/apt/planners",
            "Dir::Bin::dpkg": "/usr/bin/dpkg",
            "Dir::Bin::apt-key": "/usr/bin/apt-key",
            "APT::Architecture": architecture,
            "APT::Sandbox::User": "root",
            "APT::Get::Show-User-Simulation-Note": "false",
            "Acquire::Languages": "none",
            "Dpkg::Use-Pty": "false",
        }
        lines = [*route, *validity, *(f'{key} "{value}";' for key, value in folders.items())]
        return "\n".join([*lines, "#clear APT::Architectures;", f'APT::Architectures {{ "{architecture}"; }};', ""])


def installed_versions(status: Path) -> dict[str, str]:
    """Name to version of the installed packages of a dpkg status file."""
    stanzas = [s for s in status.read_text("utf-8").split("\n\n") if _is_installed(s)]
    return dict(sorted((_name(stanza), _value(stanza, "Version")) for stanza in stanzas))


def _sources(root: Path) -> list[Path]:
    folder = root / "etc/apt"
    found = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    return [path for path in found if path.is_file()]


def _with_keys_below(text: str, root: Path) -> str:
    """Signed-By with the base's own keys: this machine may be of another distribution."""

    def below(match: re.Match[str]) -> str:
        own = root / match[2].lstrip("/")
        return match[1] + (str(own) if own.is_file() else match[2])

    return re.sub(r"(signed-by\s*[=:]\s*)(/[^\s\],]+)", below, text, flags=re.IGNORECASE)


def _is_installed(stanza: str) -> bool:
    return re.search(r"^Status: \S+ \S+ installed$", stanza, re.MULTILINE) is not None


def _name(stanza: str) -> str:
    return _value(stanza, "Package")


def _value(stanza: str, key: str) -> str:
    found = re.search(rf"^{key}: (.*)$", stanza, re.MULTILINE)
    return found[1].strip() if found else ""
