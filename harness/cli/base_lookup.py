"""What a Dockerfile's bases say of themselves: given by hand, read from a registry, or taken for granted aloud."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.definition.state import BaseConfig
from harness.errors import HarnessError, UserError
from harness.image.base_config import read_base_config, registry_base_config
from harness.image.reference import ImageReference


@dataclass
class BaseLookup:
    """Answers :func:`harness.definition.convert.convert`; each base is looked at once.

    Attributes:
        mirrors: the site's, of Docker Hub.
        say: called with each note.
        given: by image; ``alone``: for the only base there is.
    """

    mirrors: Sequence[str]
    say: Callable[[str], None]
    given: dict[str, BaseConfig] = field(default_factory=dict)
    alone: BaseConfig | None = None
    known: dict[str, BaseConfig] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Sequence[str], mirrors: Sequence[str], say: Callable[[str], None]) -> BaseLookup:
        """With what ``--base-config [IMAGE=]FILE`` says.

        Raises:
            UserError: a file is none, or two are for the same base.
        """
        lookup = cls(mirrors, say)
        for option in options:
            image, separator, file = option.partition("=")
            if not separator or Path(option).is_file():
                image, file = "", option
            if _full(image) in lookup.given if image else lookup.alone is not None:
                raise UserError(f"--base-config is given twice for {image or 'the base'}", fix="remove one")
            config = read_base_config(Path(file))
            if image:
                lookup.given[_full(image)] = config
            else:
                lookup.alone = config
        return lookup

    def __call__(self, reference: str) -> BaseConfig:
        if reference not in self.known:
            self.known[reference] = self.given.get(_full(reference)) or self.alone or self._asked(reference)
        return self.known[reference]

    def check(self) -> None:
        """After a conversion: was everything that was given of use?

        Raises:
            UserError: a file is for no base of the Dockerfile, or for which of several is not said.
        """
        bases = ", ".join(self.known) or "none"
        if unused := self.given.keys() - set(map(_full, self.known)):
            raise UserError(f"--base-config is for no base: {', '.join(sorted(unused))}", fix=f"the bases are: {bases}")
        if self.alone is not None and len(self.known.keys()) - len(self.given) > 1:
            raise UserError(
                "--base-config FILE is for one base, and there are several",
                fix=f"say --base-config IMAGE=FILE for each of: {bases}",
            )

    def _asked(self, reference: str) -> BaseConfig:
        try:
            found = registry_base_config(reference, self.mirrors)
        except HarnessError as error:
            reason = f"{error.where}: {error.what}" if error.where else error.what
            self.say(
                f"base {reference} not looked at ({reason}), so it is taken for granted that it says: "
                f"{BaseConfig().in_words()}; if it does not, add --base-config FILE, "
                f"made by: skopeo inspect --config docker://{reference}"
            )
            return BaseConfig()
        if found != BaseConfig():
            self.say(f"base {reference} says: {found.in_words()}; the definition is written for that")
        return found


def _full(reference: str) -> str:
    try:
        return str(ImageReference.parse(reference))
    except UserError:
        return reference
