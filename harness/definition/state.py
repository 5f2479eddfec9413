"""What a converter knows at one place of a stage: the image so far, and what the next instruction would see."""

from __future__ import annotations

import copy
import itertools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from harness.definition.context import Context
from harness.definition.dockerfile import Instruction
from harness.definition.model import CopiedFile, Layer
from harness.definition.shell import (
    ARGUMENT,
    BASE_ENVIRONMENT,
    FORGET_BASE_VARIABLES,
    keep_argument,
    quote_path,
    read_argument,
    read_arguments,
)
from harness.definition.words import (
    Assumption,
    Part,
    Scope,
    Value,
    change,
    expand,
    literal,
    plain_text,
    saved_name,
    shell_word,
)
from harness.errors import SpecError

DEFAULT_SHELL = ("/bin/sh", "-c")
# Variables that the shell of %post has whatever the base says: to Docker they are empty unless the base sets them.
_OF_ANY_SHELL = frozenset(
    {
        "EUID",
        "GID",
        "HOME",
        "HOSTNAME",
        "IFS",
        "LOGNAME",
        "MAIL",
        "OLDPWD",
        "OPTIND",
        "PPID",
        "PS2",
        "PS4",
        "PWD",
        "SHELL",
    }
    | {"SHLVL", "TMPDIR", "UID", "USER", "_"}
)
ROOT_USERS = frozenset({"", "root", "0", "root:root", "0:0", "root:0", "0:root"})
_ESCAPED_TWICE = frozenset('"$`\\')


def misread(values: Iterable[str]) -> bool:
    """Would Apptainer give a variable of a base with another value?

    It escapes twice what a shell takes for its own (until its issue 3328 was mended, after 1.4.5); where that ends in
    an open quote, all of them are lost.
    """
    return any(_ESCAPED_TWICE & set(value) for value in values)


@dataclass(frozen=True)
class BaseConfig:
    """What an image's configuration says beside its files; the defaults are Docker's for an image that says nothing.

    Attributes:
        misread: all variables with their values where Apptainer would not give every one as it is, else empty.
    """

    user: str = ""
    workdir: str = "/"
    shell: tuple[str, ...] = DEFAULT_SHELL
    onbuild: tuple[str, ...] = ()
    misread: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str) -> BaseConfig:
        """From the ``config`` of an image's configuration, by Docker's names.

        Raises:
            SpecError: it is not of that form.
        """
        words: dict[str, tuple[str, ...]] = {}
        for name in ("Shell", "OnBuild", "Env"):
            value = config.get(name) or []
            if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
                raise SpecError(f"'{name}' is no list of texts", where=where)
            words[name] = tuple(value)
        for name in ("User", "WorkingDir"):
            if not isinstance(config.get(name) or "", str):
                raise SpecError(f"'{name}' is no text", where=where)
        user = config.get("User") or ""
        workdir = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/"))
        pairs = tuple((name, value) for name, _, value in (text.partition("=") for text in words["Env"]))
        variables = pairs if misread(value for _, value in pairs) else ()
        shell = words["Shell"] or DEFAULT_SHELL
        return cls("" if user in ROOT_USERS else user, workdir, shell, words["OnBuild"], variables)

    def in_words(self) -> str:
        """For people."""
        triggers = f"ONBUILD {'; '.join(self.onbuild)}" if self.onbuild else "no ONBUILD"
        told = ", variables that Apptainer would misread" if self.misread else ""
        said = f"user {self.user or 'root'}, working directory {self.workdir}, shell {' '.join(self.shell)}"
        return f"{said}, {triggers}{told}"


@dataclass(frozen=True)
class Step:
    """An instruction that was read: its ``file:line``, its text, and how many commands and files there were then."""

    where: str
    text: str
    commands: int
    files: int


@dataclass
class StageState:
    """One stage while it is read, top to bottom.

    Attributes:
        base: what follows ``From:``.
        arguments: build arguments with their defaults.
        scope: names that the next instruction can refer to.
        environment: ENV so far; ``saved``: the base's variables that it refers to.
        commands, files: for %post and %files.
        variables: positions of those commands that do nothing but set variables of the shell.
        steps: what each instruction added to the two.
        sends: commands that pack what other stages copy from this one.
        cmd_is_own: CMD was written in this stage, so that an ENTRYPOINT does not reset it.
        numbers: numbers of staging folders, shared by all stages.
        onbuild: recorded triggers.
    """

    name: str
    base: str
    context: Context
    arguments: dict[str, str] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)
    environment: dict[str, Value] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    files: list[CopiedFile] = field(default_factory=list)
    variables: set[int] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    sends: list[str] = field(default_factory=list)
    workdir: str = "/"
    user: str = ""
    shell: tuple[str, ...] = DEFAULT_SHELL
    entrypoint: Instruction | None = None
    entrypoint_shell: tuple[str, ...] = DEFAULT_SHELL
    cmd: Instruction | None = None
    cmd_shell: tuple[str, ...] = DEFAULT_SHELL
    cmd_is_own: bool = False
    onbuild: list[str] = field(default_factory=list)
    health: Instruction | None = None
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def child(self, name: str) -> StageState:
        """A stage that starts from this one: the same commands again, its ARGs too, except where they hid an ENV.

        Measured with BuildKit of Docker 20.10.
        """
        numbers, self.numbers = self.numbers, iter(())
        other = copy.deepcopy(self)
        self.numbers = other.numbers = numbers
        other.name, other.sends, other.onbuild = name, [], []
        other.cmd_is_own = False
        for name, value in other.environment.items():
            if other.scope.values.get(name) != value:  # an ARG hid it
                other.export(name, value)
        other.scope = Scope({**other.scope.values, **other.environment}, other.scope.assumed)
        return other

    def value(self, word: str, instruction: Instruction) -> Value:
        """A word of an instruction, expanded."""
        return expand(word, self.scope, where=instruction.where, escape=instruction.escape)

    def text(self, word: str, instruction: Instruction) -> str:
        """As :meth:`value`, where only text and build arguments can be used."""
        return plain_text(self.value(word, instruction), where=instruction.where, what=instruction.name)

    def path(self, text: str) -> str:
        """A path against WORKDIR; where an argument stands first, its default says whether the path is absolute."""
        if first := ARGUMENT.match(text):
            default = self.arguments.get(first[1], "")
            pattern, must = ("''", "must stay empty")
            if default:
                is_absolute = default.startswith("/")
                pattern, must = ("/*", "must start with /") if is_absolute else ("[!/]*", "must be a relative path")
            self.scope.assumed.add(Assumption((Part("argument", first[1], default=default),), pattern, True, must))
            if default.startswith("/"):
                return posixpath.normpath(text)
        return posixpath.normpath(posixpath.join(self.workdir, text))

    def keep_base_values(self, value: Value) -> Value:
        """A value for a variable: what it says of the base's variables is what they are while building."""
        self.saved |= _names(value)
        return change(value, lambda p: replace(p, kind="saved") if p.kind == "variable" else p)

    def enter(self) -> str:
        """The command that goes to WORKDIR."""
        return f"cd {quote_path(self.workdir)}"

    def enter_later(self) -> str:
        """As :meth:`enter`, for a script of the finished image, which has no build arguments."""
        first = f". {BASE_ENVIRONMENT}\n" if ARGUMENT.search(self.workdir) else ""
        said = f"WORKDIR {self.workdir} is not in reach; if a folder of the machine covers it: --no-home, --no-mount"
        return f"{first}{self.enter()} || {{ echo {quote_path(said)} >&2; exit 1; }}"

    def make_workdir(self) -> str:
        """The command that makes what is missing of WORKDIR, as whom Docker makes it."""
        path = quote_path(self.workdir)
        return f'folder {path} "$(user_owner {quote_path(self.user)})"' if self.user else f"mkdir -p {path}"

    def end_step(self, instruction: Instruction) -> None:
        """Note what an instruction added."""
        text = " ".join((instruction.original or " ".join(instruction.lines)).split())
        self.steps.append(Step(instruction.where, text, len(self.commands), len(self.files)))

    def layers(self) -> tuple[Layer, ...]:
        """All of it, for a definition: a layer for each instruction; what the image says of itself is in the last."""
        saved = sorted(self.saved)
        first = list(map(_save, saved))
        said_again = tuple(map(_say_again, saved))
        guards = sorted(a.command() for a in self.scope.assumed if self.arguments.keys() >= set(a.arguments))
        environment = "".join(map(shell_word, self.environment.values()))
        later = environment + quote_path(self.workdir)  # what the finished image uses
        used = read_arguments("\n".join([*guards, *self.commands, *self.sends, later]))
        read = tuple(read_argument(name) for name in self.arguments if name in used)
        kept = [keep_argument(name) for name in sorted(read_arguments(later))]
        layers = [Layer(commands=(*read, *kept, *first, *guards), variables=(*read, *said_again))]
        command = file = 0
        for step in self.steps:
            layers.append(
                Layer(
                    files=tuple(self.files[file : step.files]),
                    commands=tuple(self.commands[command : step.commands]),
                    variables=tuple(self.commands[i] for i in sorted(self.variables) if command <= i < step.commands),
                    origin=(step.where, step.text),
                )
            )
            command, file = step.commands, step.files
        rest = tuple(self.commands[command:])  # a stage that starts from another and says no more
        about = Layer(commands=rest, environment=tuple(self.environment.items()), labels=tuple(self.labels.items()))
        return (*layers, about)

    def start_from(self, base: BaseConfig) -> None:
        """Take over what the base says of itself and Apptainer does not."""
        self.user = "" if base.user in ROOT_USERS else base.user
        self.workdir, self.shell = base.workdir or "/", base.shell
        if base.misread:
            self.commands.append(FORGET_BASE_VARIABLES)
        for name, text in base.misread:
            self.environment[name] = self.scope.values[name] = literal(text)
            self.export(name, literal(text))

    def export(self, name: str, value: Value) -> None:
        """Set a variable for the commands that follow."""
        self.set_variable(f"export {name}={shell_word(value)}")

    def set_variable(self, command: str) -> None:
        """Add a command that does nothing but set a variable."""
        self.variables.add(len(self.commands))
        self.commands.append(command)


def _save(name: str) -> str:
    """The command that keeps what the base says of a variable."""
    kept = f'keep {saved_name(name)} "${saved_name(name)}"'
    if name in _OF_ANY_SHELL:
        return f"if {saved_name(name)}=$(base_value {name}); then {kept}; else unset {saved_name(name)}; fi"
    return f'if [ -n "${{{name}+set}}" ]; then {saved_name(name)}=${name}; {kept}; fi'


def _say_again(name: str) -> str:
    """As :func:`_save`, in a later image of the same stage."""
    if name in _OF_ANY_SHELL:
        return f"[ ! -f {BASE_ENVIRONMENT} ] || . {BASE_ENVIRONMENT}"
    return f'if [ -n "${{{name}+set}}" ]; then {saved_name(name)}=${name}; fi'


def _names(value: Value) -> set[str]:
    own = {part.text for part in value if part.kind == "variable"}
    return own.union(*(_names(part.word) for part in value))


Handler = Callable[[StageState, Instruction], None]
