"""Rendering ``docs/tutorials/<id>.md`` and ``<id>.zh-CN.md``. Pure, but for reading its templates."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2

from harness.project import Project
from harness.specfile import LocalizedText
from harness.tutorial import Tutorial, bare_number

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_SUFFIX: dict[Language, str] = {"en": ".md", "zh": ".zh-CN.md"}


def page_file(project: Project, tutorial_id: str, language: Language) -> Path:
    """Where that page is kept."""
    return project.root / "docs" / "tutorials" / f"{tutorial_id}{_SUFFIX[language]}"


def _literal(value: Any) -> Any:
    """A value as the result's JSON has it."""
    return str(value).lower() if isinstance(value, bool) else value


def measured_time(table: Path, tutorial_id: str) -> str | None:
    """How long a tutorial's job took, as the page with what was measured says in English; None where it does not."""
    if not table.is_file():
        return None
    row = re.search(rf"^\| \[{tutorial_id}\]\(.*$", table.read_text(encoding="utf-8"), re.MULTILINE)
    cells = row[0].split("|") if row else []
    return next((cell.strip() for cell in cells if re.fullmatch(r" (\d+ (h|min) )?[\d.]+ (s|min) ", cell)), None)


def render_page(tutorial: Tutorial, language: Language, run_time: str | None = None) -> str:
    """The page as Markdown.

    Args:
        run_time: of the smoke preset's whole job on CPUs, where it was measured.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )

    def said(text: LocalizedText) -> str:
        return text.en if language == "en" else text.zh

    environment.filters |= {"said": said, "number": lambda value: f"{value:,.6g}", "literal": _literal}
    source = resources.files("harness.page").joinpath(f"templates/{language}.md.j2").read_text("utf-8")
    number = bare_number(tutorial.id)
    text: str = environment.from_string(source).render(
        tutorial=tutorial,
        typed=tutorial.id if number is None else number,
        throughput=tutorial.throughput,
        run_time=run_time,
        more=2 * max(needed.processes_per_node for needed in tutorial.resources.values()),
    )
    return text
