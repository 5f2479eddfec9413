"""One pytest session of the suite: submits what was selected, waits, judges, reports."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from harness.errors import HarnessError
from harness.hooks import SiteHooks, load_hooks
from harness.project import Project
from harness.report.entry import ReportEntry
from harness.run.evidence import gather_evidence
from harness.site import DEFAULT_SITE
from harness.suite.board import WORKER_INPUT, Board
from harness.suite.target import Campaign, Target, asked_targets, given_targets

MARKERS = {
    "run": "did the job end well, with a complete result of what was asked for",
    "image": "did it use the expected image and the devices asked for",
    "output": "are the tutorial's outputs right",
    "site": "the site's own checks",
    "throughput": "is it as fast as it must be, and no faster than it can be",
}


def start(config: pytest.Config) -> None:
    """Work out what the session is about, before anything is collected.

    Raises:
        pytest.UsageError: the options ask for something that is not there; one line.
    """
    options = config.option
    names = [name for group in options.harness_tutorials for name in group.split(",") if name.strip()]
    if options.harness_submit_only and (options.harness_collect or options.harness_runs):
        raise pytest.UsageError("--submit-only goes with neither --collect nor --run: it judges nothing")
    try:
        project = Project.find()
        if options.harness_runs:
            targets = given_targets(
                project, options.harness_runs, names, options.harness_variant, options.harness_preset
            )
        else:
            targets = asked_targets(project, names, options.harness_variant, options.harness_preset)
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning} (harness.suite)")
    config._harness_suite = SuiteSession(config, project, targets)  # type: ignore[attr-defined]


class SuiteSession:
    """State of the suite in one process of a pytest session.

    Under pytest-xdist (``-n 2``) there are several: the workers run the tests, the controller writes the reports. They
    share a :class:`~harness.suite.board.Board`, so that each run is submitted once.

    Attributes:
        targets: the runs, in the order of their tests.
        is_worker: this process was started by another one, which reports.
        is_controller: this process runs no tests itself.
    """

    def __init__(self, config: pytest.Config, project: Project, targets: Sequence[Target]) -> None:
        options = config.option
        self.project = project
        self.targets = tuple(targets)
        self.site: str = options.harness_site
        self.submit_only: bool = options.harness_submit_only
        self.collect: bool = options.harness_collect
        self.reruns: int | None = options.harness_reruns
        self.report_folder = Path(options.harness_report) if options.harness_report else None
        # By name: a session that only collects tests needs no scheduler, catalog or network.
        self._campaign: Campaign | None = None
        self.warnings: list[str] = []
        self.began = False
        self.interrupted = False
        self._arguments = config.invocation_params.args
        given = getattr(config, "workerinput", {}).get(WORKER_INPUT)
        self.is_worker = given is not None
        distributed = getattr(options, "dist", "no") != "no" and not options.collectonly
        self.is_controller = distributed and not self.is_worker
        self.board = Board(Path(given)) if given is not None else Board.make() if self.is_controller else None

    @property
    def campaign(self) -> Campaign:
        """The functions that submit and gather runs."""
        if self._campaign is None:
            self._campaign = cast(Campaign, importlib.import_module("harness.run.campaign"))
        return self._campaign

    def hooks_of(self, target: Target) -> SiteHooks:
        """The site's own checks of a target's run.

        Raises:
            SpecError: the site's file is broken.
        """
        site = self.site
        if target.given and target.run is not None:
            site = gather_evidence(target.run).fact("site") or DEFAULT_SITE
        return load_hooks(self.project, site)

    def submit_selected(self, session: pytest.Session) -> None:
        """Submit (or find) a run for each target that still has a test after -k, -m and --lf."""
        selected = {id(target) for item in session.items if (target := _target_of(item)) is not None}
        wanted = [target for target in self.targets if id(target) in selected and not target.given]
        if self.board is not None:
            self.board.settle(wanted, self._obtain)
        else:
            for target in wanted:
                self._obtain(target)

    def _obtain(self, target: Target) -> None:
        if self.collect:
            target.find(self.campaign, self.project)
        else:
            target.submit(self.campaign, self.project, self.site)

    def take_up(self) -> None:
        """Judge the workers' runs that have a verdict here again, for the reports; nothing is awaited."""
        if self.board is None:
            return
        for target in self.targets:
            known = target.given or self.board.take(target)
            if known and target.run is not None and target.run.verdict.is_file() and not self.submit_only:
                target.judge(self.campaign, self.project, wait=False, reruns=0)

    def await_run_of(self, item: pytest.Item) -> None:
        """Block until the run this test is about has ended, and judge it."""
        target = _target_of(item)
        if target is not None and not self.submit_only:
            target.judge(self.campaign, self.project, reruns=self.reruns)

    @property
    def entries(self) -> list[ReportEntry]:
        """The runs judged so far."""
        return [entry for target in self.targets if target.entry for entry in (target.entry, *target.reruns)]

    def record(self) -> None:
        """Keep the verdicts in the site's history; what goes wrong with that is shown, and fails no test."""
        verdicts = [entry.verdict for entry in self.entries]
        if verdicts:
            # SQLAlchemy is needed only here.
            from harness.history.recording import record_verdicts

            self.warnings = record_verdicts(self.project, verdicts)

    def write_report(self) -> None:
        """Write the report folder, if one was asked for.

        Raises:
            OSError: it cannot be written.
        """
        if self.report_folder is None or not self.entries:
            return
        # Jinja2 and the page are needed only here.
        from harness.report.html import write_html
        from harness.report.json_report import write_json
        from harness.report.junit import write_junit

        write_html(self.report_folder / "index.html", self.entries)
        write_json(self.report_folder / "report.json", self.entries)
        write_junit(self.report_folder / "junit.xml", self.entries)

    def print_summary(self, terminal: pytest.TerminalReporter) -> None:
        """Say where the runs and the report are, and what is still going."""
        known = [target for target in self.targets if target.run is not None]
        if not known and not self.interrupted:
            return
        terminal.section("tutorial runs", sep="-")
        for warning in self.warnings:
            terminal.write_line(f"warning: {warning}")
        for target in known:
            state = target.entry.verdict.overall if target.entry else "submitted, not judged"
            terminal.write_line(f"{target.name}: {state}  {target.run.folder if target.run else ''}")
        # Ctrl-C may have come between a submission and the note of it.
        open_ones = self.targets if self.interrupted else known
        if any(target.entry is None and not target.given and target.problem is None for target in open_ones):
            terminal.write_line(f"the runs go on without pytest; judge them later: {self._collect_command()}")
        if self.report_folder is not None and self.entries:
            terminal.write_line(f"report: {self.report_folder / 'index.html'}")

    def _collect_command(self) -> str:
        """The command line of this session, with --collect."""
        kept = [argument for argument in self._arguments if argument not in ("--submit-only", "--collect")]
        return shlex.join(["pytest", *kept, "--collect"])

    def end(self) -> None:
        """Leave nothing behind."""
        if self.is_controller and self.board is not None:
            self.board.remove()


def _target_of(item: pytest.Item) -> Target | None:
    target = getattr(item, "harness_target", None)
    return target if isinstance(target, Target) else None
