"""Cutting a definition into a chain of definitions, each of which goes on from the image of the one before.

Where the cuts are follows from the text alone, so that the last image does not depend on which of the others were
there already. A cut costs a packing and an unpacking of the whole image so far, so it must pay:

- it comes after a RUN that does work (installs, fetches, compiles), never after ENV, WORKDIR, LABEL and their like;
- a COPY joins the RUN that follows it: a changed file is used by that RUN;
- a RUN of nothing but quick programs (rm, ln, mkdir, compileall …) joins the RUN before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from harness.definition.model import BuildStage, Definition, Layer
from harness.definition.shell import STAGING
from harness.definition.writer import write_definition

PREVIOUS = "previous.sif"
"""What a definition of the chain calls the image it goes on from."""

QUICK_PROGRAMS = frozenset(
    {"rm", "ln", "mkdir", "rmdir", "touch", "chmod", "chown", "cp", "mv", "echo", "printf", "sed", "find", "true", ":"}
    | {"test", "[", "useradd", "groupadd", "usermod", "adduser", "addgroup", "ldconfig", "update-alternatives"}
)
_COMPILEALL = re.compile(r"python[\d.]*\s+-m\s+compileall\b")
_STAGED = re.compile(re.escape(STAGING) + r"/[\w-]+")

# The engine would keep the definitions of the earlier images of the chain in the last one.
_RESUME = "rm -rf /.singularity.d/bootstrap_history /.singularity.d/Singularity"


def cut(definition: Definition) -> list[Definition]:
    """The chain; one definition where no cut pays. The last image is that of ``definition``, but for its own text."""
    groups = _joined(_groups(definition.layers))
    chain = []
    variables: tuple[str, ...] = ()
    for number, group in enumerate(groups):
        is_first, is_last = number == 0, number == len(groups) - 1
        layers = tuple(group) if is_last else tuple(replace(layer, environment=(), labels=()) for layer in group)
        if not is_first:
            layers = (Layer(commands=(_RESUME, *variables)), *layers)
        part = replace(definition, layers=layers, stages=_needed(definition.stages, group), header=())
        if not is_first:
            part = replace(part, bootstrap="localimage", base=PREVIOUS)
        if not is_last:
            part = replace(part, runscript=None, test=None, help_text=None)
        chain.append(_with_used_arguments(part))
        variables += tuple(variable for layer in group for variable in layer.variables)
    return chain


def _groups(layers: Sequence[Layer]) -> list[list[Layer]]:
    groups: list[list[Layer]] = []
    pending: list[Layer] = []  # what joins the next RUN that does work
    for layer in layers:
        kind = _kind(layer)
        pending.append(layer)
        if kind == "work" or (kind == "quick" and groups and all(_kind(p) != "copy" for p in pending)):
            if kind == "quick":
                groups[-1] += pending
            else:
                groups.append(pending)
            pending = []
    if not groups or any(_kind(layer) == "copy" for layer in pending):
        # The lines that end every definition are no reason for a cut, files are.
        groups.append(pending)
    else:
        groups[-1] += pending
    return groups


def _kind(layer: Layer) -> Literal["nothing", "copy", "quick", "work"]:
    if not layer.origin:
        return "nothing"
    instruction, _, command = layer.origin[1].partition(" ")
    if instruction.upper() in ("COPY", "ADD"):
        return "copy"
    if instruction.upper() != "RUN":
        return "nothing"
    return "quick" if _is_quick(command) else "work"


def _is_quick(command: str) -> bool:
    """Whether a RUN starts quick programs alone. What is not understood here counts as work."""
    text = re.sub(r"'[^']*'", "X", command.replace("\\", " "))
    text = re.sub(r"\$\(python[\d.]* -c X\)", "X", text)
    if re.search(r"\$\(|`|<<|^\s*(?:--|\[)", text):
        return False
    text = re.sub(r'"[^"]*"', "X", text)
    simple = [part.strip() for part in re.split(r"&&|\|\||[;|]", text) if part.strip()]
    return all(part.split()[0] in QUICK_PROGRAMS or _COMPILEALL.match(part) for part in simple)


def _joined(groups: list[list[Layer]]) -> list[list[Layer]]:
    """Groups that share a staging folder (a RUN's cache, a folder bound twice) stay one."""
    joined: list[list[Layer]] = []
    for index, group in enumerate(groups):
        later = _staged(layer for following in groups[index:] for layer in following)
        if joined and _staged(joined[-1]) & later:
            joined[-1] = joined[-1] + group
        else:
            joined.append(list(group))
    return joined


def _staged(layers: Iterable[Layer]) -> set[str]:
    return {name for layer in layers for command in layer.commands for name in _STAGED.findall(command)}


def _needed(stages: tuple[BuildStage, ...], group: Sequence[Layer]) -> tuple[BuildStage, ...]:
    """Those stages that the group's files come from, directly or through another stage."""
    by_name = {stage.name: stage for stage in stages}
    wanted = {copied.stage for layer in group for copied in layer.files}
    for stage in reversed(stages):  # a stage copies from earlier ones only
        if stage.name in wanted:
            wanted |= {copied.stage for layer in stage.layers for copied in layer.files}
    return tuple(by_name[stage.name] for stage in stages if stage.name in wanted)


def _with_used_arguments(part: Definition) -> Definition:
    text = write_definition(replace(part, arguments=(), stages=()))
    return replace(part, arguments=tuple(a for a in part.arguments if f"{{{{ {a[0]} }}}}" in text))
