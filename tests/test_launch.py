"""Starting ranks: ``python -m harness.runtime.launch``, with programs of a few lines and real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.runtime import environment
from harness.runtime.launch import NOTICE_S

ROOT = Path(__file__).parent.parent
RANK_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", environment.RENDEZVOUS)
WRITE_NAMES = f"""
import json, os, pathlib, sys
names = {RANK_NAMES!r}
where = pathlib.Path(sys.argv[1]) / os.environ.get("RANK", "alone")
where.write_text(json.dumps({{**{{name: os.environ.get(name) for name in names}}, "arguments": sys.argv[2:]}}))
"""
# Rank 0 waits forever, as for a rank that is gone. It says that it has begun, and whether it was asked to stop.
WAIT_OR_FAIL = """
import os, pathlib, signal, sys, time
folder, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
def stop(*_):
    (folder / f"stopped-{rank}").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
sys.stdout.write("waiting\\n")  # in one piece, whatever the buffering
sys.stdout.flush()
if rank == "1":
    EXIT
time.sleep(600)
"""


def start(tmp_path: Path, program: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """The launcher in the environment of a job that says ``variables``."""
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    mine = {k: v for k, v in os.environ.items() if k not in RANK_NAMES and not k.startswith("HARNESS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "harness.runtime.launch", str(path), str(tmp_path), *arguments],
        env={**mine, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def said(tmp_path: Path, rank: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((tmp_path / rank).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("variables", [{}, {"HARNESS_PROCESSES": "1", "HARNESS_NODES": "1"}, {"HARNESS_PROCESSES": ""}])
def test_one_process_is_the_program_itself(tmp_path: Path, variables: dict[str, str]) -> None:
    process = start(tmp_path, WRITE_NAMES, "--epochs", "2", **variables)
    assert ended(process) == (0, "")
    told = said(tmp_path, "alone")
    assert told.pop("arguments") == ["--epochs", "2"]
    assert set(told.values()) == {None}


def test_every_rank_knows_its_place_and_meets_the_others_at_the_same_file(tmp_path: Path) -> None:
    assert ended(start(tmp_path, WRITE_NAMES, "--lr", "0.1", HARNESS_PROCESSES="3"))[0] == 0
    told = [said(tmp_path, str(rank)) for rank in range(3)]
    assert [t["RANK"] for t in told] == [t["LOCAL_RANK"] for t in told] == ["0", "1", "2"]
    assert {(t["WORLD_SIZE"], t["LOCAL_WORLD_SIZE"], *t["arguments"]) for t in told} == {("3", "3", "--lr", "0.1")}
    assert len({t[environment.RENDEZVOUS] for t in told}) == 1


def test_ranks_of_a_second_node_count_on(tmp_path: Path) -> None:
    job = {"HARNESS_PROCESSES": "2", "HARNESS_NODES": "2", "HARNESS_RENDEZVOUS": "/shared/here"}
    assert ended(start(tmp_path, WRITE_NAMES, HARNESS_NODE_RANK="1", **job))[0] == 0
    told = [said(tmp_path, rank) for rank in ("2", "3")]
    assert [(t["LOCAL_RANK"], t["WORLD_SIZE"], t["LOCAL_WORLD_SIZE"]) for t in told] == [
        ("0", "4", "2"),
        ("1", "4", "2"),
    ]
    assert {t[environment.RENDEZVOUS] for t in told} == {"/shared/here"}


PLATFORM = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "head.example", "MASTER_PORT": "23456"}


@pytest.mark.parametrize("per_node", [environment.PROCESSES, "NPROC_PER_NODE"])
def test_a_platform_says_nodes_and_where_to_meet(tmp_path: Path, per_node: str) -> None:
    """RANK and WORLD_SIZE count nodes there; each rank gets its own."""
    assert ended(start(tmp_path, WRITE_NAMES, **PLATFORM, **{per_node: "2"}))[0] == 0
    told = [said(tmp_path, rank) for rank in ("2", "3")]
    assert [(t["RANK"], t["LOCAL_RANK"], t["WORLD_SIZE"]) for t in told] == [("2", "0", "4"), ("3", "1", "4")]
    assert {t[environment.RENDEZVOUS] for t in told} == {""}, "they meet at MASTER_ADDR"


def test_a_job_that_names_its_meeting_is_believed_before_a_shells_left_over_variables(tmp_path: Path) -> None:
    job = {"HARNESS_PROCESSES": "2", "HARNESS_NODES": "1", "HARNESS_RENDEZVOUS": "/shared/here"}
    assert ended(start(tmp_path, WRITE_NAMES, **PLATFORM, **job))[0] == 0
    assert [said(tmp_path, rank)["WORLD_SIZE"] for rank in ("0", "1")] == ["2", "2"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MASTER_ADDR": ""}, "RANK and WORLD_SIZE and MASTER_PORT are set but MASTER_ADDR is not"),
        ({"RANK": "2"}, "RANK is 2, but there are 2 nodes"),
        ({"RANK": "first"}, "RANK is 'first', which is not a whole number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000, which is no port"),
    ],
)
def test_a_platform_that_says_half_of_it_is_refused(tmp_path: Path, change: dict[str, str], words: str) -> None:
    code, stderr = ended(start(tmp_path, WRITE_NAMES, **{**PLATFORM, **change}))
    assert code == 2
    assert stderr.startswith("error: ")
    assert words in stderr


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("sys.exit(2)", 2, "rank 1 of 2 ended with exit status 2"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "rank 1 of 2 was killed by SIGKILL"),
    ],
)
def test_a_rank_that_fails_ends_the_others(tmp_path: Path, how: str, status: int, words: str) -> None:
    code, stderr = ended(start(tmp_path, WAIT_OR_FAIL.replace("EXIT", how), HARNESS_PROCESSES="2"))
    assert code == status
    assert stderr.splitlines()[-1].startswith(f"error: {words}")
    assert (tmp_path / "stopped-0").exists()


def test_sigterm_reaches_every_rank(tmp_path: Path) -> None:
    process = start(tmp_path, WAIT_OR_FAIL.replace("EXIT", "pass"), HARNESS_PROCESSES="2")
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "waiting\n"
    process.terminate()
    assert ended(process)[0] == 143
    assert (tmp_path / "stopped-0").exists()
    assert (tmp_path / "stopped-1").exists()


def test_a_rank_has_its_time_to_stop_where_another_is_quicker(tmp_path: Path) -> None:
    slow = WAIT_OR_FAIL.replace("def stop(*_):", f"def stop(*_):\n    time.sleep({NOTICE_S + 1} * (rank == '1'))")
    process = start(tmp_path, slow.replace("EXIT", "pass"), HARNESS_PROCESSES="2")
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "waiting\n"
    process.terminate()
    assert ended(process)[0] == 143
    assert (tmp_path / "stopped-1").exists()


def test_ranks_do_not_outlive_a_killed_launcher(tmp_path: Path) -> None:
    process = start(tmp_path, WAIT_OR_FAIL.replace("EXIT", "pass"), HARNESS_PROCESSES="2")
    stdout = process.stdout
    assert stdout is not None
    for _ in range(2):
        assert stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGKILL)
    reader = threading.Thread(target=stdout.read)  # ends when the last process that could write has ended
    reader.start()
    reader.join(timeout=60)
    assert not reader.is_alive()
    assert (tmp_path / "stopped-0").exists()
    assert (tmp_path / "stopped-1").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HARNESS_PROCESSES": "two"}, "HARNESS_PROCESSES is 'two'"),
        ({"HARNESS_NODES": "2"}, "need HARNESS_RENDEZVOUS"),
        ({"HARNESS_NODES": "2", "HARNESS_NODE_RANK": "2", "HARNESS_RENDEZVOUS": "/x"}, "HARNESS_NODE_RANK is 2"),
    ],
)
def test_a_job_that_cannot_be_is_one_line(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    code, stderr = ended(start(tmp_path, WRITE_NAMES, **variables))
    assert code == 2
    assert len(stderr.splitlines()) == 1
    assert words in stderr
