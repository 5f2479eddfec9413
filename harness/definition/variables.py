"""ARG and ENV."""

from __future__ import annotations

import platform
import re

from harness.definition.dockerfile import Instruction
from harness.definition.state import StageState
from harness.definition.words import Part, Scope, Value, expand, shell_word

# What Apptainer's own shell, which sets the variables of a running image, lets nobody set.
_READ_ONLY = frozenset({"UID", "EUID", "GID"})
# What bash, where it is /bin/sh, lets nobody set; a RUN there has bash's value, with Docker too.
_READ_ONLY_IN_BASH = frozenset({"UID", "EUID", "PPID", "BASHOPTS", "BASH_VERSINFO", "SHELLOPTS"})
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Docker sets these itself where they are declared.
_PROXIES = {n for p in ("HTTP", "HTTPS", "FTP", "NO", "ALL") for n in (f"{p}_PROXY", f"{p}_proxy".lower())}


def platform_arguments() -> dict[str, str]:
    """Docker's automatic arguments for this machine."""
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    values = {"PLATFORM": f"linux/{architecture}", "OS": "linux", "ARCH": architecture, "VARIANT": ""}
    return {f"{side}{name}": value for side in ("TARGET", "BUILD") for name, value in values.items()}


def global_arg(instruction: Instruction, scope: Scope, arguments: dict[str, str]) -> None:
    """ARG above the first FROM: for FROM lines, and the default of the stages' own ARG of that name."""
    for word in instruction.values:
        name, separator, default = word.partition("=")
        _check_name(name, instruction)
        if separator:
            value = expand(default, scope, where=instruction.where, escape=instruction.escape)
        else:
            value = (Part("argument", name),)
            arguments[name] = ""
        scope.values[name] = _declared(name, value, arguments, instruction) if separator else value


def arg(state: StageState, instruction: Instruction, global_scope: Scope, global_arguments: dict[str, str]) -> None:
    """ARG in a stage: a variable of the instructions that follow, until an ENV of that name; never of the image."""
    for word in instruction.values:
        name, separator, default = word.partition("=")
        _check_name(name, instruction)
        if name in state.environment and not separator and name not in global_scope.values:
            continue  # without a value of its own it changes nothing; with one BuildKit lets it hide ENV's
        automatic = platform_arguments()
        if separator:
            value = _declared(name, state.value(default, instruction), state.arguments, instruction)
        elif name in global_scope.values:
            value = global_scope.values[name]
            need(value, state, global_arguments, instruction)
        elif name in automatic:
            value = _declared(name, (Part("text", automatic[name]),), state.arguments, instruction)
        elif name in _PROXIES:
            continue  # the machine's own, lent while building
        else:
            value = (Part("argument", name),)
            _set_default(name, "", state.arguments, instruction)
        state.scope.values[name] = value
        if value == (Part("argument", name),):
            # No default: Docker leaves it unset.
            state.set_variable(f"[ -z {shell_word(value)} ] || export {name}={shell_word(value)}")
        elif name in _READ_ONLY_IN_BASH:
            state.set_variable(f"! ({name}=) 2>/dev/null || export {name}={shell_word(value)}")
        else:
            state.export(name, value)


def env(state: StageState, instruction: Instruction) -> None:
    """ENV: for the RUNs that follow and for the image; the variables of one instruction do not see each other."""
    pairs = zip(instruction.values[::2], instruction.values[1::2], strict=True)
    values = []
    for word, text in pairs:
        name = state.text(word, instruction)
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise instruction.refuse(f"'{name}' is no name that a shell can export", "use letters, digits and _")
        if name in _READ_ONLY:
            raise instruction.refuse(
                f"Apptainer lets no image set {name}, and every start would print an error",
                f"use another name, such as USER_{name}, or ARG where only builds need it",
            )
        values.append((name, state.keep_base_values(state.value(text, instruction))))
    for name, value in values:
        state.environment[name] = state.scope.values[name] = value
        state.export(name, value)


def need(value: Value, state: StageState, global_arguments: dict[str, str], instruction: Instruction) -> None:
    """Make the global arguments that a value refers to arguments of the stage."""
    for part in value:
        if part.kind == "argument":
            _set_default(part.text, global_arguments[part.text], state.arguments, instruction)


def _check_name(name: str, instruction: Instruction) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise instruction.refuse(f"'{name}' is no name that a shell can export", "use letters, digits and _")


def _declared(name: str, value: Value, arguments: dict[str, str], instruction: Instruction) -> Value:
    """The value of an ARG with a default: a build argument, or, where the default holds another one, just that."""
    if any(part.kind in ("variable", "saved") for part in value):
        raise instruction.refuse(
            f"the default of '{name}' refers to the base's environment", "write the value, or use ENV"
        )
    if any(part.kind == "argument" for part in value):
        return value
    text = "".join(part.text for part in value)
    if "{{" in text or re.search(r"""["$`\\\n]""", text) or text != text.strip():
        # Such text cannot be a definition's default; it stays what it is, and is no build argument.
        return value
    _set_default(name, text, arguments, instruction)
    return (Part("argument", name, default=text),) if text else (Part("argument", name, default=""),)


def _set_default(name: str, default: str, arguments: dict[str, str], instruction: Instruction) -> None:
    if arguments.get(name, default) != default:
        raise instruction.refuse(
            f"'{name}' has another default before, and a definition's argument has one",
            "give one of the two another name",
        )
    arguments[name] = default
