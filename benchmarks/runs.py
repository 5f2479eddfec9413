#!/usr/bin/env python3
"""What 10,000 recorded runs cost: time and memory of `harness status` and `harness report`, as whole commands.

    benchmarks/runs.py                 a table on standard output
    benchmarks/runs.py --runs 1000
    benchmarks/runs.py --table docs/benchmarks/runs.md

The runs are copies, under new names and times, of one real run that the repository's judge accepts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
REPEATS = 5
LIMITS = "goals: 2 s and 300 MB"
COMMANDS = (["--help"], ["status"], ["status", "-n", "1000"], ["report"], ["check", "mnist"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="how many runs (default 10,000)")
    parser.add_argument("--table", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runs-") as folder:
        root = project(Path(folder), arguments.runs)
        rows = [measure(root, command) for command in COMMANDS]
    text = table(arguments.runs, rows)
    print(text)
    if arguments.table:
        arguments.table.parent.mkdir(parents=True, exist_ok=True)
        arguments.table.write_text(text, encoding="utf-8")


def project(root: Path, count: int) -> Path:
    """A project with the repository's tutorials and ``count`` ended runs, a minute apart."""
    for name in ("tutorials", "containers", "sites", "harness"):
        (root / name).symlink_to(REPOSITORY / name)
    newest = datetime.datetime.now(datetime.timezone.utc)
    for number in range(count):
        moment = newest - datetime.timedelta(minutes=number)
        run = root / "runs" / f"mnist-cpu-smoke-{moment:%Y%m%dT%H%M%SZ}-{number:04x}"
        run.mkdir(parents=True)
        started = moment.timestamp()
        facts = {"run_id": run.name, "tutorial": "mnist", "variant": "cpu", "preset": "smoke", "site": "default"}
        ledger = {**facts, "scheduler": "slurm", "job_id": str(number), "submitted_at": started}
        (run / "ledger.json").write_text(
            json.dumps({**ledger, "image_sha256": "ab" * 32, "definition_sha256": "cd" * 32})
        )
        job = {**facts, "attempt": "0", "job_id": str(number), "node": "n1", "job_started_at": str(started)}
        (run / "job.json").write_text(json.dumps(job))
        (run / "exit_code").write_text("0\n")
        (run / "log.txt").write_text("epoch 1: loss 0.5\n" * 200)
        (run / "result.json").write_text(json.dumps(result(run.name, started, number)))
    return root


def result(run_id: str, started: float, number: int) -> dict[str, object]:
    samples = [1000.0 + (number * 7 + index) % 13 for index in range(9)]
    metric = {"value": statistics.median(samples), "unit": "images/s", "samples": samples}
    step = {
        "status": "completed",
        "started_at": started,
        "ended_at": started + 20,
        "metrics": {"train_throughput": metric},
        "outputs": {"test_accuracy": 0.98, "data_source": "digits", "train_loss": [2.0, 1.0, 0.5, 0.3, 0.2]},
        "device": {"kind": "cpu", "name": "a CPU", "count": 2},
    }
    header = {"schema_version": 1, "run_id": run_id, "attempt": "0", "tutorial": "mnist", "variant": "cpu"}
    image = {"sha256": "ab" * 32, "definition_sha256": "cd" * 32}
    return {**header, "preset": "smoke", "host": "n1", "image": image, "steps": {"train": step}}


def measure(root: Path, command: list[str]) -> tuple[str, float, float, float]:
    """The command, its median wall and CPU time in seconds, and its highest resident memory in MB."""
    seconds, work, memory = [], [], 0.0
    for _ in range(REPEATS):
        before = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", *command], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0  # it is reaped
        seconds.append(time.perf_counter() - before)
        work.append(usage.ru_utime + usage.ru_stime)
        memory = max(memory, usage.ru_maxrss / 1024)
    return "harness " + " ".join(command), statistics.median(seconds), statistics.median(work), memory


def table(runs: int, rows: list[tuple[str, float, float, float]]) -> str:
    lines = [
        f"# {runs:,} recorded runs",
        "",
        f"Written by `benchmarks/runs.py --runs {runs}` on {datetime.date.today()}: {os.cpu_count()} cores, 1-minute",
        f"load {os.getloadavg()[0]:.1f} at the end. Median of {REPEATS} whole commands, start of Python included;",
        f"{LIMITS} on a quiet machine, where wall time is CPU time.",
        "",
        "| command | wall, s | CPU, s | MB |",
        "|---|---|---|---|",
        *(f"| `{name}` | {wall:.2f} | {cpu:.2f} | {memory:.0f} |" for name, wall, cpu, memory in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
