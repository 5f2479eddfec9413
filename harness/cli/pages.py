"""docs: from tutorials to a page for their readers, in both languages."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.generated import write_or_check
from harness.page import LANGUAGES, page_file, render_page
from harness.project import Project
from harness.tutorial import load_tutorial, tutorial_ids


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("docs")(docs)


def docs(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where a file is not up to date.")
    ] = False,
) -> None:
    """Write docs/tutorials/*.md for every tutorial, in English and in Chinese.

    Example: harness docs --check
    """
    project = Project.find()
    tutorials = [load_tutorial(project, tutorial_id) for tutorial_id in tutorial_ids(project)]
    pages = {
        page_file(project, tutorial.id, language): render_page(tutorial, language)
        for tutorial in tutorials
        for language in LANGUAGES
    }
    write_or_check(pages, (project.root / "docs" / "tutorials").glob("*.md"), check=check, fix="make docs")
