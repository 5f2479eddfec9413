"""Why a run failed: every recorded failure gets its one right cause, and tempting words mislead nobody."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import needs_slurm
from failure_logs import FOLDER, RECORDED, Recorded, evidence_of
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_support import EXPECTED, RUN_ID, good_result, make_run, small_tutorial, write_result
from rich.console import Console
from tiny_project import harness, image_of

from harness.cluster import PrivateCluster
from harness.judge import Verdict, judge_run
from harness.judge.causes.diagnose import diagnose, sightings
from harness.judge.causes.table import CAUSES, UNKNOWN
from harness.judge.causes.trail import gather_trail
from harness.report.entry import report_entry
from harness.report.html import render_html
from harness.report.json_report import render_json
from harness.report.junit import render_junit
from harness.report.text import print_report
from harness.run.evidence import Evidence, SchedulerWord, gather_evidence
from harness.run.paths import RunPaths

IDS = [cause.id for cause in CAUSES]


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.name)
def test_confusion_matrix(recorded: Recorded, tmp_path: Path) -> None:
    """One row of the matrix: which causes see something in this failure, and which of them is named."""
    trail = gather_trail(evidence_of(recorded, tmp_path))
    seen = set(sightings(trail))
    named = diagnose(trail)
    assert named.cause.id == recorded.expect, [line.text for line in named.evidence]
    assert seen == ({recorded.expect} | recorded.also) - {UNKNOWN.id}
    if recorded.expect != UNKNOWN.id:
        assert named.evidence, "a cause without evidence convinces nobody"
        assert all(line.text.strip() for line in named.evidence)


def test_every_cause_has_a_recorded_failure_with_its_source() -> None:
    assert set(IDS) - {recorded.expect for recorded in RECORDED} - {"stopped"} == set()
    assert all(recorded.head["source"] for recorded in RECORDED)
    assert sum("words that tempt" in recorded.head["source"] for recorded in RECORDED) >= 10
    assert len(list(FOLDER.iterdir())) == len(RECORDED)


def test_causes_are_told_in_both_languages() -> None:
    assert len(IDS) == len(set(IDS)) >= 20
    for cause in (*CAUSES, UNKNOWN):
        assert cause.title.en and cause.fix.en
        assert any("\u4e00" <= c <= "\u9fff" for c in cause.title.zh), cause.id
        assert any("\u4e00" <= c <= "\u9fff" for c in cause.fix.zh), cause.id


def log_of(folder: Path, text: str, exit_code: str = "1") -> Evidence:
    return gather_evidence(make_run(folder, None, exit_code=exit_code, log=text))


OUT_OF_MEMORY = """\
step 1
Traceback (most recent call last):
  File "/opt/tutorial/train.py", line 9, in <module>
    model(batch)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
"""


def test_the_verdict_names_cause_evidence_node_and_fix(tmp_path: Path) -> None:
    tutorial = small_tutorial(tmp_path / "project")
    verdict = judge_run(log_of(tmp_path / RUN_ID, OUT_OF_MEMORY), tutorial, EXPECTED)
    cause = verdict.cause
    assert cause is not None
    assert cause.id == "gpu-memory"
    assert cause.node == "node07"
    assert [line.where for line in cause.evidence] == ["log.txt:5"]
    assert "Tried to allocate 2.00 GiB" in cause.evidence[0].text
    assert "smaller batch" in cause.fix.en
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_all_reports_tell_the_cause(tmp_path: Path) -> None:
    tutorial = small_tutorial(tmp_path / "project")
    evidence = log_of(tmp_path / RUN_ID, OUT_OF_MEMORY)
    entries = [report_entry(judge_run(evidence, tutorial, EXPECTED), evidence, tutorial)]
    screen = StringIO()
    print_report(entries, Console(file=screen, width=160))
    assert "the GPU's memory is full · GPU 显存不足 (on node07)" in screen.getvalue()
    assert "log.txt:5: torch.OutOfMemoryError" in screen.getvalue()
    now = datetime(2026, 1, 2, tzinfo=timezone.utc)
    page = render_html(entries, generated_at=now)
    assert 'data-cause="gpu-memory"' in page
    assert "GPU 显存不足" in page
    assert '<property name="cause" value="gpu-memory" />' in render_junit(entries)
    assert json.loads(render_json(entries, generated_at=now))["runs"][0]["verdict"]["cause"]["id"] == "gpu-memory"


def test_a_run_that_passed_has_no_cause_whatever_its_log_says(tmp_path: Path) -> None:
    tutorial = small_tutorial(tmp_path / "project")
    run = make_run(tmp_path / RUN_ID, good_result(), log=OUT_OF_MEMORY)
    verdict = judge_run(gather_evidence(run), tutorial, EXPECTED)
    assert verdict.overall == "pass"
    assert verdict.cause is None


def test_wrong_numbers_are_no_cause(tmp_path: Path) -> None:
    tutorial = small_tutorial(tmp_path / "project")
    data = good_result()
    data["steps"]["train"]["outputs"]["test_accuracy"] = 0.1
    verdict = judge_run(gather_evidence(make_run(tmp_path / RUN_ID, data)), tutorial, EXPECTED)
    assert verdict.overall == "fail"
    assert verdict.cause is None


@pytest.mark.parametrize("spoil", [{"preset": "full"}, {"image": {"sha256": "ef" * 32}}])
def test_checks_that_explain_themselves_have_no_cause(tmp_path: Path, spoil: dict[str, Any]) -> None:
    tutorial = small_tutorial(tmp_path / "project")
    run = make_run(tmp_path / RUN_ID, good_result())
    write_result(run, {**good_result(), **spoil})
    verdict = judge_run(gather_evidence(run), tutorial, EXPECTED)
    assert verdict.overall == "fail"
    assert verdict.cause is None


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_run_that_has_not_ended_has_no_cause(tmp_path: Path, state: str) -> None:
    tutorial = small_tutorial(tmp_path / "project")
    run = make_run(tmp_path / RUN_ID, None, exit_code=None)
    verdict = judge_run(gather_evidence(run, scheduler=SchedulerWord(state, "Resources")), tutorial, EXPECTED)
    assert verdict.cause is None


def test_a_device_error_known_only_from_the_result(tmp_path: Path) -> None:
    data = good_result()
    error = {"type": "MemoryError", "message": ""}
    data["steps"]["train"].update(status="failed", error=error)
    run = make_run(tmp_path / RUN_ID, data, exit_code="1", log="")
    named = diagnose(gather_trail(gather_evidence(run)))
    assert named.cause.id == "host-memory"
    assert named.evidence[0].where == "result.json"


def test_evidence_is_found_in_the_middle_of_a_long_log(tmp_path: Path) -> None:
    """The head and the tail of a log are read; line numbers are the file's own."""
    lines = [f"step {number} loss 1.0" for number in range(400_000)]
    text = "\n".join([*lines, OUT_OF_MEMORY])
    named = diagnose(gather_trail(log_of(tmp_path / RUN_ID, text)))
    assert named.cause.id == "gpu-memory"
    number = named.evidence[0].where.removeprefix("log.txt:")
    assert text.splitlines()[int(number) - 1].startswith("torch.OutOfMemoryError")


def test_the_job_scripts_own_output_file_is_read_too(tmp_path: Path) -> None:
    """A student's plain sbatch: Slurm's log lies beside the run folder."""
    run = make_run(tmp_path / "runs" / RUN_ID, None, exit_code="143")
    record = {**json.loads(run.job.read_text()), "job_id": "4711"}
    run.job.write_text(json.dumps(record))
    stopped = "slurmstepd: error: *** JOB 4711 ON n1 CANCELLED AT 2026-11-21T11:02:03 DUE TO TIME LIMIT ***\n"
    (tmp_path / "runs" / "tutorial2-4711.out").write_text(stopped)
    named = diagnose(gather_trail(gather_evidence(run)))
    assert named.cause.id == "wall-time"
    assert named.evidence[0].where == "../tutorial2-4711.out:1"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400), st.sampled_from(["0", "1", "137", "255"]))
@settings(max_examples=60, deadline=None)
def test_any_log_gets_an_answer(text: str, exit_code: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = "Traceback (most recent call last):\n" + text
        assert diagnose(gather_trail(log_of(Path(folder) / RUN_ID, log, exit_code))).cause.id


# --- real failures, made here


def failed_program(tmp_path: Path, code: str, **env: str) -> str:
    """Run ``code`` with a real interpreter as a run would, and name the cause."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        cwd=tmp_path,
        check=False,
    )
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return diagnose(gather_trail(log_of(tmp_path / RUN_ID, done.stdout + done.stderr, str(status)))).cause.id


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = bytearray(1 << 62)", "host-memory"),
        ("open('/dev/full', 'w').write('x' * 10**6)", "disk-full"),
        (
            "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)); "
            "keep = [open('/dev/null') for _ in range(99)]",
            "process-limits",
        ),
        (
            "import socket; a = socket.socket(); a.bind(('127.0.0.1', 0)); a.listen(); "
            "socket.socket().bind(a.getsockname())",
            "port-in-use",
        ),
        ("import urllib.request; urllib.request.urlopen('http://hub.invalid/model')", "no-network"),
        ("import a_package_nobody_has", "missing-package"),
        ("open('/data/train/train.csv')", "missing-data"),
        ("open('/models/Qwen2-7B/config.json')", "missing-model"),
        ("open('prompts.txt')", "missing-file"),
        ("import pickle; pickle.loads(b'<html>')", "damaged-model"),
        ("import gzip; open('a', 'wb').write(b'no gzip'); gzip.open('a').read()", "bad-data"),
        ("import errno, os; raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))", "quota"),
        ("{}['labels']", "program-error"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("import os; os.kill(os.getpid(), 15)", "stopped"),
        ("import os; os.kill(os.getpid(), 4)", "old-cpu"),
        ("import os; os.abort()", "crashed"),
        ("import sys; sys.exit(3)", "unknown"),
        ("import argparse; argparse.ArgumentParser('train.py').parse_args(['--epoch'])", "refused-input"),
    ],
)
def test_real_failures_of_a_program(tmp_path: Path, code: str, expected: str) -> None:
    assert failed_program(tmp_path, code) == expected


def test_a_read_only_place(tmp_path: Path) -> None:
    assert failed_program(tmp_path, "open('/proc/sys/kernel/ostype', 'w').write('x')") == "not-permitted"


def checked(root: Path, run: RunPaths) -> dict[str, Any]:
    """The cause that ``harness check`` prints and writes."""
    done = harness(root, "check", "--run", str(run.folder), "--report", f"report-{run.run_id}")
    assert done.returncode == 1, done.stdout + done.stderr
    cause: dict[str, Any] = json.loads(run.verdict.read_text())["cause"]
    assert cause["title"]["zh"] in done.stdout
    return cause


@pytest.mark.apptainer
@pytest.mark.cluster
@needs_slurm
class TestOnARealCluster:
    """The same through `harness submit` and `harness check`, on a real Slurm with real images."""

    @pytest.fixture
    def at(
        self, built_project: Path, slurm_cluster: PrivateCluster, monkeypatch: pytest.MonkeyPatch, cache: Path
    ) -> Path:
        monkeypatch.setenv("HARNESS_CACHE", str(cache))
        for name, value in slurm_cluster.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(built_project)
        return built_project

    def submitted(self, root: Path, *options: str, **env: str) -> RunPaths:
        done = harness(root, "submit", "2", "--preset", "smoke", *options, env=env)
        assert done.returncode == 0, done.stderr
        return RunPaths(root / done.stdout.strip())

    def job_id(self, run: RunPaths) -> str:
        return str(json.loads(run.ledger.read_text())["job_id"])

    def run_script(self, root: Path, body: str, name: str) -> RunPaths:
        """Submit a job whose work is ``body``, in the way ``harness submit`` does, and wait for its end."""
        run = RunPaths(root / "runs" / name)
        run.folder.mkdir()
        script = run.folder / "job.sh"
        script.write_text(f"#!/bin/bash\n{body}\n")
        command = ["sbatch", "--parsable", "--wait", f"--output={run.scheduler_log}", f"--job-name={name}", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        facts = {"run_id": name, "tutorial": "xscow-2", "variant": "cpu", "preset": "smoke", "scheduler": "slurm"}
        facts |= {"slurm_conf": os.environ["SLURM_CONF"], "job_id": done.stdout.strip()}
        run.ledger.write_text(json.dumps(facts))
        return run

    def test_cancelled(self, at: Path) -> None:
        run = self.run_script(at, 'scancel "$SLURM_JOB_ID"; sleep 60', "cancelled-1")
        cause = checked(at, run)
        assert cause["id"] == "cancelled"
        assert cause["evidence"][0]["where"].startswith(("scheduler.log:", "scheduler"))
        assert cause["node"] in ("n1", "n2")

    @pytest.mark.slow
    def test_out_of_time(self, at: Path) -> None:
        """Slurm's shortest limit is a minute, and it looks every 30 s."""
        cause = checked(at, self.run_script(at, "#SBATCH --time=1\nsleep 300", "timeout-1"))
        assert cause["id"] == "wall-time"
        assert cause["evidence"][0]["where"].startswith("scheduler")

    def test_killed_by_signal_9(self, at: Path) -> None:
        assert checked(at, self.run_script(at, "kill -9 $$", "killed-1"))["id"] == "killed"

    def test_unwritable_log(self, at: Path) -> None:
        run = RunPaths(at / "runs" / "unwritable-1")
        run.folder.mkdir()
        script = run.folder / "job.sh"
        script.write_text("#!/bin/bash\ntrue\n")
        command = ["sbatch", "--parsable", "--wait", "--output=/nonexistent/folder/x.out", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        facts = {"run_id": run.run_id, "tutorial": "xscow-2", "variant": "cpu", "preset": "smoke"}
        facts |= {"scheduler": "slurm", "slurm_conf": os.environ["SLURM_CONF"], "job_id": done.stdout.strip()}
        run.ledger.write_text(json.dumps(facts))
        assert checked(at, run)["id"] == "unwritable-log"

    def test_missing_image(self, at: Path) -> None:
        work = "source jobs/lib/job.sh; job_begin xscow-2 tutorial2 cpu; job_need_image"
        body = f"cd {at}; RUN_ID=no-image-1; IMAGE=/none.sif; {work}"
        cause = checked(at, self.run_script(at, body, "no-image-1"))
        assert cause["id"] == "missing-image"
        assert "error: no image /none.sif" in cause["evidence"][0]["text"]

    def test_incomplete_data(self, at: Path, tmp_path: Path) -> None:
        (tmp_path / "numbers").mkdir()
        (tmp_path / "numbers" / "a.txt").write_text("1")
        work = "job_begin xscow-2 tutorial2 cpu; job_offer_data ''; job_check_data numbers full numbers a.txt b.txt"
        body = f"cd {at}; export RUN_ID=half-1 DATA={tmp_path}; source jobs/lib/job.sh; {work}"
        cause = checked(at, self.run_script(at, body, "half-1"))
        assert cause["id"] == "missing-data"
        assert "numbers/b.txt is missing" in cause["evidence"][0]["text"]

    def test_refused_gres(self, at: Path) -> None:
        refused = harness(at, "submit", "2", "--preset", "smoke", "-o", "--gres=gpu:h200:99")
        assert refused.returncode == 1
        newest = max((at / "runs").glob("tutorial2-cpu-smoke-*"), key=lambda folder: folder.stat().st_mtime_ns)
        assert checked(at, RunPaths(newest))["id"] == "rejected-gres"

    def test_a_program_error_in_the_image(self, at: Path) -> None:
        image = shlex.join(image_of(at / "catalog", "tutorial2.cpu"))
        engine = "apptainer exec --userns" if os.geteuid() == 0 else "apptainer exec"
        body = f"{engine} {image} python3 -c 'open(\"/models/none/config.json\")'"
        assert checked(at, self.run_script(at, body, "no-model-1"))["id"] == "missing-model"
