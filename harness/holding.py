"""Data sets and models that a site may hold: where they lie, where they come from, and who can do without."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from harness.expectation import Scalar
from harness.project import PRESETS, PresetName
from harness.runtime.hub.files import Digest, Kind, Repository
from harness.specfile import LocalizedText, SpecModel

_HUB_NAME = r"^[\w.-]+/[\w.-]+$"


def alternatives(entry: str) -> list[str]:
    """The names under which a file may lie, of an entry of ``files``: any one of them will do."""
    return entry.split("|")


class Download(SpecModel):
    """A file on plain servers, for data sets that no hub has as their readers want them."""

    file: str = Field(description="its name in the data set's folder; of an archive: any name")
    urls: list[str] = Field(min_length=1, description="where it is, in the order to be tried")
    checksum: str | None = Field(None, description="sha256:…, md5:… or git-sha1:…, where it is known")
    unpack: bool = Field(False, description="a tar archive: its members of the names in `files` are what is kept")

    @field_validator("checksum")
    @classmethod
    def _known(cls, text: str | None) -> str | None:
        return text and str(Digest.parse(text))

    @property
    def digest(self) -> Digest | None:
        return Digest.parse(self.checksum) if self.checksum else None


class DataSet(SpecModel):
    """A data set a site may hold; ``fallback`` says what the program uses where it does not."""

    name: str
    folders: list[str] = Field(min_length=1, description="where it may lie below the site's data root")
    files: list[str] = Field(
        min_length=1, description="what must be in that folder, as its programs look for it: NAME, or NAME|OTHER NAME"
    )
    source: str = Field(description="where it comes from, for a person")
    source_zh: str | None = Field(None, description="the same for Chinese pages; without it, the English")
    hub: str | None = Field(None, pattern=_HUB_NAME, description="its repository on Hugging Face: owner/name")
    modelscope: str | None = Field(None, pattern=_HUB_NAME, description="on ModelScope, where it is called otherwise")
    revision: str | None = Field(None, description="of the hub's repository, where it is known")
    ignore: list[str] = Field(default_factory=list, description="patterns of the repository's files nobody needs")
    downloads: list[Download] = Field(default_factory=list, description="files on plain servers, instead of a hub")
    sha256: dict[str, str] = Field(default_factory=dict, description="of files, where they are known")
    fallback: LocalizedText | None = None
    fallback_presets: list[PresetName] = Field(
        default_factory=lambda: list(PRESETS), description="presets that the fallback will do for"
    )

    @model_validator(mode="after")
    def _checksums(self) -> DataSet:
        for file, digest in self.sha256.items():
            valid = [name for entry in self.files for name in alternatives(entry)]
            if file not in valid:
                raise ValueError(f"sha256 names '{file}'; valid: {', '.join(valid)}")
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"sha256 of '{file}' is '{digest}', not 64 hexadecimal digits")
        return self

    @property
    def said_files(self) -> str:
        """``train.tsv (or train.txt), dev.tsv``: what must be there, for an error message."""
        said = []
        for entry in self.files:
            first, *others = alternatives(entry)
            said.append(f"{first} (or {', '.join(others)})" if others else first)
        return ", ".join(said)

    @property
    def key(self) -> str:
        """What people call it in a command: the folder it is fetched to."""
        return self.folders[0]

    def repository(self) -> Repository | None:
        """Where hubs have it; None: they do not."""
        return self._on_hub("dataset", self.hub)

    def is_needed(self, preset: PresetName) -> bool:
        """Whether a run of that preset cannot do without it."""
        return self.fallback is None or preset not in self.fallback_presets

    def _on_hub(self, kind: Kind, name: str | None) -> Repository | None:
        if name is None:
            return None
        return Repository(kind, name, self.revision or "", tuple(self.ignore), self.modelscope or "")


class Model(DataSet):
    """A model a site may hold, by its name on the hub; ``folders`` are below the site's models root.

    The fallback of most is a tiny checkpoint with random weights, which will do for the smoke preset only.
    """

    name: str = Field(pattern=_HUB_NAME, description="the hub's name: owner/model")
    fallback_presets: list[PresetName] = Field(default=["smoke"])
    unless: dict[str, Scalar] = Field(
        default_factory=dict, description="parameters whose steps never look at it: unless.weights = 'random'"
    )

    @property
    def key(self) -> str:
        return self.name

    def repository(self) -> Repository | None:
        return self._on_hub("model", self.name)
