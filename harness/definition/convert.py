"""A Dockerfile's instructions -> a :class:`Definition`.

Each family of instructions has a module: ``variables`` (ARG, ENV), ``run`` with ``mounts``, ``copying`` with
``context``, ``metadata`` (LABEL, EXPOSE, USER, …), ``start`` (ENTRYPOINT, CMD) and ``stages``. What a definition cannot
express is refused with file, line, reason and what to write instead; nothing is dropped.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from harness.definition import metadata, start
from harness.definition.context import Context
from harness.definition.copying import copy
from harness.definition.dockerfile import Instruction, parse_dockerfile
from harness.definition.health import health_test
from harness.definition.model import BuildStage, Definition
from harness.definition.run import run, shell
from harness.definition.shell import STAGING, quote
from harness.definition.stages import StageSources, WrittenStage, platform
from harness.definition.state import BaseConfig, Handler, StageState
from harness.definition.variables import arg, env, global_arg, need, platform_arguments
from harness.definition.words import Assumption, Scope, Value, expand, literal, plain_text
from harness.errors import SpecError

__all__ = ["STAGING", "BaseConfig", "convert"]

BaseLookup = Callable[[str], BaseConfig | None]


def convert(
    instructions: list[Instruction],
    context: Context | str,
    *,
    bases: BaseLookup | None = None,
    target: str | None = None,
    healthcheck_as_test: bool = False,
) -> Definition:
    """Convert one Dockerfile.

    Args:
        instructions: as :func:`harness.definition.dockerfile.parse_dockerfile` gives them.
        context: the build context; a path stands for one that cannot be looked into, relative to the folder
            ``apptainer build`` will run in.
        bases: what a base image says, by its reference with all defaults filled in; None: it is not known, and taken
            for granted that the base says nothing of user, working directory, shell and triggers.
        target: the stage to build; None: the last.
        healthcheck_as_test: HEALTHCHECK becomes %test as well, which runs at the end of the build: for checks that need
            no running service. It is a label in either case.

    Raises:
        SpecError: something a definition cannot express.
    """
    if isinstance(context, str):
        context = Context(context)
    return _Conversion(instructions, context, bases).definition(target, healthcheck_as_test)


class _Conversion:
    def __init__(self, instructions: list[Instruction], context: Context, bases: BaseLookup | None) -> None:
        self.context = context
        self.bases = bases
        self.global_scope = Scope({n: literal(v) for n, v in platform_arguments().items()})
        self.automatic = set(self.global_scope.values)
        self.global_arguments: dict[str, str] = {}
        self.written: list[WrittenStage] = []
        self.done: dict[int, StageState] = {}
        self._split(instructions)
        self.sources = StageSources(self.written, self._convert)
        self.numbers = StageState("", "", context).numbers
        self.handlers: dict[str, Handler] = {
            "ARG": self._arg,
            "ENV": env,
            "RUN": lambda state, i: run(state, i, lambda o, s, at: self._bound(state, o, s, at)),
            "SHELL": shell,
            "COPY": lambda state, i: copy(state, i, self.sources),
            "ADD": lambda state, i: copy(state, i, self.sources),
            "WORKDIR": self._workdir,
            "USER": metadata.user,
            "LABEL": metadata.label,
            "MAINTAINER": metadata.maintainer,
            "EXPOSE": metadata.expose,
            "VOLUME": metadata.volume,
            "STOPSIGNAL": metadata.stop_signal,
            "HEALTHCHECK": metadata.health_check,
            "ONBUILD": metadata.on_build,
            "CMD": start.cmd,
            "ENTRYPOINT": start.entrypoint,
        }

    def definition(self, target: str | None, healthcheck_as_test: bool) -> Definition:
        last = len(self.written) - 1
        if target is not None:
            index = self.sources.index_of(target, len(self.written))
            if index is None:
                valid = ", ".join(w.label for w in self.written)
                raise SpecError(f"there is no stage '{target}'; valid: {valid}")
            last = index
        final = self._convert(last)
        stages = [
            BuildStage(s.name, s.base, tuple(s.arguments.items()), s.layers(), tuple(s.sends))
            for index, s in sorted(self.done.items())
            if index != last and s.sends
        ]
        return Definition(
            bootstrap="docker",
            base=final.base,
            arguments=tuple(final.arguments.items()),
            layers=final.layers(),
            test=health_test(final) if healthcheck_as_test else None,
            runscript=start.runscript(final),
            stages=(*self.sources.images.values(), *stages),
        )

    def _split(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if instruction.name == "FROM":
                stage = WrittenStage.of(len(self.written), instruction)
                if any(stage.label == earlier.label for earlier in self.written):
                    stage.label = f"stage-{stage.index}"
                self.written.append(stage)
            elif self.written:
                self.written[-1].body.append(instruction)
            elif instruction.name == "ARG":
                global_arg(instruction, self.global_scope, self.global_arguments)
            else:
                raise instruction.refuse("stands before FROM", "move it below FROM")
        if not self.written:
            raise SpecError("there is no FROM")

    def _convert(self, index: int) -> StageState:
        if index not in self.done:
            written = self.written[index]
            state, triggers = self._start(written)
            for instruction in [*triggers, *written.body]:
                self._apply(state, instruction)
            self.done[index] = state
        return self.done[index]

    def _apply(self, state: StageState, instruction: Instruction) -> None:
        if instruction.heredocs and instruction.name not in ("RUN", "COPY", "ADD"):
            raise instruction.refuse("a here-document is not possible here", "put the text into a file of the context")
        self.handlers[instruction.name](state, instruction)
        state.end_step(instruction)

    def _start(self, written: WrittenStage) -> tuple[StageState, list[Instruction]]:
        """A new stage, and the ONBUILD triggers that fire in it."""
        instruction = written.origin
        value = expand(written.reference, self.global_scope, where=instruction.where, escape=instruction.escape)
        wanted = expand(platform(instruction), self.global_scope, where=instruction.where, escape=instruction.escape)
        chosen = self._by_default(wanted)
        if chosen not in ("", platform_arguments()["TARGETPLATFORM"]):
            raise instruction.refuse(
                f"--platform={chosen} is not this machine's platform, and a definition cannot choose one",
                "remove the flag and build on such a machine",
            )
        state, triggers = self._start_from(written, value)
        if any(part.kind == "argument" for part in wanted):
            need(wanted, state, self.global_arguments, instruction)
            must = "must stay as it is: it chooses the platform"
            state.scope.assumed.add(Assumption(wanted, quote(chosen), True, must))
        return state, triggers

    def _by_default(self, value: Value) -> str:
        """A value of FROM with its build arguments' defaults."""
        return "".join(self.global_arguments[p.text] if p.kind == "argument" else p.text for p in value)

    def _start_from(self, written: WrittenStage, value: Value) -> tuple[StageState, list[Instruction]]:
        instruction = written.origin
        default = self._by_default(value)
        parent = self.sources.index_of(default, written.index) if not default.isdigit() else None
        if parent is not None:
            earlier = self._convert(parent)
            # A definition cannot start from an earlier stage: its commands run again.
            child = earlier.child(written.label)
            if any(part.kind == "argument" for part in value):
                need(value, child, self.global_arguments, instruction)
                must = f"must stay as it is: it chooses the stage {default}"
                child.scope.assumed.add(Assumption(value, quote(default.lower()), True, must))
            return child, self._triggers(earlier.onbuild, instruction)
        reference = plain_text(value, where=instruction.where, what="FROM")
        if reference == "scratch":
            raise instruction.refuse("scratch has no shell to build with", "start from a real base image")
        if not reference:
            raise instruction.refuse("the base's name is empty", "give the argument a default")
        state = StageState(written.label, reference, self.context, numbers=self.numbers)
        state.scope.assumed |= self.global_scope.assumed
        need(value, state, self.global_arguments, instruction)
        for stage in self._stages_meant(value, written):
            must = f"must not choose the stage {stage}"
            state.scope.assumed.add(Assumption(value, quote(stage), False, must))
        base = (self.bases and self.bases(default)) or BaseConfig()
        state.start_from(base)
        return state, self._triggers(base.onbuild, instruction)

    def _stages_meant(self, value: Value, written: WrittenStage) -> list[str]:
        """Stages above that a FROM would mean with other build arguments: a definition would take an image of that
        name, whoever's it is.

        Raises:
            SpecError: it means nothing else, for its argument has no default.
        """
        if all(part.kind == "text" for part in value):
            return []
        pattern = "".join(re.escape(part.text.lower()) if part.kind == "text" else ".*" for part in value)
        names = dict.fromkeys(w.name for w in self.written[: written.index] if w.name)
        meant = [name for name in names if re.fullmatch(pattern, name)]
        has_text = any(part.kind == "text" for part in value)
        if meant and has_text and not all(self.global_arguments[p.text] for p in value if p.kind == "argument"):
            raise written.origin.refuse(
                f"'{written.reference}' chooses a stage ({', '.join(meant)}) by an argument without a default",
                "give the argument a default: a definition has the stage of that",
            )
        return meant

    def _triggers(self, texts: list[str] | tuple[str, ...], instruction: Instruction) -> list[Instruction]:
        triggers = []
        for text in texts:
            name = f"{instruction.where}, ONBUILD"
            triggers += parse_dockerfile(f"FROM x\n{text}\n", name)[1:]
        return triggers

    def _arg(self, state: StageState, instruction: Instruction) -> None:
        arg(state, instruction, _without(self.global_scope, self.automatic), self.global_arguments)

    def _workdir(self, state: StageState, instruction: Instruction) -> None:
        state.workdir = state.path(state.text(instruction.values[0], instruction))
        state.commands.append(state.make_workdir())

    def _bound(self, state: StageState, origin: str | None, source: str, instruction: Instruction) -> str:
        """Stage what a bind mount shows, and return the shell word for it."""
        text = state.text(source, instruction)
        if origin is not None:
            words = self.sources.send(state, origin, [text], instruction)
            return f'"$(received {words[0]})"' if words[0].endswith("*.*") else words[0]
        found = state.context.find(text, where=instruction.where)
        if len(found) != 1:
            raise instruction.refuse(f"'{source}' is more than one path", "bind one folder")
        staged = state.context.stage(found[0], next(state.numbers), where=instruction.where)
        state.files += staged.files
        state.commands += staged.commands
        return quote(posixpath.normpath(staged.path))


def _without(scope: Scope, names: set[str]) -> Scope:
    return Scope({n: v for n, v in scope.values.items() if n not in names}, scope.assumed)
