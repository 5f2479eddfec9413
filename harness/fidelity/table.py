"""docs/fidelity.md, from the results of a run of the corpus."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from harness.fidelity.behaviour import OWN_VARIABLES
from harness.fidelity.corpus import CaseResult
from harness.fidelity.tree import GENERATED
from harness.fidelity.verdicts import Verdict

_ROWS: tuple[tuple[str, Callable[[Verdict], bool]], ...] = (
    ("built", lambda v: v.outcome in ("identical", "different")),
    ("identical", lambda v: v.outcome == "identical"),
    ("wrong silently", lambda v: v.outcome == "different"),
    ("refused with a reason", lambda v: v.outcome == "refused"),
    ("failed (converter or build)", lambda v: v.outcome == "failed"),
)

# Folders of the machine that made the table: a lab's, and those of programs.
_MACHINE = re.compile(r"/[\w./+-]*/v-\w{8}/(?:tmp\w{8}/|cases/)?|/[\w./+-]*/bin/(?=\w)")


def render_table(results: list[CaseResult], versions: Mapping[str, str], command: str, day: str) -> str:
    """docs/fidelity.md: the sums, what is not compared, then every case.

    Args:
        versions: of the programs, by name.
        command: what made the results; ``day``: when.
    """
    names = list(dict.fromkeys(name for result in results for name in result.verdicts))
    left_out = [f"- `{pattern}`: {reason}" for pattern, reason in {**GENERATED, **OWN_VARIABLES}.items()]
    lines = [
        "# Fidelity: does the definition build what the Dockerfile builds?",
        "",
        f"Generated on {day} by `{command}` with " + ", ".join(f"{n} {v}" for n, v in versions.items()) + ".",
        "",
        "Every Dockerfile of `tests/corpus` is built by a real Docker engine and, from each converter's definition, by",
        "Apptainer; file tree (path, type, mode, owner, content, link target), environment, working directory, start",
        "command with and without arguments, and labels are compared. *Wrong silently*: built without an error, and",
        "not the same. *Refused*: no definition, but file, line, reason and what to write instead.",
        "",
        f"| of {len(results)} | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for title, counts in _ROWS:
        sums = [sum(counts(result.verdicts[name]) for result in results) for name in names]
        cells = (f"{count} ({100 * count / len(results):.1f} %)" for count in sums)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Not compared: times of files, extended attributes (an image runs without privileges, so file",
        "capabilities mean nothing in it), which names are hard links of one file, and:",
        "",
        *left_out,
    ]
    lines += ["", "| case | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for result in sorted(results, key=lambda r: r.name):
        lines.append(f"| `{result.name}` | " + " | ".join(_cell(result.verdicts[name]) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _cell(verdict: Verdict) -> str:
    if verdict.outcome == "identical":
        return "identical"
    word = "**wrong silently**" if verdict.outcome == "different" else verdict.outcome
    first = _MACHINE.sub("", " ".join(verdict.details[0].split())) if verdict.details else ""
    more = f" (and {len(verdict.details) - 1} more)" if len(verdict.details) > 1 else ""
    text = (first[:140] + "…" if len(first) > 140 else first).replace("|", "\\|").replace("<", "&lt;")
    return f"{word}: {text}{more}"
