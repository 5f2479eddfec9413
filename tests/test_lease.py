"""Leases: one at a time among real processes, however the holder ends, and whatever it thinks of itself afterwards."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import lease as lease_module
from harness.errors import UserError
from harness.lease import INTERVAL_VARIABLE, LeaseLostError, LeaseRecord, lease
from harness.owner import FOREIGN_AGE_S, OWNER_FILE, Owner, is_abandoned, sign_folder, signed_prefix

SHORT_S = 0.1
HOLD = """
import pathlib, sys
from harness.lease import lease
folder, interval_s = pathlib.Path(sys.argv[1]), float(sys.argv[2])
with lease(folder, "target", lambda line: print(line, flush=True), interval_s=interval_s) as held:
    print("held", held.number, flush=True)
    for line in sys.stdin:
        held.check()
        print("still mine", flush=True)
print("given back", flush=True)
"""
COUNT = """
import pathlib, sys
from harness.lease import lease
folder = pathlib.Path(sys.argv[1])
counter = folder / "counter"
for _ in range(25):
    with lease(folder, "target", lambda line: None, interval_s=5) as held:
        value = int(counter.read_text())
        held.check()
        counter.write_text(str(value + 1))
"""


def holder(folder: Path, interval_s: float = SHORT_S) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(interval_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_four_processes_that_count_lose_no_count(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    counters = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in counters] == [0, 0, 0, 0]
    assert (tmp_path / "counter").read_text() == "100"
    assert len(list((tmp_path / "target").iterdir())) == 1  # a hundred leases leave one file


def test_a_waiter_says_for_whom_and_goes_on_when_the_lease_is_given_back(tmp_path: Path) -> None:
    first = holder(tmp_path)
    assert line_of(first) == "held 1"
    second = holder(tmp_path)
    waiting = line_of(second)
    assert waiting.startswith("target: waiting for ")
    assert f"process {first.pid}, since 20" in waiting
    first.communicate()
    assert line_of(second) == "held 2"
    assert second.communicate()[0].strip() == "given back"


def test_a_killed_holder_of_this_machine_is_no_reason_to_wait(tmp_path: Path) -> None:
    """It expires in 50 minutes; the waiter sees that its process is gone."""
    first = holder(tmp_path, interval_s=600)
    assert line_of(first) == "held 1"
    second = holder(tmp_path, interval_s=600)
    assert "waiting for" in line_of(second)
    first.kill()
    first.wait()
    assert line_of(second) == "held 2"
    second.communicate()


def test_a_suspended_holder_loses_its_lease_and_notices_before_it_goes_on(tmp_path: Path) -> None:
    first = holder(tmp_path)
    assert line_of(first) == "held 1"
    first.send_signal(signal.SIGSTOP)
    second = holder(tmp_path)
    if (said := line_of(second)) != "held 2":  # a slow start finds it expired at once
        assert "waiting for" in said
        assert line_of(second) == "held 2"
    first.send_signal(signal.SIGCONT)
    output, errors = first.communicate("publish?\n")
    assert "still mine" not in output
    assert first.returncode == 1
    assert "target was taken over by" in errors
    # And it did not disturb the one who holds it now.
    assert second.stdin is not None
    second.stdin.write("publish?\n")
    second.stdin.flush()
    assert line_of(second) == "still mine"
    second.communicate()


def test_a_holder_on_another_machine_is_believed_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    file = foreign_lease(tmp_path, interval_s=0.4)
    quiet = threading.Event()

    def beat() -> None:
        while not quiet.wait(0.1):
            os.utime(file)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        waiter = holder(tmp_path)
        assert "waiting for somebody on far-away, process 1" in line_of(waiter)
        assert not select.select([waiter.stdout], [], [], 3.0)[0], "taken over, though it was touched all the time"
    finally:
        quiet.set()
        heart.join()
    assert line_of(waiter) == "held 8"
    waiter.communicate()


def test_only_the_file_systems_clock_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = foreign_lease(tmp_path)
    os.utime(file, (0, 0))
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the machine's clock was asked"))
    with lease(tmp_path, "target", pytest.fail, interval_s=SHORT_S) as held:
        assert held.number == 8
        assert held.record.owner.pid == os.getpid()


def foreign_lease(folder: Path, interval_s: float = SHORT_S) -> Path:
    """A lease, number 7, of a process on another machine."""
    owner = Owner.myself().model_copy(update={"host": "far-away", "boot_id": "another", "pid": 1, "user": "somebody"})
    path = folder / "target" / "000000000007"
    path.parent.mkdir()
    path.write_text(LeaseRecord(owner=owner, interval_s=interval_s).model_dump_json())
    return path


def test_who_saw_an_old_state_of_the_folder_takes_nothing(tmp_path: Path) -> None:
    """Network file systems show old listings; a number below the newest must not pass for a lease."""
    current = foreign_lease(tmp_path)
    candidate = current.parent / ".candidate-late"
    candidate.write_text("late")
    assert not lease_module._take(candidate, current.parent, 4)
    assert [path.name for path in current.parent.iterdir() if path.name.isdecimal()] == [current.name]


def test_an_error_after_the_lease_was_lost_is_reported_as_the_loss(tmp_path: Path) -> None:
    with pytest.raises(LeaseLostError), lease(tmp_path, "target", pytest.fail, interval_s=SHORT_S) as held:
        (held.folder / "000000000009").write_text("{}")
        raise FileNotFoundError("swept by the new holder")
    with pytest.raises(KeyError), lease(tmp_path, "other", pytest.fail):
        raise KeyError("own trouble stays as it is")


def test_an_interval_that_is_no_number_is_a_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL_VARIABLE, "soon")
    with pytest.raises(UserError, match="no number of seconds"), lease(tmp_path, "target", pytest.fail):
        pass


def test_a_temporary_folder_is_abandoned_when_its_maker_has_ended(tmp_path: Path) -> None:
    sign_folder(tmp_path)
    assert not is_abandoned(tmp_path)
    record = json.loads((tmp_path / OWNER_FILE).read_text())
    for changed, abandoned in (
        ({"start_ticks": 1}, True),  # the pid belongs to another process now
        ({"boot_id": "before"}, True),
        ({"boot_id": "before", "host": "far-away"}, False),
        ({"pid_namespace": "pid:[1]", "start_ticks": 1}, False),
    ):
        (tmp_path / OWNER_FILE).write_text(json.dumps({**record, **changed}))
        assert is_abandoned(tmp_path) == abandoned, changed


def test_a_maker_that_was_killed_before_it_signed_is_known_by_the_folders_name(tmp_path: Path) -> None:
    make = "import os, sys; from harness.owner import signed_prefix as s; os.mkdir(s(sys.argv[1] + '/build-x-') + 'y')"
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], check=True)
    (folder,) = tmp_path.iterdir()
    assert is_abandoned(folder)
    mine = Path(f"{tmp_path}{signed_prefix('/build-x-')}y")
    mine.mkdir()
    assert not is_abandoned(mine)
    boot = folder.name.split("-")[2].split(".")[0]
    elsewhere = folder.rename(folder.with_name(folder.name.replace(boot, "0" * 8)))
    assert not is_abandoned(elsewhere)  # another machine's


@pytest.mark.parametrize("owner", [{"boot_id": "another", "host": "far-away"}, {"pid_namespace": "pid:[1]"}, None])
def test_what_nobody_here_can_know_is_abandoned_when_it_has_not_changed_for_a_day(
    tmp_path: Path, owner: dict[str, str] | None
) -> None:
    folder = tmp_path / ".building-x"
    (folder / "below").mkdir(parents=True)
    if owner is not None:
        sign_folder(folder)
        record = json.loads((folder / OWNER_FILE).read_text())
        (folder / OWNER_FILE).write_text(json.dumps({**record, **owner}))
    image = folder / "below" / "x.sif"
    image.touch()
    old = time.time() - FOREIGN_AGE_S - 60
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (old, old))
    assert is_abandoned(folder)
    image.write_text("more")
    assert not is_abandoned(folder)


def test_a_file_with_the_number_of_a_process_is_left_alone_for_a_day_whoever_has_that_number(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    file = tmp_path / f".building-{ended.pid}-x.sif"
    file.touch()
    assert not is_abandoned(file)
    old = time.time() - FOREIGN_AGE_S - 60
    os.utime(file, (old, old))
    assert is_abandoned(file)
