"""What an image says about itself: LABEL, and what becomes a label because an Apptainer image has no place for it."""

from __future__ import annotations

import json
import re

from harness.definition.dockerfile import Instruction
from harness.definition.shell import ARGUMENT, quote
from harness.definition.state import ROOT_USERS, StageState
from harness.definition.words import Assumption, plain_text

PREFIX = "docker."
"""Labels of instructions that mean nothing to Apptainer start with this."""
HEALTH_LABEL = f"{PREFIX}healthcheck"


def label(state: StageState, instruction: Instruction) -> None:
    """LABEL."""
    for name, word in zip(instruction.values[::2], instruction.values[1::2], strict=True):
        _set(state, instruction, state.text(name, instruction), state.text(word, instruction))


def maintainer(state: StageState, instruction: Instruction) -> None:
    """MAINTAINER, deprecated: the label that replaced it."""
    _set(state, instruction, "org.opencontainers.image.authors", " ".join(instruction.values))


def expose(state: StageState, instruction: Instruction) -> None:
    """EXPOSE: a program in an Apptainer image listens on the machine's own ports."""
    words = [state.text(word, instruction) for word in instruction.values]
    _add(state, instruction, "expose", [w if "/" in w else f"{w}/tcp" for w in words])


def volume(state: StageState, instruction: Instruction) -> None:
    """VOLUME: to be bound by whoever starts the image."""
    _add(state, instruction, "volume", [state.text(word, instruction) for word in instruction.values])


def stop_signal(state: StageState, instruction: Instruction) -> None:
    """STOPSIGNAL: for ``apptainer instance stop --signal``."""
    _set(state, instruction, f"{PREFIX}stopsignal", state.text(instruction.values[0], instruction))


def health_check(state: StageState, instruction: Instruction) -> None:
    """HEALTHCHECK: mostly it asks a running service, which %test has not; see :mod:`harness.definition.health`."""
    kind, *words = instruction.values
    state.health = None if kind.upper() == "NONE" else instruction
    if kind.upper() == "NONE":
        text = "NONE"
    else:
        command = json.dumps(words) if instruction.is_json else " ".join(words)
        text = " ".join([*instruction.flags, "CMD", command])
    _check_raw(instruction, text)
    _set(state, instruction, HEALTH_LABEL, text.strip())


def user(state: StageState, instruction: Instruction) -> None:
    """USER: RUNs below run as that user; the image itself runs as whoever starts it."""
    value = state.value(" ".join(instruction.values), instruction)
    state.user = plain_text(value, where=instruction.where, what="USER").strip()
    chosen = ARGUMENT.sub(lambda name: state.arguments[name[1]], state.user)
    if chosen != state.user:
        must = f"must {'' if chosen in ROOT_USERS else 'not '}name root"
        state.scope.assumed.add(Assumption(value, "|".join(map(quote, sorted(ROOT_USERS))), chosen in ROOT_USERS, must))
    if chosen in ROOT_USERS:
        state.labels.pop(f"{PREFIX}user", None)
        state.user = ""
    else:
        _set(state, instruction, f"{PREFIX}user", state.user)


def on_build(state: StageState, instruction: Instruction) -> None:
    """ONBUILD: recorded; it fires in a stage that starts from this one."""
    # With a here-document all lines are needed: ``original`` is the first alone.
    written = "\n".join(instruction.lines) if "<<" in instruction.original else instruction.original
    text = re.sub(r"^\s*ONBUILD\s+", "", written, flags=re.IGNORECASE)
    trigger = text.split(None, 1)[0].upper()
    if trigger in ("ONBUILD", "FROM", "MAINTAINER"):
        raise instruction.refuse(f"{trigger} cannot be a trigger, as Docker says too", "remove the line")
    _check_raw(instruction, text)
    state.onbuild.append(text)
    _add(state, instruction, "onbuild", [" ".join(text.split())])


def _check_raw(instruction: Instruction, text: str) -> None:
    if "{{" in text:
        raise instruction.refuse("its label would hold '{{', a definition's build argument", "call a script instead")


def _add(state: StageState, instruction: Instruction, name: str, words: list[str]) -> None:
    before = state.labels.get(f"{PREFIX}{name}", "").split(", ")
    _set(state, instruction, f"{PREFIX}{name}", ", ".join(w for w in dict.fromkeys([*before, *words]) if w))


def _set(state: StageState, instruction: Instruction, key: str, value: str) -> None:
    if not key or re.search(r"\s", key) or "\n" in value or value != value.strip() or key[0] in "%#":
        raise instruction.refuse(
            f"label '{key}' does not fit a line of a definition",
            "use a name without blanks, and one line of text without blanks at its ends",
        )
    if "{{" in re.sub(r"\{\{ \w+ \}\}", "", value):
        raise instruction.refuse(f"label '{key}' holds '{{{{', a definition's build argument", "use other text")
    state.labels[key] = value
