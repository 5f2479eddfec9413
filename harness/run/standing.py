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
    """One run as it stands.

    Attributes:
        scheduler_state: the scheduler's word, with its reason; None where the run's folder says that it has ended.
        exit_code: of the job; None while it goes on, or where nobody knows.
        node: where it runs or ran; empty where nobody knows.
    """

    record: RunRecord
    scheduler_state: str | None
    exit_code: int | None
    node: str


def standings(project: Project, records: Sequence[RunRecord]) -> list[Standing]:
    """How each run stands; cost as :func:`harness.run.following.scheduler_words`."""
    words = scheduler_words(project, records)
    return [_standing(record, words.get(record.paths.run_id)) for record in records]


def _standing(record: RunRecord, word: SchedulerWord | None) -> Standing:
    node = str(record.facts.get("node") or record.facts.get("host") or (word.node if word else None) or "")
    if word is not None:
        reason = f" ({word.reason})" if word.reason and word.reason != "None" else ""
        return Standing(record, word.state + reason, None, node)
    return Standing(record, None, read_exit_code(record.paths.exit_code)[0], node)
