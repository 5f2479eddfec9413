"""The recorded failures of ``tests/failures``: a header that says how the run ended, then the log as it was.

``source:`` says where the text comes from. *Recorded* texts were printed by the program named. *Message format* texts
are written after the library's wording; the file named is where that wording is believed to stand, and not every such
place has been looked up. A recorded log of the same failure should replace them when there is one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_support import RUN_ID, good_result

from harness.run.evidence import Evidence, SchedulerWord, gather_evidence
from harness.run.paths import RunPaths

FOLDER = Path(__file__).parent / "failures"
RULE = "--------"


@dataclass(frozen=True)
class Recorded:
    """One file.

    Attributes:
        name: its stem.
        expect: id of the cause that must be named.
        also: ids of causes that are seen as well and must lose.
        head: all keys of the header; ``source`` says where the text comes from.
        log: the log.
    """

    name: str
    expect: str
    also: frozenset[str]
    head: dict[str, str]
    log: str


def load(path: Path) -> Recorded:
    """Read one recorded failure."""
    header, _, log = path.read_text(encoding="utf-8").partition(f"{RULE}\n")
    head = dict(line[2:].split(": ", 1) for line in header.splitlines())
    also = frozenset(head.get("also", "").split())
    return Recorded(path.stem, head["expect"], also, head, log)


RECORDED = [load(path) for path in sorted(FOLDER.glob("*.log"))]


def evidence_of(recorded: Recorded, folder: Path) -> Evidence:
    """A run folder as that failure left it, gathered."""
    head = recorded.head
    run = RunPaths(folder / RUN_ID)
    run.folder.mkdir(parents=True)
    if recorded.log:
        run.log.write_text(recorded.log, encoding="utf-8")
    if "exit" in head:
        run.exit_code.write_text(head["exit"] + "\n", encoding="ascii")
    variant = head.get("variant", "cpu")
    facts = {"tutorial": "xscow-2", "variant": variant, "preset": "smoke", "run_id": RUN_ID, "node": "n7"}
    ledger = {**facts, "rejected": head["rejected"]} if "rejected" in head else facts
    run.ledger.write_text(json.dumps(ledger), encoding="utf-8")
    if "result" in head:
        run.result.write_text(head["result"], encoding="utf-8")
    if data := _result(head, variant):
        run.result.write_text(json.dumps(data), encoding="utf-8")
    word = None
    if "state" in head:
        number = int(head["signal"]) if "signal" in head else None
        word = SchedulerWord(head["state"], head.get("reason"), None, number, "n7")
    return gather_evidence(run, scheduler=word)


def _result(head: dict[str, str], variant: str) -> dict[str, Any] | None:
    if not {"error", "device"} & set(head):
        return None
    data = good_result()
    data.update(variant=variant, gpus_requested=int(variant == "cuda"))
    if "error" in head:
        kind, _, text = head["error"].partition(": ")
        data["steps"]["train"].update(status="failed", error={"type": kind, "message": text})
    return data
