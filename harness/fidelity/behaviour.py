"""What an image shows its user beside files: environment, working directory, start command, labels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Variables that an Apptainer image has of itself, each with its reason.
OWN_VARIABLES = {
    r"(APPTAINER|SINGULARITY)_.*|USER_PATH": "Apptainer's account of itself",
    r"PS1|PROMPT_COMMAND": "Apptainer's prompt",
    r"HOME|USER|LOGNAME|SHELL|TERM|TERMINFO.*": "an Apptainer image runs as its user, in that user's home",
    r"PWD|OLDPWD|SHLVL|_": "every shell sets it",
}
_OWN = re.compile("|".join(f"(?:{pattern})" for pattern in OWN_VARIABLES))
_LIBS = re.compile(r":?/\.singularity\.d/libs$")

# The image's start script with `exec` replaced by a report; a function of that name is possible in bash.
_PROBE = """\
exec() { printf '%s\\0' "$PWD" "$@"; builtin exit 0; }
. /.singularity.d/runscript
"""
PROBE_ARGUMENTS = ((), ("first", "two  words", '--quoted=\'"$HOME"'))

Execute = Callable[[list[str]], str]
"""Runs a command in an image, in its folder /, and returns its standard output."""


@dataclass(frozen=True)
class Behaviour:
    """What is compared: variables; for each of ``PROBE_ARGUMENTS`` folder and argument vector; labels."""

    environment: dict[str, str]
    starts: tuple[tuple[str, ...], ...]
    labels: dict[str, str]

    def differences(self, wanted: Behaviour) -> list[str]:
        """One line for each thing that is not as ``wanted``."""
        lines = []
        for name in sorted(wanted.environment.keys() | self.environment.keys()):
            value, right = self.environment.get(name), wanted.environment.get(name)
            if value != right:
                lines.append(f"variable {name} is {value!r}, not {right!r}")
        for arguments, start, right_start in zip(PROBE_ARGUMENTS, self.starts, wanted.starts, strict=True):
            if start != right_start:
                given = f"with arguments {list(arguments)}" if arguments else "without arguments"
                lines.append(f"start {given} is {list(start)}, not {list(right_start)}")
        for name, text in wanted.labels.items():
            if self.labels.get(name) != text:
                lines.append(f"label {name} is {self.labels.get(name)!r}, not {text!r}")
        return lines


def docker_behaviour(config: dict[str, Any]) -> Behaviour:
    """What Docker's configuration of an image promises."""
    environment = dict(pair.split("=", 1) for pair in config.get("Env") or [])
    entrypoint, cmd = config.get("Entrypoint") or [], config.get("Cmd") or []
    if entrypoint == [""]:  # an engine starts CMD then
        entrypoint = []
    workdir = config.get("WorkingDir") or "/"
    starts = tuple((workdir, *entrypoint, *(arguments or cmd)) for arguments in PROBE_ARGUMENTS)
    environment = {n: v for n, v in environment.items() if not _OWN.fullmatch(n)}
    return Behaviour(environment, starts, dict(config.get("Labels") or {}))


def apptainer_behaviour(execute: Execute, sandbox: Path, host: Mapping[str, str]) -> Behaviour:
    """What an image really does; a variable that is as on the ``host`` is none of the image's.

    Raises:
        CommandError: nothing can be run in it.
    """
    environment = {}
    for pair in execute(["/usr/bin/env", "-0"]).split("\0"):
        name, separator, value = pair.partition("=")
        if name == "LD_LIBRARY_PATH":
            value = _LIBS.sub("", value)
        is_own = (name, value) in (("LANG", "C"), ("LD_LIBRARY_PATH", ""))  # Apptainer's, where the image is silent
        if separator and not is_own and host.get(name) != value and not _OWN.fullmatch(name):
            environment[name] = value
    starts = []
    for arguments in PROBE_ARGUMENTS:
        printed = execute(["/bin/bash", "-c", _PROBE, "sh", *arguments])
        starts.append(tuple(printed.removesuffix("\0").split("\0")))
    labels = json.loads((sandbox / ".singularity.d/labels.json").read_text(encoding="utf-8"))
    return Behaviour(environment, tuple(starts), labels)
