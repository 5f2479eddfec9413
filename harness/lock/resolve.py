"""Making a lock: base, apt packages and Python packages of a stack's variant.

What cannot be resolved here (no registry answers, no mirror for that distribution) is not guessed and not left out:
the lock names the part and the reason. A part that was resolved before, from the same inputs, is kept.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from harness.errors import HarnessError, MissingToolError
from harness.image.base import BaseImage, base_source
from harness.image.contents import tool_versions
from harness.image.driver import Progress
from harness.image.engine import find_engine
from harness.image.packages import packages_below
from harness.image.process import run_command
from harness.image.reference import ImageReference
from harness.image.registry import ImageNotFoundError, RegistryUnreachableError
from harness.lock.apt import PrivateApt, installed_versions
from harness.lock.apt_commands import apt_commands
from harness.lock.base_system import STATUS, base_system
from harness.lock.inputs import copied_to_apt, current_inputs, stack_dockerfile
from harness.lock.python import find_uv, normal_name, resolve_python, without_addresses
from harness.project import Project, Variant
from harness.site import Site
from harness.stack import Stack
from harness.stack_lock import LockedBase, LockedDeb, LockedInputs, LockedPython, Part, StackLock

_TOOL_SECONDS = 30.0


@dataclass(frozen=True)
class Resolver:
    """Makes locks.

    Attributes:
        cache: bootstrapped bases, apt's lists.
        progress: called with lines of what is going on.
        upgrade: newest versions, also where locked ones still fit; a bootstrapped base is made anew.
    """

    project: Project
    site: Site
    cache: Path
    progress: Progress
    upgrade: bool = False

    def resolve(self, stack: Stack, variant: Variant, before: StackLock | None) -> StackLock:
        """The lock of a variant; also writes its requirements lock.

        Args:
            before: the committed lock; parts of it stand in for what cannot be resolved now.

        Raises:
            SpecError: the checkout is wrong. Anything that the world does not give ends up in ``unresolved``.
        """
        inputs = current_inputs(self.project, stack, variant)
        name = f"{stack.name}.{variant}"
        unresolved: dict[Part, str] = {}
        base, apt = self._base_and_apt(stack, variant, inputs, unresolved)
        python: LockedPython | None = None
        self.progress(f"{name}: resolving Python packages")
        try:
            python = resolve_python(
                self.project.stack_folder(stack.name),
                stack.variants[variant],
                lambda line: self.progress(f"{name}: note: {line}"),
                title=f"harness lock {stack.name} --variant {variant}",
                upgrade=self.upgrade,
            )
        except HarnessError as error:
            unresolved["python"] = reason(error)
        lock = StackLock(
            stack=stack.name,
            variant=variant,
            inputs=inputs,
            base=base,
            apt=apt,
            python=python,
            tools=resolving_tools(),
            unresolved=unresolved,
        )
        kept = keep_resolved(lock, before)
        for part in sorted(unresolved.keys() - kept.unresolved.keys()):
            self.progress(f"{name}: {part} kept as it was locked: {unresolved[part]}")
        return kept

    def _base_and_apt(
        self, stack: Stack, variant: Variant, inputs: LockedInputs, unresolved: dict[Part, str]
    ) -> tuple[LockedBase | None, dict[str, LockedDeb] | None]:
        self.progress(f"{stack.name}.{variant}: asking for {inputs.base}")
        base: LockedBase | None = None
        try:
            with base_source(
                inputs.base,
                self.cache,
                mirrors=tuple(self.site.mirrors.registry),
                refresh=self.upgrade,
                on_line=self.progress,
            ) as image:
                base = locked_base(image)
                if not inputs.apt and base.origin == "bootstrapped":
                    return base, {}
                root = base_system(image, self.cache)
        except HarnessError as error:
            if base is None:
                base = pinned_base(inputs.base, error)
            if base is None:
                unresolved["base"] = reason(error)
            elif not inputs.apt:
                self.progress(f"{stack.name}.{variant}: note: packages of the base are not known: {reason(error)}")
            if inputs.apt:
                unresolved["apt"] = f"the base image is not to be had: {reason(error)}"
            return base, None if inputs.apt else {}
        if base.origin == "registry":
            found = {"packages": installed_versions(root / STATUS), "python": python_of_base(root)}
            base = base.model_copy(update=found)
        if not inputs.apt:
            return base, {}
        try:
            return base, self._apt(stack, variant, root)
        except HarnessError as error:
            unresolved["apt"] = reason(error)
            return base, None

    def _apt(self, stack: Stack, variant: Variant, root: Path) -> dict[str, LockedDeb]:
        folder = self.project.stack_folder(stack.name)
        commands = apt_commands(stack_dockerfile(self.project, stack, variant))
        if shutil.which("apt-get") is None:
            raise MissingToolError("apt-get is not on this machine")
        files = [(folder / source, target) for source, target in copied_to_apt(self.project, stack, variant)]
        self.progress(f"{stack.name}.{variant}: asking apt")
        with tempfile.TemporaryDirectory(prefix="harness-apt-") as work:
            apt = PrivateApt.open(Path(work) / "apt", root, files, self.cache / "apt")
            apt.update(self.progress)
            return apt.resolve(commands)


def locked_base(image: BaseImage) -> LockedBase:
    """What a lock says of a base. A bootstrapped base's digest is left out: it depends on its machine's mirror."""
    if image.origin == "registry":
        return LockedBase(origin="registry", digest=image.digest)
    releases, packages = image.details["releases"], image.details["packages"]
    return LockedBase.model_validate(
        {"origin": "bootstrapped", "suite": image.suite, "releases": releases, "packages": packages}
    )


def pinned_base(reference: str, error: HarnessError) -> LockedBase | None:
    """What a lock says of a base whose reference names its digest, where no registry could be asked about it.

    Nothing else can come under that name, so nothing is left to resolve. A registry that answers and does not have it
    is another matter: the digest is wrong.
    """
    digest = ImageReference.parse(reference).digest
    if digest is None or not isinstance(error, RegistryUnreachableError):
        return None
    return LockedBase(origin="registry", digest=digest)


def python_of_base(root: Path) -> dict[str, str]:
    """Python packages of a base that Debian's did not bring: name to version, or to all versions that are there."""
    versions: dict[str, set[str]] = {}
    for package in packages_below(root):
        if not package.part_of:
            versions.setdefault(normal_name(package.name), set()).add(package.version)
    return {name: ", ".join(sorted(found)) for name, found in sorted(versions.items())}


def keep_resolved(lock: StackLock, before: StackLock | None) -> StackLock:
    """``lock`` with the parts of ``before`` in the place of those that could not be resolved, where inputs allow.

    The base and what apt adds to it belong together: both are kept, or none.
    """
    if before is None or not lock.unresolved:
        return lock
    old, new = before.inputs, lock.inputs
    values: dict[str, object] = {}
    if "python" in lock.unresolved and before.python and old.python == new.python and old.files == new.files:
        values["python"] = before.python
    same_apt = (old.base, old.apt, old.files) == (new.base, new.apt, new.files)
    if ("base" in lock.unresolved or "apt" in lock.unresolved) and same_apt and before.base and before.apt is not None:
        values |= {"base": before.base, "apt": before.apt}
    left = {part: why for part, why in lock.unresolved.items() if part not in values}
    return lock.model_copy(update={**values, "unresolved": left})


def same_resolution(one: StackLock, other: StackLock) -> bool:
    """Are they equal but for dates of package lists and versions of tools?"""

    def plain(lock: StackLock) -> StackLock:
        base = lock.base and lock.base.model_copy(update={"releases": {}})
        return lock.model_copy(update={"base": base, "tools": {}})

    return plain(one) == plain(other)


def resolving_tools() -> dict[str, str]:
    """Versions of what resolves, and of what builds, as far as it is here."""
    tools = {"tutorial-harness": __version__}
    probes: list[tuple[str, Callable[[], list[str]]]] = [
        ("apt", lambda: ["apt-get", "--version"]),
        ("uv", lambda: [*find_uv(), "--version"]),
    ]
    for name, command in probes:
        try:
            printed = run_command(command(), timeout_s=_TOOL_SECONDS, check=False).output
        except MissingToolError:
            continue  # what it would have resolved is in `unresolved`
        if found := re.search(r"\d+(?:\.\d+)+", printed):
            tools[name] = found[0]
    try:
        tools |= tool_versions(find_engine())
    except HarnessError:
        return dict(sorted(tools.items()))  # locking needs no engine
    return dict(sorted(tools.items()))


def reason(error: HarnessError) -> str:
    """Why something could not be resolved, in words that may be committed: no host, no path of this machine."""
    if isinstance(error, ImageNotFoundError):
        return "the registries that answer have no such image"
    if isinstance(error, RegistryUnreachableError):
        return "no registry that was asked answers from here"
    return without_addresses(error.what)
