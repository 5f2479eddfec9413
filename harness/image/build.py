"""Building a tutorial's image: its stack as cached stages, the tutorial on top, tested."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.definition.model import Definition
from harness.definition.reproducible import EPOCH, reproducible
from harness.definition.tutorial_image import (
    Definitions,
    compile_checks,
    definition_key,
    on_top,
    own_checks,
    tutorial_layer,
)
from harness.errors import HarnessError
from harness.files import sha256_of
from harness.image.assembly import Assembly, Piece
from harness.image.base import BaseImage, BaseRecord, base_source, ensure_base
from harness.image.compression import DEFAULT, Compression
from harness.image.contents import ImageLock, base_of, contents_pieces, embed, tool_versions
from harness.image.driver import BASE_ARGUMENT, BuildDriver, Progress, reachable
from harness.image.engine import Engine
from harness.image.lend import lending
from harness.image.made_from import made_from
from harness.image.overlay import (
    OverlayFile,
    folder_modes,
    folders_of,
    layer_pieces,
    overlay_files,
    qualifies,
    read_stage,
)
from harness.image.packages import installed_packages
from harness.image.parts import file_systems
from harness.image.room import require_room
from harness.image.sif import normalise, read_sif
from harness.image.stages import ChainRecord, Stage, StageStore, keyed_tools, layer_parts, plan
from harness.image.tested import RAN, LastPass, Ran, digest_of, remember, remembered, would_repeat
from harness.image.via_docker import ARCHIVE, DockerEngine, build_archive, conversion
from harness.lease import lease
from harness.project import Project, Variant, image_name
from harness.site import Site
from harness.stack import Stack, StackVariant
from harness.stack_lock import read_stack_lock
from harness.tutorial import Tutorial

ANSWERS = "/mnt"
"""Where in an image a test finds a folder to write into."""
RAN_FILE = "ran.json"


@dataclass(frozen=True)
class BuiltLayer:
    """A tutorial's layer.

    Attributes:
        stage: the image of the stack it is for.
        files: what its file system holds.
        pieces: what the tutorial's image holds besides the stack's file systems, its lock and bill of materials last.
    """

    stage: Path
    files: list[OverlayFile]
    pieces: list[Piece]


@dataclass
class ImageBuilder:
    """Builds images of one project with one engine.

    Attributes:
        cache: stage images, bases, temporary trees and logs; must be on a local disk.
        progress: called with each line of what is going on.
        use_overlay: add a tutorial's layer as a partition; False builds the whole image as plain Apptainer does.
        compression: of images that run.
        digest: gives the sha256 of a file of the checkout.
        docker: builds the stacks' Dockerfiles; None: Apptainer builds their definitions.
        said: notes that are said once.
    """

    project: Project
    site: Site
    engine: Engine
    cache: Path
    progress: Progress
    use_overlay: bool = True
    compression: Compression = DEFAULT
    digest: Callable[[Path], str] = sha256_of
    docker: DockerEngine | None = None
    said: set[str] = field(default_factory=set)
    definitions: Definitions = field(init=False)
    stages: StageStore = field(init=False)
    driver: BuildDriver = field(init=False)

    @property
    def via(self) -> str:
        """Who builds the stacks: ``apptainer`` their definitions, ``docker`` their Dockerfiles."""
        return "docker" if self.docker else "apptainer"

    def __post_init__(self) -> None:
        """Make the parts that follow from the fields."""
        self.definitions = Definitions(self.project, self.digest)
        self.stages = StageStore(self.cache / "stages")
        self.driver = BuildDriver(self.project.root, self.engine, self.cache, self.progress, self.site.mirrors)

    def build(self, tutorial: Tutorial, variant: Variant, target: Path) -> BaseRecord:
        """Build one tutorial's image, tested, not signed, to ``target``, which is missing where that fails.

        Returns:
            The base it stands on.

        Raises:
            SpecError: the definition cannot be made. HarnessError: the build, a test in it, or the base failed.
        """
        name = image_name(tutorial.stem, variant)
        stage, base = self.build_stack(tutorial.stack, variant)
        try:
            if self.has_layer(tutorial, variant):
                require_room(self.cache, stage.stat().st_size, name)
                layer = self.layer(tutorial, variant, stage, base)
                Assembly.of(read_sif(stage).header, [*file_systems(stage), *layer.pieces]).write(target)
                self.test(tutorial, variant, layer, [str(target)], anew=True)
            else:
                parent = Definition("localimage", f"{tutorial.stack}.{variant}.sif")
                child = reproducible(on_top(self.project, parent, tutorial, variant))
                self.driver.build(child, target, name, self.compression, parent=stage)
                embed(self.engine, target, self._lock(tutorial, variant, base), installed_packages(self.engine, target))
                normalise(target, EPOCH)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        self.record(tutorial, variant, stage)
        return base

    def has_layer(self, tutorial: Tutorial, variant: Variant) -> bool:
        """Whether an image is its stack's with a layer added, so that nothing is built but the layer."""
        return self.use_overlay and qualifies(tutorial_layer(self.project, tutorial, variant))

    def layer(self, tutorial: Tutorial, variant: Variant, stage: Path, base: BaseRecord) -> BuiltLayer:
        """What an image holds besides its stack's file systems, not tested.

        Args:
            stage: the stack's image. base: what that stands on.

        Raises:
            SpecError: the definition cannot be made. HarnessError: the stage was not built by a known engine.
            CommandError: packing failed.
        """
        name = image_name(tutorial.stem, variant)
        self.progress(f"{name}: adding its layer")
        definition = self.definitions.tutorial(tutorial, variant)
        metadata = read_stage(self.engine, stage)
        files = overlay_files(definition, tutorial_layer(self.project, tutorial, variant), self.project.root, metadata)
        packages = self.stages.packages(stage.stem, lambda: installed_packages(self.engine, stage))
        with self.driver.work_folder(name) as work:
            packing = self.compression.mksquashfs.split()
            below = self.stages.folder_modes(stage.stem, folders_of(files), lambda wanted: folder_modes(stage, wanted))
            pieces = layer_pieces(stage, files, below, metadata, work, packing, self.driver.environment(work, None))
        pieces += contents_pieces(self._lock(tutorial, variant, base), packages)
        return BuiltLayer(stage, files, pieces)

    def test(
        self, tutorial: Tutorial, variant: Variant, layer: BuiltLayer, image: Sequence[str], *, anew: bool = False
    ) -> None:
        """Run the tutorial's own tests in its image; programs that would do what they did are only compiled there.

        The stack's tests, which the definition holds as well, passed when the stack was built.

        Args:
            image: the engine's arguments that name it.
            anew: run them whatever is remembered, see :mod:`harness.image.tested`.

        Raises:
            HarnessError: one failed, in one line.
        """
        name = image_name(tutorial.stem, variant)
        memory = self.cache / "tests" / f"{name}.json"
        stack_key = layer.stage.stem
        if not anew and would_repeat(remembered(memory), stack_key, layer.files):
            self.progress(f"{name}: Compiling, nothing that its test runs has changed")
            self._check(name, image, compile_checks(tutorial))
            return
        self.progress(f"{name}: Running testscript")
        ran = self._check(name, image, own_checks(tutorial, "--ran", f"{ANSWERS}/{RAN_FILE}"))
        remember(memory, LastPass(ran=ran, digest=digest_of(stack_key, layer.files, ran)))

    def _check(self, name: str, image: Sequence[str], checks: Sequence[str]) -> Ran:
        """Run shell commands in an image; which functions ran, where they say so."""
        with self.driver.work_folder(name) as work:
            answers = work / "answers"
            answers.mkdir()
            run = [str(self.engine.path), "exec", *self.engine.run_flags(), "--cleanenv", "--no-home"]
            run += ["--bind", f"{answers}:{ANSWERS}", *image, "/bin/sh", "-c", "\n".join(["set -e", *checks])]
            self.driver.logged(run, name, self.driver.environment(work, None), work)
            said = answers / RAN_FILE
            return RAN.validate_json(said.read_bytes()) if said.exists() else {}

    def record(self, tutorial: Tutorial, variant: Variant, stage: Path) -> None:
        """Remember what an image was made of, so that it can be said why the next one is another."""
        parts = layer_parts(self.definitions, tutorial, variant, stage.stem, self.compression)
        self.stages.record_layer(image_name(tutorial.stem, variant), parts)

    def _lock(self, tutorial: Tutorial, variant: Variant, base: BaseRecord) -> ImageLock:
        definition = self.definitions.tutorial(tutorial, variant)
        return ImageLock(
            name=image_name(tutorial.stem, variant),
            tutorial=tutorial.id,
            stack=tutorial.stack,
            variant=variant,
            definition_sha256=self.definitions.key(tutorial, variant),
            base=base_of(base),
            compression=self.compression.label,
            epoch=EPOCH,
            tools={**tool_versions(self.engine), **({"docker": self.docker.version} if self.docker else {})},
            stack_lock=read_stack_lock(self.project, tutorial.stack, variant),
            files=made_from(self.project, tutorial, variant, definition),
        )

    def build_stack(self, stack_name: str, variant: Variant) -> tuple[Path, BaseRecord]:
        """The image of a stack, of which only those stages are built that changed, and the base it stands on.

        Raises:
            SpecError: the definition cannot be made. HarnessError: the build, the stack's tests, or the base failed.
        """
        stack, definition = self.definitions.stack(stack_name, variant)
        name = f"{stack_name}.{variant}"
        reference = self._base_reference(stack_name, variant)
        mirrors = tuple(self.site.mirrors.registry)
        if self.docker is not None:
            with base_source(reference, self.cache, mirrors=mirrors, on_line=self.progress) as served:
                self._say_bootstrapped(name, served)
                return self._docker_stack(self.docker, stack, variant, definition, served), served
        tools = keyed_tools(tool_versions(self.engine))

        def planned(base: BaseRecord) -> list[Stage]:
            return plan(self.project, definition, base.digest, tools, self.compression, self.digest)

        base = ensure_base(reference, self.cache, mirrors=mirrors, on_line=self.progress)
        self._say_bootstrapped(name, base)
        chain = planned(base)
        missing = chain[self.stages.hold_built(chain) :]
        if missing:
            indexes = self._reachable(name, stack.variants[variant])
            with contextlib.ExitStack() as lent:
                source: BaseImage | None = None
                if any(_stands_on_base(stage) for stage in missing):
                    source = lent.enter_context(
                        base_source(reference, self.cache, mirrors=mirrors, on_line=self.progress)
                    )
                    base, chain = source, planned(source)  # a tag may have moved since the look before
                for number in range(self.stages.hold_built(chain), len(chain)):
                    self._build_stage(chain, number, name, indexes, source)
                    self.stages.record(_record(name, reference, base, chain[: number + 1]))  # the next one may fail
        else:
            self.stages.record(_record(name, reference, base, chain))
        return self.stages.image(chain[-1].key), base

    def refresh_base(self, stack_name: str, variant: Variant) -> None:
        """Pass over the base image that the cache holds for a stack, and ask the registries again.

        Raises:
            HarnessError: as :func:`harness.image.base.ensure_base`.
        """
        reference, mirrors = self._base_reference(stack_name, variant), tuple(self.site.mirrors.registry)
        ensure_base(reference, self.cache, mirrors=mirrors, refresh=True, on_line=self.progress)

    def _base_reference(self, stack_name: str, variant: Variant) -> str:
        stack, definition = self.definitions.stack(stack_name, variant)
        reference = dict(definition.arguments).get(BASE_ARGUMENT)
        if reference is None:
            where = f"containers/{stack_name}/{stack.variants[variant].dockerfile}"
            raise HarnessError(
                f"there is no ARG {BASE_ARGUMENT}=…", where=where, fix=f"write ARG {BASE_ARGUMENT} and FROM it"
            )
        return reference

    def _reachable(self, name: str, parts: StackVariant) -> list[str]:
        return reachable(parts.extra_indexes, lambda line: self.progress(f"{name}: note: {line}"))

    def _say_bootstrapped(self, name: str, base: BaseRecord) -> None:
        if base.origin != "bootstrapped" or base.reference in self.said:
            return
        self.said.add(base.reference)
        self.progress(
            f"{name}: note: base {base.reference}: bootstrapped here on {base.bootstrapped_on}, not the registry's; "
            "harness build --refresh-base asks the registries again"
        )

    def _docker_stack(
        self, docker: DockerEngine, stack: Stack, variant: Variant, definition: Definition, base: BaseImage
    ) -> Path:
        """The stack's Dockerfile built by Docker, and the image converted; see :mod:`harness.image.via_docker`."""
        name = f"{stack.name}.{variant}"
        definition_sha256 = definition_key(self.project, reproducible(definition), self.digest)
        way = (self.compression.label, self.engine.version, f"docker {docker.version}")
        key = hashlib.sha256("\0".join((definition_sha256, base.digest, *way)).encode()).hexdigest()
        image = self.stages.image(key)
        dockerfile = self.project.stack_folder(stack.name) / stack.variants[variant].dockerfile

        def say(line: str) -> None:
            self.progress(f"{name}: {line}")

        with lease(self.cache / "leases", key[:16], self.progress) as held:
            if self.stages.held.hold(image):
                return image
            indexes = self._reachable(name, stack.variants[variant])
            with self.stages.aside(key) as temporary:
                with self.driver.work_folder(name) as work:
                    shown = str(dockerfile.relative_to(self.project.root))
                    with lending(work / "lent", indexes, self.site.mirrors, self.progress) as lent:
                        variables = build_archive(docker, dockerfile, shown, BASE_ARGUMENT, base, lent, work, say)
                    converted = reproducible(conversion(definition, variables))
                    self.driver.build(converted, temporary, name, self.compression, parent=work / ARCHIVE)
                held.check()
                self.stages.keep(temporary, key)
        return image

    def _build_stage(
        self, chain: list[Stage], number: int, name: str, indexes: list[str], base: BaseImage | None
    ) -> None:
        """Build one stage on the one before it, or on the base, unless somebody else does while we wait."""
        stage = chain[number]
        image = self.stages.image(stage.key)
        step = f"{name}.stage{number + 1}of{len(chain)}" if len(chain) > 1 else name
        with lease(self.cache / "leases", stage.key[:16], self.progress) as held:
            if self.stages.held.hold(image):
                return
            parent = self.stages.image(chain[number - 1].key) if number else None
            with self.stages.aside(stage.key) as temporary:
                self.driver.build(
                    stage.definition,
                    temporary,
                    step,
                    stage.compression,
                    parent=parent,
                    base=base if _stands_on_base(stage) else None,
                    extra_indexes=indexes,
                )
                held.check()
                self.stages.keep(temporary, stage.key)


def _record(name: str, reference: str, base: BaseRecord, chain: list[Stage]) -> ChainRecord:
    parts = [stage.parts for stage in chain]
    return ChainRecord(name=name, reference=reference, base_digest=base.digest, stages=parts)


def _stands_on_base(stage: Stage) -> bool:
    """Whether the build of a stage pulls the base: it starts from it, or copies from a stage that does."""
    definition = stage.definition
    of_all = [*definition.arguments, *(pair for earlier in definition.stages for pair in earlier.arguments)]
    return BASE_ARGUMENT in dict(of_all)
