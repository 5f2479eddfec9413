"""The language in which a command speaks of verdicts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import UserError

if TYPE_CHECKING:  # `harness status` does without what reads specifications
    from harness.specfile import Language

LANGUAGE_VARIABLE = "HARNESS_LANGUAGE"
# In the order POSIX reads them; LANGUAGE is gettext's own.
_LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")

LanguageOption = Annotated[
    str | None, typer.Option("--language", help=f"en or zh; default: {LANGUAGE_VARIABLE}, else the locale (LANG).")
]


def chosen_language(given: str | None, environment: Mapping[str, str] | None = None) -> Language:
    """What ``--language`` says, else ``HARNESS_LANGUAGE``, else the locale; English where none says Chinese.

    Raises:
        UserError: a language there is not.
    """
    variables = os.environ if environment is None else environment
    asked = given or variables.get(LANGUAGE_VARIABLE)
    if asked:
        name = asked.strip().lower().replace("_", "-").split("-")[0].split(".")[0]
        if name == "zh":
            return "zh"
        if name == "en":
            return "en"
        raise UserError(f"unknown language '{asked}'", fix="valid: en, zh")
    locale = next((variables[name] for name in _LOCALE_VARIABLES if variables.get(name)), "")
    return "zh" if locale.lower().startswith("zh") else "en"
