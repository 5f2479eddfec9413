"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

TutorialArgument = Annotated[str, typer.Argument(metavar="TUTORIAL", help="Number, id or stem: 2, xscow-2, tutorial2.")]
TutorialsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[TUTORIAL]...", help="Numbers, ids or stems; none: all of them.")
]
RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TUTORIAL|RUN]...", help="Tutorials, for their newest runs, or run folders; none: all tutorials."
    ),
]
VariantOption = Annotated[str, typer.Option("--variant", "-v", help="cpu or cuda.", envvar="VARIANT")]
PresetOption = Annotated[str, typer.Option("--preset", "-p", help="smoke, bench or full.", envvar="PRESET")]
SiteOption = Annotated[str, typer.Option("--site", "-s", help="Name of a file below sites/.", envvar="SITE")]
