"""What every report is made from: a verdict, the evidence behind it, and the tutorial's title."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.judge.verdict import Check, Overall, Status, Verdict
from harness.run.evidence import Evidence
from harness.specfile import LocalizedText
from harness.tutorial import Tutorial


@dataclass(frozen=True)
class ReportEntry:
    """One run in a report."""

    verdict: Verdict
    evidence: Evidence
    title: LocalizedText

    @property
    def name(self) -> str:
        """``xscow-2.cpu.smoke``: how tests and reports call the run."""
        run = self.verdict.run
        return run_name(run.tutorial, run.variant, run.preset)


def report_entry(verdict: Verdict, evidence: Evidence, tutorial: Tutorial) -> ReportEntry:
    """An entry with the title of its tutorial."""
    return ReportEntry(verdict, evidence, tutorial.title)


def run_name(tutorial: str, variant: str | None, preset: str | None) -> str:
    """``xscow-2.cpu.smoke``; ``?`` for what nothing on record says."""
    return f"{tutorial}.{variant or '?'}.{preset or '?'}"


def check_id(check: Check) -> str:
    """``train::throughput::train_throughput``: the last parts of the test's id."""
    return "::".join(part for part in (check.step, check.group, check.name) if part)


def overall(entries: Iterable[ReportEntry]) -> Overall:
    """The worst verdict; no runs at all is a failure, as no checks are."""
    found = {entry.verdict.overall for entry in entries}
    if not found or "fail" in found:
        return "fail"
    return "warn" if "warn" in found else "pass"


def count_checks(entries: Iterable[ReportEntry]) -> dict[Status, int]:
    """Number of checks by status, over all runs."""
    total: dict[Status, int] = {"pass": 0, "warn": 0, "fail": 0, "skip": 0}
    for entry in entries:
        for status, number in entry.verdict.counts().items():
            total[status] += number
    return total
