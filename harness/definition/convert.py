"""A Dockerfile's instructions -> a :class:`Definition`.

Supported: FROM (one stage, with ARG), ARG, ENV, RUN (shell, exec and heredoc form), COPY from the context, WORKDIR,
LABEL, CMD and ENTRYPOINT. Everything else is refused with file, line, reason and what to write instead; nothing is
dropped.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.definition.dockerfile import Instruction
from harness.definition.model import CopiedFile, Definition, Layer
from harness.definition.words import Part, Value, expand, plain_text, shell_word
from harness.errors import SpecError

# %files stages here and %post moves on from here; removed at the end of %post.
STAGING = "/.harness-build"


def convert(instructions: list[Instruction], context: str) -> Definition:
    """Convert one Dockerfile.

    Args:
        instructions: as :func:`harness.definition.dockerfile.parse_dockerfile` gives them.
        context: the build context, relative to the folder ``apptainer build`` will run in.

    Raises:
        SpecError: something a definition cannot express, or this converter does not.
    """
    conversion = _Conversion(context)
    for instruction in instructions:
        conversion.apply(instruction)
    return conversion.definition()


@dataclass
class _Conversion:
    context: str
    base: str | None = None
    workdir: str = "/"
    arguments: dict[str, str] = field(default_factory=dict)
    known: dict[str, Value] = field(default_factory=dict)
    files: list[CopiedFile] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    environment: dict[str, Value] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: Instruction | None = None
    cmd: Instruction | None = None

    def apply(self, instruction: Instruction) -> None:
        handlers: dict[str, Callable[[Instruction], None]] = {
            "FROM": self._from,
            "ARG": self._arg,
            "ENV": self._env,
            "RUN": self._run,
            "COPY": self._copy,
            "WORKDIR": self._workdir,
            "LABEL": self._label,
            "CMD": self._start_command,
            "ENTRYPOINT": self._start_command,
        }
        handler = handlers.get(instruction.name)
        if handler is None:
            raise instruction.refuse(*_REFUSED.get(instruction.name, ("not supported", "remove it")))
        if self.base is None and instruction.name not in ("FROM", "ARG"):
            raise instruction.refuse("stands before FROM", "move it below FROM")
        if instruction.heredocs and instruction.name != "RUN":
            raise instruction.refuse("a here-document is not supported here", "put the text into a file of the context")
        handler(instruction)

    def definition(self) -> Definition:
        if self.base is None:
            raise SpecError("there is no FROM")
        layer = Layer(
            files=tuple(self.files),
            commands=tuple(self.commands),
            environment=tuple(self.environment.items()),
            labels=tuple(self.labels.items()),
        )
        return Definition(
            bootstrap="docker",
            base=self.base,
            arguments=tuple(self.arguments.items()),
            layers=(layer,),
            runscript=_runscript(self.entrypoint, self.cmd, self.workdir),
        )

    def _from(self, instruction: Instruction) -> None:
        if self.base is not None:
            raise instruction.refuse("several stages are not supported", "use one stage")
        if instruction.flags:
            raise instruction.refuse(f"{instruction.flags[0]} is not supported", "remove the flag")
        reference = plain_text(
            expand(instruction.values[0], self.known, where=instruction.where), where=instruction.where, what="FROM"
        )
        if reference == "scratch":
            raise instruction.refuse("scratch has no shell to build with", "start from a real base image")
        self.base = reference
        # Docker forgets the arguments above FROM unless they are declared again below it.
        self.known = {}

    def _arg(self, instruction: Instruction) -> None:
        for word in instruction.values:
            name, separator, default = word.partition("=")
            if not separator and name not in self.arguments:
                raise instruction.refuse(f"'{name}' has no default", f"write ARG {name}=… with a default value")
            if separator:
                value = expand(default, self.known, where=instruction.where)
                text = plain_text(value, where=instruction.where, what=f"ARG {name}")
                if "{{" in text or re.search(r"""["$`\\\n]""", text):
                    raise instruction.refuse(
                        f"the default of '{name}' is no plain text", "use letters, digits and ./:-_"
                    )
                self.arguments[name] = text
            self.known[name] = (Part("argument", name),)
            if self.base is not None:
                self.commands.append(f"export {name}={shell_word(self.known[name])}")

    def _env(self, instruction: Instruction) -> None:
        known = dict(self.known)  # one instruction's variables do not see each other, as in Docker
        for name, word in zip(instruction.values[::2], instruction.values[1::2], strict=True):
            value = expand(word, known, where=instruction.where)
            self.environment[name] = self.known[name] = value
            self.commands.append(f"export {name}={shell_word(value)}")

    def _run(self, instruction: Instruction) -> None:
        if instruction.flags:
            raise instruction.refuse(f"{instruction.flags[0]} is not supported", "write the RUN without the flag")
        if instruction.is_json:
            body = "exec " + shlex.join(instruction.values)
        else:
            body = _as_written(instruction)
            for name, content in instruction.heredocs:
                if body.strip() not in (f"<<{name}", f"<<'{name}'", f'<<"{name}"'):
                    raise instruction.refuse("only a bare here-document is supported", "write RUN <<EOF alone")
                body = content.rstrip("\n")
        _refuse_hostile(body, instruction)
        # Docker gives each RUN its own shell, without -e, in the working directory.
        self.commands.append(f"( set +e; cd {shlex.quote(self.workdir)}\n{body}\n)")

    def _copy(self, instruction: Instruction) -> None:
        if instruction.flags:
            raise instruction.refuse(
                f"{instruction.flags[0]} is not supported", "copy plainly, then RUN chmod or chown"
            )
        words = [
            plain_text(expand(w, self.known, where=instruction.where), where=instruction.where, what="COPY")
            for w in instruction.values
        ]
        *sources, target = words
        into_folder = target.endswith("/") or len(sources) > 1
        if len(sources) > 1 and not target.endswith("/"):
            raise instruction.refuse("several sources need a folder", f"write the target as {target}/")
        target = posixpath.join(self.workdir, target)
        for source in sources:
            if re.search(r"[*?\[]", source):
                raise instruction.refuse(f"wildcards in '{source}' are not supported", "name the files")
            clean = posixpath.normpath(source.lstrip("/"))
            if clean == "." or clean.startswith(".."):
                raise instruction.refuse(
                    f"'{source}' is the context itself or outside it", "name files or folders in it"
                )
            staged = f"{STAGING}/{len(self.files)}/{posixpath.basename(clean)}"
            self.files.append(CopiedFile(posixpath.join(self.context, clean), staged))
            self.commands.append(_copy_command(staged, target, into_folder))

    def _workdir(self, instruction: Instruction) -> None:
        value = expand(instruction.values[0], self.known, where=instruction.where)
        path = plain_text(value, where=instruction.where, what="WORKDIR")
        self.workdir = posixpath.normpath(posixpath.join(self.workdir, path))
        self.commands.append(f"mkdir -p {shlex.quote(self.workdir)}")

    def _label(self, instruction: Instruction) -> None:
        for name, word in zip(instruction.values[::2], instruction.values[1::2], strict=True):
            key = plain_text(expand(name, self.known, where=instruction.where), where=instruction.where, what="LABEL")
            value = plain_text(expand(word, self.known, where=instruction.where), where=instruction.where, what="LABEL")
            if "\n" in value or re.search(r"\s", key):
                raise instruction.refuse(f"label '{key}' does not fit one line of a definition", "use one line of text")
            self.labels[key] = value

    def _start_command(self, instruction: Instruction) -> None:
        if instruction.name == "CMD":
            self.cmd = instruction
        else:
            self.entrypoint = instruction


_REFUSED = {
    "ADD": ("not supported", "use COPY for files of the context, RUN curl for addresses, RUN tar for archives"),
    "USER": ("an image runs as whoever starts it", "remove USER; Apptainer never changes the user"),
    "SHELL": ("not supported", "call the shell you want inside RUN"),
    "VOLUME": ("an image has no volumes", "remove VOLUME and bind a folder when running"),
    "EXPOSE": ("an image has no ports of its own", "remove EXPOSE"),
    "STOPSIGNAL": ("an image has no stop signal", "remove STOPSIGNAL"),
    "HEALTHCHECK": ("not supported", "put the check into the tutorial's test"),
    "ONBUILD": ("not supported", "write the instruction where it is needed"),
    "MAINTAINER": ("deprecated and not supported", "use LABEL org.opencontainers.image.authors=…"),
}


def _refuse_hostile(body: str, instruction: Instruction) -> None:
    """Text the definition parser would take for its own syntax."""
    if re.search(r"^\s*%\w", body, re.MULTILINE):
        raise instruction.refuse(
            "a line starting with %word would begin a section", "put the text into a file and COPY it"
        )
    if re.search(r"^\s*bootstrap\s*:", body, re.MULTILINE | re.IGNORECASE):
        raise instruction.refuse("a line 'bootstrap:' would begin a stage", "put the text into a file and COPY it")
    if re.search(r"\{\{.*?\}\}", body, re.DOTALL):
        raise instruction.refuse("'{{ … }}' would be a build argument", "put the text into a file and COPY it")


def _as_written(instruction: Instruction) -> str:
    """The command of a shell-form RUN, in the lines it was written in where a shell reads those the same way."""
    joined = "\n".join(instruction.values)
    lines = [line for line in instruction.lines if line.strip() and not line.lstrip().startswith("#")]
    if instruction.heredocs or len(lines) < 2:
        return joined
    lines[0] = re.sub(r"^\s*RUN\s+", "", lines[0], flags=re.IGNORECASE)
    # Inside single quotes a shell keeps backslash and line break, which Docker removes.
    if any(line.count("'") % 2 for line in lines) or not all(line.endswith("\\") for line in lines[:-1]):
        return joined
    rejoined = "".join(line.removesuffix("\\") for line in lines)
    return "\n".join(lines) if rejoined.split() == joined.split() else joined


# Shell that gives COPY's meaning: a folder's content is copied, a file keeps its name only below a folder.
COPY_FUNCTION = """\
copy() { # staged, target, the folder a file goes to
    if [ -d "$1" ]; then mkdir -p "$2" && cp -a "$1/." "$2"; else mkdir -p "$3" && cp -a "$1" "$2"; fi
}"""


def _copy_command(staged: str, target: str, into_folder: bool) -> str:
    folder = target if into_folder else posixpath.dirname(target) or "/"
    return shlex.join(["copy", staged, target, folder])


def _runscript(entrypoint: Instruction | None, cmd: Instruction | None, workdir: str) -> str | None:
    """Docker's start rule: arguments replace CMD and follow ENTRYPOINT; None inherits the base's."""
    if entrypoint is None and cmd is None:
        return None
    lines = [] if workdir == "/" else [f"cd {shlex.quote(workdir)}"]
    if cmd is not None and cmd.values:
        words = shlex.join(cmd.values) if cmd.is_json else shlex.join(["/bin/sh", "-c", " ".join(cmd.values)])
        lines.append(f'[ "$#" -gt 0 ] || set -- {words}')
    if entrypoint is None or not entrypoint.values:
        lines.append('exec "$@"')
    elif entrypoint.is_json:
        lines.append(f'exec {shlex.join(entrypoint.values)} "$@"')
    else:  # the shell form of ENTRYPOINT ignores all arguments
        lines.append(f"exec {shlex.join(['/bin/sh', '-c', ' '.join(entrypoint.values)])}")
    return "\n".join(lines)
