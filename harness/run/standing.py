"""How runs stand, in a word each, without reading what they measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.project import Project
from harness.run.following import scheduler_words
from harness.run.records import RunRecord, read_exit_code
from harness.run.scheduler_word import SchedulerWord


@dataclass(frozen=True)
class Standing:
    """One run: its record, its state in words for a person, and where it runs or ran (empty: nobody knows)."""

    record: RunRecord
    state: str
    node: str


def standings(project: Project, records: Sequence[RunRecord]) -> list[Standing]:
    """How each run stands; cost as :func:`harness.run.following.scheduler_words`."""
    words = scheduler_words(project, records)
    return [_standing(record, words.get(record.paths.run_id)) for record in records]


def _standing(record: RunRecord, word: SchedulerWord | None) -> Standing:
    node = record.facts.get("node") or record.facts.get("host") or (word.node if word else None) or ""
    return Standing(record, _state(record, word), str(node))


def _state(record: RunRecord, word: SchedulerWord | None) -> str:
    if word is not None:
        return word.state + (f" ({word.reason})" if word.reason and word.reason != "None" else "")
    code, _ = read_exit_code(record.paths.exit_code)
    if code is None:
        return "no word"
    return "ended" if code == 0 else f"failed ({code})"
