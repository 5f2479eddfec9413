#!/usr/bin/env python3
"""The harness beside ReFrame: 100 and 500 trivial checked tests on the same private Slurm cluster.

    benchmarks/reframe.py                              a table on standard output
    benchmarks/reframe.py --tests 20
    benchmarks/reframe.py --table docs/benchmarks/reframe.md

Both run the same script as a job of one CPU and 50 MB that prints two lines, and check one of them with a regular
expression and the other as a performance value with a bound. ReFrame (from PyPI, in a virtual environment of its own
below the work folder) runs its defaults: asynchronous execution, its own polling, up to 1000 jobs at a time, one batch
job per test. Its `squeue` backend is used, which it offers for clusters without an accounting database such as this
one. The harness runs `harness submit` and `harness check` on as many runs of a tutorial, as a job array and as one
packed allocation, and writes ledgers, verdicts, history, JUnit file, JSON and page.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from trivial import BODY, REPOSITORY, Cost, Meter, harness_command, make_trivial_project

from harness.cluster import ClusterSpec, PrivateCluster

PACKAGE = "ReFrame-HPC"
SPEC = ClusterSpec(nodes=4, cpus=16, gpus=0, shards=0)

CONFIGURATION = """\
site_configuration = {
    "systems": [
        {
            "name": "private",
            "hostnames": [".*"],
            "modules_system": "nomod",
            "partitions": [
                {
                    "name": "batch",
                    "scheduler": "squeue",
                    "launcher": "local",
                    "environs": ["builtin"],
                    "max_jobs": 1000,
                }
            ],
        }
    ],
    "environments": [{"name": "builtin", "cc": "cc", "cxx": "c++", "ftn": "gfortran"}],
}
"""

TEST = """\
import reframe as rfm
import reframe.utility.sanity as sn


@rfm.simple_test
class Trivial(rfm.RunOnlyRegressionTest):
    number = parameter(range(@TESTS@))
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    executable = "bash"
    executable_opts = ["@BODY@"]
    time_limit = "1m"
    reference = {"*": {"rate": (123.4, -0.2, None, "items/s")}}

    @run_before("run")
    def ask_for_memory(self):
        self.job.options = ["--mem=50M"]

    @sanity_function
    def answers(self):
        return sn.assert_found(r"answer: 42", self.stdout)

    @performance_function("items/s")
    def rate(self):
        return sn.extractsingle(r"rate: (\\S+)", self.stdout, 1, float)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, action="append", help="how many (may be given again; default 100 and 500)")
    parser.add_argument("--work", type=Path, help="keep ReFrame's virtual environment in this folder")
    parser.add_argument("--table", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    counts = arguments.tests or [100, 500]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="reframe-") as scratch:
        reframe = install_reframe((arguments.work or Path(scratch)).resolve() / "reframe-venv")
        rows = [(count, name, cost) for count in counts for name, cost in measure(Path(scratch), reframe, count)]
        text = table(rows, counts, versions(reframe), load)
    print(text)
    if arguments.table:
        arguments.table.parent.mkdir(parents=True, exist_ok=True)
        arguments.table.write_text(text, encoding="utf-8")


def install_reframe(folder: Path) -> Path:
    """ReFrame's command, in a virtual environment; installed where it is not there yet."""
    command = folder / "bin" / "reframe"
    if not command.is_file():
        say(f"installing {PACKAGE}")
        venv.create(folder, with_pip=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]
        done = subprocess.run(pip, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{PACKAGE} cannot be installed: {done.stderr[-2000:]}")
    return command


def measure(scratch: Path, reframe: Path, count: int) -> list[tuple[str, Cost]]:
    """Each tool's cost of ``count`` tests, one after the other on one cluster that has nothing else to do.

    Raises:
        SystemExit: a tool did not find that all tests pass.
    """
    rows = []
    for name in ("ReFrame", "array", "pack"):
        say(f"{count} tests: {name}")
        with tempfile.TemporaryDirectory(prefix=f"{name.lower()}-", dir=scratch) as place:
            folder = Path(place)
            # A fresh cluster for each, so that none pays for the jobs that another left in the controller's memory.
            with PrivateCluster(folder / "box", SPEC) as cluster:
                environment = {**os.environ, **cluster.environment(), "HOME": place, "LC_ALL": "C.UTF-8"}
                meter = Meter(folder, environment)
                cost = (
                    ran_reframe(meter, folder, reframe, count)
                    if name == "ReFrame"
                    else ours(meter, folder, name, count)
                )
        rows.append((name, cost))
    return rows


def ran_reframe(meter: Meter, folder: Path, reframe: Path, count: int) -> Cost:
    """`reframe --run` on ``count`` tests."""
    (folder / "body.sh").write_text(BODY)
    (folder / "configuration.py").write_text(CONFIGURATION)
    test = TEST.replace("@TESTS@", str(count)).replace("@BODY@", str(folder / "body.sh"))
    (folder / "trivial_test.py").write_text(test)
    files = ["-C", "configuration.py", "-c", "trivial_test.py", "--prefix", "out"]
    cost = meter.run([reframe, *files, "--run"], folder)
    if not re.search(rf"Ran {count}/{count} test case\(s\) .*0 failure\(s\)", cost.output):
        raise SystemExit(f"ReFrame did not pass all tests:\n{cost.output[-2000:]}")
    return cost


def ours(meter: Meter, folder: Path, how: str, count: int) -> Cost:
    """`harness submit` and `harness check` of ``count`` runs, as a job array or packed."""
    root = make_trivial_project(folder / "project")
    pack = ["--pack"] if how == "pack" else []
    command = harness_command()
    submitted = meter.run([command, "submit", "2", "--preset", "smoke", "--repeat", str(count), *pack], root)
    checked = meter.run([command, "check", *submitted.output.split()], root)
    passed = len(re.findall(r"✓ pass", checked.output))
    verdicts = len(list(root.glob("runs/*/verdict.json")))
    if (passed, verdicts) != (count, count) or not (root / "report/index.html").is_file():
        raise SystemExit(f"{passed} of {count} passed, {verdicts} verdicts:\n{checked.output[-2000:]}")
    return submitted + checked


def versions(reframe: Path) -> str:
    """What was measured, in words."""
    said = subprocess.run([reframe, "--version"], capture_output=True, text=True, check=True).stdout.split()[0]
    slurmctld = shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") or "slurmctld"
    slurm = subprocess.run([slurmctld, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    head = subprocess.run(["git", "describe", "--always"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    python = ".".join(map(str, sys.version_info[:3]))
    return f"ReFrame {said}, this harness at {head.stdout.strip() or 'an unknown commit'}, {slurm}, Python {python}"


def table(rows: list[tuple[int, str, Cost]], counts: list[int], what: str, load: float) -> str:
    titles = {"ReFrame": "ReFrame", "array": "harness, job array", "pack": "harness, `--pack`"}
    peers = {count: cost for count, name, cost in rows if name == "ReFrame"}
    tests = "".join(f" --tests {count}" for count in counts)
    lines = [
        "# The harness beside ReFrame",
        "",
        f"Written by `benchmarks/reframe.py{tests}` on {datetime.date.today()}: {os.cpu_count()} cores, 1-minute load",
        f"{load:.1f} before and {os.getloadavg()[0]:.1f} after; {what}.",
        "",
        f"The same trivial job on a private Slurm cluster of {SPEC.nodes} virtual nodes with {SPEC.cpus} CPUs each, a",
        "fresh one for each row; each test has one sanity check and one performance value with a bound. CPU time is",
        "the tool's own with all that it started, Slurm's commands included, Slurm's daemons and the jobs not. The",
        "harness submits, waits, judges, and writes ledgers, verdicts, history, JUnit file, JSON and the page. In",
        "brackets: how many times less than ReFrame. Goals: 8 x less wall time, 10 x less CPU time, 100 x fewer",
        "commands.",
        "",
        "| tests | tool | wall, s | CPU, s | Slurm commands | MB |",
        "|---|---|---|---|---|---|",
    ]
    for count, name, cost in rows:
        peer = None if name == "ReFrame" else peers[count]
        calls = ", ".join(f"{number} {tool}" for tool, number in sorted(cost.calls.items()))
        lines.append(
            f"| {count} | {titles[name]} | {figure(cost.wall_s, peer and peer.wall_s, '.1f')} "
            f"| {figure(cost.cpu_s, peer and peer.cpu_s, '.1f')} "
            f"| {figure(cost.commands, peer and peer.commands, 'd')}: {calls} | {cost.memory_mb:.0f} |"
        )
    return "\n".join([*lines, ""])


def figure(value: float, peer: float | None, form: str) -> str:
    return f"{value:{form}}" + (f" ({peer / value:.0f} x)" if peer else "")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
