"""A :class:`Definition` -> the text of a definition file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.definition.model import BuildStage, CopiedFile, Definition, Layer
from harness.definition.shell import BASE_ENVIRONMENT, BASE_RUNSCRIPT, STAGING, functions_for
from harness.definition.words import Value, shell_word

# A build sees none of the machine's package configuration. `harness build` lends it as a folder bound here: /mnt is
# there in every base, so nothing stays behind in the image.
LENT_FOLDER = "/mnt"
LENT_BY_THE_BUILDER = (
    f"if [ -f {LENT_FOLDER}/pip.conf ]; then export PIP_CONFIG_FILE={LENT_FOLDER}/pip.conf; fi",
    f"if [ -f {LENT_FOLDER}/ca.pem ]; then export PIP_CERT={LENT_FOLDER}/ca.pem SSL_CERT_FILE={LENT_FOLDER}/ca.pem; fi",
    f"if [ -f {LENT_FOLDER}/apt.conf ]; then export APT_CONFIG={LENT_FOLDER}/apt.conf; fi",
)

# conda and mamba read this folder first, and what an image says itself goes before it; the link in it goes as it came.
# Only in definitions that speak of one of them.
CONDA = re.compile(r"(?<![\w.-])(?:micro)?(?:conda|mamba)\b(?!-)")
_CONDA_FOLDER = "/etc/conda/condarc.d"
LENT_TO_CONDA = (
    f"if [ -f {LENT_FOLDER}/condarc ]; then",
    "    harness_made=",
    f"    for harness_folder in /etc/conda {_CONDA_FOLDER}; do",
    '        if mkdir "$harness_folder" 2>/dev/null; then harness_made="$harness_folder $harness_made"; fi',
    "    done",
    f"    ln -s {LENT_FOLDER}/condarc {_CONDA_FOLDER}/lent.yml",
    "fi",
)
RETURNED_BY_CONDA = (
    f"if [ -L {_CONDA_FOLDER}/lent.yml ]; then",
    f"    rm {_CONDA_FOLDER}/lent.yml",
    '    for harness_folder in $harness_made; do rmdir "$harness_folder" 2>/dev/null || :; done',
    "fi",
)

# Apptainer mounts the machine's own /tmp and /var/tmp, writable, while %post runs. Docker's RUN has the image's: there
# `rm -rf /tmp/*` is a habit, and here it would delete the files of whoever builds; and what a RUN leaves in /tmp is in
# a Docker image. The image's own folders are below those mounts, however many: they are taken away, or, where that is
# forbidden, covered with a second view of the root. Without proof of either the build ends before the first command.
PRIVATE_TMP = (
    "for harness_tmp in /tmp /var/tmp; do # the image's own: the machine's are mounted here, and nothing may see them",
    '    while umount -n "$harness_tmp" 2>/dev/null; do :; done',
    "    case $(while read -r _ _ _ _ point _; do printf ' %s ' \"$point\"; done </proc/self/mountinfo) in",
    '    *" $harness_tmp "*)',
    '        mount -n --bind / /mnt && mount -n --bind "/mnt$harness_tmp" "$harness_tmp" && umount -n /mnt ;;',
    "    *' / '*) ;;",
    "    *) false ;;",
    """    esac || { echo "the machine's own $harness_tmp is in reach of this build" >&2; exit 1; }""",
    "done",
)

# What Apptainer adds to a build's surroundings and Docker does not: variables of its own, and the caller's input.
LIKE_DOCKER = (
    "exec </dev/null",
    "unset PROMPT_COMMAND PS1 TERM",
    "unset APPTAINER_APPNAME APPTAINER_BIND APPTAINER_COMMAND APPTAINER_CONTAINER APPTAINER_ENVIRONMENT",
    "unset APPTAINER_LABELS APPTAINER_NAME SINGULARITY_BIND SINGULARITY_CONTAINER SINGULARITY_ENVIRONMENT",
    "unset SINGULARITY_LABELS SINGULARITY_NAME",
    'if [ "${LANG:-}" = C ]; then unset LANG; fi',
    'LD_LIBRARY_PATH="${LD_LIBRARY_PATH%/.singularity.d/libs}"; LD_LIBRARY_PATH="${LD_LIBRARY_PATH%:}"',
    '[ -n "$LD_LIBRARY_PATH" ] || unset LD_LIBRARY_PATH',
)


def write_definition(definition: Definition) -> str:
    """The definition file: plain Apptainer, readable, the same text for the same definition."""
    layers = definition.layers
    sections = [section for stage in definition.stages for section in _stage(stage)]
    head = "".join(f"# {line}".rstrip() + "\n" for line in definition.header)
    sections.append(f"Bootstrap: {definition.bootstrap}\nFrom: {definition.base}\n")
    sections[0] = head + sections[0]
    sections.append(_section("arguments", [f"{name}={value}" for name, value in definition.arguments]))
    sections += _files([c for layer in layers for c in layer.files])
    # The base's start command is replaced after %post, which is the time to keep it.
    inherits = BASE_RUNSCRIPT in (definition.runscript or "")
    kept = [f"cp /.singularity.d/runscript {BASE_RUNSCRIPT}"] if inherits else []
    sections.append(_section("post", _post(layers, kept, [])))
    sections.append(_section("environment", environment_lines(layers)))
    labels = {name: value for layer in layers for name, value in layer.labels}
    sections.append(_section("labels", [f"{name} {value}" for name, value in labels.items()]))
    for name, body in (("runscript", definition.runscript), ("test", definition.test), ("help", definition.help_text)):
        sections.append(_section(name, body.split("\n") if body is not None else []))
    return "\n".join(section for section in sections if section)


def _stage(stage: BuildStage) -> list[str]:
    return [
        f"Bootstrap: docker\nFrom: {stage.base}\nStage: {stage.name}\n",
        _section("arguments", [f"{name}={value}" for name, value in stage.arguments]),
        *_files([c for layer in stage.layers for c in layer.files]),
        _section("post", _post(stage.layers, [], stage.sends)),
    ]


def _files(files: list[CopiedFile]) -> list[str]:
    """One %files for the checkout's files, one for each stage that is copied from."""
    sections = []
    for stage in dict.fromkeys([None, *(c.stage for c in files)]):
        lines = [f"{c.source} {c.target}" for c in files if c.stage == stage]
        sections.append(_section("files" if stage is None else f"files from {stage}", lines))
    return sections


def _section(name: str, lines: list[str]) -> str:
    return f"%{name}\n" + "".join(f"{line}\n" for line in lines) if lines else ""


def environment_lines(layers: Sequence[Layer]) -> list[str]:
    """%environment. Docker froze each value when it was built: what the base and the build arguments say was kept then,
    the caller's is not asked.
    """
    environment = {name: value for layer in layers for name, value in layer.environment}
    kept = [f". {BASE_ENVIRONMENT}"] if any(map(_kept, environment.values())) else []
    return [*kept, *(f"export {n}={shell_word(v)}" for n, v in environment.items())]


def _kept(value: Value) -> bool:
    return any(part.kind in ("saved", "argument") or _kept(part.word) for part in value)


def _post(layers: tuple[Layer, ...], first: Sequence[str], last: Sequence[str]) -> list[str]:
    commands = []
    for layer in layers:
        if layer.own_folders:  # a checkout's file modes depend on the umask of whoever cloned it
            commands.append(f"chmod -R u=rwX,go=rX {' '.join(layer.own_folders)}")
        commands += layer.commands
    is_staged = any(c.target.startswith(STAGING) for layer in layers for c in layer.files) or STAGING in "".join(
        commands
    )
    if not (commands or first or last):
        return []
    conda = any(map(CONDA.search, commands))
    lines = [
        # Docker's RUN has umask 022 whatever the caller's is; modes of files in the image depend on it.
        "umask 022",
        *PRIVATE_TMP,
        *LIKE_DOCKER,
        *LENT_BY_THE_BUILDER,
        *(LENT_TO_CONDA if conda else ()),
        *functions_for([*commands, *last]),
        *first,
        # %files copied under the caller's umask.
        *([f"chmod -R u=rwX,go=rX {STAGING}"] if is_staged and any(layer.files for layer in layers) else []),
        *commands,
        *([f"rm -rf {STAGING}"] if is_staged else []),
        *last,
        *(RETURNED_BY_CONDA if conda else ()),
    ]
    return [line for command in lines for line in command.split("\n")]
