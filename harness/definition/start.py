"""ENTRYPOINT and CMD: what starting the image runs."""

from __future__ import annotations

from dataclasses import replace

from harness.definition.dockerfile import Instruction
from harness.definition.shell import BASE_RUNSCRIPT, join, quote
from harness.definition.state import StageState

# Apptainer's own script for a Docker image would read the arguments once more as shell text.
_INHERIT = (f"SINGULARITY_NO_EVAL=1\n. {BASE_RUNSCRIPT}",)


def cmd(state: StageState, instruction: Instruction) -> None:
    """CMD."""
    state.cmd, state.cmd_shell, state.cmd_is_own = instruction, state.shell, True


def entrypoint(state: StageState, instruction: Instruction) -> None:
    """ENTRYPOINT: resets a CMD that comes from the base."""
    if instruction.is_json and instruction.values == ("",):  # Docker starts what follows, as with []
        instruction = replace(instruction, values=())
    state.entrypoint, state.entrypoint_shell = instruction, state.shell
    if not state.cmd_is_own:
        state.cmd = None


def runscript(state: StageState) -> str | None:
    """Docker's start rule: arguments replace CMD and follow ENTRYPOINT; None: as the base does."""
    lines = [] if state.workdir == "/" else [state.enter_later()]
    if state.cmd is not None:
        if not state.cmd.values and state.entrypoint is None:
            raise state.cmd.refuse(
                "an empty CMD leaves the base's ENTRYPOINT alone, which is not known here", "name it"
            )
        if state.cmd.values:
            lines.append(f'[ "$#" -gt 0 ] || set -- {_words(state.cmd, state.cmd_shell)}')
    if state.entrypoint is None:
        lines += _INHERIT
    elif state.entrypoint.values:
        lines.append(f'exec {_words(state.entrypoint, state.entrypoint_shell)} "$@"')
    else:
        lines.append('[ "$#" -gt 0 ] || { echo "this image has no command of its own; name one" >&2; exit 2; }')
        lines.append('exec "$@"')
    return "\n".join(lines)


def _words(instruction: Instruction, shell: tuple[str, ...]) -> str:
    if instruction.is_json:
        return join(instruction.values)
    return f"{join(shell)} {quote(' '.join(instruction.values))}"
