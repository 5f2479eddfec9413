"""Runs are found by their folders, each time anew: what changed between two commands is seen by the second."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_project import harness

from harness.project import Project
from harness.run.paths import RunPaths
from harness.run.records import latest_runs, newest_runs


@pytest.fixture
def add(project: Path) -> Callable[..., RunPaths]:
    """``add("tutorial2-cpu-smoke-20260101T000000Z-1", submitted_at=...)``: a run that somebody submitted."""

    def added(name: str, **facts: object) -> RunPaths:
        run = RunPaths(project / "runs" / name)
        run.folder.mkdir(parents=True)
        record = {"run_id": name, "tutorial": "xscow-2", "variant": "cpu", "preset": "smoke", **facts}
        run.ledger.write_text(json.dumps(record))
        return run

    return added


def names(project: Path) -> list[str]:
    return [record.paths.run_id for record in newest_runs(Project(project))]


def test_runs_are_in_the_order_of_their_times_whoever_named_them(project: Path, add: Callable[..., RunPaths]) -> None:
    noon = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, 0)) - time.timezone
    add("tutorial2-cpu-smoke-20260302T000000Z-a")
    add("by-hand", submitted_at=noon)
    add("tutorial2-cpu-smoke-20260228T000000Z-b")
    add("no-calendar-20261399T990000Z-c", submitted_at=noon + 1)  # no such month: its ledger says when
    add("nobody-knows-when", submitted_at="soon")
    (project / "runs" / "tutorial2-cpu-smoke-20260401T000000Z-empty").mkdir()
    (project / "runs" / "a-file-20260401T000000Z-x").write_text("")
    assert names(project) == [
        "tutorial2-cpu-smoke-20260302T000000Z-a",
        "no-calendar-20261399T990000Z-c",
        "by-hand",
        "tutorial2-cpu-smoke-20260228T000000Z-b",
        "nobody-knows-when",
    ]


def test_of_two_runs_in_one_second_the_later_is_the_newest(project: Path, add: Callable[..., RunPaths]) -> None:
    ids = [f"tutorial2-cpu-smoke-20260101T000000Z-{end}" for end in ("7", "f", "0")]
    for number, name in enumerate(ids):
        add(name, submitted_at=1767225600.1 + number / 4)
    assert names(project) == ids[::-1]
    assert latest_runs(Project(project), ["xscow-2"])["xscow-2"].run_id == ids[-1]


def test_the_newest_run_of_each_tutorial_in_one_pass(project: Path, add: Callable[..., RunPaths]) -> None:
    add("tutorial2-cpu-smoke-20260101T000000Z-a")
    newest = add("tutorial2-cpu-smoke-20260103T000000Z-b")
    gpu = add("tutorial2-cuda-smoke-20260102T000000Z-c", variant="cuda")
    add("other-cpu-smoke-20260104T000000Z-d", tutorial="mnist")
    assert latest_runs(Project(project), ["xscow-2", "xscow-9"]) == {"xscow-2": newest}
    assert latest_runs(Project(project), ["xscow-2"], "cuda") == {"xscow-2": gpu}


def test_status_sees_what_changed_since_it_was_last_asked(project: Path, add: Callable[..., RunPaths]) -> None:
    runs = [add(f"tutorial2-cpu-smoke-2026010{day}T000000Z-r{day}") for day in (1, 2, 3)]
    for run in runs:
        run.exit_code.write_text("0\n")
    assert harness(project, "status").stdout.count(" ended ") == 3
    runs[0].exit_code.write_text("7\n")
    runs[1].exit_code.write_text("what?\n")
    os.utime(runs[0].folder, (0, 0))  # neither the time of a file nor of a folder is believed
    os.utime(runs[0].exit_code, (0, 0))
    shutil.rmtree(runs[2].folder)
    shown = harness(project, "status").stdout
    assert "failed (7)" in shown
    assert "no word" in shown
    assert "r3" not in shown
    attempt = runs[0].folder / "attempt-1"
    attempt.mkdir()
    assert "failed (7)" not in harness(project, "status").stdout, "it was started again and has not ended"
    (attempt / "exit_code").write_text("0\n")
    assert harness(project, "status").stdout.count(" ended ") == 1


def test_what_a_run_wrote_does_not_move_the_cursor(project: Path, add: Callable[..., RunPaths]) -> None:
    run = add("tutorial2-cpu-smoke-20260101T000000Z-a", job_id="1\x1b[2J2")
    run.exit_code.write_text("0\n")
    shown = harness(project, "status").stdout
    assert "\x1b" not in shown
    assert "1\ufffd[2J2" in shown


def test_runs_are_named_by_tutorial_or_by_folder(project: Path, add: Callable[..., RunPaths]) -> None:
    run = add("tutorial2-cpu-smoke-20260101T000000Z-a", rejected="no such partition")
    add("tutorial2-cpu-smoke-20260102T000000Z-b", rejected="no such partition")
    checked = harness(project, "check", f"runs/{run.run_id}", "2", f"runs/{run.run_id}/")
    assert checked.returncode == 1
    assert "2 runs:" in checked.stdout
    from_below = harness(project / "runs", "check", f"runs/{run.run_id}")
    assert "1 run:" in from_below.stdout
    gone = harness(project, "check", "runs/never-was")
    assert gone.returncode == 2
    assert gone.stderr.strip() == "error: runs/never-was: no such run folder; harness status lists the runs"
