"""What a definition file says, as values: a header, layers in build order, and how the image presents itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.definition.words import Value


@dataclass(frozen=True)
class CopiedFile:
    """A file or folder taken from the checkout.

    Attributes:
        source: path relative to the checkout's root, where ``apptainer build`` is run.
        target: where %files puts it. %files always runs before %post, so what must land in its turn is staged there
            and moved by a command.
        stage: the name of the earlier stage whose file system holds the source; None for the checkout.
    """

    source: str
    target: str
    stage: str | None = None


@dataclass(frozen=True)
class Layer:
    """What one instruction of a Dockerfile, or one tutorial, adds to an image.

    Attributes:
        files: what %files stages for this layer.
        own_folders: folders that only this layer fills; their files get mode 644 or 755 whatever the checkout's is.
        commands: POSIX shell for %post, in order, without ``set`` or ``umask``.
        variables: those of the commands that set variables of the shell and do nothing else. A build that goes on from
            an image that holds this layer says them again.
        environment: variables of the running image, in order.
        labels: image labels.
        origin: where the layer is written, ``file:line``, and the instruction in one line; empty for ours.
    """

    files: tuple[CopiedFile, ...] = ()
    own_folders: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    environment: tuple[tuple[str, Value], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    origin: tuple[str, str] | tuple[()] = ()


@dataclass(frozen=True)
class BuildStage:
    """An earlier part of a definition, of which only what later parts copy from it stays.

    Attributes:
        name: as ``%files from`` calls it.
        base: what follows ``From:``.
        arguments, layers: as in :class:`Definition`.
        sends: commands that pack what is copied from it; none: %files takes it as it is.
    """

    name: str
    base: str
    arguments: tuple[tuple[str, str], ...] = ()
    layers: tuple[Layer, ...] = ()
    sends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Definition:
    """A definition file.

    Attributes:
        bootstrap: Apptainer's bootstrap agent: ``docker`` or ``localimage``.
        base: what follows ``From:``; may hold ``{{ ARGUMENT }}``.
        arguments: build arguments with their defaults.
        layers: in build order.
        help_text, test, runscript: bodies of the sections; None inherits the base's.
        header: comment lines at the top.
        stages: what must be built before, in order.
    """

    bootstrap: str
    base: str
    arguments: tuple[tuple[str, str], ...] = ()
    layers: tuple[Layer, ...] = ()
    help_text: str | None = None
    test: str | None = None
    runscript: str | None = None
    header: tuple[str, ...] = field(default=())
    stages: tuple[BuildStage, ...] = ()

    def with_layer(self, layer: Layer) -> Definition:
        """This definition with one more layer on top."""
        return replace(self, layers=(*self.layers, layer))
