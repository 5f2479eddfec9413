"""A :class:`Definition` -> the text of a definition file."""

from __future__ import annotations

from harness.definition.convert import COPY_FUNCTION, STAGING
from harness.definition.model import Definition
from harness.definition.words import shell_word

# A build sees none of the machine's package configuration. `harness build` lends it as a folder bound here: /mnt is
# there in every base, so nothing stays behind in the image.
LENT_FOLDER = "/mnt"

# While it builds, the engine shows the *host's* /tmp and /var/tmp: the `rm -rf /tmp/*` of many a Dockerfile would
# remove what everybody on this machine has there, and what a RUN leaves in /tmp would not be in the image, as with
# Docker it is. The image's own folders are below those mounts; a second view of the root shows them.
OWN_TEMPORARY_FOLDERS = """\
for folder in /tmp /var/tmp; do # the image's own, not the host's
    mount --bind / /mnt && mount --bind "/mnt$folder" "$folder" && umount /mnt ||
        { echo "error: cannot leave the host's $folder" >&2; exit 1; }
done"""
LENT_BY_THE_BUILDER = (
    f"if [ -f {LENT_FOLDER}/pip.conf ]; then export PIP_CONFIG_FILE={LENT_FOLDER}/pip.conf; fi",
    f"if [ -f {LENT_FOLDER}/ca.pem ]; then export PIP_CERT={LENT_FOLDER}/ca.pem SSL_CERT_FILE={LENT_FOLDER}/ca.pem; fi",
    f"if [ -f {LENT_FOLDER}/apt.conf ]; then export APT_CONFIG={LENT_FOLDER}/apt.conf; fi",
)


def write_definition(definition: Definition) -> str:
    """The definition file: plain Apptainer, readable, the same text for the same definition."""
    layers = definition.layers
    sections = [
        "".join(f"# {line}".rstrip() + "\n" for line in definition.header)
        + f"Bootstrap: {definition.bootstrap}\nFrom: {definition.base}\n"
    ]
    sections.append(_section("arguments", [f"{name}={value}" for name, value in definition.arguments]))
    sections.append(_section("files", [f"{c.source} {c.target}" for layer in layers for c in layer.files]))
    sections.append(_section("post", _post(definition)))
    environment = {name: value for layer in layers for name, value in layer.environment}
    sections.append(_section("environment", [f"export {n}={shell_word(v)}" for n, v in environment.items()]))
    labels = {name: value for layer in layers for name, value in layer.labels}
    sections.append(_section("labels", [f"{name} {value}" for name, value in labels.items()]))
    for name, body in (("runscript", definition.runscript), ("test", definition.test), ("help", definition.help_text)):
        sections.append(_section(name, body.splitlines() if body is not None else []))
    return "\n".join(section for section in sections if section)


def _section(name: str, lines: list[str]) -> str:
    return f"%{name}\n" + "".join(f"{line}\n" for line in lines) if lines else ""


def _post(definition: Definition) -> list[str]:
    commands = []
    for layer in definition.layers:
        if layer.own_folders:  # a checkout's file modes depend on the umask of whoever cloned it
            commands.append(f"chmod -R u=rwX,go=rX {' '.join(layer.own_folders)}")
        commands += layer.commands
    is_staged = any(c.target.startswith(STAGING) for layer in definition.layers for c in layer.files)
    if not commands:
        return []
    # Docker's RUN has umask 022 whatever the caller's is; modes of files in the image depend on it.
    lines = [
        "umask 022",
        OWN_TEMPORARY_FOLDERS,
        *LENT_BY_THE_BUILDER,
        *([COPY_FUNCTION] if is_staged else []),
        *commands,
    ]
    if is_staged:
        lines.append(f"rm -rf {STAGING}")
    return [line for command in lines for line in command.splitlines()]
