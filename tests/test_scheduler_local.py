"""The local scheduler: plain processes, yet durable. And the waiter, on a clock of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest

import harness
from harness.errors import SchedulerError, SchedulerUnavailableError, UserError
from harness.processes import name_process
from harness.scheduler import JobRequest, JobState, JobStatus, LocalScheduler, Outcome, Waiter
from harness.scheduler.wait import poll_delays

WaitFor = Callable[..., dict[str, JobStatus]]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalScheduler]:
    scheduler = LocalScheduler(tmp_path / "jobs", slots=8)
    yield scheduler
    for record in (tmp_path / "jobs").glob("local-*"):
        scheduler.cancel([record.name])


def request(folder: Path, body: str, *args: str, name: str = "test", **more: object) -> JobRequest:
    script = folder / f"{name}.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH --gres=gpu:99\n{body}\n")
    return JobRequest(script=script, args=args, name=name, workdir=folder, output=folder / f"{name}.out", **more)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_ends_of_jobs(local: LocalScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    before = time.time()
    good = local.submit(request(tmp_path, "pwd; echo $1:$EXTRA >&2", "a b", name="good", environment={"EXTRA": "x"}))
    bad = local.submit(request(tmp_path, "exit 3", name="bad"))
    killed = local.submit(request(tmp_path, "kill -9 $$", name="killed"))
    found = wait_for(local, good, bad, killed)
    assert (found[good].state, found[good].exit_code, found[good].signal) == (JobState.COMPLETED, 0, None)
    assert found[good].submitted and found[good].started and found[good].ended
    assert before <= found[good].submitted <= found[good].started <= found[good].ended <= time.time()
    assert (tmp_path / "good.out").read_text().splitlines() == [str(tmp_path), "a b:x"]
    assert (found[bad].state, found[bad].exit_code) == (JobState.FAILED, 3)
    assert (found[killed].state, found[killed].exit_code, found[killed].signal) == (JobState.FAILED, None, 9)
    assert local.find("bad") == [bad]
    local.cancel([good, "local-99", "nonsense"])  # ended and unknown ones are no error
    assert local.poll([good])[good].state is JobState.COMPLETED


def test_unknown_job(local: LocalScheduler) -> None:
    assert local.poll(["local-7"])["local-7"].state is JobState.UNKNOWN


def test_cancel_kills_everything_the_script_started(local: LocalScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    pids = tmp_path / "pids"
    body = f"env -i setsid sleep 1234 & echo $! >> {pids}; sleep 1234 & echo $! >> {pids}; wait"
    job = local.submit(request(tmp_path, body))
    wait_until(lambda: len(lines(pids)) == 2)
    children = [name_process(int(pid)) for pid in lines(pids)]
    local.cancel([job])
    status = wait_for(local, job)[job]
    assert (status.state, status.signal) == (JobState.CANCELLED, 15)
    assert all(children)
    assert not any(child.is_alive() for child in children if child)


def test_a_script_that_ends_leaves_nothing_behind(local: LocalScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    job = local.submit(request(tmp_path, f"setsid sleep 1234 & echo $! > {tmp_path}/pid; exit 0"))
    assert wait_for(local, job)[job].state is JobState.COMPLETED
    assert name_process(int((tmp_path / "pid").read_text())) is None


def test_kill_9_of_the_submitter_loses_nothing(tmp_path: Path, wait_for: WaitFor) -> None:
    """The submitter dies at once, with its whole process group; another process collects."""
    go = tmp_path / "go"
    job = request(tmp_path, f"until [ -e {go} ]; do sleep 0.05; done; echo survived; exit 5")
    program = (
        "import os, sys; from pathlib import Path; from harness.scheduler import *;"
        "folder = Path(sys.argv[1]);"
        "LocalScheduler(folder / 'jobs').submit(JobRequest(script=folder / 'test.sh', workdir=folder,"
        " output=folder / 'test.out', name='test')); os.killpg(0, 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(harness.__file__).parents[1])},
        start_new_session=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == -9
    local = LocalScheduler(tmp_path / "jobs")
    (job_id,) = local.find("test")
    wait_until(lambda: local.poll([job_id])[job_id].state is JobState.RUNNING)
    go.touch()
    status = wait_for(local, job_id)[job_id]
    assert (status.state, status.exit_code) == (JobState.FAILED, 5)
    assert job.output.read_text() == "survived\n"


def test_a_killed_supervisor_is_never_a_success(local: LocalScheduler, tmp_path: Path, wait_for: WaitFor) -> None:
    job = local.submit(request(tmp_path, "echo up; sleep 1234"))
    wait_until(lambda: local.poll([job])[job].state is JobState.RUNNING)
    started = json.loads((tmp_path / "jobs" / job / "started.json").read_text())
    os.kill(started["runner"]["pid"], signal.SIGKILL)
    wait_until(lambda: "supervisor was killed" in local.poll([job])[job].reason)
    assert local.poll([job])[job].state is JobState.RUNNING  # the script itself still is
    local.cancel([job])
    wait_until(lambda: local.poll([job])[job].state is JobState.UNKNOWN)
    assert "exit status is not known" in local.poll([job])[job].reason


def test_jobs_wait_for_a_slot(tmp_path: Path, wait_for: WaitFor) -> None:
    local = LocalScheduler(tmp_path / "jobs", slots=1)
    first = local.submit(request(tmp_path, "sleep 1234", name="first"))
    wait_until(lambda: local.poll([first])[first].state is JobState.RUNNING)
    second = local.submit(request(tmp_path, "exit 0", name="second"))
    third = local.submit(request(tmp_path, "exit 0", name="third"))
    status = local.poll([second])[second]
    assert (status.state, status.reason) == (JobState.PENDING, "waiting for a free slot")
    local.cancel([third])
    assert wait_for(local, third)[third].state is JobState.CANCELLED
    local.cancel([first])
    assert wait_for(local, second)[second].state is JobState.COMPLETED
    with pytest.raises(UserError, match="slots must be at least 1"):
        LocalScheduler(tmp_path, slots=0)


def test_a_restarted_or_another_machine_is_told(local: LocalScheduler, tmp_path: Path) -> None:
    job = local.submit(request(tmp_path, "sleep 1234"))
    wait_until(lambda: local.poll([job])[job].state is JobState.RUNNING)
    path = tmp_path / "jobs" / job / "started.json"
    started = json.loads(path.read_text())
    path.write_text(json.dumps(started | {"boot_id": "another boot"}))
    assert local.poll([job])[job].state is JobState.NODE_FAIL
    path.write_text(json.dumps(started | {"host": "elsewhere"}))
    assert "runs on elsewhere" in local.poll([job])[job].reason
    path.write_text(json.dumps(started))


def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file where the folder should be")
    with pytest.raises(SchedulerError, match="cannot start a job"):
        LocalScheduler(tmp_path / "jobs").submit(request(tmp_path, "true"))


# --- the waiter


class FakeTime:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class Script:
    """A scheduler whose answers are a function of the time; counts nothing, keeps when it was asked for what."""

    name = "script"

    def __init__(self, time: FakeTime, answer: Callable[[str, float], JobState | None]) -> None:
        self.time = time
        self.answer = answer
        self.asked: list[tuple[float, tuple[str, ...]]] = []

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        self.asked.append((self.time.now, tuple(job_ids)))
        states = {job_id: self.answer(job_id, self.time.now) for job_id in job_ids}
        if None in states.values():
            raise SchedulerUnavailableError("no answer")
        return {job_id: JobStatus(job_id, state, reason="Resources") for job_id, state in states.items() if state}

    def submit(self, request: JobRequest) -> str:
        raise NotImplementedError

    def cancel(self, job_ids: Sequence[str]) -> None:
        raise NotImplementedError

    def find(self, name: str) -> list[str]:
        raise NotImplementedError


def waiter_for(answer: Callable[[str, float], JobState | None], **options: float) -> tuple[Waiter, Script]:
    fake = FakeTime()
    script = Script(fake, answer)
    return Waiter(script, clock=fake.clock, sleep=fake.sleep, jitter=lambda: 0.0, **options), script  # type: ignore[arg-type]


def test_delays_double_up_to_the_limit_with_jitter() -> None:
    assert list(islice(poll_delays(60, lambda: 0.0), 8)) == [1, 2, 4, 8, 16, 32, 60, 60]
    assert list(islice(poll_delays(60, lambda: 1.0), 3)) == pytest.approx([0.8, 1.6, 3.2])


def test_polls_are_rare_and_batched() -> None:
    waiter, script = waiter_for(lambda job, now: JobState.RUNNING if now < 3600 else JobState.COMPLETED)
    jobs = [str(number) for number in range(100)]
    results = waiter.wait(jobs)
    assert {result.outcome for result in results.values()} == {Outcome.ENDED}
    assert [now for now, _ in script.asked[:6]] == [0, 1, 3, 7, 15, 31]
    assert all(asked == tuple(jobs) for _, asked in script.asked)
    assert waiter.polls == len(script.asked) <= 67


def test_a_result_wakes_without_the_scheduler() -> None:
    waiter, script = waiter_for(lambda job, now: JobState.RUNNING)
    results = waiter.wait(["a", "b"], done=lambda job: job == "a" or script.time.now >= 100)
    assert {result.outcome for result in results.values()} == {Outcome.DONE}
    assert script.time.now == 100  # not at the next poll, at 123 s
    assert all(asked == ("b",) for _, asked in script.asked)  # a was done before anybody was asked
    assert waiter.checks > 100


def test_a_result_outranks_the_end_in_the_scheduler() -> None:
    written = []
    waiter, _ = waiter_for(lambda job, now: (written.append(job), JobState.COMPLETED)[1])
    assert waiter.wait(["a"], done=lambda job: job in written)["a"].outcome is Outcome.DONE


def test_a_silent_scheduler_is_waited_for_but_not_for_ever() -> None:
    waiter, script = waiter_for(lambda job, now: None if now < 600 else JobState.COMPLETED)
    assert waiter.wait(["a"])["a"].outcome is Outcome.ENDED
    waiter, script = waiter_for(lambda job, now: None, silence_limit_s=600)
    with pytest.raises(SchedulerUnavailableError):
        waiter.wait(["a"])
    assert 600 < script.time.now < 700


def test_a_job_is_lost_only_when_it_is_unknown_twice() -> None:
    waiter, script = waiter_for(lambda job, now: JobState.UNKNOWN if now < 1 else JobState.COMPLETED)
    assert waiter.wait(["a"])["a"].outcome is Outcome.ENDED
    waiter, script = waiter_for(lambda job, now: JobState.UNKNOWN)
    assert waiter.wait(["a"])["a"].outcome is Outcome.LOST
    assert len(script.asked) == 2


def test_time_outs_name_the_reason() -> None:
    waiter, script = waiter_for(lambda job, now: JobState.PENDING if job == "p" else JobState.RUNNING)
    results = waiter.wait(["p", "r"], pending_timeout_s=50, timeout_s=500)
    assert str(results["p"]) == "job p: pending too long, PENDING (Resources)"
    assert results["r"].outcome is Outcome.TIMEOUT
    assert script.time.now == 500
    assert waiter_for(lambda job, now: JobState.RUNNING)[0].wait([]) == {}


def test_changes_are_reported_once() -> None:
    seen = []
    fake = FakeTime()
    states = [(10.0, JobState.PENDING), (20.0, JobState.RUNNING), (1e9, JobState.COMPLETED)]
    script = Script(fake, lambda job, now: next(state for until, state in states if now < until))
    Waiter(
        script,
        clock=fake.clock,
        sleep=fake.sleep,
        jitter=lambda: 0.0,
        on_status=lambda status: seen.append(status.state),
    ).wait(["a"])
    assert seen == [JobState.PENDING, JobState.RUNNING, JobState.COMPLETED]
