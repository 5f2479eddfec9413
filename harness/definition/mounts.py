"""``RUN --mount``: what it gives one RUN, by mounts in %post, or a refusal."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from harness.definition.dockerfile import Instruction
from harness.definition.shell import STAGING, quote_path
from harness.definition.state import StageState

Stage = Callable[[str | None, str, Instruction], str]
"""Stages a source (of a stage, or of the context) and returns a shell word for its path."""

_INSTEAD = {
    "secret": "a build of a definition has no secrets; bind the file: apptainer build --bind FILE:/run/secrets/NAME",
    "ssh": "a build of a definition has no agent; fetch it before and COPY it",
}

_TARGETS = ("target", "dst", "destination")
_ACCESS = ("ro", "readonly", "rw", "readwrite")
_SOURCES = ("from", "source", "src")
_OPTIONS = {
    "bind": (*_SOURCES, *_ACCESS),
    "cache": ("id", "sharing", "mode", "uid", "gid", *_SOURCES, *_ACCESS),
    "tmpfs": ("size",),
}


@dataclass(frozen=True)
class Mounted:
    """Commands around a RUN."""

    before: tuple[str, ...]
    after: tuple[str, ...]


def mounts(state: StageState, instruction: Instruction, stage: Stage) -> Mounted:
    """What the RUN's flags ask for.

    Raises:
        SpecError: a flag or a kind of mount that cannot be had in a definition.
    """
    before: list[str] = []
    after: list[str] = []
    for flag in instruction.flags:
        name, _, value = flag.partition("=")
        if name == "--network" and value in ("default", "host"):
            continue  # a definition's %post has the machine's network
        if name != "--mount":
            raise instruction.refuse(f"{flag} is not possible in a definition", "write the RUN without the flag")
        options = {key: state.text(text, instruction) for key, text in _options(value).items()}
        kind = options.get("type", "bind")
        if kind not in _OPTIONS:
            raise instruction.refuse(f"--mount=type={kind} is not possible", _INSTEAD.get(kind, "use COPY"))
        _check(kind, options, instruction)
        target = options.get("target") or options.get("dst") or options.get("destination")
        if not target:
            raise instruction.refuse(f"{flag} has no target", "write target=/folder")
        path = state.path(target)
        if path == "/":
            raise instruction.refuse(f"{flag} replaces the whole image", "mount a folder")
        _add(state, instruction, stage, kind, options, path, before, after)
    return Mounted(tuple(before), tuple(after))


def _add(
    state: StageState,
    instruction: Instruction,
    stage: Stage,
    kind: str,
    options: dict[str, str],
    path: str,
    before: list[str],
    after: list[str],
) -> None:
    target, notes = quote_path(path), f"{STAGING}/mount-{next(state.numbers)}"
    origin, source = options.get("from"), options.get("source") or options.get("src") or "/"
    after.insert(0, f"mount_out {target} {notes}")
    if kind == "bind":
        access = "rw" if _is_writable(options) else "ro"  # what is written is lost, for each RUN has its own copy
        before.append(f"mount_in {access} {stage(origin, source, instruction)} {target} {notes}")
        return
    if origin or "source" in options or "src" in options:
        raise instruction.refuse("a cache with content from elsewhere is not supported", "COPY --from it")
    if kind == "tmpfs":
        before.append(f"mount_in tmpfs '' {target} {notes}")
        return
    # It lasts for the whole build, as the first build with an empty cache sees it.
    mode, owner = options.get("mode", "755"), f"{options.get('uid', '0')}:{options.get('gid', '0')}"
    key = hashlib.sha256(" ".join([options.get("id") or path, mode, owner]).encode()).hexdigest()[:12]
    keeps = f"{STAGING}/cache-{key}"
    make = f"mkdir -p {keeps} && chmod {quote_path(mode)} {keeps} && chown {quote_path(owner)} {keeps}"
    before.append(f"[ -d {keeps} ] || {{ {make}; }}")
    before.append(f"mount_in {'ro' if _is_read_only(options) else 'rw'} {keeps} {target} {notes}")


def _check(kind: str, options: dict[str, str], instruction: Instruction) -> None:
    """Raises SpecError for what Docker would refuse: a misspelt option would mean another mount."""
    valid = ("type", *_TARGETS, *_OPTIONS[kind])
    for name in options:
        if name not in valid:
            raise instruction.refuse(f"--mount=type={kind} has no option '{name}'", f"valid: {', '.join(valid)}")
    if options.get("sharing", "shared") not in ("shared", "private", "locked"):
        raise instruction.refuse(f"sharing={options['sharing']} is unknown", "write shared, private or locked")


def _is_writable(options: dict[str, str]) -> bool:
    for name in ("rw", "readwrite"):
        if options.get(name, "false").lower() != "false":
            return True
    return any(options.get(name, "").lower() == "false" for name in ("ro", "readonly"))


def _is_read_only(options: dict[str, str]) -> bool:
    return any(options.get(name, "false").lower() != "false" for name in ("ro", "readonly"))


def _options(value: str) -> dict[str, str]:
    fields = next(csv.reader([value]), [])
    return {key.strip().lower(): text for key, _, text in (field.partition("=") for field in fields)}
