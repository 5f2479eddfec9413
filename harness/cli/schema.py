"""schema: the JSON schemas of what the harness writes."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.generated import write_or_check
from harness.project import Project
from harness.report.schema import SCHEMAS, schema_text


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("schema")(schema)


def schema(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where a file is not up to date.")
    ] = False,
) -> None:
    """Write docs/schema/*.json: the schemas of report.json, result.json and verdict.json.

    Example: harness schema --check
    """
    folder = Project.find().root / "docs" / "schema"
    files = {folder / f"{name}.json": schema_text(name) for name in SCHEMAS}
    write_or_check(files, folder.glob("*.json"), check=check, fix="harness schema")
