"""RUN and SHELL."""

from __future__ import annotations

import re

from harness.definition.dockerfile import Instruction
from harness.definition.mounts import Stage, mounts
from harness.definition.shell import STAGING, is_hostile, join, quote, quote_path, uses_function
from harness.definition.state import DEFAULT_SHELL, ROOT_USERS, StageState

# A RUN with one of these could tell the shell of %post, which traces its commands, from a shell of its own.
_TELLTALE = re.compile(r"&>|>&|\b2>|\$[-@*#0]|\$\{[-@*#0]|\$\$|\bcaller\b|\bset -o\b|\$SHLVL|\bBASH")
# Words and whole quoted texts: a line of these alone ends outside of quotes.
_CLOSED = re.compile(r"""(?:[^'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")*""")
_COMMENT = re.compile(r"(?:^|[\s;&|()<>`])#")


def shell(state: StageState, instruction: Instruction) -> None:
    """SHELL: what shell forms run in from here on."""
    if not instruction.is_json:
        raise instruction.refuse("SHELL needs the JSON form", 'write SHELL ["/bin/bash", "-c"]')
    state.shell = instruction.values


def run(state: StageState, instruction: Instruction, stage: Stage) -> None:
    """RUN: a shell of its own, without -e, in WORKDIR, as USER, with its mounts."""
    mounted = mounts(state, instruction, stage)
    if mounted.before and state.workdir != "/":  # before what is made for the mounts alone
        state.commands.append(state.make_workdir())
    state.commands += mounted.before
    state.commands.append(_command(state, instruction))
    state.commands += mounted.after


def _command(state: StageState, instruction: Instruction) -> str:
    prefix = ""
    if state.user not in ROOT_USERS:
        keeps_home = "harness_home=1; " if "HOME" in state.environment else ""
        prefix = f"{keeps_home}run_as {quote_path(state.user)} "
    if instruction.is_json:
        if not prefix and not is_hostile("\n".join(instruction.values)):
            return f"( {_plain_start(state)}\nexec {join(instruction.values)}\n)"
        return f"( {_enter(state)}; {prefix}{join(instruction.values)} )"
    body = _body(instruction)
    if body.startswith("#!"):
        program = f"{STAGING}/run"
        script = f"mkdir -p {STAGING}\nprintf '%s\\n' {quote(body)} >{program}\nchmod 755 {program}"
        return f"( {_enter(state)}\n{script}\n{prefix}{program}\n)"
    is_plain = state.shell == DEFAULT_SHELL and not (is_hostile(body) or _TELLTALE.search(body) or uses_function(body))
    if is_plain and not prefix:
        # Docker gives each RUN its own shell, without -e, in the working directory.
        return f"( {_plain_start(state)}\n{body}\n)"
    return f"( {_enter(state)}; {prefix}{join(state.shell)} {quote(body)} )"


def _enter(state: StageState) -> str:
    """Go to WORKDIR, which is made again where a RUN has removed it; where it cannot be, the build ends."""
    return state.enter() if state.workdir == "/" else f"{state.make_workdir()}; {state.enter()}"


def _plain_start(state: StageState) -> str:
    return f"set +e; {state.enter()}" if state.workdir == "/" else f"{_enter(state)}; set +e"


def _body(instruction: Instruction) -> str:
    """The text that Docker gives to the shell."""
    if not instruction.heredocs:
        return _as_written(instruction)
    command = "\n".join(instruction.values)
    alone = re.fullmatch(r"""\s*<<(-?)(['"]?)([\w.-]+)\2\s*""", command)
    if alone:  # the here-document is the script
        content = instruction.heredocs[0][1]
        return (re.sub(r"^\t+", "", content, flags=re.MULTILINE) if alone[1] else content).rstrip("\n")
    return command + "\n" + "".join(f"{content}{name}\n" for name, content in instruction.heredocs).rstrip("\n")


def _as_written(instruction: Instruction) -> str:
    """The command of a shell-form RUN, in the lines it was written in where a shell reads those the same way."""
    joined = "\n".join(instruction.values)
    lines = [line for line in instruction.lines if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) < 2 or instruction.flags or instruction.escape != "\\":
        return joined
    lines[0] = re.sub(r"^\s*(?:ONBUILD\s+)?RUN\s+", "", lines[0], flags=re.IGNORECASE)
    if not all(line.endswith("\\") for line in lines[:-1]):
        return joined
    # Docker takes every continuation away. A shell does not inside single quotes, and ends a comment there.
    before = [line.removesuffix("\\") for line in lines[:-1]]
    may_be_quoted = "'" in joined and not all(line.count("'") % 2 == 0 and _CLOSED.fullmatch(line) for line in before)
    if may_be_quoted or any(map(_COMMENT.search, before)):
        return joined
    rejoined = "".join(line.removesuffix("\\") for line in lines)
    return "\n".join(lines) if rejoined.split() == joined.split() else joined
