"""open: Jupyter or a web board as an interactive job in a tutorial's image."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.table import Table

from harness.cli.console import console, print_table
from harness.cli.options import SiteOption, VariantOption
from harness.errors import HarnessError, UserError
from harness.job.place import SERVERS, Server
from harness.job.render import servers_of
from harness.judge.judge import judge_run
from harness.project import Project, Variant, parse_variant
from harness.run.campaign import RunRequest, cancel_runs, gather, gather_all, submit_runs
from harness.run.paths import RunPaths
from harness.run.records import read_record
from harness.run.session import Addresses, Session, addresses, open_sessions, read_session, wait_for_session
from harness.scheduler.base import JobStatus
from harness.site import DEFAULT_SITE, load_site
from harness.tutorial import Tutorial, load_tutorial

LOG_LINES = 15
_TIME = re.compile(r"(\d+-)?\d{1,2}:\d{2}(:\d{2})?")


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("open")(open_session)


def open_session(
    server: Annotated[str | None, typer.Argument(metavar="[jupyter|board]", help="What to open.")] = None,
    tutorial: Annotated[
        str | None, typer.Argument(metavar="[TUTORIAL]", help="Number, id or stem: in its image.")
    ] = None,
    site: SiteOption = DEFAULT_SITE,
    variant: VariantOption = "cpu",
    time: Annotated[
        str | None, typer.Option("--time", "-t", help="How long it may stay, H:MM:SS; default: as the tutorial's job.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An option for sbatch, such as --gres=shard:16.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it answers, say where.")] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Ctrl-C leaves the job; else it cancels it.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Stop waiting after this many seconds; the job stays.")] = None,
    show: Annotated[bool, typer.Option("--list", "-l", help="Show open sessions and their addresses.")] = False,
) -> None:
    """Open Jupyter, or LLaMA-Factory's web board, in a tutorial's image, as a job.

    Prints the ssh line for a tunnel and the address with its token. Files are kept in notebooks/ (NOTEBOOKS).
    To end a session: harness cancel.

    Examples: harness open jupyter 2; harness open board 6 --variant cuda --time 2:00:00; harness open --list
    """
    project = Project.find()
    if show:
        _list(project)
        return
    kind = next((name for name in SERVERS if name == server), None)
    if kind is None or tutorial is None:
        raise UserError(
            f"unknown server '{server}'" if server and kind is None else "say what to open, and of which tutorial",
            fix="harness open jupyter TUTORIAL, harness open board TUTORIAL, or harness open --list",
        )
    if time is not None and not _TIME.fullmatch(time):
        raise UserError(f"--time is '{time}'", fix="write hours, minutes and seconds: 2:00:00")
    loaded, chosen = load_tutorial(project, tutorial), parse_variant(variant)
    require_server(project, loaded, chosen, kind)
    options = [*(option or []), *([f"--time={time}"] if time else [])]
    (run,) = submit_runs(
        project, [RunRequest(loaded, chosen, "full", server=kind)], site, options=options, how="single"
    )
    typer.echo(f"run:     {run.folder.relative_to(project.root)}")
    if wait:
        _wait(project, loaded, run, kind, keep=keep, timeout=timeout)
    else:
        typer.echo("its address: harness open --list")


def require_server(project: Project, tutorial: Tutorial, variant: Variant, server: Server) -> None:
    """Refuse, before a queue wait, what the image does not hold.

    Raises:
        UserError: with what to add.
    """
    if server in servers_of(project, tutorial, variant):
        return
    if server == "board":
        raise UserError(f"{tutorial.id} has no web board", fix="open that of a LLaMA-Factory tutorial, such as 6")
    folder = f"containers/{tutorial.stack}"
    raise UserError(
        f"the {variant} image of {tutorial.id} has no Jupyter",
        where=f"{folder}/stack.toml",
        fix=f"add jupyterlab to the requirements in {folder} and 'jupyter' to the variant's servers, then harness lock",
    )


def _wait(
    project: Project, tutorial: Tutorial, run: RunPaths, kind: Server, *, keep: bool, timeout: float | None
) -> None:
    screen = console()

    def on_status(job: JobStatus) -> None:
        reason = f" ({job.reason})" if job.reason and job.reason != "None" else ""
        screen.print(f"job {job.job_id}: {job.state.value}{reason}", markup=False)

    try:
        session = wait_for_session(project, run, timeout, on_status)
    except KeyboardInterrupt:
        if keep:
            typer.echo(f"left as it is: harness open --list, harness cancel --run runs/{run.run_id}", err=True)
        else:
            cancel_runs(project, [run])
            typer.echo(f"cancelled {run.run_id}", err=True)
        raise
    if session is None:
        _say_why(project, tutorial, run, kind)
        return
    found = _addresses(project, run, session)
    typer.echo(f"tunnel:  {found.tunnel}\nurl:     {found.url}\ndirect:  {found.direct}")
    typer.echo(f"end:     harness cancel --run runs/{run.run_id}")


def _say_why(project: Project, tutorial: Tutorial, run: RunPaths, kind: Server) -> None:
    """The cause that the tables of failures know, and the log's last lines.

    Raises:
        HarnessError: always.
    """
    evidence = gather(project, run)
    for line in evidence.log_tail[-LOG_LINES:]:
        typer.echo(f"    {line}", err=True)
    cause = judge_run(evidence, tutorial, None).cause
    what = f"the job ended before {kind} answered"
    raise HarnessError(
        f"{what}: {cause.title.en} · {cause.title.zh}" if cause else what,
        where=run.run_id,
        fix=cause.fix.en if cause else f"see {run.scheduler_log}",
    )


def _addresses(project: Project, run: RunPaths, session: Session) -> Addresses:
    return addresses(session, load_site(project, str(read_record(run).facts.get("site") or DEFAULT_SITE)))


def _list(project: Project) -> None:
    records = list(open_sessions(project))
    table = Table("run", "server", "state", "node", "address", box=None, pad_edge=False)
    for record, evidence in zip(records, gather_all(project, [r.paths for r in records]), strict=True):
        state = evidence.scheduler.state if evidence.scheduler else "no word"
        if state not in ("PENDING", "RUNNING", "no word"):
            continue  # it was killed, and could not say so
        try:
            session = read_session(record.paths)
        except HarnessError as error:
            address = error.what
        else:
            address = _addresses(project, record.paths, session).url if session else ""
        table.add_row(record.paths.run_id, str(record.facts["open"]), state, evidence.node or "", address)
    if table.row_count:
        print_table(table)
    else:
        typer.echo("no session is open; harness open jupyter TUTORIAL opens one")
