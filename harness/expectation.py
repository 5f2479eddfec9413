"""What a tutorial's step must produce: the ``[[expectations]]`` of a tutorial.toml, one model per kind.

========= ==================================================================================================
kind      passes when
========= ==================================================================================================
exact     the output equals a value (text, number, true or false, or a list of those)
number    the output is inside [min, max], or within a tolerance of a value; beyond warn_min or warn_max it warns
text      the output, or a text file, matches a regular expression and does not match a forbidden one
curve     the output is a list of finite numbers that moves the right way or stays inside bounds
file      the file is there, whole, and not empty
array     the npy, npz or safetensors file holds arrays of these names, shapes and types, all finite
table     the CSV file has these columns and so many rows
json      the JSON file has these keys
images    the pictures are so many, of this size, not blank, and different from one another
changed   a text output differs from that of an earlier step (training changed what the model says)
same      a number, or every array of a file, equals that of another step (merged model = base + adapter)
========= ==================================================================================================

Each fails where what it judges is missing, of another type, empty or not finite.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from harness.project import PRESETS, PresetName
from harness.specfile import SpecModel

Scalar = bool | int | float | str


class _Expectation(SpecModel):
    """What all kinds share. ``name`` is an output of the step, or a file below its output folder."""

    step: str
    name: str = Field(min_length=1)
    presets: list[PresetName] = Field(default_factory=lambda: list(PRESETS))
    when: dict[str, Scalar] = Field(
        default_factory=dict, description="judge only when these outputs of the step have these values"
    )

    @property
    def other_steps(self) -> tuple[str, ...]:
        """Steps it names besides its own."""
        return ()


class _FileExpectation(_Expectation):
    """``name`` is a path below the step's output folder."""

    @field_validator("name")
    @classmethod
    def _stays_inside(cls, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"'{name}' is not a path below the step's output folder")
        return name


class ExactExpectation(_Expectation):
    """Equal to ``equals``, and of its type: 1, 1.0 and true are three values, "1" is a fourth."""

    kind: Literal["exact"]
    equals: Scalar | list[Scalar]


class NumberExpectation(_Expectation):
    """A number the step reports: inside [min, max], or within a tolerance of `equals`.

    The tolerance is ``tolerance + rel_tolerance * |equals|``, as numpy's isclose has it.
    """

    kind: Literal["number"]
    min: float | None = None
    max: float | None = None
    warn_max: float | None = Field(
        None, description="above this it warns, above max it fails: for what a machine gives"
    )
    warn_min: float | None = Field(None, description="below this it warns, below min it fails")
    equals: float | None = None
    tolerance: float = Field(0.0, ge=0)
    rel_tolerance: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _can_fail(self) -> NumberExpectation:
        if self.min is None and self.max is None and self.equals is None:
            raise ValueError(f"expectation '{self.name}' needs min, max or equals")
        if self.rel_tolerance and self.equals is None:
            raise ValueError(f"expectation '{self.name}': rel_tolerance needs equals")
        if self.warn_max is not None and (self.max is None or self.warn_max >= self.max):
            raise ValueError(f"expectation '{self.name}': warn_max needs a max above it")
        if self.warn_min is not None and (self.min is None or self.warn_min <= self.min):
            raise ValueError(f"expectation '{self.name}': warn_min needs a min below it")
        return self


class TextExpectation(_FileExpectation):
    """A text: ``pattern`` is found in it, ``forbidden`` is not (Python regular expressions, ``.`` ends at a line)."""

    kind: Literal["text"]
    pattern: str = Field(min_length=1)
    forbidden: str | None = None
    in_file: bool = Field(False, description="name is a text file (UTF-8), not an output")

    @field_validator("pattern", "forbidden")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return pattern


class CurveExpectation(_Expectation):
    """A list of numbers the step reports: finite, long enough, moving the right way, inside bounds.

    ``direction`` compares the last point with the first; ``monotone`` every point with the one before, where a step
    back of at most ``slack`` is forgiven.
    """

    kind: Literal["curve"]
    direction: Literal["decreasing", "increasing"] | None = None
    min_points: int = Field(2, ge=2)
    min_change: float = Field(0.0, ge=0, description="smallest |last - first| that counts, in the curve's unit")
    monotone: bool = False
    slack: float = Field(0.0, ge=0, description="in the curve's unit")
    min: float | None = Field(None, description="no point may be below")
    max: float | None = Field(None, description="no point may be above")

    @model_validator(mode="after")
    def _can_fail(self) -> CurveExpectation:
        if self.direction is None and self.min is None and self.max is None:
            raise ValueError(f"expectation '{self.name}' needs direction ('decreasing', 'increasing'), min or max")
        if self.direction is None and (self.monotone or self.min_change):
            raise ValueError(f"expectation '{self.name}': monotone and min_change need direction")
        return self


class FileExpectation(_FileExpectation):
    """A file the step leaves in its output folder; `name` is its path there."""

    kind: Literal["file"]
    min_bytes: int = Field(1, ge=1)
    format: Literal["png", "any"] = "any"


class ArrayShape(SpecModel):
    """One array. ``shape`` has -1 where any positive length will do; ``dtype`` is numpy's name, or bfloat16."""

    shape: list[int]
    dtype: str | None = None

    @field_validator("shape")
    @classmethod
    def _lengths(cls, shape: list[int]) -> list[int]:
        if any(length < 1 and length != -1 for length in shape):
            raise ValueError(f"shape {shape} may hold positive lengths and -1 for any")
        return shape


class ArrayExpectation(_FileExpectation):
    """An .npy, .npz or .safetensors file with arrays of these shapes; its only array in an .npy is called ``array``."""

    kind: Literal["array"]
    arrays: dict[str, ArrayShape] = Field(min_length=1)
    finite: bool = Field(True, description="no NaN or infinity in any of them")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if not name.endswith((".npy", ".npz", ".safetensors")):
            raise ValueError(f"'{name}' must end in .npy, .npz or .safetensors")
        return name


class TableExpectation(_FileExpectation):
    """A CSV file with a header line: these columns, so many rows, every row as long as the header."""

    kind: Literal["table"]
    columns: list[str] = Field(default_factory=list)
    min_rows: int = Field(1, ge=1)
    max_rows: int | None = Field(None, ge=1)


class JsonExpectation(_FileExpectation):
    """A JSON file with these keys; ``scores.0.accuracy`` goes into objects and lists. None may be null or empty."""

    kind: Literal["json"]
    keys: list[str] = Field(min_length=1)


class ImagesExpectation(_FileExpectation):
    """Pictures: ``name`` is a path or a pattern such as ``*.png``.

    ``min_contrast`` is the standard deviation of the grey values over their range (a blank picture has 0, noise 0.29).
    ``min_difference`` is the mean absolute difference of two pictures, shrunk to 64 x 64, over the range of a value.
    """

    kind: Literal["images"]
    count: int = Field(1, ge=1, description="at least so many")
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)
    min_contrast: float = Field(0.01, gt=0, le=0.5)
    min_difference: float = Field(0.0, ge=0, le=1, description="0: not compared")


class ChangedExpectation(_Expectation):
    """A text output that differs from ``other_name`` (default: the same name) of ``other_step``."""

    kind: Literal["changed"]
    other_step: str
    other_name: str | None = None

    @property
    def other_steps(self) -> tuple[str, ...]:
        return (self.other_step,)


class SameExpectation(_FileExpectation):
    """Equal to ``other_name`` (default: the same name) of ``other_step``: a number, a list of them, or an array file.

    Two values agree within ``tolerance + rel_tolerance * |other|``.
    """

    kind: Literal["same"]
    other_step: str
    other_name: str | None = None
    in_file: bool = Field(False, description="names are .npy, .npz or .safetensors files, not outputs")
    tolerance: float = Field(0.0, ge=0)
    rel_tolerance: float = Field(0.0, ge=0)

    @property
    def other_steps(self) -> tuple[str, ...]:
        return (self.other_step,)

    @model_validator(mode="after")
    def _two_things(self) -> SameExpectation:
        if self.other_step == self.step and self.other_name in (None, self.name):
            raise ValueError(f"expectation '{self.name}' compares an output with itself")
        return self


Expectation = Annotated[
    ExactExpectation
    | NumberExpectation
    | TextExpectation
    | CurveExpectation
    | FileExpectation
    | ArrayExpectation
    | TableExpectation
    | JsonExpectation
    | ImagesExpectation
    | ChangedExpectation
    | SameExpectation,
    Field(discriminator="kind"),
]


def not_finite(expectation: Expectation) -> bool:
    """Whether one of its limits is NaN or infinite, so that it would judge nothing."""
    return any(isinstance(value, float) and not math.isfinite(value) for value in expectation.model_dump().values())
