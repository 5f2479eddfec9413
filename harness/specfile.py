"""Reading the project's TOML files into pydantic models, with errors that name file, key and valid values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import SpecError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class SpecModel(BaseModel):
    """Base of every model of a committed file: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# What a person calls the types of a scalar value.
SCALARS = {"bool": "true or false", "int": "a number", "str": "text"}

SpecT = TypeVar("SpecT", bound=SpecModel)


Language = Literal["en", "zh"]


class LocalizedText(SpecModel):
    """A text in both languages of the project's readers."""

    en: str
    zh: str

    def says(self, language: Language) -> str:
        """The text in that language."""
        return self.zh if language == "zh" else self.en


def load_spec(path: Path, model: type[SpecT]) -> SpecT:
    """Read ``path`` as TOML into ``model``.

    Raises:
        SpecError: as :func:`read_toml`, or it does not fit (with key and valid values).
    """
    return validate_spec(read_toml(path), model, where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The content of ``path``.

    Raises:
        SpecError: the file is missing, or is not TOML (with line and column).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError("no such file", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text ({error.reason} at byte {error.start})", where=str(path)) from error
    return parse_toml(text, where=str(path))


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        SpecError: it is not TOML (with line and column).
    """
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not valid TOML: {error}", where=where) from error
    return data


def validate_spec(data: dict[str, Any], model: type[SpecT], *, where: str) -> SpecT:
    """Check ``data`` against ``model``; the first problem becomes the error, the count of others is named."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SpecError(_describe(problems[0], model) + more, where=where) from error


def _describe(problem: Any, model: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    kind, message = problem["type"], str(problem["msg"])
    if location and location[-1] in SCALARS:
        # pydantic names each member of a union it tried
        location.pop()
        message = f"Input should be one of: {', '.join(SCALARS.values())}"
    key = ".".join(location) or "(top level)"
    if kind == "missing":
        return f"key '{key}' is missing"
    if kind == "extra_forbidden":
        valid = _valid_keys(model, problem["loc"][:-1])
        return f"unknown key '{key}'" + (f"; valid keys here: {', '.join(valid)}" if valid else "")
    if kind == "value_error":
        return f"key '{key}': {message.removeprefix('Value error, ')}"
    return f"key '{key}': {message}, not {problem['input']!r}"


def _valid_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Names of the fields at ``location``; empty where the place is a union or a free table."""
    current: Any = model
    for part in location:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        if isinstance(part, int):
            continue
        field = current.model_fields.get(str(part))
        if field is None:
            return []
        current = field.annotation
        arguments = [a for a in getattr(current, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        if len(arguments) == 1:
            current = arguments[0]
    if isinstance(current, type) and issubclass(current, BaseModel):
        return sorted(current.model_fields)
    return []
