"""submit, status, wait, check, cancel, report: runs and their verdicts."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from harness.cli.console import console, print_table
from harness.cli.language import LanguageOption, chosen_language
from harness.cli.options import PresetOption, SiteOption, TutorialsArgument, VariantOption
from harness.errors import HarnessError, UserError
from harness.history.deciding import judge_until_decided
from harness.history.judging import Case
from harness.history.recording import record_verdicts
from harness.judge.judge import write_verdict
from harness.project import Project, parse_preset, parse_variant
from harness.report.entry import ReportEntry, overall, report_entry
from harness.report.html import write_html
from harness.report.json_report import write_json as write_json_report
from harness.report.junit import write_junit
from harness.report.markdown import render_markdown, write_markdown
from harness.report.schema import SCHEMAS, schema_text
from harness.report.text import print_report
from harness.run.campaign import RunRequest, expected_image, submit_runs
from harness.run.families import with_families
from harness.run.following import cancel_run, gather_all, has_ended, may_have_a_job, wait_for_runs
from harness.run.needs import replaced
from harness.run.paths import RunPaths
from harness.run.records import latest_run, newest_runs, read_record
from harness.scheduler.base import JobStatus
from harness.site import DEFAULT_SITE, load_site
from harness.tutorial import load_tutorial, tutorial_ids

RunOption = Annotated[Path | None, typer.Option("--run", help="A run folder; default: the tutorial's newest run.")]
REPORT_FOLDER = "report"


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    for command in (submit, status, wait, check, cancel, report):
        app.command()(command)


def submit(
    tutorials: TutorialsArgument = None,
    variant: VariantOption = "cpu",
    preset: PresetOption = "full",
    site: SiteOption = DEFAULT_SITE,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An option for sbatch, such as --gres=shard:16.")
    ] = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="One allocation in which the runs take turns, instead of a job array.")
    ] = False,
) -> None:
    """Submit jobs and return; `harness wait` and `harness check` work later from any shell.

    Several tutorials that ask for the same resources become one job array.

    Examples: harness submit 2 --preset smoke; harness submit 2 --variant cuda -o --gres=shard:16;
    harness submit --pack --preset smoke
    """
    project = Project.find()
    requests = [
        RunRequest(load_tutorial(project, name), parse_variant(chosen), parse_preset(size))
        for name in tutorials or tutorial_ids(project)
        for chosen in variant.split(",")
        for size in preset.split(",")
    ]
    profile = load_site(project, site)
    notes = [replaced(project, one.tutorial, one.preset, profile, os.environ) for one in requests]
    for note in dict.fromkeys(line for lines in notes for line in lines):
        typer.echo(f"note: {note}", err=True)
    how: Literal["array", "pack"] = "pack" if pack else "array"
    for run in submit_runs(project, requests, site, options=option or (), how=how):
        typer.echo(run.folder.relative_to(project.root))


STATUS_HEADS = {
    "en": ("run", "job", "state", "node", "age"),
    "zh": ("运行", "作业号", "状态", "节点", "时间"),
}
STATUS_WORDS = {
    "en": {"ended": "ended", "failed": "failed ({code})", "no word": "no word"},
    "zh": {"ended": "已结束", "failed": "失败（{code}）", "no word": "无消息"},
}


def status(
    limit: Annotated[int, typer.Option("--limit", "-n", help="Show this many of the newest runs.")] = 20,
    language: LanguageOption = None,
) -> None:
    """Show the newest runs. The scheduler is asked only about runs that are silent.

    Example: harness status
    """
    project = Project.find()
    spoken = chosen_language(language)
    words = STATUS_WORDS[spoken]
    table = Table(*STATUS_HEADS[spoken], box=None, pad_edge=False)
    records = list(islice(newest_runs(project), limit))
    for record, evidence in zip(records, gather_all(project, [r.paths for r in records]), strict=True):
        if evidence.exit_code is not None and evidence.scheduler is None:
            state = words["ended" if evidence.exit_code == 0 else "failed"].format(code=evidence.exit_code)
        elif evidence.scheduler is not None:
            reason = evidence.scheduler.reason
            state = evidence.scheduler.state + (f" ({reason})" if reason and reason != "None" else "")
        else:
            state = words["no word"]
        age = time.time() - record.ordering
        table.add_row(record.paths.run_id, str(record.facts.get("job_id", "")), state, evidence.node or "", _age(age))
    print_table(table)


def wait(
    tutorials: TutorialsArgument = None,
    run: RunOption = None,
    timeout: Annotated[float | None, typer.Option(help="Give up after this many seconds.")] = None,
) -> None:
    """Wait until runs have ended.

    Example: harness wait 2
    """
    project = Project.find()
    _wait(project, _chosen(project, tutorials, run), timeout)


def check(
    tutorials: TutorialsArgument = None,
    run: RunOption = None,
    variant: Annotated[
        str | None, typer.Option("--variant", "-v", help="Only runs of this variant.", envvar="VARIANT")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Wait at most this many seconds for runs to end.")] = None,
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
    report_folder: Annotated[
        Path, typer.Option("--report", help="Folder for the page, the JUnit file and the JSON.")
    ] = Path(REPORT_FOLDER),
) -> None:
    """Judge runs: outputs, image, device and throughput. Exit code 1 where one fails.

    Examples: harness check 2; harness check --run runs/tutorial2-cpu-smoke-...
    """
    project = Project.find()
    runs = with_families([read_record(chosen) for chosen in _chosen(project, tutorials, run, variant)])
    _wait(project, runs, timeout)
    entries = judge(project, runs, reruns=rerun, timeout=timeout)
    print_report(entries, language=chosen_language(language))
    page = write_reports(entries, project.root / report_folder)
    typer.echo(f"page: {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}")
    if overall(entries) == "fail":
        raise typer.Exit(1)


def cancel(tutorials: TutorialsArgument = None, run: RunOption = None) -> None:
    """Cancel the jobs of runs.

    Example: harness cancel 2
    """
    project = Project.find()
    for chosen in _chosen(project, tutorials, run):
        cancel_run(project, chosen)
        typer.echo(f"cancelled {chosen.run_id}")


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
    records = list(islice(newest_runs(project), limit))
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

    def load(wanted: Sequence[RunPaths]) -> list[Case]:
        found: list[Case] = []
        for run, evidence in zip(wanted, gather_all(project, wanted), strict=True):
            if evidence.tutorial is None:
                what = "neither ledger, job record nor result says which tutorial this is"
                raise UserError(what, where=str(run.folder))
            found.append((evidence, load_tutorial(project, evidence.tutorial), expected_image(project, run)))
        return found

    judged = judge_until_decided(
        project,
        load(runs),
        load=load,
        wait=lambda new: _wait(project, new, timeout),
        tell=lambda line: typer.echo(f"note: {line}", err=True),
        limit=reruns,
    )
    for (evidence, _, _), verdict in zip(judged.cases, judged.verdicts, strict=True):
        write_verdict(evidence.paths, verdict)
    for problem in [*judged.problems, *record_verdicts(project, judged.verdicts)]:
        typer.echo(f"warning: {problem}", err=True)
    return [
        report_entry(verdict, evidence, tutorial)
        for verdict, (evidence, tutorial, _) in zip(judged.verdicts, judged.cases, strict=True)
    ]


def write_reports(entries: Sequence[ReportEntry], folder: Path) -> Path:
    """The page, JUnit and JSON of ``entries``; returns the page."""
    write_junit(folder / "junit.xml", entries)
    write_json_report(folder / "report.json", entries)
    return write_html(folder / "index.html", entries)


def _chosen(
    project: Project, tutorials: list[str] | None, run: Path | None, variant: str | None = None
) -> list[RunPaths]:
    if run is not None:
        if not run.is_dir():
            raise UserError("no such run folder", where=str(run), fix="harness status lists the runs")
        return [RunPaths(run.resolve())]
    chosen = []
    for name in tutorials or tutorial_ids(project):
        tutorial = load_tutorial(project, name)
        found = latest_run(project, tutorial, parse_variant(variant) if variant else None)
        if found is not None:
            chosen.append(found)
        elif tutorials:
            raise UserError(f"no run of {tutorial.id}", where=str(project.runs), fix=f"make submit TUT={name}")
    if not chosen:
        raise UserError("there are no runs", where=str(project.runs), fix="make submit TUT=2")
    return chosen


def _wait(project: Project, runs: Sequence[RunPaths], timeout: float | None) -> None:
    screen = console()
    silent = [run for run in runs if not has_ended(run)]
    hopeless = [run for run in silent if not may_have_a_job(read_record(run))]
    silent = [run for run in silent if run not in hopeless]
    if not silent:
        return

    def on_status(job: JobStatus) -> None:
        reason = f" ({job.reason})" if job.reason and job.reason != "None" else ""
        screen.print(f"job {job.job_id}: {job.state.value}{reason}", markup=False)

    try:
        wait_for_runs(project, silent, lambda run: screen.print(f"ended: {run.run_id}"), timeout, on_status)
    except HarnessError:
        screen.print("some runs have not ended")
        raise


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
