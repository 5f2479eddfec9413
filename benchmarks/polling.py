#!/usr/bin/env python3
"""What it costs to ask about 10,000 jobs that wait: held runs on a real, private Slurm cluster.

    benchmarks/polling.py                              a table on standard output
    benchmarks/polling.py --jobs 1000
    benchmarks/polling.py --table docs/benchmarks/polling.md

`harness status` and `harness wait --timeout 0` each ask the scheduler once, which is what a waiting harness does at
0, 1, 3, 7, 15 ... s and then once a minute.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
from pathlib import Path

from trivial import Cost, Meter, harness_command, make_trivial_project

from harness.cluster import ClusterSpec, PrivateCluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, help="how many (default 10,000)")
    parser.add_argument("--table", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="polling-") as scratch:
        text = table(arguments.jobs, measure(Path(scratch), arguments.jobs))
    print(text)
    if arguments.table:
        arguments.table.parent.mkdir(parents=True, exist_ok=True)
        arguments.table.write_text(text, encoding="utf-8")


def measure(folder: Path, jobs: int) -> list[tuple[str, Cost]]:
    """Cost of submitting the jobs, held, and of asking about all of them.

    Raises:
        SystemExit: not all of them were found waiting.
    """
    spec = ClusterSpec(nodes=1, gpus=0, shards=0, extra=(f"MaxJobCount={jobs + 1000}",))
    root = make_trivial_project(folder / "project")
    command = harness_command()
    with PrivateCluster(folder / "box", spec) as cluster:
        meter = Meter(folder, {**os.environ, **cluster.environment()})
        print(f"submitting {jobs} held runs", file=sys.stderr)
        repeat = ["--preset", "smoke", "--repeat", str(jobs)]
        submitted = meter.run([command, "submit", "2", *repeat, "-o", "--hold"], root)
        status = meter.run([command, "status", "-n", str(jobs)], root)
        if (found := status.output.count("PENDING (JobHeldUser)")) != jobs:
            raise SystemExit(f"{found} of {jobs} jobs were found waiting")
        wait = meter.run([command, "wait", *submitted.output.split(), "--timeout", "0"], root, may_fail=True)
        few = meter.run([command, "status"], root)
    return [
        (f"`harness submit 2 --repeat {jobs} -o --hold`", submitted),
        (f"`harness status -n {jobs}`", status),
        ("`harness wait` on all of them, one poll", wait),
        ("`harness status`", few),
    ]


def table(jobs: int, rows: list[tuple[str, Cost]]) -> str:
    lines = [
        f"# Asking about {jobs:,} waiting jobs",
        "",
        f"Written by `benchmarks/polling.py --jobs {jobs}` on {datetime.date.today()}: {os.cpu_count()} cores,",
        f"1-minute load {os.getloadavg()[0]:.1f} at the end. {jobs:,} held runs on a private Slurm cluster, in arrays",
        "of 1,000 (what Slurm takes by default). Whole commands, start of Python included; CPU time includes Slurm's.",
        "",
        "| command | wall, s | CPU, s | MB | Slurm commands |",
        "|---|---|---|---|---|",
    ]
    for name, cost in rows:
        calls = ", ".join(f"{number} {tool}" for tool, number in sorted(cost.calls.items())) or "none"
        lines.append(f"| {name} | {cost.wall_s:.1f} | {cost.cpu_s:.1f} | {cost.memory_mb:.0f} | {calls} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
