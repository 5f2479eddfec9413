"""A table for the terminal; rich draws it in colour there and plainly into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.judge.verdict import Status
from harness.report.entry import ReportEntry, check_id, count_checks
from harness.report.format import device_label, fraction_text, quantity
from harness.report.labels import STATUSES, TEXTS
from harness.specfile import Language, LocalizedText

PIPE_WIDTH = 160  # a pipe has no width; rich's 80 columns would fold every run id

ICONS: dict[Status, str] = {"pass": "✓", "warn": "!", "fail": "✗", "skip": "–"}
_STYLES: dict[Status, str] = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def print_report(entries: Sequence[ReportEntry], console: Console | None = None, *, language: Language = "en") -> None:
    """One row per run, then every check that failed or warned, then the counts; to standard output by default."""
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in ("run", "verdict", "device", "throughput", "share", "run_id"):
        table.add_column(TEXTS[name].says(language), overflow="fold", no_wrap=name in {"run", "verdict"})
    for entry in entries:
        run, headline = entry.verdict.run, entry.verdict.headline
        table.add_row(
            Text(entry.name),
            _status(entry.verdict.overall, language),
            Text(device_label(run)),
            Text(quantity(headline.value, headline.unit) if headline else "–"),
            Text(fraction_text(headline.fraction_of_limit) if headline else "–"),
            Text(run.run_id),
        )
    console.print(table)
    for entry in entries:
        _print_problems(entry, console, language)
    counts = ", ".join(
        f"{number} {status_word(name, language)}" for name, number in count_checks(entries).items() if number
    )
    runs = TEXTS["run_count" if len(entries) == 1 else "runs_count"].says(language).format(count=len(entries))
    console.print(Text(f"{runs}: {counts or TEXTS['no_checks'].says(language)}"))


def status_word(status: Status, language: Language) -> str:
    """``pass``, ``warn`` … as the commands print them; in Chinese as on the page."""
    return STATUSES[status].zh if language == "zh" else status


def _print_cause(entry: ReportEntry, console: Console, language: Language) -> None:
    cause = entry.verdict.cause
    if cause is None:
        return
    node = f" ({'节点' if language == 'zh' else 'on'} {cause.node})" if cause.node else ""
    why = TEXTS["why"].says(language)
    console.print(Text.assemble((f"  {why}", "bold"), f"  {_told(cause.title, language)}{node}"), soft_wrap=True)
    indent = " " * (4 + cell_len(why))
    for line in cause.evidence:
        console.print(Text(f"{indent}{line.where}: {line.text}", style="dim"), soft_wrap=True)
    console.print(Text(f"{indent}{_told(cause.fix, language)}"), soft_wrap=True)


def _told(text: LocalizedText, language: Language) -> str:
    """Chinese for who chose it; else both, for the reader of an English terminal may be somebody else."""
    return text.zh if language == "zh" else f"{text.en} · {text.zh}"


def _print_problems(entry: ReportEntry, console: Console, language: Language) -> None:
    for check in entry.verdict.checks:
        if check.status in ("fail", "warn") and not check.consequence:
            line = f"  {entry.name}::{check_id(check)}: {check.says(language)}"
            console.print(Text.assemble(_status(check.status, language), line), soft_wrap=True)
    _print_cause(entry, console, language)
    consequences = sum(check.consequence for check in entry.verdict.checks)
    if consequences:
        text = TEXTS["consequences"].says(language).format(count=consequences, name=entry.name)
        console.print(Text(f"  {text}", style="dim"))


def _status(status: Status, language: Language) -> Text:
    return Text(f"{ICONS[status]} {status_word(status, language)}", style=_STYLES[status])
