"""Where ``apptainer build`` is run, so that no path or port of this machine ends up in the image.

A definition's ``From:`` is written into the image, several times. So the build runs in a folder of its own, where the
stage it stands on has a plain name and the checkout's folders are links, and a base image keeps its public name: which
registry serves it is said in a ``registries.conf`` in a home folder of its own.
"""

from __future__ import annotations

from pathlib import Path

from harness.definition.model import Definition
from harness.errors import UserError
from harness.image.base import BaseImage
from harness.image.reference import ImageReference

# What the engine and its registry client read from the home folder; the rest of a home is no business of a build's.
_CREDENTIALS = (".apptainer", ".singularity", ".docker")


def public_name(base: BaseImage) -> str:
    """The base's name in full, with the digest that was used: the same on every machine."""
    image = ImageReference.parse(base.reference)
    tag = f":{image.tag}" if image.tag else ""
    return f"{image.registry}/{image.repository}{tag}@{base.digest}"


def link_sources(work: Path, root: Path, definition: Definition) -> None:
    """Links in ``work`` to those top folders of the checkout that the definition copies from.

    Raises:
        UserError: a folder of the checkout has a name that the build needs for itself.
    """
    layers = [*definition.layers, *(layer for stage in definition.stages for layer in stage.layers)]
    sources = [copied.source for layer in layers for copied in layer.files if copied.stage is None]
    for name in sorted({Path(source).parts[0] for source in sources}):
        link = work / name
        if link.is_symlink() or link.exists():
            raise UserError(f"cannot copy from '{name}': the build uses that name", where=str(root / name))
        link.symlink_to(root / name)


def make_home(folder: Path, real_home: Path, base: BaseImage | None) -> Path:
    """A home folder: the person's credentials, and where ``base`` is to be had now."""
    configuration = folder / ".config" / "containers"
    configuration.mkdir(parents=True)
    for name in _CREDENTIALS:
        if (real_home / name).exists():
            (folder / name).symlink_to(real_home / name)
    if base is not None:
        (configuration / "registries.conf").write_text(_registries_conf(base), encoding="utf-8")
    return folder


def private_temporaries(work: Path) -> list[str]:
    """Binds that give %post temporary folders of its own.

    The engine mounts the machine's /tmp and /var/tmp into %post, writable: the ``rm -rf /tmp/*`` that ends many a
    Dockerfile would empty them, and what lies in them could end up in an image.
    """
    binds = []
    for inside in ("/tmp", "/var/tmp"):
        folder = work / "post" / inside.strip("/").replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
        binds.append(f"{folder}:{inside}")
    return binds


def _registries_conf(base: BaseImage) -> str:
    """containers-registries.conf(5): the base's registry has a mirror; empty where it serves the base itself.

    Apptainer 1.4 reads no more of this file than the first mirror of a whole registry.
    """
    image = ImageReference.parse(base.reference)
    location = base.resolved.partition("@")[0].removesuffix(f"/{image.repository}")
    if location == image.registry:
        return ""
    return (
        f'[[registry]]\nlocation = "{image.registry}"\n[[registry.mirror]]\nlocation = "{location}"\n'
        f"insecure = {'true' if base.insecure_http else 'false'}\n"
    )
