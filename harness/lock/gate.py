"""What ``harness build`` does about drift: refuse it before and after the build, or only say so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import HarnessError
from harness.image.base import ensure_base
from harness.image.contents import base_of, read_lock, tool_versions
from harness.image.engine import find_engine
from harness.lock.drift import Drift, base_drift, image_drift, tool_drift
from harness.lock.inputs import lock_drift, stack_dockerfile
from harness.lock.outside import unpinned
from harness.project import Project, Variant, parse_variant
from harness.site import Site
from harness.stack import load_stack
from harness.stack_lock import StackLock, lock_file, read_stack_lock


class DriftError(HarnessError):
    """Something is not as it was locked."""


@dataclass
class LockGate:
    """Holds builds against the committed locks.

    Attributes:
        refuse: drift is an error; else a note.
        say: called with each line of it.
    """

    project: Project
    site: Site
    refuse: bool
    say: Callable[[str], None]
    _said: set[str] = field(default_factory=set)

    def before(self, stack: str, variant: Variant) -> None:
        """Hold the checkout against the lock, and, where drift is refused, the base that would be built on.

        Raises:
            DriftError: drift is refused, and there is some. SpecError: the stack or its lock is broken.
        """
        lock = read_stack_lock(self.project, stack, variant)
        if lock is None:
            self._judge(
                stack, variant, [Drift(f"{stack}: {variant} was never locked", "lock it")] if self.refuse else []
            )
            return
        of_stack = load_stack(self.project, stack)
        changed = lock_drift(self.project, of_stack, lock)
        lines = [Drift(line, "lock again, or undo the change") for line in changed]
        instructions = stack_dockerfile(self.project, of_stack, variant)
        lines += [Drift(open_end.what, open_end.fix) for open_end in unpinned(instructions, lock.inputs.base)]
        if self.refuse and not lines:
            lines = list(_unresolved(lock))
        if self.refuse and not lines:
            reference, mirrors = lock.inputs.base, tuple(self.site.mirrors.registry)
            record = ensure_base(reference, self.project.cache, mirrors=mirrors)
            lines = [*base_drift(lock, base_of(record)), *tool_drift(lock, tool_versions(find_engine()))]
        self._judge(stack, variant, lines)

    def check_image(self, image: Path) -> None:
        """Hold a finished image, not yet published, against the lock.

        Raises:
            DriftError: drift is refused, and there is some. HarnessError: the image says nothing of itself.
        """
        made = read_lock(image)
        variant = parse_variant(made.variant)
        lock = read_stack_lock(self.project, made.stack, variant)
        if lock is not None:
            self._judge(made.stack, variant, image_drift(lock, image))

    def _judge(self, stack: str, variant: Variant, lines: Iterable[Drift]) -> None:
        lines = list(lines)
        for line in lines:
            text = f"{'drift' if self.refuse else 'note'}: {stack}.{variant}: {line}"
            if text not in self._said:  # several tutorials stand on one stack
                self._said.add(text)
                self.say(text)
        if lines and self.refuse:
            path = lock_file(self.project, stack, variant).relative_to(self.project.root)
            count = "one thing is" if len(lines) == 1 else f"{len(lines)} things are"
            raise DriftError(
                f"{count} not as locked",
                where=str(path),
                fix=f"run: harness lock {stack} --variant {variant}; or build without --locked",
            )


def _unresolved(lock: StackLock) -> Iterable[Drift]:
    """What nobody could resolve is no promise that an image could be held against."""
    for part, why in lock.unresolved.items():
        yield Drift(f"{part}: not locked ({why})", "lock where it can be resolved")
