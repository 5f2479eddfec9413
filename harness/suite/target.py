"""A run the suite is about: what is asked for, the run once it exists, and its verdict once it is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, get_args

from harness.errors import HarnessError, UserError
from harness.judge.judge import write_verdict
from harness.judge.verdict import Verdict
from harness.project import Project
from harness.report.entry import ReportEntry, report_entry, run_name
from harness.run.evidence import Evidence, ExpectedImage, gather_evidence
from harness.run.families import family
from harness.run.paths import RunPaths
from harness.tutorial import PresetName, Tutorial, Variant, load_tutorial

if TYPE_CHECKING:
    from harness.history.judging import Case

DEFAULT_VARIANT: Variant = "cuda"
DEFAULT_PRESET: PresetName = "smoke"


class Campaign(Protocol):
    """What the suite needs of :mod:`harness.run.campaign`."""

    def submit_run(
        self, project: Project, tutorial: Tutorial, variant: Variant, preset: PresetName, site: str
    ) -> RunPaths: ...

    def latest_run(
        self, project: Project, tutorial: Tutorial, variant: str, preset: str, *, environment: str
    ) -> RunPaths | None: ...

    def wait_for_runs(
        self,
        project: Project,
        runs: Sequence[RunPaths],
        done: Callable[[RunPaths], None] | None = None,
        timeout_s: float | None = None,
    ) -> None: ...

    def gather(self, project: Project, run: RunPaths) -> Evidence: ...

    def expected_image(self, project: Project, run: RunPaths) -> ExpectedImage | None: ...


@dataclass
class Target:
    """One run to be judged.

    Attributes:
        name: first part of its tests' ids, such as ``xscow-2.cpu.smoke``; unique in the session.
        given: the run was given by its folder: nothing is submitted and nothing is waited for.
        run: the run, once it exists.
        problem: why there is no run, or why it could not be judged.
        entry: verdict and evidence, once judged.
        reruns: those of the re-runs that decided about its throughput.
    """

    name: str
    tutorial: Tutorial
    variant: Variant
    preset: PresetName
    given: bool = False
    run: RunPaths | None = None
    problem: HarnessError | None = None
    entry: ReportEntry | None = None
    awaited: bool = False
    notice: str | None = None
    reruns: tuple[ReportEntry, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict.

        Raises:
            HarnessError: there is none, and why.
        """
        if self.problem is not None:
            raise self.problem
        if self.entry is None:
            raise HarnessError("the run was not judged", where=self.name)
        return self.entry.verdict

    def submit(self, campaign: Campaign, project: Project, site: str) -> None:
        """Submit the run; a refusal becomes this target's problem and stops no other."""
        try:
            self.run = campaign.submit_run(project, self.tutorial, self.variant, self.preset, site)
        except HarnessError as error:
            self.problem = error

    def find(self, campaign: Campaign, project: Project) -> None:
        """Take up the latest run that was submitted before."""
        try:
            self.run = campaign.latest_run(project, self.tutorial, self.variant, self.preset, environment="apptainer")
        except HarnessError as error:
            self.problem = error
            return
        if self.run is None:
            self.problem = HarnessError(
                "there is no run of it to collect",
                where=self.name,
                fix="submit one: the same command with --submit-only",
            )

    def judge(self, campaign: Campaign, project: Project, *, wait: bool = True, reruns: int | None = None) -> None:
        """Wait for the run, judge it and keep the verdict in its folder; a second call does nothing.

        Args:
            reruns: how often it may be run again where its throughput is near a gate; None: as tutorial and site say.
        """
        if self.awaited or self.problem is not None or self.run is None:
            return
        try:
            runs = [self.run, *(member for member in family(self.run) if member.run_id != self.run.run_id)]
            if wait and not self.given:
                campaign.wait_for_runs(project, runs)
            self._judge(campaign, project, runs, 0 if self.given else reruns)
        except HarnessError as error:
            self.problem = error
        self.awaited = True
        for entry in (self.entry, *self.reruns):
            if entry is not None:
                self._keep(entry.evidence.paths, entry.verdict)

    def _judge(self, campaign: Campaign, project: Project, runs: Sequence[RunPaths], reruns: int | None) -> None:
        # SQLAlchemy is needed only here.
        from harness.history.deciding import judge_until_decided

        notices: list[str] = []

        def load(wanted: Sequence[RunPaths]) -> list[Case]:
            return [
                (self._as_asked(campaign.gather(project, run)), self.tutorial, campaign.expected_image(project, run))
                for run in wanted
            ]

        judged = judge_until_decided(
            project,
            load(runs),
            load=load,
            wait=lambda new: campaign.wait_for_runs(project, new),
            tell=notices.append,
            limit=reruns,
        )
        entries = [
            report_entry(verdict, evidence, self.tutorial)
            for verdict, (evidence, _, _) in zip(judged.verdicts, judged.cases, strict=True)
        ]
        self.entry, self.reruns = entries[0], tuple(entries[1:])
        failed = [f"re-run {e.verdict.run.run_id} failed" for e in self.reruns if e.verdict.overall == "fail"]
        self.notice = "; ".join([*judged.problems, *notices, *failed]) or None

    def _as_asked(self, evidence: Evidence) -> Evidence:
        """The evidence, judged by what this session asks for."""
        asked = dataclasses.replace(evidence.asked, tutorial=self.tutorial.id, variant=self.variant, preset=self.preset)
        return dataclasses.replace(evidence, asked=asked)

    def _keep(self, run: RunPaths, verdict: Verdict) -> None:
        try:
            write_verdict(run, verdict)
        except OSError as error:  # somebody else's run may be read but not written
            self.notice = f"verdict.json was not written to {run.folder}: {error.strerror}"


def asked_targets(project: Project, names: Sequence[str], variant: str | None, preset: str | None) -> list[Target]:
    """A target per tutorial named, each once.

    Raises:
        UserError: unknown tutorial, or one without that variant or preset. SpecError: a broken tutorial.toml.
    """
    wanted, size = _variant(variant) or DEFAULT_VARIANT, _preset(preset) or DEFAULT_PRESET
    tutorials = {tutorial.id: tutorial for tutorial in (load_tutorial(project, name) for name in names)}
    return [_target(tutorial, wanted, size) for tutorial in tutorials.values()]


def given_targets(
    project: Project, folders: Sequence[str], names: Sequence[str], variant: str | None, preset: str | None
) -> list[Target]:
    """A target per run folder. What the folder does not say, ``names`` (one tutorial), ``variant`` and ``preset`` do.

    Raises:
        UserError: no such folder, or nothing says which tutorial it is a run of.
    """
    from harness.history.judging import as_run

    if len(names) > 1:
        raise UserError("--run takes at most one --tutorial", fix="leave --tutorial out: the folder names it")
    targets: list[Target] = []
    for folder in folders:
        path = Path(folder).expanduser().resolve()
        if not path.is_dir():
            raise UserError("no such run folder", where=folder, fix="give a folder such as runs/<run-id>")
        evidence = gather_evidence(RunPaths(path))
        name = names[0] if names else evidence.tutorial
        if name is None:
            raise UserError(
                "nothing in it says which tutorial it is a run of", where=folder, fix="add --tutorial (and --variant)"
            )
        target = _target(
            as_run(evidence, load_tutorial(project, name)),
            _variant(variant) or _variant(evidence.variant) or DEFAULT_VARIANT,
            _preset(preset) or _preset(evidence.preset) or DEFAULT_PRESET,
        )
        target.given, target.run = True, RunPaths(path)
        if any(target.name == other.name for other in targets):
            target.name = f"{target.name}@{path.name}"
        targets.append(target)
    return targets


def _target(tutorial: Tutorial, variant: Variant, preset: PresetName) -> Target:
    if variant not in tutorial.resources:
        raise UserError(f"{tutorial.id} has no variant '{variant}'", fix=f"valid: {', '.join(tutorial.resources)}")
    if preset not in tutorial.presets:
        raise UserError(f"{tutorial.id} has no preset '{preset}'", fix=f"valid: {', '.join(tutorial.presets)}")
    return Target(run_name(tutorial.id, variant, preset), tutorial, variant, preset)


def _variant(text: str | None) -> Variant | None:
    return next((name for name in get_args(Variant) if name == text), None)


def _preset(text: str | None) -> PresetName | None:
    return next((name for name in get_args(PresetName) if name == text), None)
