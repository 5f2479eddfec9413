"""wait, check, cancel, report: runs and their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.console import console
from harness.cli.language import LanguageOption, chosen_language
from harness.cli.options import RunsArgument
from harness.errors import HarnessError, UserError
from harness.history.deciding import judge_until_decided
from harness.history.judging import Case
from harness.history.recording import record_verdicts
from harness.judge.judge import write_verdict
from harness.judge.verdict import Verdict
from harness.project import Project, parse_variant
from harness.report.entry import ReportEntry, overall, report_entry
from harness.report.html import write_html
from harness.report.json_report import write_json as write_json_report
from harness.report.junit import write_junit
from harness.report.markdown import render_markdown, write_markdown
from harness.report.schema import SCHEMAS, schema_text
from harness.report.text import print_report
from harness.run.families import with_families
from harness.run.following import cancel_runs, has_ended, may_have_a_job, wait_for_runs
from harness.run.gathering import gather_all
from harness.run.images import expected_image
from harness.run.paths import RunPaths
from harness.run.records import latest_runs, newest_runs, read_record
from harness.scheduler.base import JobStatus
from harness.tutorial import Tutorial, load_tutorial, tutorial_ids

RunOption = Annotated[Path | None, typer.Option("--run", help="A run folder; default: the tutorial's newest run.")]
REPORT_FOLDER = "report"
# Of more runs than these a person does not want to read line by line how each goes.
TOLD_ONE_BY_ONE = 50


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    for command in (wait, check, cancel, report):
        app.command()(command)


def wait(
    tutorials: RunsArgument = None,
    run: RunOption = None,
    timeout: Annotated[float | None, typer.Option(help="Give up after this many seconds.")] = None,
) -> None:
    """Wait until runs have ended.

    Example: harness wait 2
    """
    project = Project.find()
    _wait(project, _chosen(project, tutorials, run), timeout)


def check(
    tutorials: RunsArgument = None,
    run: RunOption = None,
    variant: Annotated[
        str | None, typer.Option("--variant", "-v", help="Only runs of this variant.", envvar="VARIANT")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Wait at most this many seconds for runs to end.")] = None,
    report_folder: Annotated[
        Path, typer.Option("--report", help="Folder for the page, the JUnit file and the JSON.")
    ] = Path(REPORT_FOLDER),
    rerun: Annotated[
        int | None,
        typer.Option(
            "--rerun",
            min=0,
            help="Run again at most N times what is too near its throughput's gate to decide; the median of three "
            "decides. Default: as the tutorial and the site say (smoke 0, bench and full 2).",
        ),
    ] = None,
    language: LanguageOption = None,
) -> None:
    """Judge runs: outputs, image, device and throughput. Exit code 1 where one fails.

    Examples: harness check 2; harness check $(harness submit 2 --preset smoke)
    """
    project = Project.find()
    runs = with_families([read_record(chosen) for chosen in _chosen(project, tutorials, run, variant)])
    _wait(project, runs, timeout)
    entries = judge(project, runs, reruns=rerun, timeout=timeout)
    print_report(entries, language=chosen_language(language))
    try:
        page = write_reports(entries, project.root / report_folder)
        typer.echo(f"page: {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}")
    except UserError as error:  # the verdicts stand; whoever may only read can still ask for them
        typer.echo(f"warning: {error}", err=True)
    if overall(entries) == "fail":
        raise typer.Exit(1)


def cancel(tutorials: RunsArgument = None, run: RunOption = None) -> None:
    """Cancel the jobs of runs.

    Example: harness cancel 2
    """
    project = Project.find()
    chosen = _chosen(project, tutorials, run, sessions=True)
    cancel_runs(project, chosen)
    for one in chosen:
        typer.echo(f"cancelled {one.run_id}")


def report(
    limit: Annotated[int, typer.Option("--limit", "-n", help="Report this many of the newest runs.")] = 50,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for the page, the JUnit file and the JSON; with --markdown: the file."
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A comment for a pull request instead, to standard output or -o FILE.")
    ] = False,
    language: LanguageOption = None,
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="NAME", help=f"Print a JSON schema and end: {', '.join(SCHEMAS)}."),
    ] = None,
) -> None:
    """Write one page, one JUnit file and one JSON file about the newest runs, or a comment for a pull request.

    Examples: harness report -n 10; harness report --markdown --language zh -o comment.md;
    harness report --schema report
    """
    if schema is not None:
        typer.echo(schema_text(schema), nl=False)
        return
    spoken = chosen_language(language)
    project = Project.find()
    records = list(islice((record for record in newest_runs(project) if not record.is_session), limit))
    if not records:
        raise UserError("there are no runs", where=str(project.runs), fix="harness submit TUTORIAL")
    entries = judge(project, with_families(records))
    if not markdown:
        typer.echo(write_reports(entries, project.root / (output or REPORT_FOLDER)))
    elif output is None:
        typer.echo(render_markdown(entries, language=spoken), nl=False)
    else:
        typer.echo(write_markdown(output, entries, language=spoken))


def judge(
    project: Project, runs: Sequence[RunPaths], *, reruns: int | None = 0, timeout: float | None = None
) -> list[ReportEntry]:
    """Judge runs, write each one's verdict into its folder, and record it in the history.

    Args:
        reruns: how often each may be run again where its throughput is near a gate; None: as tutorial and site say.
        timeout: for the re-runs to end, in seconds.
    """

    tutorials: dict[str, Tutorial] = {}

    def load(wanted: Sequence[RunPaths]) -> list[Case]:
        found: list[Case] = []
        for run, evidence in zip(wanted, gather_all(project, wanted), strict=True):
            if evidence.fact("open"):
                raise UserError("an interactive session has nothing to be judged", where=str(run.folder))
            if (name := evidence.tutorial) is None:
                what = "neither ledger, job record nor result says which tutorial this is"
                raise UserError(what, where=str(run.folder))
            if name not in tutorials:
                tutorials[name] = load_tutorial(project, name)
            found.append((evidence, tutorials[name], expected_image(project, run)))
        return found

    judged = judge_until_decided(
        project,
        load(runs),
        load=load,
        wait=lambda new: _wait(project, new, timeout),
        tell=lambda line: typer.echo(f"note: {line}", err=True),
        limit=reruns,
    )
    unkept = _keep([evidence.paths for evidence, _, _ in judged.cases], judged.verdicts)
    for problem in [*judged.problems, *unkept, *record_verdicts(project, judged.verdicts)]:
        typer.echo(f"warning: {problem}", err=True)
    return [
        report_entry(verdict, evidence, tutorial)
        for verdict, (evidence, tutorial, _) in zip(judged.verdicts, judged.cases, strict=True)
    ]


def _keep(runs: Sequence[RunPaths], verdicts: Sequence[Verdict]) -> list[str]:
    """Write verdicts into the run folders; a line where some cannot be written, as by people who may only read."""
    failures = []
    for run, verdict in zip(runs, verdicts, strict=True):
        try:
            write_verdict(run, verdict)
        except OSError as error:
            failures.append(f"{run.verdict} ({error.strerror})")
    return [f"verdicts of {len(failures)} runs were not kept: {failures[0]}"] if failures else []


def write_reports(entries: Sequence[ReportEntry], folder: Path) -> Path:
    """The page, JUnit and JSON of ``entries``; returns the page.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        write_junit(folder / "junit.xml", entries)
        write_json_report(folder / "report.json", entries)
        return write_html(folder / "index.html", entries)
    except OSError as error:
        raise UserError(
            f"the report cannot be written: {error.strerror}", where=str(folder), fix="name a folder of your own"
        ) from error


def _chosen(
    project: Project, named: list[str] | None, run: Path | None, variant: str | None = None, *, sessions: bool = False
) -> list[RunPaths]:
    """The runs a person means: folders, which hold a slash as tutorials' names do not, and tutorials' newest runs."""
    if run is not None:
        return [_run_folder(project, str(run))]
    ids = {
        name: load_tutorial(project, name).id for name in named or tutorial_ids(project) if "/" not in name
    }  # by the name given
    newest = latest_runs(project, ids.values(), parse_variant(variant) if variant else None, sessions=sessions)
    if not named:
        chosen = [newest[name] for name in ids.values() if name in newest]
        if not chosen:
            raise UserError("there are no runs", where=str(project.runs), fix="make submit TUT=2")
        return chosen
    for name, tutorial in ids.items():
        if tutorial not in newest:
            raise UserError(f"no run of {tutorial}", where=str(project.runs), fix=f"make submit TUT={name}")
    found = [_run_folder(project, name) if "/" in name else newest[ids[name]] for name in named]
    return list(dict.fromkeys(found))


def _run_folder(project: Project, name: str) -> RunPaths:
    """A run by its folder, as seen from here or from the checkout's root (as `harness submit` prints it)."""
    for folder in (Path(name), project.root / name):
        if folder.is_dir():
            return RunPaths(folder.resolve())
    raise UserError("no such run folder", where=name, fix="harness status lists the runs")


def _wait(project: Project, runs: Sequence[RunPaths], timeout: float | None) -> None:
    screen = console()
    silent = [run for run in runs if not has_ended(run)]
    hopeless = [run for run in silent if not may_have_a_job(read_record(run))]
    silent = [run for run in silent if run not in hopeless]
    if not silent:
        return

    few = len(silent) <= TOLD_ONE_BY_ONE
    if not few:
        screen.print(f"waiting for {len(silent)} runs")

    def on_end(run: RunPaths) -> None:
        if few:
            screen.print(f"ended: {run.run_id}")

    def on_status(job: JobStatus) -> None:
        if not few:
            return
        reason = f" ({job.reason})" if job.reason and job.reason != "None" else ""
        screen.print(f"job {job.job_id}: {job.state.value}{reason}", markup=False)

    try:
        wait_for_runs(project, silent, on_end, timeout, on_status)
    except HarnessError:
        screen.print("some runs have not ended")
        raise
