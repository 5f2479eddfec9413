"""A table for the terminal; rich draws it in colour there and plainly into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.judge.verdict import Check, Status
from harness.report.entry import ReportEntry, count_checks
from harness.report.format import device_label, fraction_text, quantity

PIPE_WIDTH = 160  # a pipe has no width; rich's 80 columns would fold every run id

ICONS: dict[Status, str] = {"pass": "✓", "warn": "!", "fail": "✗", "skip": "–"}
_STYLES: dict[Status, str] = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def print_report(entries: Sequence[ReportEntry], console: Console | None = None) -> None:
    """One row per run, then every check that failed or warned, then the counts; to standard output by default."""
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for heading in ("run", "verdict", "device", "throughput", "% of limit", "run id"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"run", "verdict"})
    for entry in entries:
        run, headline = entry.verdict.run, entry.verdict.headline
        table.add_row(
            Text(entry.name),
            _status(entry.verdict.overall),
            Text(device_label(run)),
            Text(quantity(headline.value, headline.unit) if headline else "–"),
            Text(fraction_text(headline.fraction_of_limit) if headline else "–"),
            Text(run.run_id),
        )
    console.print(table)
    for entry in entries:
        _print_problems(entry, console)
    counts = count_checks(entries)
    words = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    console.print(Text(f"{len(entries)} run{'' if len(entries) == 1 else 's'}: {words or 'no checks'}"))


def _print_cause(entry: ReportEntry, console: Console) -> None:
    cause = entry.verdict.cause
    if cause is None:
        return
    node = f" (on {cause.node})" if cause.node else ""
    console.print(Text.assemble(("  why", "bold"), f"  {cause.title.en} · {cause.title.zh}{node}"), soft_wrap=True)
    for line in cause.evidence:
        console.print(Text(f"       {line.where}: {line.text}", style="dim"), soft_wrap=True)
    console.print(Text(f"       {cause.fix.en} · {cause.fix.zh}"), soft_wrap=True)


def _print_problems(entry: ReportEntry, console: Console) -> None:
    for check in entry.verdict.checks:
        if check.status in ("fail", "warn") and not check.consequence:
            line = Text.assemble(_status(check.status), f"  {entry.name}::{check_id(check)}: {check.message}")
            console.print(line, soft_wrap=True)
    _print_cause(entry, console)
    consequences = sum(check.consequence for check in entry.verdict.checks)
    if consequences:
        console.print(Text(f"  and {consequences} checks of {entry.name} that had nothing to judge", style="dim"))


def check_id(check: Check) -> str:
    """``train::throughput::train_throughput``: the last parts of the test's id."""
    return "::".join(part for part in (check.step, check.group, check.name) if part)


def _status(status: Status) -> Text:
    return Text(f"{ICONS[status]} {status}", style=_STYLES[status])
