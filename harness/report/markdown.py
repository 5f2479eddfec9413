"""A comment for a pull request: one table, and the details of what failed, folded. GitHub's and GitLab's Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from harness.files import write_whole
from harness.judge.verdict import Check
from harness.report.entry import ReportEntry, check_id, count_checks, overall
from harness.report.format import device_label, fraction_text, quantity, shortened
from harness.report.labels import LABELS, STATUSES, TEXTS
from harness.report.text import ICONS
from harness.specfile import Language

# GitHub refuses comments of more than 65,536 characters; the details of the last runs are left out before that.
MOST_CHARACTERS = 60_000
LOG_LINES = 20

# What a run wrote must neither draw a table nor call a person: everything with a meaning becomes an entity.
_BREAKS = re.compile(r"[\r\n\t\v\f\u2028\u2029]+")
_SPECIAL = re.compile(r"[\\`*_{}\[\]()#+!|~@]")


def render_markdown(entries: Sequence[ReportEntry], *, language: Language = "en") -> str:
    """The comment: a heading, one row per run with its value, share of the limit, verdict and cause; the details."""
    verdict = overall(entries)
    counts = ", ".join(
        f"{number} × {STATUSES[status].says(language)}" for status, number in count_checks(entries).items() if number
    )
    runs = TEXTS["run_count" if len(entries) == 1 else "runs_count"].says(language).format(count=len(entries))
    lines = [
        f"### {ICONS[verdict]} {LABELS['title'].says(language)}: {LABELS[f'all_{verdict}'].says(language)}",
        "",
        f"{runs}: {counts or TEXTS['no_checks'].says(language)}",
        "",
    ]
    if entries:
        heads = [
            LABELS["tutorial"],
            LABELS["device"],
            TEXTS["throughput"],
            TEXTS["share"],
            TEXTS["verdict"],
            TEXTS["cause"],
        ]
        lines += [_row([head.says(language) for head in heads]), "|---|---|--:|--:|---|---|"]
        lines += [_row(_cells(entry, language)) for entry in entries]
    text = "\n".join(lines) + "\n"
    told = [entry for entry in entries if entry.verdict.overall != "pass"]
    for index, entry in enumerate(told):
        details = _details(entry, language)
        if len(text) + len(details) > MOST_CHARACTERS:
            return text + "\n" + TEXTS["left_out"].says(language).format(count=len(told) - index) + "\n"
        text += "\n" + details
    return text


def write_markdown(path: Path, entries: Sequence[ReportEntry], *, language: Language = "en") -> Path:
    """Write :func:`render_markdown`.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, render_markdown(entries, language=language))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(entry: ReportEntry, language: Language) -> list[str]:
    run, headline = entry.verdict.run, entry.verdict.headline
    verdict = entry.verdict.overall
    shared = f" ({LABELS['shared'].says(language)})" if run.gpu_shared else ""
    return [
        f"**{_plain(entry.name)}**<br>{_plain(entry.title.says(language))}",
        _plain(device_label(run)) + shared,
        _plain(quantity(headline.value, headline.unit)) if headline else "–",
        fraction_text(headline.fraction_of_limit) if headline else "–",
        f"{ICONS[verdict]} {STATUSES[verdict].says(language)}",
        _plain(_cause(entry, language)),
    ]


def _cause(entry: ReportEntry, language: Language) -> str:
    """The cause, else the first check that failed or warned; empty for a run that passed."""
    if entry.verdict.cause is not None:
        return entry.verdict.cause.title.says(language)
    for status in ("fail", "warn"):
        for check in entry.verdict.checks:
            if check.status == status:
                return f"{check_id(check)}: {check.says(language)}"
    return ""


def _details(entry: ReportEntry, language: Language) -> str:
    run, cause = entry.verdict.run, entry.verdict.cause
    checks = [c for c in entry.verdict.checks if c.status in ("fail", "warn") and not c.consequence]
    lines = [f"<details><summary>{html.escape(entry.name)} · {html.escape(run.run_id)}</summary>", ""]
    if cause is not None:
        node = f" ({LABELS['node'].says(language)} {_plain(cause.node)})" if cause.node else ""
        lines.append(f"- **{LABELS['why'].says(language)}**: {_plain(cause.title.says(language))}{node}")
        lines += [f"  - <code>{_plain(line.where)}</code> {_plain(line.text)}" for line in cause.evidence]
        lines.append(f"- **{LABELS['fix'].says(language)}**: {_plain(cause.fix.says(language))}")
    lines += [_check(check, language) for check in checks]
    silent = sum(check.consequence for check in entry.verdict.checks)
    if silent:
        lines.append(f"- {TEXTS['consequences'].says(language).format(count=silent, name=_plain(entry.name))}")
    facts = {
        "image": shortened(run.image_sha256),
        "revision": shortened(run.git_revision),
        "node": run.host,
        "job": run.job_id,
        "rerun_of": run.rerun_of,
    }
    shown = [
        f"{LABELS[name].says(language)} {_plain(value)}" for name, value in facts.items() if value and value != "–"
    ]
    lines += ["", " · ".join(shown)] if shown else []
    log = entry.evidence.log_tail[-LOG_LINES:]
    if log:
        lines += [
            "",
            f"{LABELS['log'].says(language)}:",
            "",
            f"<pre>{html.escape(chr(10).join(log), quote=False)}</pre>",
        ]
    return "\n".join([*lines, "", "</details>", ""])


def _check(check: Check, language: Language) -> str:
    return f"- {ICONS[check.status]} <code>{_plain(check_id(check))}</code> {_plain(check.says(language))}"


def _plain(text: str) -> str:
    """``text`` as a reader sees it: no Markdown, no HTML, nobody mentioned, on one line."""
    escaped = html.escape(_BREAKS.sub(" ", text), quote=False)
    return re.sub(
        r"&(?:amp|lt|gt);|" + _SPECIAL.pattern, lambda m: m[0] if m[0][0] == "&" else f"&#{ord(m[0])};", escaped
    )
